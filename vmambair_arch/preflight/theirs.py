"""What BasicSR's own models need, which they say when they are built, in the first step or at the first validation."""

from __future__ import annotations

from collections.abc import Mapping

from .report import Report
from .sections import Options

IMAGE_MODELS = ('SRModel', 'SRGANModel', 'ESRGANModel', 'SwinIRModel')
"""Those that train on `lq` and `gt` as a data set has them, each an image."""

DEGRADING_MODELS = {'RealESRNetModel': 'VmambaIRRealSRModel', 'RealESRGANModel': 'VmambaIRRealSRGANModel'}
"""Those that degrade on a GPU, whatever `num_gpu` says, and what does the same anywhere."""


def is_theirs(model: type | None) -> bool:
    return model is not None and model.__module__.startswith('basicsr.models.')


def trains_on_images(model: type | None) -> bool:
    return model is not None and is_theirs(model) and model.__name__ in IMAGE_MODELS


def check_their_model(options: Options, model: type | None, training: bool, gpus: int, report: Report) -> None:
    """The keys of BasicSR's models that no list of keys tells, and the GPU that some of them cannot do without.

    Args:
        gpus: that are used, 0 for the CPU.
    """
    if model is None or not is_theirs(model):
        return
    if not gpus:
        _check_cpu(options, model, report)
    train = options.get('train')
    if training and isinstance(train, Mapping):
        _check_training(options, train, model, report)


def _check_cpu(options: Options, model: type, report: Report) -> None:
    from basicsr.models.video_base_model import VideoBaseModel

    name, val = model.__name__, options.get('val')
    if name in DEGRADING_MODELS:
        report.faults.append(
            f'model_type: {name} needs a GPU, and none is used (num_gpu); take {DEGRADING_MODELS[name]}'
        )
    elif issubclass(model, VideoBaseModel) and isinstance(val, Mapping) and val.get('metrics'):
        report.faults.append(
            f'val: metrics: {name} keeps them on a GPU, and none is used (num_gpu); leave them out, or use a GPU'
        )


def _check_training(options: Options, train: Options, model: type, report: Report) -> None:
    from basicsr.models.hifacegan_model import HiFaceGANModel
    from basicsr.models.sr_model import SRModel
    from basicsr.models.srgan_model import SRGANModel

    if not issubclass(model, SRModel):
        return
    adversarial = issubclass(model, (SRGANModel, HiFaceGANModel))
    missing = "section 'network_d' is missing"
    if adversarial and 'network_d' not in options and missing not in report.faults:
        report.faults.append(missing)
    if adversarial and not train.get('gan_opt'):
        report.faults.append(f'train: gan_opt is missing, which {model.__name__} needs')
    losses = [key for key in train if str(key).endswith('_opt') and train[key]]  # where there is none it has been said
    if losses and not issubclass(model, SRGANModel) and not {'pixel_opt', 'perceptual_opt'} & set(losses):
        report.faults.append(f'train: {model.__name__} needs pixel_opt or perceptual_opt, or both')
    if isinstance(train.get('ema_decay'), list):
        report.faults.append(
            f'train: ema_decay: {model.__name__} keeps one average; write one number, or take model_type: VmambaIRModel'
        )
