"""Further steps beside the published ones, off by default: what else happens to pictures on their way to a person.

Halos of sharpening, the dots of printed pictures, coarse chroma, and other codecs in place of JPEG: WebP, AVIF, and
frames of video (H.264, HEVC, VP9, MPEG-2). Whether a step is taken, and how strongly, is drawn from the same seeded
table as everything else (`draws`); with all probabilities at 0 the degradation has the same bits as without them.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .config import CODECS, SUBSAMPLINGS, codec_setting
from .draws import ExtraDraws
from .jpeg import TO_RGB, TO_YCBCR
from .kernels import blur, gaussian_kernel

FRAMES = 3
"""Frames of a clip, panned by a pixel each; the last one, which is predicted from the others, is the result."""


_LEAST = {'hevc': 64}
"""Least side in pixels: the look-ahead of x265 writes beyond its memory on smaller pictures, which ends the process."""

_X265 = 'log-level=none:pools=none:frame-threads=1'


def print_dots(image: Tensor, drawn: ExtraDraws) -> Tensor:
    """Halftone where it was drawn: (b, 3, h, w) in 0..1 -> the same.

    Dots on a turned grid cover as much of their cell as the picture is dark there; the edge of a dot is a pixel soft.
    Colours keep their hue: the light of a pixel is divided between white and a dark of its own.
    """
    result = image.clone()
    h, w = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64), indexing='ij')
    for i in drawn.screentone.nonzero().flatten().tolist():
        pitch, angle = float(drawn.pitch[i]), float(drawn.angle[i])
        u = (x * math.cos(angle) + y * math.sin(angle)) * (math.pi / pitch)
        v = (y * math.cos(angle) - x * math.sin(angle)) * (math.pi / pitch)
        threshold = ((torch.cos(u) * torch.cos(v) + 1) / 2).to(image)  # 0..1, of a mean of a half
        light = image[i].amax(0)
        ink = ((threshold - light) * pitch / 2 + 0.5).clamp(0, 1)
        paper = image[i] / light.clamp_min(1e-3)
        result[i] = paper * (1 - ink) + 0.15 * paper * ink
    return result.clamp(0, 1)


def add_halos(image: Tensor, drawn: ExtraDraws) -> Tensor:
    """Oversharpened where it was drawn: I + strength (I - G*I), clipped, with G of 2 pixels: (b, 3, h, w), 0..1."""
    chosen = drawn.halo.nonzero().flatten().tolist()
    if not chosen:
        return image
    result = image.clone()
    part = image[chosen]
    soft = blur(part, gaussian_kernel(13, 2.0).to(image))
    strength = drawn.strength[chosen].to(image).view(-1, 1, 1, 1)
    result[chosen] = (part + strength * (part - soft)).clamp(0, 1)
    return result


def subsample(image: Tensor, drawn: ExtraDraws) -> Tensor:
    """Chroma averaged over blocks where it was drawn, luma (BT.601) kept: (b, 3, h, w), 0..1."""
    result = image.clone()
    shapes = list(SUBSAMPLINGS.values())
    to_ycbcr, to_rgb = (torch.tensor(m, dtype=image.dtype, device=image.device) for m in (TO_YCBCR, TO_RGB))
    h, w = image.shape[-2:]
    for i in (drawn.subsampling >= 0).nonzero().flatten().tolist():
        rows, columns = shapes[int(drawn.subsampling[i])]
        padded = F.pad(image[i : i + 1], (0, -w % columns, 0, -h % rows), mode='replicate')
        ycbcr = torch.einsum('ij,bjhw->bihw', to_ycbcr, padded)
        chroma = F.avg_pool2d(ycbcr[:, 1:], (rows, columns))
        chroma = F.interpolate(chroma, scale_factor=(float(rows), float(columns)), mode='nearest')
        rgb = torch.einsum('ij,bjhw->bihw', to_rgb, torch.cat((ycbcr[:, :1], chroma), 1))
        result[i] = rgb[0, :, :h, :w]
    return result.clamp(0, 1)


def recode(image: Tensor, otherwise: Tensor, codec: Tensor, quality: Tensor) -> Tensor:
    """What other codecs make of `image` where one was drawn, `otherwise` where none was.

    Args:
        image, otherwise: (b, 3, h, w), 0..1.
        codec: (b), place in `CODECS`, or -1.
        quality: (b), 0 (the worst) to 1.

    Raises:
        ValueError: a codec that this installation does not have.
    """
    result = otherwise.clone()
    names = list(CODECS)
    for i in (codec >= 0).nonzero().flatten().tolist():
        pixels = (image[i].permute(1, 2, 0).clamp(0, 1) * 255).round().to('cpu', torch.uint8).numpy()
        decoded = encode_and_decode(pixels, names[int(codec[i])], float(quality[i]))
        result[i] = torch.from_numpy(decoded.transpose(2, 0, 1).copy()).to(image) / 255
    return result


def encode_and_decode(pixels: NDArray[np.uint8], codec: str, quality: float) -> NDArray[np.uint8]:
    """One picture (h, w, 3) RGB, encoded at a quality of 0 (the worst of `CODECS`) to 1 and decoded again.

    Raises:
        ValueError: Pillow or PyAV here does not have the codec.
    """
    setting = round(codec_setting(codec, quality))
    if codec in ('webp', 'avif'):
        return _by_pillow(pixels, codec, setting)
    return _by_ffmpeg(pixels, codec, setting)


def _by_pillow(pixels: NDArray[np.uint8], codec: str, quality: int) -> NDArray[np.uint8]:
    from PIL import Image, features

    if not features.check(codec):
        raise ValueError(f'codec {codec}: not in this Pillow; pip install -U pillow, or take it off codec_list')
    buffer = io.BytesIO()
    speed = {'speed': 8, 'max_threads': 1} if codec == 'avif' else {'method': 2}
    Image.fromarray(pixels).save(buffer, codec.upper(), quality=quality, **speed)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert('RGB'))


def _by_ffmpeg(pixels: NDArray[np.uint8], codec: str, setting: int) -> NDArray[np.uint8]:
    """The last frame of a short clip that pans over the picture by a pixel a frame."""
    av = _av()
    encoder = CODECS[codec][0]
    h, w = pixels.shape[:2]
    # Even sides for 4:2:0, and no smaller than what the encoder takes.
    least = _LEAST.get(codec, 32)
    below, right = max(h % 2, least - h), max(w % 2, least - w)
    padded = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode='edge')
    options = {
        # Without mbtree: what x264's look-ahead then adds up holds memory that it never wrote (other bits each time).
        'h264': {'crf': str(setting), 'preset': 'veryfast', 'mbtree': '0'},
        'hevc': {'crf': str(setting), 'preset': 'ultrafast', 'x265-params': _X265},
        'vp9': {'crf': str(setting), 'b': '0', 'deadline': 'realtime', 'cpu-used': '8'},
        'mpeg2': {'qmin': str(setting), 'qmax': str(setting)},
    }[codec]
    try:
        context = av.CodecContext.create(encoder, 'w')
        context.width, context.height = padded.shape[1], padded.shape[0]
        context.pix_fmt, context.time_base, context.framerate = 'yuv420p', Fraction(1, 25), Fraction(25, 1)
        context.thread_count, context.options = 1, options  # one thread: the same bits every time
        packets = []
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(padded, FRAMES - 1 - number, axis=1), format='rgb24')
            frame.pts, frame.time_base = number, context.time_base
            packets += context.encode(frame)
        packets += context.encode(None)
        decoder = av.CodecContext.create({'mpeg2': 'mpeg2video'}.get(codec, codec), 'r')
        decoder.thread_count = 1
        if context.extradata:
            decoder.extradata = context.extradata
        frames = [frame for packet in packets for frame in decoder.decode(packet)]
        frames += decoder.decode(None)
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f'codec {codec}: FFmpeg here cannot do it ({error}); take it off codec_list') from None
    return frames[-1].to_ndarray(format='rgb24')[:h, :w]


def _av() -> ModuleType:
    try:
        return importlib.import_module('av')
    except ModuleNotFoundError:
        raise ValueError('codec_list: video codecs need PyAV: pip install av, or name webp and avif alone') from None


def missing_codecs(names: Sequence[str]) -> str:
    """Why one of the codecs cannot be used here; empty where all can. Tries each on a small picture."""
    picture = np.zeros((32, 32, 3), np.uint8)
    for name in names:
        try:
            encode_and_decode(picture, name, 0.5)
        except ValueError as error:
            return str(error)
    return ''
