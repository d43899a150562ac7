"""What only the first validation would find: data sets of one name, metrics and networks that images do not suit."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..inference.tiles import spans
from ..models.vmambair_model import VmambaIRModel
from .data import Data, Sizes
from .first_step import crosses, shape_of, try_network
from .report import Report, some
from .sections import Options, errors_of

TRIED = (96, 192)
"""Height and width of the picture that every metric was tried on already."""


def check_validation(options: Options, found: Mapping[str, Data], report: Report) -> None:
    """Names of the data sets, and each metric on the smallest images of each.

    Args:
        found: data sections without a fault, by phase.
    """
    sections = options.get('datasets')
    if not isinstance(sections, Mapping):
        return
    phases = [str(phase) for phase, section in sections.items() if phase != 'train' and isinstance(section, Mapping)]
    _check_names({phase: sections[phase].get('name') for phase in phases}, report)
    val = options.get('val')
    metrics = val.get('metrics') if isinstance(val, Mapping) else None
    if not isinstance(metrics, Mapping):
        return
    for name, section in metrics.items():
        where = f'val: metrics: {name}'
        if not isinstance(section, Mapping) or report.has(where):
            continue
        for phase in phases:
            if phase in found:
                _try_on(section, where, phase, found[phase], report)


def _check_names(names: Mapping[str, Any], report: Report) -> None:
    phases: dict[str, list[str]] = defaultdict(list)
    for phase, name in names.items():
        if name is not None:
            phases[str(name)].append(phase)
    for name, same in phases.items():
        if len(same) > 1:
            report.faults.append(
                f"datasets: {', '.join(same)} have one name, '{name}': their figures and images would overwrite each "
                "other's; give each a name of its own"
            )


def check_images(options: Options, model: type | None, found: Mapping[str, Data], gpus: int, report: Report) -> None:
    """Take a sample of every validation set, and send pictures like its smallest and oddest through the network.

    Args:
        options: without a fault so far.
        model: that they name; what others derive may restore in ways of their own.
        found: data sections without a fault, by phase.
        gpus: of one process.
        report: gets what is wrong.
    """
    from basicsr.models.sr_model import SRModel

    val, section = options.get('val'), options.get('network_g')
    if not isinstance(val, Mapping) or not isinstance(section, Mapping):
        return  # nothing is validated
    for phase, data in found.items():
        if phase == 'train':
            continue
        sample, complaint = data.sample
        if complaint:
            report.faults.append(f'datasets: {phase}: its first sample: {complaint}')
            continue
        lq = shape_of(sample.get('lq')) if isinstance(sample, Mapping) else ()
        restores = getattr(model, 'test', None)
        if lq and restores in (VmambaIRModel.test, SRModel.test):
            tile = val.get('tile') if restores is VmambaIRModel.test else None
            sizes = _tiles(data.inputs or {(lq[1], lq[2]): 'its first image'}, tile, val.get('tile_overlap', 32))
            _try_network(section, lq, shape_of(sample.get('gt')), sizes, options, phase, gpus, report)


def _tiles(sizes: Sizes, tile: int | None, overlap: int) -> Sizes:
    """What the network gets of images of some sizes: they themselves, or their tiles."""
    if not tile:
        return sizes
    return {
        (bottom - top, right - left): name
        for (height, width), name in sizes.items()
        for top, bottom in spans(height, tile, min(overlap, tile // 3))
        for left, right in spans(width, tile, min(overlap, tile // 3))
    }


REALLY_TRIED = 2**16
"""Pixels of the largest picture that is sent through a network where one without memory did not come through."""


def _try_network(
    section: Options,
    lq: tuple[int, ...],
    gt: tuple[int, ...],
    sizes: Sizes,
    options: Options,
    phase: str,
    gpus: int,
    report: Report,
) -> None:
    scale = options.get('scale', 1)
    failed: dict[str, str] = {}
    for (height, width), name in sizes.items():
        made, complaint = try_network(section, (1, lq[0], height, width), gpus, False, height * width <= REALLY_TRIED)
        wanted = (gt[0] if gt else lq[0], height * scale, width * scale)
        if not complaint and made and made[1:] != wanted and (gt or made[2:] != wanted[1:]):
            complaint = f'it makes {crosses(made[1:])} of it, not {crosses(wanted)}'
        if complaint:
            failed[f'{name} ({width}x{height})'] = complaint
    if failed:
        first = next(iter(failed.values()))
        report.faults.append(f'network_g: cannot restore {some(list(failed))} of datasets: {phase}: {first}')


def _try_on(section: Options, where: str, phase: str, data: Data, report: Report) -> None:
    import numpy as np
    from basicsr.metrics import calculate_metric
    from basicsr.utils.registry import METRIC_REGISTRY

    metric = dict(iter(METRIC_REGISTRY)).get(section.get('type'))
    if metric is None:
        return
    targets = data.smallest_targets()
    if not targets:
        reference = inspect.signature(metric).parameters.get('img2')
        if targets is not None and reference is not None and reference.default is inspect.Parameter.empty:
            report.faults.append(
                f'{where}: {metric.__name__} compares with the truth, which datasets: {phase} does not have; '
                'leave it out, or name dataroot_gt'
            )
        return
    crop = section.get('crop_border')
    border = 2 * crop if type(crop) is int else 0
    failed: dict[str, list[str]] = defaultdict(list)
    for (height, width), image in targets.items():
        if height >= TRIED[0] + border and width >= TRIED[1] + border:
            continue
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        with warnings.catch_warnings(), np.errstate(all='ignore'):
            warnings.simplefilter('ignore')
            pictures = {'img': picture, 'img2': 255 - picture}
            score, complaint = errors_of(lambda given: float(calculate_metric(given, dict(section))), pictures)
        if complaint or not math.isfinite(score):
            failed[complaint or f'scores it with {score}'].append(f'{image} ({width}x{height})')
    for complaint, images in failed.items():
        report.faults.append(f'{where}: cannot score {some(images)} of datasets: {phase}: {complaint}')
