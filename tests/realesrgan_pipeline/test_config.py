from __future__ import annotations

import pytest
import yaml

from realesrgan_pipeline.config import EXTRA_OPTIONS, FIRST_ORDER, OPTION_NAMES, SECOND_ORDER, DegradationConfig

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
