"""The main job in small: BasicSR trains a VmambaIR on photographs, which then restores some it has never seen.

Everything happens in one folder: the data, BasicSR's experiment, the pictures and `demo.json`. The training is the
ordinary `python -m vmambair_arch.train -opt options/demo_<task>.yml`, started in that folder.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, nearest, require
from ..files import check_writable, replacing
from ..options import load_options, option_file

if TYPE_CHECKING:
    import numpy as np

    from ..inference.restorer import Restorer

EXAMPLES = (
    'vmambair demo',
    'vmambair demo --shipped',
)

SEED = 2403_11423
SCALE = 4
"""Of the demos of super-resolution."""


@dataclass(frozen=True)
class Score:
    """One photograph before and after, on Y: PSNR in dB and SSIM."""

    name: str
    psnr_input: float
    psnr_restored: float
    ssim_input: float
    ssim_restored: float


@dataclass(frozen=True)
class Result:
    """What a demo found.

    Attributes:
        scores: one for each unseen photograph.
        seconds: wall time of everything, data and training included.
        written: every file worth looking at.
    """

    scores: list[Score]
    seconds: float
    written: list[Path]

    def mean(self, figure: str) -> float:
        return statistics.fmean(getattr(score, figure) for score in self.scores)

    def figures(self) -> dict[str, object]:
        """The means, the time and every photograph, as `demo.json` has them."""
        names = ('psnr_input', 'psnr_restored', 'ssim_input', 'ssim_restored')
        figures: dict[str, object] = {name: round(self.mean(name), 4) for name in names}
        return figures | {'seconds': round(self.seconds, 1), 'photographs': [asdict(score) for score in self.scores]}

    def table(self, degraded: str) -> str:
        """A table for the terminal; `degraded` heads the columns of the input."""
        lines = [f'{"unseen photograph":<20}{degraded + " dB":>13}{"restored dB":>13}{"gain":>8}{"SSIM":>17}']
        mean = Score('mean', *(self.mean(f) for f in ('psnr_input', 'psnr_restored', 'ssim_input', 'ssim_restored')))
        for score in [*self.scores, mean]:
            gain = score.psnr_restored - score.psnr_input
            lines.append(
                f'{score.name:<20}{score.psnr_input:>13.2f}{score.psnr_restored:>13.2f}{gain:>+8.2f}'
                f'{score.ssim_input:>9.4f} > {score.ssim_restored:.4f}'
            )
        return '\n'.join(lines)


@dataclass(frozen=True)
class Task:
    """One demo.

    Attributes:
        degraded: what the input is called in tables and captions.
        prepare: writes `train/`, if told to, and `unseen/{input,target}` into the folder `data` it is given.
        baseline: brings an input to the size of its target, for the figures and the picture before restoration.
    """

    degraded: str
    prepare: Callable[[Path, bool], None]
    baseline: Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def _prepare_derain(folder: Path, training: bool) -> None:
    import numpy as np

    from ..data.photographs import photographs
    from ..data.rain import add_rain
    from ..images.image_io import Image, write_image

    for number, photograph in enumerate(photographs()):
        clean = photograph.image.astype(np.float32) / 255
        if photograph.split == 'train':
            # The rain over these is drawn anew for every patch.
            for i, variant in enumerate(_variants(clean) if training else ()):
                write_image(folder / 'train' / f'{photograph.name}_{i}.png', Image(variant))
        else:
            rainy = add_rain(clean, np.random.default_rng([SEED, number]))
            write_image(folder / 'unseen' / 'target' / f'{photograph.name}.png', Image(clean))
            write_image(folder / 'unseen' / 'input' / f'{photograph.name}.png', Image(rainy))


def _variants(image: np.ndarray) -> tuple[np.ndarray, ...]:
    """A photograph in other colours and in less light: four alone would teach that pictures are bright and warm."""
    swapped = image[..., ::-1]
    return image, swapped, image / 2, swapped / 2


def _prepare_sr(folder: Path, training: bool) -> None:
    from realesrgan_pipeline import imresize

    _prepare_small(folder, training, lambda target, number: imresize(target, 1 / SCALE))


def _prepare_realsr(folder: Path, training: bool) -> None:
    import torch

    from realesrgan_pipeline import Degradation, image_generator

    from ..models.real_world import read_degradation

    options = load_options(option_file('demo_realsr.yml'))
    degrade = Degradation(read_degradation(options, options['datasets']['train']))

    def small(target: np.ndarray, number: int) -> np.ndarray:
        gt = torch.from_numpy(target).permute(2, 0, 1)[None] / 255
        lq, _ = degrade(gt, [image_generator(SEED, number)])
        return (lq[0] * 255).round().byte().permute(1, 2, 0).numpy()

    _prepare_small(folder, training, small)


def _prepare_small(folder: Path, training: bool, make_small: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Targets of the photographs, and for the unseen ones inputs that are `SCALE` times smaller."""
    import numpy as np

    from ..data.photographs import photographs
    from ..images.image_io import Image, write_image

    for number, photograph in enumerate(photographs()):
        h, w = (n // SCALE * SCALE for n in photograph.image.shape[:2])
        target = photograph.image[:h, :w]
        if photograph.split == 'train':
            for i, variant in enumerate(_variants(target / np.float32(255)) if training else ()):
                write_image(folder / 'train' / f'{photograph.name}_{i}.png', Image(variant))
        else:
            small = make_small(target, number)
            write_image(folder / 'unseen' / 'target' / f'{photograph.name}.png', Image(target / np.float32(255)))
            write_image(folder / 'unseen' / 'input' / f'{photograph.name}.png', Image(small / np.float32(255)))


def _enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """MATLAB's bicubic: what an enlargement costs nothing to be better than."""
    import numpy as np

    from realesrgan_pipeline import imresize

    return imresize(np.rint(image * 255).astype(np.uint8), size[0] // image.shape[0]) / np.float32(255)


TASKS = {
    'derain': Task('rainy', _prepare_derain, lambda image, size: image),
    'sr': Task('bicubic', _prepare_sr, _enlarge),
    'realsr': Task('bicubic', _prepare_realsr, _enlarge),
}


def demonstrate(
    task: str = 'derain', out: str | Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Result:
    """Run a demo from data to picture.

    Args:
        task: a key of `TASKS`.
        out: the folder everything goes to; default `demo_<task>` in the current folder.
        say: gets each line of the report.

    Raises:
        UserError: unknown task, BasicSR missing, a training that failed.
    """
    if task not in TASKS:
        raise UserError(f"unknown demo '{task}'{nearest(task, list(TASKS))}; there are {', '.join(TASKS)}")
    from ..inference.restorer import Restorer

    require('the demo', 'basicsr', 'torchvision', 'skimage')
    start = time.monotonic()
    options_path = option_file(f'demo_{task}.yml')
    name = load_options(options_path)['name']
    out = _folder(out or f'demo_{task}')

    say(f'1/3 photographs into {out / "data"}')
    TASKS[task].prepare(out / 'data', True)

    say(f'2/3 BasicSR trains {name} ({options_path})')
    train(options_path, out)

    say('3/3 restoring photographs it has never seen')
    checkpoint = out / 'experiments' / name / 'models' / 'net_g_latest.pth'
    scores, picture = _restore_unseen(TASKS[task], out, Restorer.from_pretrained(checkpoint))
    figures = out / 'demo.json'
    result = Result(scores, time.monotonic() - start, [picture, figures, checkpoint, out / 'restored', out / 'data'])
    _write_figures(result.figures(), figures)

    say('')
    say(result.table(TASKS[task].degraded))
    _say_written(result.seconds, result.written, say)
    return result


def show_shipped(out: str | Path | None = None, say: Callable[[str], None] = lambda line: None) -> dict[str, Result]:
    """Let the networks that come with the package restore the unseen photographs, without any training.

    Args:
        out: the folder everything goes to, `OUT/<task>` for each; default `demo_shipped` in the current folder.
        say: gets each line of the report.

    Returns:
        What was found, by task.

    Raises:
        UserError: scikit-image, which has the photographs, or BasicSR is missing.
    """
    from ..checkpoints.find import bundled
    from ..inference.restorer import Restorer

    require('demo --shipped', 'basicsr', 'torchvision', 'skimage')
    out = _folder(out or 'demo_shipped')
    results = {}
    for name, checkpoint in bundled().items():
        start = time.monotonic()
        folder = out / name
        TASKS[name].prepare(folder / 'data', False)
        scores, picture = _restore_unseen(TASKS[name], folder, Restorer.from_pretrained(checkpoint))
        results[name] = Result(scores, time.monotonic() - start, [picture, folder / 'restored', folder / 'data'])
        say(f'{name}: {checkpoint.name}')
        say(results[name].table(TASKS[name].degraded) + '\n')
    _write_figures({name: result.figures() for name, result in results.items()}, out / 'demo.json')
    written = [path for result in results.values() for path in result.written]
    _say_written(sum(result.seconds for result in results.values()), [*written, out / 'demo.json'], say)
    return results


def _folder(out: str | Path) -> Path:
    try:
        out = Path(out).resolve()
        if out.exists() and not out.is_dir():
            raise UserError(f'{out}: is a file; choose another folder with --out')
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # the latter of links that go round
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{out}: cannot be made ({reason}); choose another folder with --out') from error
    check_writable(out)
    return out


def _say_written(seconds: float, written: list[Path], say: Callable[[str], None]) -> None:
    say(f'\n{seconds:.0f} s in all. Written:')
    for path in written:
        say(f'  {path}')


def train(options_path: Path, folder: Path) -> None:
    """Train as a user would, in `folder`, with the output of the trainer on this terminal.

    Raises:
        UserError: the training ended with another code than 0.
    """
    command = [sys.executable, '-m', 'vmambair_arch.train', '-opt', str(options_path)]
    code = subprocess.run(command, cwd=folder, check=False).returncode
    if code:
        raise UserError(f'the training ended with code {code}; its messages are above', exit_code=max(code, 1))


def _restore_unseen(task: Task, out: Path, restorer: Restorer) -> tuple[list[Score], Path]:
    from ..images.image_io import Image, read_image, write_image
    from ..images.panel import Panel, side_by_side
    from ..metrics.psnr_ssim import psnr, ssim

    scores, panels = [], []
    for path in sorted((out / 'data' / 'unseen' / 'input').iterdir()):
        target = read_image(out / 'data' / 'unseen' / 'target' / path.name).rgb
        degraded = read_image(path).rgb
        written = out / 'restored' / path.name
        write_image(written, restorer.restore(Image(degraded)))
        # Measured on the file, 8 bits a channel, as anybody who opens it would.
        restored = read_image(written).rgb
        before = task.baseline(degraded, target.shape[:2])
        figures = [f(image, target, y_channel=True) for f in (psnr, ssim) for image in (before, restored)]
        scores.append(Score(path.stem, *figures))
        panels.append([
            Panel(before, f'{task.degraded}  {figures[0]:.2f} dB / {figures[2]:.4f}'),
            Panel(restored, f'restored  {figures[1]:.2f} dB / {figures[3]:.4f}'),
            Panel(target, 'truth'),
        ])  # fmt: skip
    picture = out / 'side_by_side.png'
    write_image(picture, Image(side_by_side(panels)))
    return scores, picture


def _write_figures(figures: dict, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = 'what to learn (default: %(default)s)'
    parser.add_argument('task', nargs='?', choices=tuple(TASKS), default='derain', help=text)
    parser.add_argument('--shipped', action='store_true', help="train nothing: show the package's own networks")
    parser.add_argument('--out', metavar='DIR', help='folder for everything it writes (default: demo_TASK)')


def run(args: argparse.Namespace) -> int:
    say = functools.partial(print, flush=True)
    if args.shipped:
        show_shipped(args.out, say=say)
    else:
        demonstrate(args.task, args.out, say=say)
    return 0
