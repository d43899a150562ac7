"""`vmambair explain`: which input pixels a network looks at.

The effective receptive field (Luo et al., NeurIPS 2016) is the gradient of one output pixel with respect to the
input, averaged over images: how far the network can see. A local attribution map (Gu and Dong, CVPR 2021) says for one
image which pixels the texture in a window of the result was made from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..images.image_io import Image, format_of, read_image, write_image
from ..images.panel import Panel, side_by_side
from ..images.pixels import packed

CROPS = 8
"""Places of the image that the effective receptive field is averaged over."""
STEPS = 32
"""Steps from the blurred image to the sharp one."""
BLUR = 9.0
"""Standard deviation in pixels at the blurred end."""
SHARES = (0.2, 0.5, 0.99)
"""Shares of the gradient of which the area is reported, as in RepLKNet (Ding et al., CVPR 2022)."""
FLAT = 1e-6
"""Sum of an attribution at or below which the image holds no texture: far above the rounding of a flat image, far below
what one level of 16 bits in one pixel brings."""


def effective_receptive_field(network: nn.Module, images: Iterable[Tensor]) -> Tensor:
    """Mean absolute gradient of the central output pixel with respect to every input pixel.

    Args:
        network: (1, c, h, w) -> (1, c, h * scale, w * scale).
        images: (1, c, h, w) in 0..1, all of one size.

    Returns:
        (h, w), not negative, with a sum of 1.
    """
    total = torch.zeros(())
    for image in images:
        x = image.clone().requires_grad_()
        y = network(x)
        centre = y[..., y.shape[-2] // 2, y.shape[-1] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, x)
        gradient = gradient.abs().sum((0, 1))
        total = total.to(gradient.device) + gradient
    return total / total.sum()


def area(field: Tensor, share: float) -> float:
    """Side of the smallest square around the centre that holds `share` of a field (h, w), over that of the field."""
    h, w = field.shape
    for radius in range(max(h, w)):
        top, left = max(h // 2 - radius, 0), max(w // 2 - radius, 0)
        if field[top : h // 2 + radius + 1, left : w // 2 + radius + 1].sum() >= share * field.sum():
            return min((2 * radius + 1) / max(h, w), 1.0)
    return 1.0


def local_attribution(
    network: nn.Module, image: Tensor, window: tuple[int, int, int, int], *, steps: int = STEPS, blur: float = BLUR
) -> Tensor:
    """Local attribution map: integrated gradients of the texture in a window along a path that sharpens the image.

    The texture is the sum of absolute differences between neighbouring pixels of the result, the path
    blur(image, (1 - t) * sigma) for t from 0 to 1 (Gu and Dong, Eqs. 5 to 8). Signed, it sums to the texture of the
    result less that of the result of the blurred image, up to the length of a step.

    Args:
        network: (1, c, h, w) -> (1, c, h * scale, w * scale).
        image: (1, c, h, w) in 0..1.
        window: left, top, width and height, in pixels of the result.
        steps: of the integral.
        blur: sigma in pixels of the input.

    Returns:
        (c, h, w), signed.
    """
    # In double precision, or the rounding of the blur alone would give a flat image an attribution.
    path = [gaussian_blur(image.double(), blur * (1 - step / steps)) for step in range(steps + 1)]
    attribution = torch.zeros_like(path[0])
    for before, after in zip(path[:-1], path[1:], strict=True):
        # The gradient in the middle of a step: the error is of second order.
        x = ((before + after) / 2).to(image.dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(texture(network(x), window), x)
        attribution += gradient * (after - before)
    return attribution[0].to(image.dtype)


def texture(image: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    """Sum of absolute differences of neighbouring pixels in a window (left, top, width, height) of (b, c, h, w)."""
    left, top, width, height = window
    patch = image[..., top : top + height, left : left + width]
    return patch.diff(dim=-1).abs().sum() + patch.diff(dim=-2).abs().sum()


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur (b, c, h, w); the border is repeated outside."""
    if sigma <= 0:
        return image
    radius = max(round(3 * sigma), 1)
    x = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (radius,) * 4, mode='replicate')
    rows = F.conv2d(padded, kernel[:, :, None], groups=image.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=image.shape[1])


