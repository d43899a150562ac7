"""What only the first iteration would show: data without what the model reads, networks that do not take a patch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..errors import signals_held
from ..models.vmambair_model import VmambaIRModel
from .data import Data
from .report import Report
from .sections import Options, errors_of, is_ours
from .theirs import trains_on_images

CHANNELS = 3
"""Of an image, where no sample says how many."""

Shape = tuple[int, ...]


class Patch(NamedTuple):
    """Shapes (c, h, w) of an input and of its target."""

    lq: Shape
    gt: Shape


def check_first_step(options: Options, model: type | None, data: Data, gpus: int, report: Report) -> None:
    """Take a sample, and send one of its size through the networks, for models of ours and BasicSR's of images.

    Args:
        options: without a fault so far.
        model: that they name.
        data: the training data.
        gpus: of one process.
        report: gets what is wrong.
    """
    from basicsr.models.srgan_model import SRGANModel

    if model is None:
        return
    labels: tuple[str, ...] = ('g',)
    reads: tuple[str, ...] = ('lq', 'gt')
    if issubclass(model, VmambaIRModel) and is_ours(model):
        labels, reads = model.labels, model.reads
    elif trains_on_images(model):
        labels = ('g', 'd') if issubclass(model, SRGANModel) else ('g',)
    else:
        return  # what others derive may read and do anything
    sample = _sample(options, model.__name__, reads, data, report)
    for label in labels:
        section = options.get(f'network_{label}')
        if isinstance(section, Mapping):
            for patch in _patches(options, data, sample):
                if not report.has(f'network_{label}'):
                    _check_pass(label, section, patch, gpus, report)


def _sample(options: Options, model: str, reads: tuple[str, ...], data: Data, report: Report) -> Mapping[str, Any]:
    """A sample that has what a model reads; {} where there is none, which is a fault."""
    sample, complaint = data.sample
    if complaint:
        report.faults.append(f'datasets: train: its first sample: {complaint}')
        return {}
    missing = [key for key in reads if not isinstance(sample, Mapping) or key not in sample]
    if missing:
        kind = options['datasets']['train'].get('type')
        report.faults.append(
            f'datasets: train: {kind} gives no {" and no ".join(missing)}, which '
            f'{model} is trained on; name another type, or another model_type'
        )
        return {}
    return dict(sample)


def _patches(options: Options, data: Data, sample: Mapping[str, Any]) -> list[Patch]:
    """The smallest and the largest patch of data sets of ours; of others what the sample is."""
    gt, lq = shape_of(sample.get('gt')), shape_of(sample.get('lq'))
    if sample and not is_ours(type(data.dataset)):
        return [Patch(lq, gt)] if gt and lq else []  # else it is a video, or a batch
    target = gt[0] if gt else CHANNELS
    given = lq[0] if lq else target
    scale = options.get('scale', 1)
    return [Patch((given, side // scale, side // scale), (target, side, side)) for side in _sides(options)]


def shape_of(image: Any) -> Shape:
    """(c, h, w) of one image; () of anything else."""
    return tuple(image.shape) if isinstance(image, torch.Tensor) and image.ndim == 3 else ()


def _sides(options: Options) -> list[int]:
    """The smallest and the largest side of a patch of the targets."""
    section = options['datasets']['train']
    given = section.get('gt_sizes') or [section.get('gt_size') or options.get('gt_size')]
    sides = [side for side in given if type(side) is int and side > 0]
    return list(dict.fromkeys([min(sides), max(sides)])) if sides else []


def _check_pass(label: str, section: Options, patch: Patch, gpus: int, report: Report) -> None:
    taken = patch.lq if label == 'g' else patch.gt
    shape, complaint = try_network(section, (2, *taken), gpus)
    where = f'network_{label}: on a patch of {taken[1]} x {taken[2]} pixels'
    if complaint:
        report.faults.append(f'{where}: {complaint}')
    elif label == 'g' and shape and shape[1:] != patch.gt:
        report.faults.append(f'{where} it makes {crosses(shape[1:])}, and the targets are {crosses(patch.gt)}')


def crosses(shape: Shape) -> str:
    return ' x '.join(map(str, shape))


def try_network(
    section: Options, shape: Shape, gpus: int, training: bool = True, really: bool = True
) -> tuple[Shape | None, str]:
    """One batch through a network on tensors without memory; what fails so is tried on real ones before it is said.

    Args:
        section: of the network.
        shape: (b, c, h, w) of the batch.
        gpus: of one process.
        training: the mode of the network.
        really: whether the batch is small enough for real ones.

    Returns:
        The shape of the output, None where nobody knows; and what is wrong, or ''.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with signals_held(), FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made, complaint = errors_of(_pass, section, shape, training)
    if complaint and (gpus or not really):  # networks for a GPU alone may do without
        return None, ''
    return errors_of(_pass, section, shape, training) if complaint else (made, '')


def _pass(section: Options, shape: Shape, training: bool) -> Shape:
    from basicsr.utils.registry import ARCH_REGISTRY

    arguments: dict[str, Any] = dict(section)
    network = ARCH_REGISTRY.get(arguments.pop('type'))(**arguments).train(training)
    with torch.no_grad():
        return tuple(network(torch.rand(shape)).shape)
