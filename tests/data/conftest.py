"""Small image sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import vmambair_arch  # noqa: F401  # before basicsr, which it fixes


def _write_images(
    folder: Path, names: list[str], *, size: tuple[int, int] = (40, 48), seed: int = 0
) -> list[np.ndarray]:
    """Write smooth random colour images (h, w, 3), uint8 RGB, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = []
    for name in names:
        image = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / name), image[..., ::-1])
        images.append(image)
    return images


@pytest.fixture
def write_images() -> Callable[..., list[np.ndarray]]:
    return _write_images


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    """Seven pairs of 48x40 images in `input` and `target`, inputs darker than their targets by 10 levels."""
    names = [f'{i}.png' for i in range(7)]
    for name, image in zip(names, _write_images(tmp_path / 'target', names), strict=True):
        (tmp_path / 'input').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'input' / name), np.clip(image[..., ::-1].astype(int) - 10, 0, 255))
    return tmp_path
