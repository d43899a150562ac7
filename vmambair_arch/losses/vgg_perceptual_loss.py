"""Perceptual and style loss on VGG features (Johnson et al., arXiv 1603.08155), before the ReLU as in ESRGAN."""

from __future__ import annotations

from pathlib import Path

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.backbones import imagenet_features
from ..errors import UserError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CRITERIA = {'l1': F.l1_loss, 'l2': F.mse_loss, 'fro': lambda x, y: torch.linalg.vector_norm(x - y)}


@LOSS_REGISTRY.register()
class VGGPerceptualLoss(nn.Module):
    """BasicSR's `PerceptualLoss` with the options and values of it, but weights may be named, and `l2` works.

    Args:
        layer_weights: weight of each layer's distance, such as `{'conv5_4': 1.0}`; a `conv` is taken before its ReLU.
        vgg_type: vgg11, vgg13, vgg16 or vgg19.
        vgg_path: file of the weights (torchvision's, the convolutions alone will do, in any precision) or its folder;
            by default where BasicSR and torch keep them, then a download.
        use_input_norm: scale images by ImageNet's mean and standard deviation.
        range_norm: images are in -1..1 rather than 0..1.
        perceptual_weight, style_weight: of the distances between features and between their Gram matrices; 0 for none.
        criterion: 'l1', 'l2' or 'fro'.

    Raises:
        UserError: an unknown network, layer or criterion; weights that are not found.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        layer_weights: dict[str, float],
        vgg_type: str = 'vgg19',
        vgg_path: str | Path | None = None,
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: str = 'l1',
    ) -> None:
        super().__init__()
        if criterion not in CRITERIA:
            raise UserError(f"perceptual loss: criterion must be {', '.join(CRITERIA)}, not '{criterion}'")
        self.layer_weights = layer_weights
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.criterion = CRITERIA[criterion]
        self.layers = _layers(vgg_type, layer_weights, vgg_path).requires_grad_(False).eval()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        shift, scale = (mean, std) if use_input_norm else (torch.zeros(3), torch.ones(3))
        if range_norm:
            shift, scale = 2 * shift - 1, 2 * scale
        self.register_buffer('shift', shift.view(1, 3, 1, 1))
        self.register_buffer('scale', scale.view(1, 3, 1, 1))

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Perceptual and style loss of images (b, 3, h, w), None for one whose weight is 0."""
        ours = self.features(output)
        with torch.no_grad():
            theirs = self.features(target)
        perceptual = style = None
        if self.perceptual_weight > 0:
            distances = (self.criterion(ours[name], theirs[name]) * w for name, w in self.layer_weights.items())
            perceptual = self.perceptual_weight * sum(distances)
        if self.style_weight > 0:
            pairs = ((_gram(ours[name]), _gram(theirs[name]), w) for name, w in self.layer_weights.items())
            style = self.style_weight * sum(self.criterion(x, y) * w for x, y, w in pairs)
        return perceptual, style

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """The wanted layers of images (b, 3, h, w)."""
        x = (image - self.shift) / self.scale
        wanted = {}
        for name, layer in self.layers.named_children():
            x = layer(x)
            if name in self.layer_weights:
                wanted[name] = x
        return wanted


def _layers(vgg_type: str, wanted: dict[str, float], path: str | Path | None) -> nn.Sequential:
    """torchvision's VGG up to the last wanted layer, with BasicSR's names: conv1_1, relu1_1, ..., pool1, ..."""
    from torchvision.models import get_model

    types = ['vgg11', 'vgg13', 'vgg16', 'vgg19']
    if vgg_type not in types:
        raise UserError(f"perceptual loss: vgg_type '{vgg_type}' is not one of {', '.join(types)}")
    with torch.device('meta'):  # its classifier would be half a gigabyte
        network = get_model(vgg_type, weights=None).features
    block, number = 1, 0
    named: dict[str, nn.Module] = {}
    for layer in network:
        if isinstance(layer, nn.MaxPool2d):
            named[f'pool{block}'] = layer
            block, number = block + 1, 0
        elif isinstance(layer, nn.Conv2d):
            number += 1
            named[f'conv{block}_{number}'] = layer
        else:
            named[f'relu{block}_{number}'] = nn.ReLU()  # torchvision's would overwrite the features it gets
    if not wanted:
        raise UserError('perceptual loss: layer_weights names no layer, such as conv5_4: 1')
    for name in wanted:
        if name not in named:
            raise UserError(f"perceptual loss: {vgg_type} has no layer '{name}'{nearest(name, list(named))}")
    try:
        network.load_state_dict(imagenet_features(vgg_type, path), assign=True)
    except RuntimeError as error:
        raise UserError(f'perceptual loss: {path or "the weights"} do not fit {vgg_type} ({_first(error)})') from None
    last = max(list(named).index(name) for name in wanted)
    layers = nn.Sequential()
    for name in list(named)[: last + 1]:
        layers.add_module(name, named[name])
    return layers


def _gram(features: Tensor) -> Tensor:
    """Products of the channels of (b, c, h, w) with each other, averaged over the pixels and channels: (b, c, c)."""
    x = features.flatten(2)
    return x @ x.mT / x[0].numel()


def _first(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()
