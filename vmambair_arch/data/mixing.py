"""Samples mixed with one another: mixup, CutMix, CutBlur and permuted colours, drawn from a generator each.

A sample is a dict of float32 images (h, w, 3) of one place: `lq`, `gt`, any `label`; sizes may differ by the scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UserError

Sample = dict[str, np.ndarray]

DEFAULTS: dict[str, dict[str, float]] = {
    'mixup': {'beta': 1.2, 'probability': 0.5},
    'cutmix': {'beta': 1.0, 'probability': 0.5},
    'cutblur': {'ratio': 0.7, 'probability': 0.5},
}
"""Restormer's mixup (arXiv 2111.09881), CutMix (1905.04899) and CutBlur (2004.00448) as their authors use them."""


def read_mixing(wanted: Mapping[str, Any], where: str, scale: int) -> dict[str, dict[str, float]]:
    """The mixings that a data set asks for, with what it leaves out filled in.

    Args:
        wanted: by the names of `DEFAULTS` a section each, `{}` for the defaults, None for none.
        where: for messages.
        scale: of the data; CutBlur pastes inputs into targets of the same size.

    Raises:
        UserError: an unknown key or a value out of range.
    """
    found = {}
    for name, defaults in DEFAULTS.items():
        given = wanted.get(name)
        if given is None:
            continue
        if not isinstance(given, Mapping) or not set(given) <= set(defaults):
            raise UserError(f'{where}: {name} takes {" and ".join(defaults)}, not {given!r}')
        values = {**defaults, **given}
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values.values())
        first = next(iter(defaults))
        upper = 1 if first == 'ratio' else math.inf
        if not numbers or not 0 < values[first] <= upper or not 0 <= values['probability'] <= 1:
            bounds = 'in 0..1' if first == 'ratio' else '> 0'
            raise UserError(f'{where}: {name} takes {first} {bounds} and probability 0..1, not {given!r}')
        found[name] = values
    if 'cutblur' in found and scale != 1:
        raise UserError(f'{where}: cutblur is for scale 1, where inputs are as large as targets, not {scale}')
    return found


def mixup(sample: Sample, other: Sample, rng: np.random.Generator, beta: float) -> Sample:
    """`w * sample + (1 - w) * other`, w from Beta(beta, beta)."""
    weight = np.float32(rng.beta(beta, beta))
    return {name: weight * image + (1 - weight) * other[name] for name, image in sample.items()}


def cutmix(sample: Sample, other: Sample, rng: np.random.Generator, beta: float) -> Sample:
    """A rectangle of `other` in the same place of every image; its share of the area is 1 - Beta(beta, beta)."""
    smallest = min(sample.values(), key=lambda image: image.shape[0])
    top, left, height, width = _rectangle(rng, smallest.shape[:2], float(np.sqrt(1 - rng.beta(beta, beta))))
    result = {}
    for name, image in sample.items():
        scale = image.shape[0] // smallest.shape[0]
        rows, columns = _scaled(top, height, scale), _scaled(left, width, scale)
        result[name] = image.copy()
        result[name][rows, columns] = other[name][rows, columns]
    return result


def cutblur(sample: Sample, rng: np.random.Generator, ratio: float) -> Sample:
    """A rectangle of the target in the input, or all but a rectangle, with equal chance: where is there anything to do?

    Args:
        sample: `lq` as large as `gt`.
        rng: the only source of randomness.
        ratio: sides of the rectangle over those of the image.
    """
    top, left, height, width = _rectangle(rng, sample['gt'].shape[:2], ratio)
    rows, columns = _scaled(top, height, 1), _scaled(left, width, 1)
    inside = rng.random() < 0.5
    lq = (sample['lq'] if inside else sample['gt']).copy()
    lq[rows, columns] = (sample['gt'] if inside else sample['lq'])[rows, columns]
    return {**sample, 'lq': lq}


def permute_colours(sample: Sample, rng: np.random.Generator) -> Sample:
    """The three channels in another order, the same in every image of the sample."""
    order = rng.permutation(3)
    return {name: image[..., order] for name, image in sample.items()}


def _rectangle(rng: np.random.Generator, size: tuple[int, int], ratio: float) -> tuple[int, int, int, int]:
    h, w = size
    height, width = min(round(h * ratio), h), min(round(w * ratio), w)
    return int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1)), height, width


def _scaled(first: int, length: int, scale: int) -> slice:
    return slice(first * scale, (first + length) * scale)
