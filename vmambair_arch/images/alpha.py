"""Colours that nobody sees, under an alpha of 0, must not reach what is seen; an alpha that hides nothing is none."""

from __future__ import annotations

import cv2
import numpy as np

from .pixels import Image


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
