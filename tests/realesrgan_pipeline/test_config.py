from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from realesrgan_pipeline import Degradation, config
from realesrgan_pipeline.config import (
    EXTRA_OPTIONS,
    FIRST_ORDER,
    OPTION_NAMES,
    SECOND_ORDER,
    DegradationConfig,
    ExtraConfig,
    OrderConfig,
)

# The degradation in Real-ESRGAN's option files, and in those of VmambaIR's release, which hold the same numbers.
PUBLISHED = """
scale: 4
resize_prob: [0.2, 0.7, 0.1]
resize_range: [0.15, 1.5]
gaussian_noise_prob: 0.5
noise_range: [1, 30]
poisson_scale_range: [0.05, 3]
gray_noise_prob: 0.4
jpeg_range: [30, 95]
second_blur_prob: 0.8
resize_prob2: [0.3, 0.4, 0.3]
resize_range2: [0.3, 1.2]
gaussian_noise_prob2: 0.5
noise_range2: [1, 25]
poisson_scale_range2: [0.05, 2.5]
gray_noise_prob2: 0.4
jpeg_range2: [30, 95]
blur_kernel_size: 21
kernel_list: ['iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso']
kernel_prob: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
sinc_prob: 0.1
blur_sigma: [0.2, 3]
betag_range: [0.5, 4]
betap_range: [1, 2]
blur_kernel_size2: 21
kernel_list2: ['iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso']
kernel_prob2: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
sinc_prob2: 0.1
blur_sigma2: [0.2, 1.5]
betag_range2: [0.5, 4]
betap_range2: [1, 2]
final_sinc_prob: 0.8
"""


def test_defaults_are_the_published_settings():
    options = yaml.safe_load(PUBLISHED)
    assert DegradationConfig.from_options(options) == DegradationConfig()
    assert set(OPTION_NAMES) - set(options) == {'per_batch', *EXTRA_OPTIONS}
    extra = DegradationConfig().extra
    assert (
        extra.screentone_prob == extra.halo_prob == extra.subsampling_prob == extra.codec_prob == extra.codec_prob2 == 0
    )


def test_each_name_reaches_its_own_order():
    config = DegradationConfig.from_options({'noise_range': [2, 3], 'blur_sigma2': [1, 1.25], 'second_blur_prob': 0.5})
    assert config.first.noise_range == (2, 3)
    assert config.second.noise_range == SECOND_ORDER.noise_range
    assert config.second.blur_sigma == (1, 1.25)
    assert config.first.blur_sigma == FIRST_ORDER.blur_sigma
    assert (config.first.blur_prob, config.second.blur_prob) == (1, 0.5)


def test_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"'resize_rnage2' is unknown \(did you mean 'resize_range2'\?\)"):
        DegradationConfig.from_options({'resize_rnage2': [0.3, 1.2]})


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('sinc_prob', 1.5),
        ('sinc_prob', '0.1'),
        ('jpeg_range', [95, 30]),
        ('jpeg_range2', [0, 95]),
        ('resize_range', [1.1, 1.5]),
        ('resize_prob2', [0.5, 0.5]),
        ('kernel_prob', [0, 0]),
        ('kernel_list', ['iso', 'skew']),
        ('blur_kernel_size', 20),
        ('blur_sigma', [0, 3]),
        ('betag_range', [1.5, 4]),
        ('noise_range', 30),
        ('scale', 0),
        ('per_batch', 1),
    ],
)
def test_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf'option {name} must be .*, not '):
        DegradationConfig.from_options({name: value})


def test_a_weight_is_needed_for_each_kernel():
    with pytest.raises(ValueError, match='kernel_prob2 has 6 weights for 1 names of kernel_list2'):
        DegradationConfig.from_options({'kernel_list2': ['iso']})


DEFAULTS: dict[str, Any] = {
    field.name: getattr(made, field.name)
    for made in (FIRST_ORDER, ExtraConfig(), DegradationConfig())
    for field in fields(made)
} | {'second_blur_prob': SECOND_ORDER.blur_prob}


