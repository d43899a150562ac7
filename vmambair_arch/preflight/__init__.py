"""Check first: everything that can be known to be wrong with a run before its first iteration, in one report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..options import read_options
from .report import Report

__all__ = ['Report', 'check']


def check(arguments: argparse.Namespace, training: bool | None = None) -> Report:
    """Check an option file, its data, and what there is to run it on. Reads headers, trains nothing.

    Args:
        arguments: of `launch.add_arguments`; with `decode` every image is decoded, with `samples` a sheet is written.
        training: for the train pipeline, or the test pipeline; default: whether the file has a section `train`.

    Raises:
        UserError: the file cannot be read at all.
    """
    from . import building, data, decoding, first_step, resources, sections, start, theirs, validation, values

    report = Report(str(arguments.opt))
    options = values.without_odd_keys(read_options(arguments, report.faults), report)
    if training is None:
        sets = options.get('datasets')
        training = 'train' in options or (isinstance(sets, Mapping) and 'train' in sets)
    debugging = training and 'debug' in str(options.get('name', ''))
    if debugging:
        _set_for_debugging(options)
    decoder = decoding.Decoder() if getattr(arguments, 'decode', False) else None
    known, strict = sections.check_sections(options, training, report)
    if debugging and options.get('val', {}) is None:
        report.faults.append('val: is empty, and a run for debugging writes into it; take the key out, or fill it')
    networks = building.check_networks(options, report)
    building.check_pretrained(options, networks, report)
    gpus = resources.check_devices(options, report)
    ranks = int(os.environ.get('WORLD_SIZE', 1)) if arguments.launcher != 'none' else 1
    found = data.check_data(options, training, known, strict, report, decoder)
    validation.check_validation(options, found, report)
    start.check_folders(options, training, report)
    model = building.model_class(options)
    theirs.check_their_model(options, model, training, gpus, report)
    if training and _complete(options, report):
        building.check_optimizers(options, model, gpus, report)
        building.check_model(options, model, report)
        first = start.check_start(options, arguments, networks, model, report)
        start.check_loggers(options, report)
        # What follows works with numbers that may have been refused above; then it can say nothing more.
        if 'train' in found:
            if not report.faults:
                first_step.check_first_step(options, model, found['train'], gpus, report)
            _unless_refused(resources.check_batches, report, options, found['train'], ranks, gpus, known)
            if not report.faults:
                resources.check_shared_memory(options, found['train'], ranks, gpus, report)
        _unless_refused(resources.check_disk, report, options, networks, first)
        _unless_refused(resources.check_memory, report, options, networks, found, ranks, gpus)
    if not report.faults:
        validation.check_images(options, model, found, gpus, report)
    building.describe(options, networks, report)
    if getattr(arguments, 'samples', None):
        _write_samples(options, found, arguments.samples, report)
    return report


def _set_for_debugging(options: dict[str, Any]) -> None:
    """What BasicSR writes into the options of a run for debugging, whatever the file says."""
    for name, values in (('val', {'val_freq': 8}), ('logger', {'print_freq': 1, 'save_checkpoint_freq': 8})):
        if isinstance(options.get(name), Mapping):
            options[name] = {**options[name], **values}


def _write_samples(options: Mapping[str, Any], found: Mapping[str, Any], folder: str, report: Report) -> None:
    from . import samples

    if report.faults or 'train' not in found:
        report.warnings.append('--samples: nothing to show before the data of datasets: train can be read')
        return
    report.facts.append(f'samples: wrote {samples.write_samples(options, found["train"].dataset, folder)}')


def _unless_refused(find: Callable[..., None], report: Report, *arguments: Any) -> None:
    """Let `find` add to a report; where there are faults already it may fail over them."""
    try:
        find(*arguments, report)
    except Exception:
        if not report.faults:
            raise


def _complete(options: Mapping[str, Any], report: Report) -> bool:
    """Whether the sections and numbers are there that the rest is worked out from."""
    sections = [options.get(name) for name in ('train', 'logger', 'path', 'datasets')]
    if not all(isinstance(section, Mapping) for section in sections):
        return False
    needed = (('train', 'total_iter'), ('logger', 'save_checkpoint_freq'))
    return all(key in options[name] and not report.has(f'{name}: {key}') for name, key in needed)
