"""Settings of the second-order degradation, by the names that Real-ESRGAN's option files use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

KERNEL_FAMILIES = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')
RESIZE_MODES = ('area', 'bilinear', 'bicubic')

Range = tuple[float, float]

CODECS: dict[str, tuple[str, Range]] = {
    'webp': ('', (20.0, 90.0)),
    'avif': ('', (20.0, 85.0)),
    'h264': ('libx264', (40.0, 20.0)),
    'hevc': ('libx265', (42.0, 22.0)),
    'vp9': ('libvpx-vp9', (55.0, 25.0)),
    'mpeg2': ('mpeg2video', (24.0, 3.0)),
}
"""FFmpeg's encoder of a video codec, and the setting (quality, CRF, quantiser) of the worst and the best picture."""

SUBSAMPLINGS = {'4:2:2': (1, 2), '4:2:0': (2, 2), '4:1:1': (1, 4), '4:1:0': (4, 4)}
"""How many rows and columns of pixels share one value of chroma."""

# What each number may be, by its name without the 2 of the second order; 0..1 where nothing is said. More has no
# use: it takes minutes and gigabytes to draw, or leaves no picture.
_LIMITS: dict[str, Range] = {
    'scale': (1, 1000),
    'blur_kernel_size': (7, 255),
    'blur_sigma': (0.001, 100),
    'resize_range': (0.001, 8),
    'noise_range': (0, 255),
    'poisson_scale_range': (0, 100),
    'betag_range': (0.001, 20),
    'betap_range': (0.001, 20),
    'jpeg_range': (1, 100),
    'screentone_range': (2, 1000),
    'halo_range': (0, 100),
    'kernel_prob': (0, 1_000_000),
    'resize_prob': (0, 1_000_000),
    'codec_weights': (0, 1_000_000),
}
_AROUND_ONE = ('resize_range', 'betag_range', 'betap_range')
_NAMES = {'kernel_list': KERNEL_FAMILIES, 'subsampling_list': tuple(SUBSAMPLINGS), 'codec_list': tuple(CODECS)}
_WEIGHTS = {'kernel_prob': 0, 'resize_prob': 3, 'codec_weights': 0}
"""Lists of weights, and how long they are; 0: as long as their lists of names."""


def _check(name: str, value: Any) -> None:
    """Raise a ValueError of one line unless `value` is what the option `name` takes."""
    if wanted := _wanted(name.removesuffix('2'), value):
        raise ValueError(f'degradation option {name} must be {wanted}, not {value!r}')


def _wanted(kind: str, value: Any) -> str:
    """What an option must be where `value` is not that; empty where it is."""
    lowest, highest = _LIMITS.get(kind, (0, 1))
    several = value if isinstance(value, (list, tuple)) else ()

    def within(*numbers: Any) -> bool:
        real = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers)
        return real and all(lowest <= x <= highest for x in numbers)

    bounds = f'from {lowest} to {highest}'
    if kind == 'per_batch':
        return '' if isinstance(value, bool) else 'true or false'
    if kind in _NAMES:
        good = len(several) > 0 and all(isinstance(name, str) and name in _NAMES[kind] for name in several)
        return '' if good else f'a list of {", ".join(_NAMES[kind])}'
    if kind in _WEIGHTS:
        count = _WEIGHTS[kind] or len(several)
        good = len(several) == count > 0 and within(*several) and sum(several) > 0
        return '' if good else f'a list of weights {bounds}, not all zero'
    if kind in ('scale', 'blur_kernel_size'):
        odd = kind == 'blur_kernel_size'
        good = isinstance(value, int) and within(value) and (not odd or value % 2 == 1)
        return '' if good else f'{"an odd" if odd else "a whole"} number {bounds}'
    if kind.endswith('_prob'):
        return '' if within(value) else 'a probability'
    good = len(several) == 2 and within(*several) and several[0] <= several[1]
    if kind in _AROUND_ONE:
        return '' if good and several[0] <= 1 <= several[1] else f'two numbers {bounds}, on either side of 1'
    return '' if good else f'two numbers {bounds}, the smaller one first'


@dataclass(frozen=True)
class OrderConfig:
    """One order of the degradation: blur, resize, noise, JPEG. A value of the wrong type or range is a ValueError.

    Attributes:
        blur_prob: probability that this order blurs at all.
        blur_sigma: standard deviations of a kernel, in pixels.
        resize_prob: weights of enlarging, shrinking and keeping the size.
        resize_range: smallest and largest factor, on either side of 1.
        noise_range: standard deviation of Gaussian noise, in units of 1/255.
        poisson_scale_range: factor on Poisson noise.
        blur_kernel_size: the largest kernel; the size of a kernel is uniform on 7, 9, ..., this.
        kernel_list: names out of `KERNEL_FAMILIES`.
        kernel_prob: a weight for each name in `kernel_list`, where the kernel is not a sinc.
        sinc_prob: probability of a sinc kernel instead.
        betag_range: exponent of the generalized Gaussians, below and above 1 with equal probability.
        betap_range: exponent of the plateaus, likewise.
        gaussian_noise_prob: probability of Gaussian noise; it is Poisson noise otherwise.
        gray_noise_prob: probability that the three channels share one noise.
        jpeg_range: JPEG quality, 1 to 100.
    """

    blur_prob: float
    blur_sigma: Range
    resize_prob: tuple[float, float, float]
    resize_range: Range
    noise_range: Range
    poisson_scale_range: Range
    blur_kernel_size: int = 21
    kernel_list: tuple[str, ...] = KERNEL_FAMILIES
    kernel_prob: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    betag_range: Range = (0.5, 4.0)
    betap_range: Range = (1.0, 2.0)
    gaussian_noise_prob: float = 0.5
    gray_noise_prob: float = 0.4
    jpeg_range: Range = (30.0, 95.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))


