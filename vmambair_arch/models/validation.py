"""Validation shared among the ranks, with averages as exact as those of one process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
from basicsr.data import build_dataset
from basicsr.metrics import calculate_metric
from basicsr.utils import get_root_logger, tensor2img
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ..errors import UserError
from ..files import METRICS_FILE, append_record, replacing
from ..ranks.distributed import gather

if TYPE_CHECKING:
    from basicsr.models.sr_model import SRModel

Scores = dict[str, float]


class Schedule:
    """Which validations are due, done and owed. A state is saved before the validation of its iteration.

    Args:
        opt: the parsed options, with the sections `val` and `datasets`.

    Attributes:
        resumed: data sets whose validation the resumed state owes.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self._val_freq: int = (opt.get('val') or {}).get('val_freq', 0)
        self.sections: dict[str, dict[str, Any]] = {
            section['name']: section for key, section in opt['datasets'].items() if key.startswith('val')
        }
        self._done: dict[str, int | str] = {}
        self.resumed: list[str] = []

    def done(self, name: str, iteration: int | str) -> None:
        """The data set `name` was validated with the weights of `iteration`."""
        self._done[name] = iteration

    def owed(self, iteration: int) -> list[str]:
        """The data sets whose validation at `iteration` is due and not done."""
        if not self._val_freq or iteration % self._val_freq:
            return []
        return [name for name in self.sections if self._done.get(name) != iteration]

    def loaders_to_make_up(self) -> Iterator[DataLoader]:
        """Loaders of what the resumed state owes, each once."""
        names, self.resumed = self.resumed, []
        for name, section in self.sections.items():
            if name in names:
                yield DataLoader(build_dataset(section))


def validate(model: SRModel, dataset: Any, current_iter: int | str, save_img: bool) -> Scores | None:
    """Restore a data set and score it; every rank takes its part of the images.

    Args:
        model: with `feed_data`, `test` and `get_current_visuals`, as BasicSR's.
        dataset: `lq`, `gt` (where there is one), `lq_path`, and `name` where images of one name lie in several folders.
        current_iter: the iteration, or in a test run its name; goes into the names of saved images.
        save_img: write the restored images below `path: visualization`.

    Returns:
        The mean of each metric of section `val`, on every rank; None where the run is asked to stop meanwhile.

    Raises:
        UserError: an image cannot be restored, or is refused by a metric, named.
    """
    rank, world_size = model.opt['rank'], model.opt['world_size']
    mine = range(rank, len(dataset), world_size)
    scores: dict[int, Scores] = {}
    for index, data in zip(mine, _progress(model, Subset(dataset, mine)), strict=True):
        if model.is_train and model.stop.signal:
            break
        scores[index] = _validate_image(model, data, dataset.opt['name'], current_iter, save_img)
    merged = {index: values for part in gather(scores) for index, values in part.items()}
    if len(merged) < len(dataset):
        return None
    # Summed in the order of the images, so that the number of ranks does not show in the last digit.
    names = model.opt['val'].get('metrics') or {}
    return {name: sum(merged[i][name] for i in range(len(dataset))) / len(dataset) for name in names}


def _progress(model: SRModel, subset: Subset) -> Iterable[dict[str, Any]]:
    shown = model.opt['val'].get('pbar', False) and model.opt['rank'] == 0
    return tqdm(DataLoader(subset, batch_size=1), unit='image', leave=False, disable=not shown)


def _validate_image(model: SRModel, data: dict, dataset_name: str, current_iter: int | str, save_img: bool) -> Scores:
    path = data['lq_path'][0]
    try:
        model.feed_data(data)
        model.test()
        visuals = model.get_current_visuals()
        images = {'img': tensor2img([visuals['result']])}
        if 'gt' in data:
            images['img2'] = tensor2img([visuals['gt']])
        scores = {
            name: _score(images, options, f'validation of {path}: {name}')
            for name, options in (model.opt['val'].get('metrics') or {}).items()
        }
    except UserError as error:
        raise UserError(f'validation of {path}: {error}', exit_code=error.exit_code) from error
    if save_img:
        name = data['name'][0] if 'name' in data else Path(path).stem
        file = image_path(model.opt, name, dataset_name, current_iter)
        try:
            with replacing(
                file
            ) as temporary:  # and not OpenCV's own writer, which crashes over a name that is no UTF-8
                temporary.write_bytes(cv2.imencode(file.suffix, images['img'])[1].tobytes())
        except UserError as error:
            raise UserError(str(error), exit_code=1) from error
    return scores


def _score(images: dict[str, Any], options: dict[str, Any], where: str) -> float:
    """What a metric says of an image; NaN and a warning where it fails over it, which is no reason to end a run.

    Raises:
        UserError: the metric cannot be had, or refuses such images.
    """
    try:
        value, why = float(calculate_metric(images, options)), 'there is no figure'
    except UserError:
        raise
    except Exception as error:
        value, why = math.nan, f'{" ".join(str(error).split())[:160] or "failed"} ({type(error).__name__})'
    if math.isnan(value):
        get_root_logger().warning(f'{where}: {why}; it counts as NaN')
    return value


def image_path(opt: dict[str, Any], name: str, dataset_name: str, current_iter: int | str) -> Path:
    """Where BasicSR keeps the restored image of that name; of several data sets in a training, each has a folder."""
    folder = Path(opt['path']['visualization'])
    if opt['is_train']:
        if sum(phase.startswith('val') for phase in opt['datasets']) > 1:  # which may have names in common
            folder /= dataset_name
        return folder / name / f'{name}_{current_iter}.png'
    return folder / dataset_name / f'{name}_{opt["val"].get("suffix") or opt["name"]}.png'


def log_scores(model: SRModel, scores: Scores, dataset_name: str, current_iter: int | str, tb_logger: Any) -> None:
    """BasicSR's lines and TensorBoard scalars, and in training a record, which `vmambair plot` reads."""
    best = getattr(model, 'best_metric_results', {}).get(dataset_name, {})
    lines = [f'Validation {dataset_name} at {current_iter}']
    for name, value in scores.items():
        line = f'\t # {name}: {value:.4f}'
        if name in best:
            line += f'\tBest: {best[name]["val"]:.4f} @ {best[name]["iter"]} iter'
        lines.append(line)
        if tb_logger:
            tb_logger.add_scalar(f'metrics/{dataset_name}/{name}', value, current_iter)
    get_root_logger().info('\n'.join(lines))
    if model.is_train:
        record = {'iter': current_iter, 'dataset': dataset_name, 'metrics': scores}
        append_record(Path(model.opt['path']['experiments_root']) / METRICS_FILE, record)
