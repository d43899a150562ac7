"""VmambaIR light against other shapes of network at equal parameters and equal training time.

    python -m benchmarks.rivals FOLDER --data datasets/Rain100L --minutes 5 --seeds 3

trains each network of `RIVALS` on `DATA/train/{target,input}` by one recipe (patches of 64, four a step, Muon, one
cosine, L1, mirrored) for the same CPU time of one thread, and scores it on the middle of `DATA/val`'s pairs. The rate
falls by the time that has passed, so that each network ends its cosine however many steps it makes. The rivals are
written for this comparison after the papers' figures and have the parameters of `light` within 5 %:

- Restormer (arXiv 2111.09881): attention across channels of queries and keys after depthwise 3x3, gated feed-forward;
- NAFNet (arXiv 2204.04676): no activations, gates by multiplication, channel attention without non-linearity;
- PReNet (arXiv 1901.09221): a recurrent residual network at full size whose stages share their parameters; its own size
  is 0.17 M, here it is wider.

What is done is kept in the folder, and the command may be started again, or several times at once with `--only`. With
`--optimiser AdamW` the same by another; the table has a column for each that was tried with as many minutes and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vmambair_arch.archs import VmambaIR
from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.errors import guard
from vmambair_arch.metrics.psnr_ssim import psnr
from vmambair_arch.models.optimizers import build_optimizer

from .arguments import duration, natural, positive
from .deraining import eight_bits, pairs_of
from .kept import once, publish
from .shapes import check_data, one_thread

PATCHES, SIZE, MIDDLE = 4, 64, 128
RATE, LAST_RATE = 1e-3, 1e-6
OPTIMISERS: dict[str, dict[str, Any]] = {
    name: {'type': name, 'lr': RATE, 'weight_decay': 1e-4} for name in ('Muon', 'AdamW')
}
"""`optim_g` of the recipe; Muon's rate is AdamW's, first and last layers are AdamW's with either."""
WARM_UP = 0.02
"""Share of the training in which the rate rises."""
RESULTS = Path(__file__).parent / 'results' / 'rivals'


class LayerNorm(nn.Module):
    """Over the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class RestormerBlock(nn.Module):
    """Attention across channels and a gated feed-forward part, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int = 1, expansion: float = 2) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Sequential(
            nn.Conv2d(width, 3 * width, 1, bias=False),
            nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False),
        )
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.gates = nn.Sequential(
            nn.Conv2d(width, 2 * hidden, 1, bias=False),
            nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False),
        )
        self.out = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        attention = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature
        x = x + self.project((attention.softmax(-1) @ v).reshape(b, c, h, w))
        gate, value = self.gates(self.norm2(x)).chunk(2, dim=1)
        return x + self.out(F.gelu(gate) * value)


