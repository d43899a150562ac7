"""What only the first iteration would show: data without what the model reads, networks that do not take a patch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..models.vmambair_model import VmambaIRModel
from .data import Data
from .report import Report
from .sections import Options, errors_of, is_ours

CHANNELS = 3
"""Of an image, where no sample says how many."""


def check_first_step(options: Options, model: type | None, data: Data, gpus: int, report: Report) -> None:
    """Take a sample, and send one of its size through the networks, for models of ours.

    Args:
        options: without a fault so far.
        model: that they name.
        data: the training data.
        gpus: of one process.
        report: gets what is wrong.
    """
    if model is None or not issubclass(model, VmambaIRModel) or not is_ours(model):
        return  # what others derive may read and do anything
    channels = _check_sample(options, model, data, report)
    for label in model.labels:
        section = options.get(f'network_{label}')
        if isinstance(section, Mapping):
            for side in _sides(options):
                if not report.has(f'network_{label}'):
                    _check_pass(label, section, side, options.get('scale', 1), channels, gpus, report)


def _check_sample(options: Options, model: type[VmambaIRModel], data: Data, report: Report) -> tuple[int, int]:
    """The channels of inputs and targets, 3 where a sample does not say."""
    section = options['datasets']['train']
    if str(section.get('dataroot_gt', '')).endswith('.lmdb'):  # no process may open one twice
        return CHANNELS, CHANNELS
    sample, complaint = errors_of(lambda: data.dataset[0])
    if complaint:
        report.faults.append(f'datasets: train: its first sample: {complaint}')
        return CHANNELS, CHANNELS
    missing = [key for key in model.reads if not isinstance(sample, Mapping) or key not in sample]
    if missing:
        report.faults.append(
            f'datasets: train: {section.get("type")} gives no {" and no ".join(missing)}, which '
            f'{model.__name__} is trained on; name another type, or another model_type'
        )
        return CHANNELS, CHANNELS
    target = _channels(sample['gt'])
    return _channels(sample['lq']) if 'lq' in sample else target, target


def _channels(images: Any) -> int:
    return int(images.shape[-3]) if isinstance(images, torch.Tensor) and images.ndim >= 3 else CHANNELS


def _sides(options: Options) -> list[int]:
    """The smallest and the largest side of a patch of the targets."""
    section = options['datasets']['train']
    given = section.get('gt_sizes') or [section.get('gt_size') or options.get('gt_size')]
    sides = [side for side in given if type(side) is int and side > 0]
    return list(dict.fromkeys([min(sides), max(sides)])) if sides else []


def _check_pass(
    label: str, section: Options, side: int, scale: int, channels: tuple[int, int], gpus: int, report: Report
) -> None:
    """One patch through a network on tensors without memory; what fails so is tried on real ones before it is said."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    size, taken = (side // scale, channels[0]) if label == 'g' else (side, channels[1])
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        shape, complaint = errors_of(_pass, section, taken, size)
    if complaint and not gpus:  # networks for a GPU alone may do without
        shape, complaint = errors_of(_pass, section, taken, size)
    where = f'network_{label}: on a patch of {size} x {size} pixels'
    if complaint and not gpus:
        report.faults.append(f'{where}: {complaint}')
    elif label == 'g' and shape and shape[1:] != (channels[1], side, side):
        made = ' x '.join(map(str, shape[1:]))
        report.faults.append(f'{where} it makes {made}, and the targets are {channels[1]} x {side} x {side}')


def _pass(section: Options, channels: int, size: int) -> tuple[int, ...]:
    from basicsr.utils.registry import ARCH_REGISTRY

    arguments: dict[str, Any] = dict(section)
    network = ARCH_REGISTRY.get(arguments.pop('type'))(**arguments)
    with torch.no_grad():
        return tuple(network(torch.rand(2, channels, size, size)).shape)
