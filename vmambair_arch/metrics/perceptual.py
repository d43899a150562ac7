"""Distances in the features of image classifiers: LPIPS (Zhang et al., CVPR 2018) and DISTS (Ding et al., TPAMI 2020).

Lower is better, 0 for equal images. Both need the classifier's ImageNet weights: see
`vmambair_arch.checkpoints.backbones`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.backbones import imagenet_features
from ..errors import UserError
from ..images.pixels import packed
from .psnr_ssim import crop, white

LPIPSNet = Literal['alex', 'vgg', 'squeeze']
BACKBONES: dict[str, str] = {'alex': 'alexnet', 'vgg': 'vgg16', 'squeeze': 'squeezenet1_1'}
"""LPIPS's names and torchvision's."""

SMALLEST = {'alex': 31, 'vgg': 16, 'squeeze': 17}
"""Pixels an image needs in height and width to reach the last layer."""


def lpips(
    image: np.ndarray,
    reference: np.ndarray,
    *,
    net: LPIPSNet = 'alex',
    crop_border: int = 0,
    weights: str | Path | None = None,
) -> float:
    """Learned perceptual image patch similarity, version 0.1 of the `lpips` package.

    Args:
        image, reference: (h, w, 3) RGB, uint8, or float 0..1.
        net: backbone; papers that name none mostly mean 'alex'.
        crop_border: pixels left out at every edge.
        weights: file or folder of the backbone's weights, see `pretrained.pretrained_state`.

    Raises:
        UserError: sizes differ or are too small, no such backbone, no weights, `lpips` is not installed.
    """
    network = lpips_network(net, weights)
    a, b = _pair(image, reference, crop_border)
    if min(a.shape[-2:]) < SMALLEST[net]:
        raise UserError(f'LPIPS-{net} needs {SMALLEST[net]} pixels in height and width, got {_size(a)}')
    with torch.inference_mode():
        return network(2 * a - 1, 2 * b - 1).item()


def dists(
    image: np.ndarray, reference: np.ndarray, *, crop_border: int = 0, weights: str | Path | None = None
) -> float:
    """Deep image structure and texture similarity, at the size of the images (no resizing to 256 pixels).

    Arguments and errors as in `lpips`; the backbone is VGG16, the channel weights are those of `dists-pytorch`.
    """
    a, b = _pair(image, reference, crop_border)
    with torch.inference_mode():
        return dists_network(weights)(a, b).item()


@lru_cache(maxsize=4)
def lpips_network(net: str, weights: str | Path | None) -> nn.Module:
    """The network of `lpips` on the device that measures."""
    if net not in BACKBONES:
        raise UserError(f"LPIPS: backbone '{net}' is not one of {', '.join(BACKBONES)}")
    features = imagenet_features(BACKBONES[net], weights)
    package = require('lpips', 'lpips')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it builds torchvision's networks the old way
        module = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    _load(module.net, features, 'slice')
    return module.eval().to(device())


@lru_cache(maxsize=2)
def dists_network(weights: str | Path | None) -> nn.Module:
    """The network of `dists` on the device that measures."""
    features = imagenet_features('vgg16', weights)
    package = require('DISTS_pytorch', 'dists-pytorch')
    folder = Path(package.__path__[0])
    channels = torch.load(folder / 'weights.pt', map_location='cpu', weights_only=True)
    module = DISTS(channels['alpha'].flatten(), channels['beta'].flatten())
    _load(module.stages, features)
    return module.eval().to(device())


def _load(network: nn.Module, features: dict[str, Tensor], prefix: str = '') -> None:
    """Load convolutions kept as `<prefix><stage>.<number in the backbone>.<weight or bias>`."""
    wanted = {key: key.partition('.')[2] for key in network.state_dict() if key.startswith(prefix)}
    missing = sorted(set(wanted.values()) - set(features))
    if missing:
        raise UserError(f'the weights of the backbone lack features.{missing[0]}: they are of another network')
    network.load_state_dict({key: features[name] for key, name in wanted.items()})


class DISTS(nn.Module):
    """1 - sum of weighted similarities of texture (means) and structure (covariances) over the feature maps of VGG16.

    Eq. 5 to 7 of Ding et al.: VGG16 with its max pooling replaced by L2 pooling with a Hann window, the image itself
    as the first feature map. Images (b, 3, h, w) RGB 0..1 -> (b,).

    Args:
        alpha, beta: (1475,) weights of texture and structure for every channel.
    """

    channels = (3, 64, 128, 256, 512, 512)
    convolutions = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    stabiliser = 1e-6

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor
    window: Tensor

    def __init__(self, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        total = alpha.sum() + beta.sum()
        self.register_buffer('alpha', alpha / total, persistent=False)
        self.register_buffer('beta', beta / total, persistent=False)
        self.register_buffer('mean', torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)
        hann = torch.hann_window(5, periodic=False)[1:-1]
        self.register_buffer('window', hann.outer(hann) / hann.sum() ** 2, persistent=False)
        stages = []
        previous = 3
        for width, numbers in zip(self.channels[1:], self.convolutions, strict=True):
            stage = nn.ModuleDict()
            for number in numbers:
                stage[str(number)] = nn.Conv2d(previous, width, 3, padding=1)
                previous = width
            stages.append(stage)
        self.stages = nn.ModuleList(stages)

    def features(self, x: Tensor) -> list[Tensor]:
        """The image and the last feature map of every stage."""
        maps = [x]
        h = (x - self.mean) / self.std
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleDict)
            if i:
                window = self.window.expand(h.shape[1], 1, -1, -1)
                h = F.conv2d(h**2, window, stride=2, padding=1, groups=h.shape[1]).add(1e-12).sqrt()
            for convolution in stage.values():
                h = F.relu(convolution(h))
            maps.append(h)
        return maps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        similarity = x.new_zeros(x.shape[0])
        c = self.stabiliser
        weights = zip(self.alpha.split(self.channels), self.beta.split(self.channels), strict=True)
        for fx, fy, (alpha, beta) in zip(self.features(x), self.features(y), weights, strict=True):
            mean_x, mean_y = fx.mean((2, 3)), fy.mean((2, 3))
            var_x, var_y = fx.var((2, 3), unbiased=False), fy.var((2, 3), unbiased=False)
            covariance = (fx * fy).mean((2, 3)) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + c) / (mean_x**2 + mean_y**2 + c)
            structure = (2 * covariance + c) / (var_x + var_y + c)
            similarity = similarity + texture @ alpha + structure @ beta
        return 1 - similarity


def _pair(image: np.ndarray, reference: np.ndarray, crop_border: int) -> tuple[Tensor, Tensor]:
    """Two images as (1, 3, h, w) tensors in 0..1."""
    if image.shape != reference.shape or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f'images must be (h, w, 3) of one size, got {image.shape} and {reference.shape}')
    return as_tensor(crop(image, crop_border)), as_tensor(crop(reference, crop_border))


def as_tensor(image: np.ndarray) -> Tensor:
    """(h, w, 3) uint8, or float 0..1 -> (1, 3, h, w) float32 in 0..1 on the device that measures.

    Raises:
        UserError: another type.
    """
    most = white(image)
    tensor = torch.from_numpy(packed(image, np.uint8 if most == 255 else np.float32))
    return tensor.to(device(), torch.float32).permute(2, 0, 1)[None] / most


def device() -> torch.device:
    """Where images are measured: the GPU of this process, or the CPU."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def require(package: str, distribution: str) -> ModuleType:
    """Import an optional package, or raise a UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f'this metric needs a package that is not installed: pip install {distribution}') from None


def _size(x: Tensor) -> str:
    return f'{x.shape[-2]} x {x.shape[-1]}'
