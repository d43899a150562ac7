"""Parts of a recipe on one short training: python -m benchmarks.recipes FOLDER --data DATA

    python -m benchmarks.recipes recipes --data datasets/Rain100L --iterations 500

changes one thing at a time of the recipe that `benchmarks.optimisers` gives to AdamW: learning rate, loss, and how the
pixels of a training are cut into patches and batches. Every row sees the same number of pixels, which is about the same
time: what has larger steps makes fewer. The same weights at the start, one thread, scored on the middles of the
held-out pairs. A finished row is kept in the folder, and the command may be started again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vmambair_arch.errors import guard

from . import optimisers
from .arguments import positive
from .kept import once, publish
from .shapes import check_data, one_thread


@dataclass(frozen=True)
class Recipe:
    """One row.

    Attributes:
        rate: of AdamW.
        patches, size: of a step.
        losses: sections of `train` beside or in place of `pixel_opt`.
    """

    rate: float = 1e-3
    patches: int = optimisers.PATCHES
    size: int = optimisers.SIZE
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)


FIRST = 'the recipe'
RECIPES = {
    FIRST: Recipe(),
    'rate 5e-4': Recipe(rate=5e-4),
    'rate 2e-3': Recipe(rate=2e-3),
    'Charbonnier': Recipe(losses={'pixel_opt': {'type': 'CharbonnierLoss', 'loss_weight': 1.0, 'eps': 1e-6}}),
    'L1 + 0.05 FFT': Recipe(losses={'fft_opt': {'type': 'FFTLoss', 'loss_weight': 0.05}}),
    '2 patches of 64': Recipe(patches=2),
    '8 patches of 64': Recipe(patches=8),
    '1 patch of 128': Recipe(patches=1, size=128),
    '16 patches of 32': Recipe(patches=16, size=32),
}
"""By the name in the table."""
RESULTS = Path(__file__).parent / 'results' / 'recipes'


def steps(recipe: Recipe, iterations: int) -> int:
    """How many iterations see the pixels of so many of the first."""
    return round(iterations * optimisers.PATCHES * optimisers.SIZE**2 / (recipe.patches * recipe.size**2))


def shortened(name: str, iterations: int, data: Path, folder: Path) -> dict[str, Any]:
    """The recipe of a row, as BasicSR's parser would hand it to the model."""
    recipe = RECIPES[name]
    length = steps(recipe, iterations)
    options = optimisers.shortened('AdamW', length, data, folder / f'{list(RECIPES).index(name)}')
    options['name'] = name
    options['datasets']['train'] |= {'gt_sizes': [recipe.size], 'mini_batch_sizes': [recipe.patches]}
    train = options['train']
    train |= recipe.losses
    train['optim_g']['lr'] = recipe.rate
    train['scheduler']['eta_mins'] = [1e-3 * recipe.rate]
    return options


def table(results: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f'Pixels of {results["iterations"]} iterations of the first for each, one thread, from the same weights. '
        f'Input: {results["input"]:.2f} dB.',
        '',
        '| changed | iterations | CPU time | PSNR (Y), dB | of the average |',
        '| --- | ---: | ---: | ---: | ---: |',
    ]
    rows = results['recipes']
    first = rows[FIRST]['cpu_ms'] * rows[FIRST]['iterations']
    lines += [
        f'| {name} | {row["iterations"]} | {row["cpu_ms"] * row["iterations"] / first:.2f} | {row["params"]:.2f} '
        f'| {row["params_ema"]:.2f} |'
        for name, row in rows.items()
    ]
    return '\n'.join(lines) + '\n'


def main() -> int:
    return guard(_compare)


def _compare() -> None:
    parser = argparse.ArgumentParser(prog='benchmarks.recipes', description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='keeps what is done')
    parser.add_argument('--data', type=Path, required=True, help='with train and val, each with target and input')
    parser.add_argument('--iterations', type=positive, default=500, help='of the first (default: %(default)s)')
    args = parser.parse_args()
    one_thread()
    check_data(args.data)
    results = {}
    for number, name in enumerate(RECIPES):
        options = shortened(name, args.iterations, args.data, args.folder)
        kept = args.folder / f'{number}_{args.iterations}.json'
        results[name] = once(kept, partial(optimisers.train_by, options, args.data))
        print(f'{name}: {results[name]}', flush=True)
    whole = {'iterations': args.iterations, 'input': optimisers.input_psnr(args.data), 'recipes': results}
    publish(RESULTS, whole, table(whole))


if __name__ == '__main__':
    sys.exit(main())