class NAFBlock(nn.Module):
    """Two parts without activations: halves of the channels multiply each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.spread = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        )
        self.attend = nn.Conv2d(width, width, 1)
        self.project, self.widen, self.narrow = (
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, width, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.spread(self.norm1(x)).chunk(2, dim=1)
        gated = a * b
        x = x + self.beta * self.project(gated * self.attend(gated.mean((2, 3), keepdim=True)))
        a, b = self.widen(self.norm2(x)).chunk(2, dim=1)
        return x + self.gamma * self.narrow(a * b)


class UNet(nn.Module):
    """Four levels of blocks, widths doubling, skips added; the output is added to the input."""

    def __init__(self, block: Callable[[int], nn.Module], width: int, depths: tuple[int, ...], refine: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(len(depths))]

        def blocks(level: int) -> nn.Module:
            return nn.Sequential(*(block(widths[level]) for _ in range(depths[level])))

        self.conv_first, self.conv_last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(blocks(level) for level in range(len(depths)))
        self.decoders = nn.ModuleList(blocks(level) for level in range(len(depths) - 1))
        self.down = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1), nn.PixelShuffle(2)) for w in widths[:-1])
        self.refine = nn.Sequential(*(block(width) for _ in range(refine)))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_first(image)
        skips = []
        for encoder, down in zip(self.encoders, self.down, strict=False):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.encoders[-1](x)
        for decoder, up, skip in reversed(list(zip(self.decoders, self.up, skips, strict=True))):
            x = decoder(up(x) + skip)
        return image + self.conv_last(self.refine(x))


class PReNet(nn.Module):
    """Stages that share their parameters: an LSTM of convolutions and residual blocks on input and last result."""

    def __init__(self, width: int, stages: int = 6, blocks: int = 5) -> None:
        super().__init__()
        self.stages = stages
        self.conv_first = nn.Conv2d(6, width, 3, padding=1)
        self.gates = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
            )
            for _ in range(blocks)
        )
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        result, hidden, cell = image, None, None
        for _ in range(self.stages):
            x = F.relu(self.conv_first(torch.cat((image, result), 1)))
            hidden = torch.zeros_like(x) if hidden is None else hidden
            cell = torch.zeros_like(x) if cell is None else cell
            remember, add, show, new = self.gates(torch.cat((x, hidden), 1)).chunk(4, dim=1)
            cell = torch.sigmoid(remember) * cell + torch.sigmoid(add) * torch.tanh(new)
            hidden = torch.sigmoid(show) * torch.tanh(cell)
            x = hidden
            for block in self.blocks:
                x = F.relu(block(x) + x)
            result = image + self.conv_last(x)
        return result


RIVALS: dict[str, Callable[[], nn.Module]] = {
    'VmambaIR light': lambda: VmambaIR.from_preset('light'),
    'Restormer-shaped': lambda: UNet(lambda w: RestormerBlock(w, heads=w // 16), 16, (1, 2, 3, 6), 1),
    'NAFNet-shaped': lambda: UNet(NAFBlock, 16, (2, 3, 5, 9), 1),
    'PReNet-shaped': lambda: PReNet(96),
}
"""By name; parameters within 5 % of each other."""


def rate(share: float) -> float:
    """Learning rate after this share of the training."""
    if share < WARM_UP:
        return RATE * max(share, 1e-3) / WARM_UP
    return LAST_RATE + (RATE - LAST_RATE) * (1 + math.cos(math.pi * min(share, 1))) / 2


def train(
    network: nn.Module,
    data: Path,
    seed: int,
    *,
    seconds: float = math.inf,
    steps: float = math.inf,
    optimiser: str = 'Muon',
) -> int:
    """Train for so many seconds of this thread's CPU time, or so many steps; the number of steps made."""
    section = {
        'dataroot_gt': str(data / 'train/target'),
        'dataroot_lq': str(data / 'train/input'),
        'gt_size': SIZE,
        'batch_size_per_gpu': 1,
        'use_rot': False,
        'cache': True,
        'manual_seed': seed,
        'total_iter': 10**9,
    }
    dataset = PairedProgressiveDataset(section)
    optimizer = build_optimizer(network.named_parameters(), OPTIMISERS[optimiser])
    network.train()
    step, start = 0, time.thread_time()
    with tqdm(total=100, unit='%', leave=False) as bar:
        while (share := max((time.thread_time() - start) / seconds, step / steps)) < 1:
            for group in optimizer.param_groups:
                group['lr'] = rate(share)
            samples = [dataset.sample(step * PATCHES + place, 0) for place in range(PATCHES)]
            lq, gt = (torch.stack([sample[key] for sample in samples]) for key in ('lq', 'gt'))
            optimizer.zero_grad()
            F.l1_loss(network(lq), gt).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.1)
            optimizer.step()
            step += 1
            bar.update(round(100 * share) - bar.n)
    return step


