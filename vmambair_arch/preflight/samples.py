"""What the network will see: the first samples of a training as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..images.image_io import Image, write_image
from ..images.panel import Panel, side_by_side

ROWS = 8
FILE = 'samples.png'


def write_samples(options: Mapping[str, Any], dataset: Any, folder: str | Path, rows: int = ROWS) -> Path:
    """Write a sheet with a row for each sample: input, target and any label, as they are handed to the model.

    Args:
        options: the option file; its degradation makes the inputs where the data set has none.
        dataset: of section `datasets: train`, built; an item is a sample, or a batch of them.
        folder: gets `samples.png`; made where there is none.
        rows: samples at most.

    Raises:
        UserError: an image that cannot be read, or a sheet that cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--samples {folder}: is not a folder; name one for {FILE}')
    panels = [row for _, row in zip(range(rows), _rows(options, dataset), strict=False)]
    path = folder / FILE
    write_image(path, Image(side_by_side(panels, height=192)))
    return path


def _rows(options: Mapping[str, Any], dataset: Any) -> Iterator[list[Panel]]:
    for index in range(len(dataset)):
        item = dataset[index]
        images = {name: item[name] for name in ('lq', 'gt', 'label') if isinstance(item.get(name), Tensor)}
        if 'lq' not in images:
            images = {'lq': _degraded(options, images['gt'], index), **images}
        batch = images['gt'].ndim == 4
        for i in range(len(images['gt']) if batch else 1):
            yield [_panel(name, image[i] if batch else image) for name, image in images.items()]


def _panel(name: str, image: Tensor) -> Panel:
    pixels = np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
    title = {'lq': 'input', 'gt': 'target'}.get(name, name)
    return Panel(pixels, f'{title} {pixels.shape[1]} x {pixels.shape[0]}')


def _degraded(options: Mapping[str, Any], gt: Tensor, index: int) -> Tensor:
    """What the real-world models make of a target while training."""
    from realesrgan_pipeline import Degradation, image_generator

    from ..models.real_world import read_degradation

    opt = dict(options)
    section = dict(opt['datasets']['train'])
    degrade = Degradation(read_degradation(opt, section))
    seed = section.get('manual_seed') or opt.get('manual_seed') or 0
    batch = gt if gt.ndim == 4 else gt[None]
    with torch.no_grad():
        lq, _ = degrade(batch, [image_generator(seed, index, i) for i in range(len(batch))])
    return lq if gt.ndim == 4 else lq[0]