def diffusion_index(attribution: Tensor) -> float:
    """100 * (1 - Gini coefficient) of the absolute attribution (c, h, w): the more pixels take part, the larger.

    Not a number where the attribution is 0 everywhere.
    """
    values = attribution.abs().sum(0).flatten().double().sort().values
    n = len(values)
    ranks = torch.arange(1, n + 1, dtype=torch.float64, device=values.device)
    gini = ((2 * ranks - n - 1) * values).sum() / (n * values.sum())
    return 100 * (1 - gini.item())


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        areas: side of the square that holds each of `SHARES` of the receptive field, in input pixels.
        side: that of the whole input, in pixels.
        diffusion_index: of the attribution map.
    """

    areas: tuple[float, ...]
    side: int
    diffusion_index: float

    def __str__(self) -> str:
        shares = ', '.join(f'{share:.0%} within {a:.0f}' for share, a in zip(SHARES, self.areas, strict=True))
        return (
            f'effective receptive field: {shares} of {self.side} pixels; '
            f'local attribution: diffusion index {self.diffusion_index:.1f}'
        )


def explain(
    image: str | Path,
    checkpoint: str | Path,
    output: str | Path,
    *,
    at: tuple[int, int] | None = None,
    size: int = 128,
    window: int = 16,
    device: str | None = None,
) -> Explanation:
    """Draw the receptive field and the attribution map of a checkpoint.

    Args:
        image: file to look at.
        checkpoint: as for `Restorer.from_pretrained`.
        output: image file to write: input with the window, result, attribution map, receptive field.
        at: x and y of the middle of the window, in input pixels; default: the middle of the image.
        size: side of the part of the image that is looked at, in input pixels.
        window: side of the window whose texture is explained, in input pixels.
        device: 'cpu', 'cuda', …; default: a GPU where there is one.

    Raises:
        UserError: bad files, `output` is `image` or no image file, a point, size or window that does not fit the image,
            or a place without texture.
    """
    from ..checkpoints.load import load_model
    from ..inference.restorer import find_device

    # What cannot be written is said before the computation, not after.
    format_of(output)
    if Path(output).resolve() == Path(image).resolve():
        raise UserError(f'{image}: would be overwritten by its explanation; choose another output')
    place = find_device(device)
    network = load_model(checkpoint).to(place)
    network.requires_grad_(False)
    picture = read_image(image).rgb
    size = min(size, *picture.shape[:2])
    if not 2 <= window <= size:
        raise UserError(f'{image}: a window of {window} pixels does not fit into the {size} that are looked at')
    whole = torch.from_numpy(packed(picture.transpose(2, 0, 1)))[None].to(place)
    h, w = whole.shape[-2:]
    x, y = at or (w // 2, h // 2)
    if not (0 <= x < w and 0 <= y < h):
        raise UserError(f'{image}: the point {x},{y} does not lie in its {w}x{h} pixels')
    left, top = (min(max(p - size // 2, 0), n - size) for p, n in ((x, w), (y, h)))
    part = whole[..., top : top + size, left : left + size]
    corner = [min(max(p - o - window // 2, 0), size - window) for p, o in ((x, left), (y, top))]

    scale = getattr(network, 'scale', 1)
    rectangle = (corner[0] * scale, corner[1] * scale, window * scale, window * scale)
    attribution = local_attribution(network, part, rectangle)
    if attribution.abs().sum() <= FLAT:
        raise UserError(f'{image}: no texture in the window at {x},{y} to explain; choose another place with --at')
    field = effective_receptive_field(network, _crops(whole, size))
    with torch.no_grad():
        result = network(part).clamp(0, 1)
    areas = tuple(area(field, share) * size for share in SHARES)
    found = Explanation(areas, size, diffusion_index(attribution))
    row = [
        Panel(_framed(_array(part), corner, window, size), 'input'),
        Panel(_framed(_array(result), rectangle[:2], window * scale, size * scale), 'result'),
        Panel(_overlay(part, attribution), f'attribution, DI {found.diffusion_index:.1f}'),
        Panel(_heat(_log_scale(field)), f'receptive field, {SHARES[1]:.0%} in {areas[1]:.0f} px'),
    ]
    write_image(output, Image(side_by_side([row])))
    return found


def _crops(image: Tensor, size: int) -> list[Tensor]:
    """`CROPS` parts of (1, c, h, w), places drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    h, w = image.shape[-2:]
    corners = [(rng.integers(h - size + 1), rng.integers(w - size + 1)) for _ in range(CROPS)]
    return [image[..., top : top + size, left : left + size] for top, left in corners]


def _array(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).cpu().numpy())


def _framed(image: np.ndarray, corner: Iterable[int], window: int, side: int) -> np.ndarray:
    left, top = corner
    thickness = max(1, side // 128)
    return cv2.rectangle(image, (left, top), (left + window - 1, top + window - 1), (1.0, 0.1, 0.1), thickness)


def _overlay(image: Tensor, attribution: Tensor) -> np.ndarray:
    """Attribution in red over the image in grey, pale where there is none."""
    total = attribution.abs().sum(0)
    # Its square root: a few pixels of the window itself outshine all others.
    strength = (total / total.max().clamp(min=1e-12)).sqrt().cpu().numpy()[..., None]
    grey = _array(image).mean(2, keepdims=True).repeat(3, axis=2) * 0.5 + 0.5
    return grey * (1 - strength) + np.array([0.85, 0.0, 0.0], np.float32) * strength


def _log_scale(field: Tensor, decades: float = 5.0) -> np.ndarray:
    """0 where a field is 10^-decades of its maximum or less, 1 at the maximum."""
    relative = (field / field.max()).clamp(min=10**-decades)
    return (relative.log10() / decades + 1).cpu().numpy()


def _heat(values: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap(np.rint(values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return colours[..., ::-1].astype(np.float32) / 255
