"""Colours that nobody sees, under an alpha of 0, must not reach what is seen; an alpha that hides nothing is none."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..errors import UserError
from .formats import KINDS
from .pixels import Image

_OPAQUE = 1 - 0.5 / 255  # what 8 bits round to all there is


def visible_colours(image: Image) -> np.ndarray:
    """The colours of a picture without those that are hidden, which networks and filters would carry over its edges.

    Where alpha is 0, as a rule over black, stands the colour of the nearest pixel that is seen.

    Returns:
        (h, w, 3) float32 in 0..1; `image.rgb` itself where nothing is hidden, or everything.
    """
    if image.alpha is None:
        return image.rgb
    hidden = image.alpha <= 0
    if hidden.all() or not hidden.any():
        return image.rgb
    # The label of a pixel that is seen is its own, and that of a hidden pixel is of the nearest that is seen.
    labels = cv2.distanceTransformWithLabels(
        hidden.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    colours = np.empty((labels.max() + 1, 3), np.float32)
    colours[labels[~hidden]] = image.rgb[~hidden]
    filled: np.ndarray = image.rgb.copy()
    filled[hidden] = colours[labels[hidden]]
    return filled


def can_hold(format: str, image: Image) -> bool:
    """Whether a format, by Pillow's name, has what it takes for the alpha of an image: a place, or nothing to hide."""
    return image.alpha is None or KINDS[format].alpha or float(image.alpha.min()) >= _OPAQUE


def fit_alpha(image: Image, format: str, name: object = 'image') -> Image:
    """The image without its alpha where a format has no place for it.

    Args:
        image: any.
        format: Pillow's name of one of `formats.KINDS`.
        name: what the message calls the image.

    Raises:
        UserError: there is transparency.
    """
    if not can_hold(format, image):
        raise UserError(f'{name}: {format} cannot hold the transparency of this image; write it as png, webp or tiff')
    return image if KINDS[format].alpha else replace(image, alpha=None)
