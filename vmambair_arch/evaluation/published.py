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
