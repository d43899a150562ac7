"""Numbers that must fit together: batches and data, stages and iterations, checkpoints and disk, patches and memory."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import signals_held
from ..host import computes_in_bf16
from ..inference.tiles import free_system_memory
from ..models.ema import decays
from ..ops import ScanInputs, choose, choose_depthwise, triton_scan
from .data import Data
from .keys import KeysRead
from .report import Report
from .sections import Options, errors_of
from .start import nearest

GB = 1e9


def check_devices(options: Options, report: Report) -> int:
    """The GPUs of a process, 0 for the CPU; and whether there is a scan for them."""
    wanted, there = options.get('num_gpu'), torch.cuda.device_count()
    if type(wanted) is not int or wanted < 0:  # auto, or refused
        wanted = there
    if wanted > there:
        report.faults.append(f'num_gpu: {wanted}, but torch sees {there}; write auto')
    gpus = min(wanted, there)
    _, complaint = errors_of(lambda: choose(torch.device('cuda' if gpus else 'cpu'), torch.float32))
    if complaint:
        report.faults.append(complaint)
    train = options.get('train')
    if not gpus and isinstance(train, Mapping):
        _check_cpu(train, report)
    return gpus


def _check_cpu(train: Options, report: Report) -> None:
    """Keys that cost time on a processor; the figures are of `benchmarks.training_step --forms` (docs/train.md)."""
    amp = train.get('amp')
    if amp == 'fp16':
        report.warnings.append('train: amp: fp16 makes a step on a CPU ten times as long; take the key out')
    elif amp == 'bf16' and not computes_in_bf16():
        report.warnings.append(
            'train: amp: bf16: this processor has no instructions for bf16, and a step takes 1.6 (with AVX-512) to '
            '12 times as long as in float32; take the key out'
        )
    if train.get('compile') is True:
        report.warnings.append(
            'train: compile: true: on a CPU it compiles for minutes, and a step is no shorter then; take the key out'
        )


def check_batches(options: Options, data: Data, ranks: int, gpus: int, known: KeysRead, report: Report) -> None:
    """Batch against data, pool and stages against the run.

    Args:
        data: the training data.
        ranks: processes.
        gpus: of one process.
    """
    section, total = options['datasets']['train'], int(options['train']['total_iter'])
    batch = section['batch_size_per_gpu'] * (max(1, gpus) if ranks == 1 else 1)
    numbered = getattr(data.dataset, 'numbered_by_iteration', False)
    if not numbered:
        ratio = section.get('dataset_enlarge_ratio', 1)
        share = math.ceil(data.images * ratio / ranks)
        each = f'{data.images} images' + f' times {ratio}' * (ratio != 1) + f' on {ranks} ranks' * (ranks > 1)
        if share < batch:
            report.faults.append(
                f'datasets: train: {each} do not fill one batch of {batch}: no iteration would run; lower '
                'batch_size_per_gpu or raise dataset_enlarge_ratio'
            )
        else:
            length = share // batch
            epochs = math.ceil(total / length)
            report.facts.append(f'train: {each}, batches of {batch}: {length} iterations an epoch, {epochs} epochs')
    else:
        report.facts.append(f'train: {data.images} images, drawn anew for each of {total} iterations')
    iters = section.get('iters')
    if isinstance(iters, list) and sum(iters) != total:
        end = sum(iters)
        does = f'the last stage goes on to {total}' if end < total else f'the run ends before its stages do, at {total}'
        report.warnings.append(f'datasets: train: iters add up to {end}, total_iter is {total}: {does}')
    pool = options.get('queue_size', 180)
    if known.knows((), 'queue_size') and type(pool) is int and pool % batch:
        nearby = [size for size in (pool // batch * batch, (pool // batch + 1) * batch) if size]
        report.faults.append(f'queue_size: {pool} is not a multiple of the batch {batch}; take {nearby[-1]}')


def check_disk(options: Options, networks: Mapping[str, nn.Module], start: int, report: Report) -> None:
    """Room for the checkpoints of the rest of the run, at least of one."""
    train, logger = options['train'], options['logger']
    size = 0
    for label, network in networks.items():
        weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        averaged = len(decays(train.get('ema_decay', 0))) if label == 'g' else 0
        size += weights * (1 + averaged)  # the file of the network
        size += weights * 2 if train.get(f'optim_{label}') else 0  # moments in the state
    count = max(1, (int(train['total_iter']) - start) // int(logger['save_checkpoint_freq'])) if size else 0
    if logger.get('keep_last'):
        count = min(count, logger['keep_last'] + 1)
    written = Path('experiments')  # a link to another disk, as may be the folder of a run that is gone on with
    folder = nearest(written / str(options.get('name', '')) if start else written).resolve()
    free = shutil.disk_usage(folder).free
    text = f'{count} checkpoints of {size / GB:.2g} GB'
    if size * count > free:
        report.faults.append(
            f'disk: {text} need {size * count / GB:.3g} GB, {folder} has {free / GB:.3g} GB; '
            'free some, raise logger: save_checkpoint_freq, or set logger: keep_last'
        )
    elif size:
        report.facts.append(f'disk: {text}, {free / GB:.3g} GB free')


def check_memory(
    options: Options, networks: Mapping[str, nn.Module], data: Mapping[str, Data], ranks: int, gpus: int, report: Report
) -> None:
    """Weights, gradients, moments, the activations of the largest batch and cached images, against what is free."""
    train, section = options['train'], options['datasets']['train']
    held = 0.0
    for label, network in networks.items():
        weights = sum(t.numel() * t.element_size() for t in network.parameters())
        trained = bool(train.get(f'optim_{label}'))
        held += weights * (1 + 3 * trained + (len(decays(train.get('ema_decay', 0))) if label == 'g' else 0))
    held += _activations(options, section, gpus > 0)
    cached = 0
    for phase, each in data.items():
        if options['datasets'][phase].get('cache'):
            workers = options['datasets'][phase].get('num_worker_per_gpu', 0) if phase == 'train' else 0
            cached += each.decoded * max(1, workers * (max(1, gpus) if ranks == 1 else 1))
    local = int(os.environ.get('LOCAL_WORLD_SIZE', ranks))
    if gpus:
        free = torch.cuda.mem_get_info()[0]
        _compare('GPU memory', held, free, 'lower the batch or the patch, or set train: accumulate', report)
        _compare('memory', cached * local, free_system_memory(), "leave 'cache' out", report)
    else:
        hint = 'lower the batch or the patch, set train: accumulate' + (" or leave 'cache' out" if cached else '')
        _compare('memory', (held + cached) * local, free_system_memory(), hint, report)


def _compare(what: str, need: float, free: int | None, hint: str, report: Report) -> None:
    if free is not None and need > free:
        report.faults.append(f'{what}: about {need / GB:.2g} GB are needed, {free / GB:.2g} GB are free; {hint}')
    elif need > 0.01 * GB:
        report.facts.append(f'{what}: about {need / GB:.2g} GB' + (f' of {free / GB:.3g} GB free' if free else ''))


SHM = Path('/dev/shm')
"""What torch's workers hand their batches over in, on Linux by either of its sharing strategies."""
_LOCKS = 2**16
"""Bytes of it that the queues and locks of one worker take at most."""