@torch.inference_mode()
def score(network: nn.Module, data: Path) -> float:
    """Mean PSNR on Y of the middles of the validation pairs, dB."""
    network.eval()
    found = []
    for lq, gt in pairs_of(data / 'val/target', data / 'val/input'):
        top, left = ((n - MIDDLE) // 2 // 8 * 8 for n in gt.shape[:2])
        lq, gt = (image[top : top + MIDDLE, left : left + MIDDLE] for image in (lq, gt))
        x = torch.from_numpy(lq.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        result = network(x)[0].clamp(0, 1).permute(1, 2, 0).numpy()
        found.append(psnr(eight_bits(result), gt, y_channel=True))
    return statistics.fmean(found)


def run(name: str, seed: int, minutes: float, folder: Path, data: Path, optimiser: str = 'Muon') -> dict[str, float]:
    """Train and score one network with one seed, where that is not done."""

    def trained() -> dict[str, float]:
        torch.manual_seed(seed)
        network = RIVALS[name]()
        steps = train(network, data, seed, seconds=60 * minutes, optimiser=optimiser)
        return {'psnr_y': score(network, data), 'steps': steps}

    return once(folder / f'{optimiser}_{list(RIVALS).index(name)}_{seed}_{minutes:g}.json', trained)


def table(results: dict) -> str:
    """What was found, as Markdown."""
    tried = [optimiser for optimiser in OPTIMISERS if optimiser in results['psnr_y']]
    lines = [
        f'{results["minutes"]:g} minutes of CPU time each, one thread, {PATCHES} patches of {SIZE} x {SIZE} a step; '
        f'the middle {MIDDLE} x {MIDDLE} of the held-out pairs, {results["input"]:.2f} dB as they are; '
        f'{results["seeds"]} seeds. PSNR (Y) in dB, the mean and from lowest to highest.',
        '',
        f'| network | parameters, M | {" | ".join(f"{name}: steps | PSNR | from to" for name in tried)} |',
        f'| --- | ---: |{" ---: | ---: | --- |" * len(tried)}',
    ]
    for name, parameters in results['parameters'].items():
        cells = [name, f'{parameters:.3f}']
        for optimiser in tried:
            scores = results['psnr_y'][optimiser][name]
            cells += [
                f'{round(statistics.fmean(results["steps"][optimiser][name]))}',
                f'{statistics.fmean(scores):.2f}',
                f'{min(scores):.2f} to {max(scores):.2f}',
            ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _compare() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.rivals', description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='keeps what is done')
    parser.add_argument('--data', type=Path, required=True, help='with train and val, each with target and input')
    parser.add_argument('--minutes', type=duration, default=5, help='CPU time of each training (default: %(default)s)')
    parser.add_argument('--seeds', type=positive, default=3, help='trainings of each network (default: %(default)s)')
    parser.add_argument('--optimiser', choices=OPTIMISERS, default='Muon', help='(default: %(default)s)')
    parser.add_argument('--only', type=natural, nargs='*', metavar='K', help='train these, by number; no table')
    args = parser.parse_args()
    one_thread()
    data = args.data.resolve()
    check_data(data)
    wanted = [name for number, name in enumerate(RIVALS) if args.only is None or number in args.only]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
    for seed in range(args.seeds):  # a seed of every network before the next, so that what is there can be compared
        for name in wanted:
            found[name].append(run(name, seed, args.minutes, args.folder, data, args.optimiser))
            print(f'{name}, seed {seed}: {found[name][-1]["psnr_y"]:.3f} dB')
    if args.only is not None:
        return
    setting = {'minutes': args.minutes, 'seeds': args.seeds}
    path = RESULTS.with_suffix('.json')
    before = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    if any(before.get(key) != value for key, value in setting.items()):
        before = {}
    results = setting | {
        'input': score(nn.Identity(), data),
        'parameters': {name: sum(p.numel() for p in make().parameters()) / 1e6 for name, make in RIVALS.items()},
    }
    for key, digits in (('steps', 0), ('psnr_y', 3)):
        rows = {name: [round(row[key], digits) for row in rows] for name, rows in found.items()}
        results[key] = before.get(key, {}) | {args.optimiser: rows}
    publish(RESULTS, results, table(results))


def main() -> int:
    return guard(_compare)


if __name__ == '__main__':
    sys.exit(main())
