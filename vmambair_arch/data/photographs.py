"""Licence-clean colour photographs that the scikit-image wheel carries: something real to train and test on offline."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from ..errors import UserError


@dataclass(frozen=True)
class Photograph:
    """One photograph.

    Attributes:
        name: short, fit for a file name.
        split: `train`, or `unseen` for those that no training of this project may use.
        licence: what its source says.
        image: RGB uint8 (h, w, 3).
    """

    name: str
    split: str
    licence: str
    image: np.ndarray


# name -> (function of skimage.data, split, licence). Left out of what the wheel carries: grey images, drawings, the
# night sky of `hubble_deep_field`, and the stereo pair `motorcycle`, whose licence its source does not state.
_SOURCES = {
    'astronaut': ('astronaut', 'train', 'public domain (NASA)'),
    'coffee': ('coffee', 'train', 'CC0 (Rachel Michetti)'),
    'retina': ('retina', 'train', 'CC0 (Mikael Häggström)'),
    'tissue': ('immunohistochemistry', 'train', 'no known copyright restrictions (CMMI)'),
    'chelsea': ('chelsea', 'unseen', 'CC0 (Stefan van der Walt)'),
    'rocket': ('rocket', 'unseen', 'public domain (SpaceX)'),
}


def photographs(split: str | None = None) -> list[Photograph]:
    """The photographs of one split, or all of them, in a fixed order. Needs no network.

    Args:
        split: `train`, `unseen` or None for both.

    Raises:
        UserError: where scikit-image is not installed.
        ValueError: for another split.
    """
    if split not in ('train', 'unseen', None):
        raise ValueError(f"split must be 'train', 'unseen' or None, not {split!r}")
    try:
        data = importlib.import_module('skimage.data')
    except ModuleNotFoundError:
        raise UserError('the photographs come with scikit-image: pip install scikit-image') from None
    return [
        Photograph(name, part, licence, getattr(data, function)())
        for name, (function, part, licence) in _SOURCES.items()
        if split in (part, None)
    ]
