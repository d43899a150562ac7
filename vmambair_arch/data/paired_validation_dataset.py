"""Whole pairs for validation and testing, in sorted order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from ..errors import UserError
from .pairs import PairSource, bicubic_patch, to_float, to_tensor
from .rain import add_8bit_rain


@DATASET_REGISTRY.register()
class PairedValidationDataset(Dataset):
    """What BasicSR's PairedImageDataset is to validation, in an order that is the same everywhere, naming bad files.

    Options: those of `pairs.list_pairs`, `sources` and `recursive` as in `PairedProgressiveDataset`, and
        rain: let it rain on the targets instead of reading inputs, see `PairedProgressiveDataset`; image i has the same
            rain every time.
        bicubic: true makes the inputs from the targets, see there.
        cache: keep decoded images in memory.

    Raises:
        UserError: for folders that cannot work, at once; for an image that cannot be decoded or does not fit its
            partner, when it is read.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt  # BasicSR asks it for the name of the set
        self.source = PairSource(opt)
        if self.source.rain_probability not in (0, 1):
            raise UserError(f'data set {opt.get("name")}: rain_probability is for training; remove it, or rain')
        if self.source.weights:
            raise UserError(f'data set {opt.get("name")}: sources: weights are for training; remove them')
        self.names = short_names([self.source.place(index) for index in range(len(self.source))])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """lq (3, h, w) and gt (3, h*scale, w*scale), RGB float32 in 0..1; lq_path and gt_path; name, which no
        other image has.
        """
        lq, gt = self.source.read(index)
        if self.source.bicubic:
            scale = self.opt.get('scale', 1)
            lq = bicubic_patch(gt, scale, 0, 0, max(gt.shape[:2]) // scale)
        gt = to_float(gt)
        if self.source.rain_probability == 1:
            lq = add_8bit_rain(gt, np.random.default_rng(index), self.source.rain)
        assert lq is not None  # there is an input where none is made
        pair = self.source.pairs[index]
        return {
            'lq': to_tensor(to_float(lq)),
            'gt': to_tensor(gt),
            'lq_path': pair.lq or pair.gt,
            'gt_path': pair.gt,
            'name': self.names[index],
        }


def short_names(paths: Sequence[str]) -> list[str]:
    """A name for each file: its stem, with as many of the folders above as tell it from the others.

    Example:
        >>> short_names(['rain/a/1.png', 'rain/b/1.png', 'rain/b/2.png'])
        ['a_1', 'b_1', '2']
    """
    parts = [PurePath(path).with_suffix('').parts for path in paths]
    names, depth = [part[-1:] for part in parts], 1
    while depth < max(map(len, parts), default=0):
        times, depth = Counter(names), depth + 1
        if len(times) == len(names):
            break
        names = [part[-depth:] if times[name] > 1 else name for name, part in zip(names, parts, strict=True)]
    joined = ['_'.join(name).replace('/', '') for name in names]
    if len(set(joined)) < len(joined):  # a_b/1 and a/b_1, or one file twice
        joined = [f'{name}_{number}' for number, name in enumerate(joined)]
    return joined