@dataclass(frozen=True)
class ExtraConfig:
    """Settings of the further steps.

    Attributes:
        screentone_prob: probability that the picture was printed: dots of black on the light, before everything else.
        screentone_range: distance of the dots in pixels.
        halo_prob: probability of oversharpening between the two orders.
        halo_range: its strength, the factor on what a Gaussian blur takes away.
        subsampling_prob: probability of coarse chroma before the last codec.
        subsampling_list: names out of `SUBSAMPLINGS`, drawn alike.
        codec_prob: probability that another codec takes the place of the first JPEG.
        codec_prob2: the same for the second JPEG.
        codec_list: names out of `CODECS`.
        codec_weights: a weight for each of them.
    """

    screentone_prob: float = 0.0
    screentone_range: Range = (3.0, 8.0)
    halo_prob: float = 0.0
    halo_range: Range = (0.5, 2.0)
    subsampling_prob: float = 0.0
    subsampling_list: tuple[str, ...] = tuple(SUBSAMPLINGS)
    codec_prob: float = 0.0
    codec_prob2: float = 0.0
    codec_list: tuple[str, ...] = tuple(CODECS)
    codec_weights: tuple[float, ...] = (0.3, 0.2, 0.2, 0.1, 0.1, 0.1)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))


FIRST_ORDER = OrderConfig(
    blur_prob=1.0,
    blur_sigma=(0.2, 3.0),
    resize_prob=(0.2, 0.7, 0.1),
    resize_range=(0.15, 1.5),
    noise_range=(1.0, 30.0),
    poisson_scale_range=(0.05, 3.0),
)
SECOND_ORDER = OrderConfig(
    blur_prob=0.8,
    blur_sigma=(0.2, 1.5),
    resize_prob=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_range=(1.0, 25.0),
    poisson_scale_range=(0.05, 2.5),
)

# The first order always blurs, so `blur_prob` has no name of its own in an option file; the second order's has.
_ORDER_FIELDS = tuple(f.name for f in fields(OrderConfig) if f.name != 'blur_prob')
_FIRST_OPTIONS = {name: name for name in _ORDER_FIELDS}
_SECOND_OPTIONS = {f'{name}2': name for name in _ORDER_FIELDS} | {'second_blur_prob': 'blur_prob'}
_COMMON_OPTIONS = ('scale', 'final_sinc_prob', 'per_batch')
EXTRA_OPTIONS = tuple(f.name for f in fields(ExtraConfig))
OPTION_NAMES = (*_COMMON_OPTIONS, *_FIRST_OPTIONS, *_SECOND_OPTIONS, *EXTRA_OPTIONS)


@dataclass(frozen=True)
class DegradationConfig:
    """The whole degradation. The defaults are Real-ESRGAN's x4plus settings, which VmambaIR's release keeps unchanged.

    Attributes:
        scale: the low-quality image is this many times smaller than the ground truth.
        first, second: the two orders.
        final_sinc_prob: probability of a sinc filter at the end; its sizes are those of the second order's kernels.
        per_batch: draw the resizes, the kind of noise, the second blur and the order of the last two steps once for a
            whole batch, as BasicSR's RealESRGANModel does; otherwise each image has its own.
        extra: further steps, all off by default.
    """

    scale: int = 4
    first: OrderConfig = FIRST_ORDER
    second: OrderConfig = SECOND_ORDER
    final_sinc_prob: float = 0.8
    per_batch: bool = False
    extra: ExtraConfig = ExtraConfig()

    def __post_init__(self) -> None:
        for name in _COMMON_OPTIONS:
            _check(name, getattr(self, name))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> DegradationConfig:
        """Read the flat names of Real-ESRGAN's option files: `blur_sigma`, `blur_sigma2` for the second order, ...

        Args:
            options: any of `OPTION_NAMES`; what is not named keeps its default.

        Raises:
            ValueError: an unknown name (with the nearest one), or a value of the wrong type or range.
        """
        for name, value in options.items():
            if name not in OPTION_NAMES:
                close = difflib.get_close_matches(name, OPTION_NAMES, n=1)
                hint = f" (did you mean '{close[0]}'?)" if close else ''
                raise ValueError(f"degradation option '{name}' is unknown{hint}")
            _check(name, value)

        def read(names: Mapping[str, str]) -> dict[str, Any]:
            given = {field: options[name] for name, field in names.items() if name in options}
            return {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}

        config = cls(
            first=replace(FIRST_ORDER, **read(_FIRST_OPTIONS)),
            second=replace(SECOND_ORDER, **read(_SECOND_OPTIONS)),
            extra=ExtraConfig(**read({name: name for name in EXTRA_OPTIONS})),
            **{name: options[name] for name in _COMMON_OPTIONS if name in options},
        )
        for suffix, order in (('', config.first), ('2', config.second)):
            if len(order.kernel_list) != len(order.kernel_prob):
                weights, names = len(order.kernel_prob), len(order.kernel_list)
                raise ValueError(f'kernel_prob{suffix} has {weights} weights for {names} names of kernel_list{suffix}')
        extra = config.extra
        if len(extra.codec_weights) != len(extra.codec_list):
            if 'codec_weights' in options:
                weights, names = len(extra.codec_weights), len(extra.codec_list)
                raise ValueError(f'codec_weights has {weights} weights for {names} names of codec_list')
            config = replace(config, extra=replace(extra, codec_weights=(1.0,) * len(extra.codec_list)))
        return config


def codec_setting(codec: str, quality: float) -> float:
    """The encoder's own number for a quality of 0 (the worst) to 1."""
    worst, best = CODECS[codec][1]
    return worst + (best - worst) * quality