def check_shared_memory(options: Options, data: Data, ranks: int, gpus: int, report: Report) -> None:
    """The batches that the workers of all processes of this machine have ready at a time, against /dev/shm.

    Args:
        data: the training data.
        ranks: processes.
        gpus: of one process.
    """
    section = options['datasets']['train']
    workers = section['num_worker_per_gpu'] * (max(1, gpus) if ranks == 1 else 1)
    if not workers or not SHM.is_dir():
        return
    sample, complaint = data.sample
    if complaint or not isinstance(sample, Mapping):
        return
    tensors = [value for value in sample.values() if isinstance(value, torch.Tensor)]
    images = section['batch_size_per_gpu'] * (max(1, gpus) if ranks == 1 else 1)
    gt = sample.get('gt')
    if section.get('gt_sizes') and isinstance(gt, torch.Tensor) and gt.ndim == 4:  # a batch of the first stage
        images = max(size**2 * batch for size, batch in _stages(options, section)) / gt[:, 0].numel()
    ahead = 2  # of each worker, which `prefetch_mode: cpu` adds to
    if section.get('prefetch_mode') == 'cpu':
        ahead += math.ceil((section.get('num_prefetch_queue') or 1) / workers)
    batches = min(workers * ahead, int(options['train']['total_iter']))
    need = images * sum(t.numel() * t.element_size() for t in tensors) * batches + workers * _LOCKS
    need *= int(os.environ.get('LOCAL_WORLD_SIZE', ranks))
    hint = 'give it more (docker run --shm-size=1g), or lower num_worker_per_gpu or the batch'
    _compare(f'shared memory ({SHM})', need, shutil.disk_usage(SHM).free, hint, report)


def _stages(options: Options, section: Options) -> list[tuple[int, int]]:
    """Patch and images of a batch, of each stage of a training."""
    stages = list(zip(section.get('gt_sizes') or [], section.get('mini_batch_sizes') or [], strict=False))
    return stages or [(section.get('gt_size') or options.get('gt_size'), section.get('batch_size_per_gpu', 1))]


class _Workspace(TorchDispatchMode):
    """The most bytes that the gradient of one of a GPU's own kernels takes, of those that run while it is on."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == 'vmambair::triton_scan':
            self.most = max(self.most, triton_scan.backward_bytes(ScanInputs(*args[:6]), args[6]))
        elif func.name() == 'vmambair::triton_depthwise':
            self.most = max(self.most, args[0].numel() * args[0].element_size())
        return func(*args, **(kwargs or {}))


def _activations(options: Options, section: Options, gpu: bool = False) -> float:
    """Bytes that the generator keeps for the backward pass of the largest batch; 0 where that cannot be told.

    The forward pass runs on tensors that have shapes and no memory, on a GPU by the operators and in the dtypes of one,
    and there with what the most demanding gradient takes besides.
    """
    from basicsr.utils.registry import ARCH_REGISTRY
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ..models.vmambair_model import AMP

    device = 'cuda' if gpu else 'cpu'

    arguments = dict(options['network_g'])
    amp = AMP.get(options['train'].get('amp'))
    parts = options['train'].get('accumulate', 1)
    kept: dict[int, int] = {}
    kind = arguments.pop('type', None)
    if (
        not isinstance(kind, str) or kind not in ARCH_REGISTRY
    ):  # a fault already; BasicSR's registry would print to stdout
        return 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    try:
        size, batch = max(_stages(options, section), key=lambda stage: stage[0] ** 2 * stage[1])
        side = size // options.get('scale', 1)
        if gpu:  # tried before: nothing can be where tensors have no memory
            choose(torch.device(device), amp or torch.float32)
            choose_depthwise(torch.device(device), amp or torch.float32)
        workspace = _Workspace()
        autocast = torch.autocast(device, dtype=amp, enabled=amp is not None)
        with signals_held(), FakeTensorMode(), autocast, workspace:
            with torch.device(device):
                network = ARCH_REGISTRY.get(kind)(**arguments)
                image = torch.empty(math.ceil(batch / parts), arguments.get('inp_channels', 3), side, side)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                network(image)
            weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    except Exception:  # a network of somebody else may do anything; then nothing is said of it
        return 0
    return sum(size for storage, size in kept.items() if storage not in weights) + workspace.most
