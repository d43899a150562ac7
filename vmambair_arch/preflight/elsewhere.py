"""What neosr and traiNNer-redux call what we have under other names, for a word to those who come from there."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import nearest
from .keys import Path

OPTIMIZERS: dict[str, str] = {
    'adamw_sf': 'AdamWScheduleFree',
    'adan_sf': 'AdamWScheduleFree; Adan itself, with a scheduler, is Adan',
    'soap_sf': 'SOAP, with a scheduler; without one there is AdamWScheduleFree',
    'adamw_win': 'AdamW or NAdamW',
    'schedulefreeadamw': 'AdamWScheduleFree',
    'prodigy': 'AdamWScheduleFree, which has no schedule to tune but does have an lr',
    'tiger': 'Lion',
    'adammini': 'AdamW',
    'adaml': 'AdamW',
    'sparseadam': 'Adam',
    'lbfgs': 'AdamW',
}
"""By the name that `optim_*: type` has there: what to write."""

LOSSES: dict[str, str] = {
    'chc_loss': 'CharbonnierLoss, which is as near to a Huber loss',
    'huber_loss': 'CharbonnierLoss, which is as near to a Huber loss',
    'ff_loss': 'FocalFrequencyLoss',
    'gw_loss': 'GradientLoss',
    'gradvar_loss': 'GradientLoss',
    'gradientvarianceloss': 'GradientLoss',
    'sobeledgeloss': 'GradientLoss, of Sobel gradients',
    'mssimloss': 'MSSIMLoss',
    'msssimloss': 'MSSIMLoss',
    'ssimloss': 'MSSIMLoss',
    'msssiml1loss': 'MSSIMLoss beside pixel_opt: {type: L1Loss}',
    'mssiml1loss': 'MSSIMLoss beside pixel_opt: {type: L1Loss}',
    'perceptualfp16loss': 'VGGPerceptualLoss, with train: amp',
    'perceptualfp32loss': 'VGGPerceptualLoss',
    'perceptualanimeloss': 'VGGPerceptualLoss',
    'adistsloss': 'PyIQALoss with metric: adists, or DISTSLoss',
    'topiqloss': 'PyIQALoss with metric: topiq_fr',
    'psnrloss': 'MSELoss',
    'cosimloss': 'CharbonnierLoss',
    'fdl_loss': 'ContextualLoss or DISTSLoss, which compare features without their places as well',
    'msswd_loss': 'ContextualLoss or DISTSLoss, which compare features without their places as well',
    'hsluvloss': '',
    'colorloss': '',
    'lumaloss': '',
    'averageloss': '',
    'bicubicloss': '',
    'consistency_loss': '',
    'fliploss': '',
    'ncc_loss': '',
    'kl_loss': '',
}
"""By the name that a loss has there: what to write; '' where there is nothing like it."""

SCHEDULERS: dict[str, str] = dict.fromkeys(
    ('cosineannealing', 'cosineannealinglr', 'cosineannealingwarmrestarts', 'onecyclelr'),
    'CosineAnnealingRestartLR with periods, restart_weights and eta_min',
) | dict.fromkeys(
    ('steplr', 'exponentiallr', 'constantlr', 'linearlr', 'polynomiallr', 'multiplicativelr'),
    'MultiStepLR with milestones and gamma',
)  # fmt: skip

MODELS: dict[str, str] = {
    'default': 'VmambaIRModel, or VmambaIRSRGANModel with a discriminator',
    'image': 'VmambaIRModel, or VmambaIRSRGANModel with a discriminator',
    'sr': 'VmambaIRModel, or VmambaIRSRGANModel with a discriminator',
    'otf': 'VmambaIRRealSRModel, or VmambaIRRealSRGANModel with a discriminator',
    'realesrgan': 'VmambaIRRealSRModel, or VmambaIRRealSRGANModel with a discriminator',
}

DATASETS: dict[str, str] = {
    'paired': 'PairedProgressiveDataset to train, PairedValidationDataset to validate',
    'otf': 'RealESRGANPipelineDataset',
    'single': 'PairedValidationDataset without dataroot_gt',
}

NETWORKS: dict[str, str] = {
    'compact': 'SRVGGNetCompact',
    'esrgan': 'RRDBNet',
    'unet': 'UNetDiscriminatorSN',
}

TYPES = {
    'optimizer': OPTIMIZERS, 'loss': LOSSES, 'scheduler': SCHEDULERS, 'model': MODELS, 'dataset': DATASETS,
    'arch': NETWORKS,
}  # fmt: skip
"""By what is named; the five that BasicSR has registries of, by the names of those."""

KEYS: dict[Path, str] = {
    ('use_amp',): 'train: amp: fp16',
    ('bfloat16',): 'train: amp: bf16',
    ('amp_bf16',): 'train: amp: bf16',
    ('fast_matmul',): 'train: tf32: true',
    ('compile',): 'train: compile: true',
    ('use_compile',): 'train: compile: true',
    ('deterministic',): 'train: deterministic: true',
    ('detect_anomaly',): 'nothing: a step with a NaN is skipped and named anyway',
    ('degradations',): 'its keys at the top of the file',
    ('high_order_degradation',): 'model_type: VmambaIRRealSRModel',
    ('lq_usm',): 'halo_prob, the probability of oversharpening',
    ('blur_prob',): 'nothing: the first order always blurs, the second by second_blur_prob',
    ('blur_prob2',): 'second_blur_prob',
    ('resize_mode_list*',): 'nothing: resizes are by area, bilinear or bicubic alike',
    ('resize_mode_prob*',): 'nothing: resizes are by area, bilinear or bicubic alike',
    ('jpeg_prob*',): 'nothing: both orders save as JPEG, or by codec_prob in another codec',
    ('*', 'ema'): 'train: ema_decay',
    ('train', 'losses'): 'a section each that ends in _opt, as pixel_opt: {type: L1Loss}',
    ('train', 'use_moa'): 'mixup, cutmix and cutblur in datasets: train',
    ('train', 'moa_*'): 'mixup, cutmix and cutblur in datasets: train',
    ('train', 'wavelet_guided'): 'wavelet_opt: {type: WaveletLoss}',
    ('train', 'accum_iter'): 'train: accumulate',
    ('datasets', '*', 'accum_iter'): 'train: accumulate, the parts that a batch is cut into',
    ('datasets', '*', 'accumulate'): 'train: accumulate, the parts that a batch is cut into',
    ('datasets', '*', 'augmentation'): 'mixup, cutmix or cutblur: {probability: ...}',
    ('datasets', '*', 'aug_prob'): 'mixup, cutmix or cutblur: {probability: ...}',
    ('datasets', '*', 'patch_size'): 'gt_size, scale times as large: the side of the target',
    ('datasets', '*', 'lq_size'): 'gt_size, scale times as large: the side of the target',
    ('datasets', '*', 'batch_size'): 'batch_size_per_gpu',
    ('datasets', '*', 'dataroot_lq_prob'): 'rain_probability, for deraining',
    ('train', 'optim_*', 'schedule_free'): 'type: AdamWScheduleFree',
    ('logger', 'total_iter'): 'train: total_iter',
    ('logger', 'save_checkpoint_format'): 'nothing; vmambair convert writes safetensors',
    ('val', 'val_enabled'): 'nothing; without a section val nothing is validated',
    ('val', 'metrics_enabled'): 'nothing; without val: metrics none are computed',
    ('val', 'tile_pad'): 'val: tile_overlap',
}
"""By the place that a key has there: what to write here."""


def _plain(name: str) -> str:
    return name.lower().replace('_', '')


def type_hint(kind: str, name: str, known: Sequence[str]) -> str:
    """A hint for a type that is not there: the same name in other letters, what others call so, or the nearest.

    Args:
        kind: of `TYPES`, or another.
        name: as the file has it.
        known: the names that there are.
    """
    for other in known:
        if _plain(other) == _plain(name):
            return f" (here it is '{other}')"
    for theirs, ours in TYPES.get(kind, {}).items():
        if _plain(theirs) == _plain(name):
            return f' (here: {ours})' if ours else f'; there is nothing like it here, but {", ".join(sorted(known))}'
    return nearest(name, known)


def key_hint(place: Path, known: Sequence[str]) -> str:
    """A hint for a key that nothing reads: what it is here, or the nearest of the section.

    Args:
        place: the key and the sections that it stands in.
        known: the keys that the section may have.
    """
    for path, ours in KEYS.items():
        if len(path) == len(place) and all(map(fnmatchcase, place, path)):
            return f' (here: {ours})'
    return nearest(place[-1], known)
