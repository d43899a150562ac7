from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from realesrgan_pipeline.jpeg import jpeg


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(1 / np.mean((a - b) ** 2))


def opencv(image: np.ndarray, quality: int) -> np.ndarray:
    """Through OpenCV's encoder and decoder, RGB uint8 in, float 0..1 out."""
    data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1] / 255


def ours(image: np.ndarray, quality: float) -> np.ndarray:
    tensor = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]
    return jpeg(tensor, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('quality', [30, 60, 95])
def test_it_loses_what_a_real_codec_loses(picture, quality):
    for crop in (picture, picture[..., :37, :53]):
        image = (crop[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        mine, real = ours(image, quality), opencv(image, quality)
        assert psnr(mine, image / 255) == pytest.approx(psnr(real, image / 255), abs=1)
        # Closer to the codec's result than either is to the original: the same artefacts, not just as many.
        assert psnr(mine, real) > psnr(real, image / 255) + 4


@pytest.mark.parametrize('quality', [30, 60, 95])
def test_it_loses_what_a_real_codec_loses_on_photographs(shared, quality):
    for path in sorted((shared / 'data' / 'sr' / 'Set5' / 'HR').iterdir()):
        image = cv2.imread(str(path))[..., ::-1].copy()
        mine, real = ours(image, quality), opencv(image, quality)
        assert psnr(mine, image / 255) == pytest.approx(psnr(real, image / 255), abs=1)


def test_each_image_has_its_own_quality(picture):
    qualities = torch.tensor([30.0, 72.5, 95.0])
    together = jpeg(picture.expand(3, -1, -1, -1), qualities)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], jpeg(picture, qualities[i : i + 1]), atol=1e-5, rtol=0)
    errors = (together - picture).square().mean((1, 2, 3))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize('size', [(1, 1), (3, 70), (16, 16), (17, 33)])
def test_any_size(size):
    image = torch.rand(1, 3, *size)
    result = jpeg(image, torch.tensor([90.0]))
    assert result.shape == image.shape
    assert 0 <= result.min() <= result.max() <= 1


def test_a_flat_image_comes_back():
    image = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert (jpeg(image, torch.tensor([95.0])) - image).abs().max() < 2 / 255