def default(name: str) -> Any:
    return DEFAULTS.get(name, DEFAULTS.get(name.removesuffix('2')))


def has_numbers(value: Any) -> bool:
    several = value if isinstance(value, tuple) else (value,)
    return all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in several)


NUMBERS = [name for name in OPTION_NAMES if has_numbers(default(name))]


def test_the_rest_are_names_and_one_flag():
    rest = {name.removesuffix('2') for name in OPTION_NAMES} - {name.removesuffix('2') for name in NUMBERS}
    assert rest == {'per_batch', 'kernel_list', 'subsampling_list', 'codec_list'}


@pytest.mark.parametrize(
    'huge', [1_000_001, 1e9, 1e300, float('inf'), float('nan'), 10**400, -1, -float('inf'), True, '1', None]
)
@pytest.mark.parametrize('name', NUMBERS)
def test_every_number_has_an_end(name, huge):
    """A kernel of 9999 pixels, or photographs enlarged 400 times, pass no check and then hang a run."""
    value = default(name)
    for place in range(len(value)) if isinstance(value, tuple) else (None,):
        given = huge if place is None else [*value[:place], huge, *value[place + 1 :]]
        with pytest.raises(ValueError, match=f'degradation option {name} must be '):
            DegradationConfig.from_options({name: given})


@pytest.mark.parametrize(
    ('kind', 'changes'),
    [
        (ExtraConfig, {'halo_range': (0.5, float('inf'))}),
        (ExtraConfig, {'codec_prob': 2}),
        (DegradationConfig, {'scale': 10**6}),
        (DegradationConfig, {'final_sinc_prob': float('nan')}),
        (OrderConfig, vars(FIRST_ORDER) | {'blur_kernel_size': 9999}),
        (OrderConfig, vars(FIRST_ORDER) | {'resize_range': (0.15, 400)}),
        (OrderConfig, vars(FIRST_ORDER) | {'blur_prob': 1.5}),
    ],
)
def test_the_same_in_python(kind, changes):
    with pytest.raises(ValueError, match='degradation option .* must be '):
        kind(**changes)


@pytest.mark.parametrize('name', ['kernel_list', 'kernel_list2', 'subsampling_list', 'codec_list'])
@pytest.mark.parametrize('value', [[['iso']], [{}], [None], [], 'iso', 1])
def test_names_of_another_kind(name, value):
    with pytest.raises(ValueError, match=f'degradation option {name} must be a list of '):
        DegradationConfig.from_options({name: value})


def allowed(name: str, data: st.DataObject) -> Any:
    """A value up to the ends of what an option may be; of what codecs cost, nothing."""
    kind, value = name.removesuffix('2'), default(name)
    lowest, highest = config._LIMITS.get(kind, (0, 1))
    if isinstance(value, int):
        return data.draw(st.sampled_from([lowest, highest, value]))
    if kind == 'codec_prob':
        return 0
    if kind in config._AROUND_ONE:
        low, high = st.floats(lowest, 1), st.floats(1, highest)
        return [data.draw(low | st.just(lowest)), data.draw(high | st.just(highest))]
    number = st.floats(lowest, highest) | st.sampled_from([float(lowest), float(highest)])
    if not isinstance(value, tuple):
        return data.draw(number)
    drawn = [data.draw(number) for _ in value]
    return drawn if kind in config._WEIGHTS and sum(drawn) else sorted(drawn) if sum(drawn) else list(value)


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_all_that_is_allowed_can_be_drawn(data):
    """Up to its ends, which give a picture of numbers from 0 to 1."""
    options = {name: allowed(name, data) for name in NUMBERS if name != 'scale'} | {'scale': 2}
    degrade = Degradation(DegradationConfig.from_options(options))
    lq, _ = degrade(torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0)), torch.Generator())
    assert lq.shape == (2, 3, 6, 5)
    assert bool(((lq >= 0) & (lq <= 1)).all())
