"""Metrics by name: what `vmambair evaluate` measures, and how its tables call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, nearest
from .fid import fid, inception
from .no_reference import NIQE_BLOCK, niqe, pyiqa, pyiqa_metric
from .perceptual import BACKBONES, SMALLEST, dists, dists_network, lpips, lpips_network
from .psnr_ssim import WINDOW, psnr, ssim

PYIQA = 'pyiqa:'
"""`pyiqa:musiq` is pyiqa's metric musiq."""


@dataclass(frozen=True)
class Metric:
    """A metric with its options settled.

    Attributes:
        name: as the user wrote it.
        title: heading of a column; says which definition is used.
        function: what measures.
        options: its keyword arguments.
        lower_is_better: which way is up.
        needs_truth: compares with the true image.
        of_folders: one figure for a folder, none for an image.
        digits: decimals in tables.
    """

    name: str
    title: str
    function: Callable[..., float]
    options: dict[str, Any] = field(default_factory=dict)
    lower_is_better: bool = False
    needs_truth: bool = True
    of_folders: bool = False
    digits: int = 4

    @property
    def heading(self) -> str:
        return f'{self.title} {"↓" if self.lower_is_better else "↑"}'

    @property
    def key(self) -> str:
        """What tells its figures from those of the same metric with other weights."""
        weights = self.options.get('weights')
        return self.name if weights is None else f'{self.name} {Path(weights).resolve()}'

    @property
    def smallest(self) -> tuple[int, int]:
        """Pixels of the shorter and the longer side that it needs after the crop of a border."""
        if self.function is niqe:
            return NIQE_BLOCK, 2 * NIQE_BLOCK
        side = WINDOW if self.function is ssim else SMALLEST[self.options['net']] if self.function is lpips else 1
        return side, side

    def load(self) -> None:
        """Load what it needs, so that missing weights are found before anything is restored.

        Raises:
            UserError: weights or a package are missing.
        """
        weights = self.options.get('weights')
        if self.function is lpips:
            lpips_network(self.options['net'], weights)
        elif self.function is dists:
            dists_network(weights)
        elif self.function is fid:
            inception(weights)

    def __call__(
        self, image: np.ndarray | Iterable[np.ndarray], truth: np.ndarray | Iterable[np.ndarray] | None = None
    ) -> float:
        """Measure images (h, w, 3) RGB float 0..1, or iterables of them where `of_folders`."""
        return self.function(image, truth, **self.options) if self.needs_truth else self.function(image, **self.options)


def _known() -> dict[str, Metric]:
    metrics = []
    lumas: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ('', 'RGB', {}),
        ('_y', 'Y', {'y_channel': True}),
        ('_y_matlab', 'Y rounded', {'y_channel': True, 'y_rounding': 'matlab'}),
    )
    for ending, title, options in lumas:
        metrics.append(Metric(f'psnr{ending}', f'PSNR ({title})', psnr, options, digits=2))
        metrics.append(Metric(f'ssim{ending}', f'SSIM ({title})', ssim, options))
    for net in BACKBONES:
        name = 'lpips' if net == 'alex' else f'lpips_{net}'
        metrics.append(Metric(name, f'LPIPS ({net})', lpips, {'net': net}, lower_is_better=True))
    metrics.append(Metric('dists', 'DISTS', dists, lower_is_better=True))
    metrics.append(Metric('niqe', 'NIQE', niqe, lower_is_better=True, needs_truth=False))
    metrics.append(Metric('fid', 'FID', fid, lower_is_better=True, of_folders=True, digits=2))
    return {metric.name: metric for metric in metrics}


METRICS = _known()


def get_metrics(names: Sequence[str], *, crop_border: int = 0, weights: str | Path | None = None) -> list[Metric]:
    """The metrics of these names, in their order.

    Args:
        names: of `METRICS`, or `pyiqa:` and a name of pyiqa.
        crop_border: pixels left out at every edge by PSNR and SSIM; the others see whole images, as in papers.
        weights: file or folder of backbone weights for LPIPS, DISTS and FID, see `pretrained.pretrained_state`.

    Raises:
        UserError: no such metric, or pyiqa is not installed.
    """
    metrics = []
    for name in dict.fromkeys(names):
        metric = _named(name)
        options = dict(metric.options)
        if metric.function in (psnr, ssim):
            options['crop_border'] = crop_border
        if metric.function in (lpips, dists, fid):
            options['weights'] = weights
        metrics.append(dataclasses.replace(metric, options=options))
    return metrics


def _named(name: str) -> Metric:
    if name.startswith(PYIQA):
        inner = name.removeprefix(PYIQA)
        theirs = pyiqa_metric(inner)
        needs_truth = theirs.metric_mode == 'FR'
        return Metric(
            name, inner, partial(pyiqa, inner), lower_is_better=bool(theirs.lower_better), needs_truth=needs_truth
        )
    if name not in METRICS:
        valid = list(METRICS)
        raise UserError(f"no metric '{name}'{nearest(name, valid)}; there are {', '.join(valid)}, and pyiqa:NAME")
    return METRICS[name]
