"""Published figures, as data with their source: what tables of our own are set beside.

A figure counts for the definition of its metric: `metric` is a name of `metrics.catalogue`, `crop_border` the pixels
that PSNR and SSIM leave out. Where the paper does not state the definition, it is that of the authors' scripts, as far
as they are public (repository AlphacatPlus/VmambaIR, commit 7228c4f), and `source` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = 'VmambaIR, arXiv 2403.11423'
OURS = 'VmambaIR (paper)'


@dataclass(frozen=True)
class Figure:
    """One published average.

    Attributes:
        method: who reached it.
        dataset: name of the test set.
        metric: name of `metrics.catalogue`.
        value: as printed.
        crop_border: pixels that PSNR and SSIM leave out at every edge.
        source: paper and table, and what the definition of the metric rests on.
        multiply_adds: of the network at a 64 x 64 input, where the paper states them.
    """

    method: str
    dataset: str
    metric: str
    value: float
    crop_border: int
    source: str
    multiply_adds: float | None = None


def _table(
    method: str,
    values: dict[str, tuple[float, ...]],
    metrics: tuple[str, ...],
    crop_border: int,
    source: str,
    multiply_adds: float | None = None,
) -> list[Figure]:
    """Figures by test set; the border is that of PSNR and SSIM."""
    return [
        Figure(method, dataset, metric, value, crop_border, source, multiply_adds)
        for dataset, row in values.items()
        for metric, value in zip(metrics, row, strict=True)
    ]


_DERAIN = ('psnr_y_matlab', 'ssim_y_matlab')
_MATLAB = 'evaluate_PSNR_SSIM.m: Y rounded, no border left out'
_STATISTIC = "its statistic_*.m: Y by MATLAB's rgb2ycbcr, no border"
_SWINIR = 'main_test_swinir.py: Y a real number, a border as wide as the scale'
_SR = (
    "not defined in the paper; the authors' repository: LPIPS with AlexNet (SRGAN/metrics/LPIPS.py), PSNR on Y; "
    'its script SRGAN/metrics/PSNR.py leaves out no border, its option file test_mamba15_x4.yml 4: 4 is assumed here'
)
_REAL = (
    "not defined in the paper; RealSR/Metric: Y with a border of 4, LPIPS with VGG, as in DiffIR's script of that name"
)

FIGURES: tuple[Figure, ...] = (
    *_table(
        OURS,
        {
            'Manga109': (0.0496, 29.99),
            'Set14': (0.1097, 27.64),
            'General100': (0.0762, 30.34),
            'Urban100': (0.1037, 25.71),
            'DIV2K100': (0.0995, 29.18),
        },
        ('lpips', 'psnr_y'),
        4,
        f'{PAPER}, Table 1; {_SR}',
    ),
    *_table(
        OURS,
        {'NTIRE2020': (0.3379, 27.06, 0.7501), 'AIM2019': (0.3891, 23.90, 0.6972)},
        ('lpips_vgg', 'psnr_y', 'ssim_y'),
        4,
        f'{PAPER}, Table 2; {_REAL}',
        20.5e9,
    ),
    Figure('BSRGAN', 'AIM2019', 'psnr_y', 24.20, 4, f'{PAPER}, Table 2'),
    *_table(
        OURS,
        {
            'Rain100H': (31.66, 0.909),
            'Rain100L': (39.09, 0.979),
            'Test2800': (34.01, 0.944),
            'Test1200': (33.33, 0.926),
        },
        _DERAIN,
        0,
        f'{PAPER}, Table 3; {_MATLAB}',
    ),
    *_table('Restormer', {'Rain100L': (38.99, 0.978)}, _DERAIN, 0, f'Restormer, CVPR 2022, Table 1; {_MATLAB}'),
    Figure('Restormer', 'Test2800', _DERAIN[0], 34.18, 0, f'Restormer, CVPR 2022, Table 1; {_MATLAB}'),
    # The same weights by the other definition of Y: what is to be set beside psnr_y.
    *_table(
        'Restormer (its weights, mmagic)',
        {
            'Rain100H': (31.4804,),
            'Rain100L': (39.1023,),
            'Test100': (32.0287,),
            'Test1200': (33.2251,),
            'Test2800': (34.2170,),
        },
        ('psnr_y',),
        0,
        'github.com/open-mmlab/mmagic, configs/restormer/README.md; metrics_utils.py: Y a real number, no border',
    ),
    *_table(
        'MPRNet',
        {
            'Test100': (30.27, 0.897),
            'Rain100H': (30.41, 0.890),
            'Rain100L': (36.40, 0.965),
            'Test2800': (33.64, 0.938),
            'Test1200': (32.91, 0.916),
        },
        _DERAIN,
        0,
        f'MPRNet, CVPR 2021, Table 1, trained on Rain13K; {_MATLAB}',
    ),
    # Trained on the data set's own pairs, not on Rain13K: what a network from `prepare rain100l` is to be set beside.
    *_table(
        'PReNet (own pairs)',
        {'Rain100L': (37.48, 0.979), 'Rain100H': (29.46, 0.899)},
        _DERAIN,
        0,
        f'PReNet, CVPR 2019, github.com/csdwren/PReNet; {_STATISTIC}',
    ),
    *_table(
        'BRN (own pairs)',
        {'Rain100L': (38.16, 0.982), 'Rain100H': (30.47, 0.913)},
        _DERAIN,
        0,
        f'BRN, github.com/csdwren/RecDerain; {_STATISTIC}',
    ),
    *_table(
        'RCDNet (own pairs)',
        {'Rain100L': (40.00, 0.9860), 'Rain100H': (31.28, 0.9093), 'SPA-Data': (41.47, 0.9834)},
        _DERAIN,
        0,
        'RCDNet, CVPR 2020, figures in github.com/hongwang01/RCDNet_simple; its Performance_evaluation: Y by MATLAB, '
        'no border',
    ),
    # Small networks for x4 by MATLAB's bicubic. VDSR had 291 pictures to learn from, the others DIV2K.
    *_table(
        'VDSR (291 pictures)',
        {'Set5': (31.35, 0.8838), 'Set14': (28.01, 0.7674)},
        _DERAIN,
        4,
        'VDSR, CVPR 2016, Table 3; its MATLAB script: Y rounded, a border as wide as the scale',
    ),
    *_table(
        'CARN',
        {'Set5': (32.13, 0.8937), 'Set14': (28.60, 0.7806), 'Urban100': (26.07, 0.7837)},
        ('psnr_y', 'ssim_y'),
        4,
        f'SwinIR, ICCV workshops 2021, Table 3; {_SWINIR}',
    ),
    *_table(
        'SwinIR-light',
        {
            'Set5': (32.44, 0.8976),
            'Set14': (28.77, 0.7858),
            'Urban100': (26.47, 0.7980),
            'Manga109': (30.92, 0.9151),
        },
        ('psnr_y', 'ssim_y'),
        4,
        f'SwinIR, ICCV workshops 2021, Table 3; {_SWINIR}',
    ),
)


@dataclass(frozen=True)
class Ablation:
    """A row of the paper's Table 4: real-world SR x4 trained with L1 only."""

    name: str
    what: str
    multiply_adds: float
    psnr: float


ABLATIONS = (
    Ablation('V1', 'plane scanned one way, no channel scan', 18.93e9, 28.07),
    Ablation('V2', 'no channel scan', 20.43e9, 28.36),
    Ablation('V3', 'no EFFN, more OSS blocks', 20.03e9, 28.39),
    Ablation('V4', 'linear layers instead of 1x1 convolutions', 20.45e9, 28.47),
    Ablation('full', 'VmambaIR', 20.45e9, 28.50),
)


def published(dataset: str) -> list[Figure]:
    """The figures of a test set; its name is compared without case, hyphens and underscores."""
    return [figure for figure in FIGURES if _plain(figure.dataset) == _plain(dataset)]


def _plain(name: str) -> str:
    return name.lower().replace('-', '').replace('_', '')
