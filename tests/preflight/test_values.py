"""Nonsense in any number, flag or section of any option file is one line that names the key: no traceback, no run."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from experiment import options, write_options

from vmambair_arch.cli import main
from vmambair_arch.options import load_options
from vmambair_arch.preflight.kinds import unlike
from vmambair_arch.preflight.report import Report
from vmambair_arch.preflight.values import VALUES, check_values, values_at

FILES = sorted((Path(__file__).resolve().parents[2] / 'options').glob('*.yml'))
NONSENSE = ('abc', True, -7, math.nan, math.inf, 1e30, [], [[]], {'a': 1})


def places(section: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in section.items():
        yield (*path, key)
        if isinstance(value, Mapping):
            yield from places(value, (*path, key))


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_option_file_has_values_that_make_sense(file: Path) -> None:
    report = Report(str(file))
    check_values(load_options(file), report)
    assert report.faults == []


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_a_nan_or_an_infinity_anywhere_is_refused_by_name(file: Path) -> None:
    plain = load_options(file)
    for place in places(plain):
        for value in (math.nan, math.inf):
            changed = copy.deepcopy(plain)
            section = changed
            for key in place[:-1]:
                section = section[key]
            section[place[-1]] = value
            report = Report('')
            check_values(changed, report)
            assert any(fault.startswith(': '.join(place)) for fault in report.faults), place


@pytest.mark.parametrize('path', VALUES, ids=': '.join)
def test_a_rule_refuses_what_is_of_another_kind_by_name(path: tuple[str, ...]) -> None:
    """At least the seven of ten kinds of nonsense that no single rule can take."""
    names = [part.replace('*', 'g') for part in path]
    refused = 0
    for value in NONSENSE:
        changed: dict[str, Any] = {}
        section = changed
        for name in names[:-1]:
            section = section.setdefault(name, {})
        section[names[-1]] = value
        assert list(values_at(changed, path)) == [(tuple(names), value)] or value != value
        report = Report('')
        check_values(changed, report)
        refused += any(fault.startswith(': '.join(names)) for fault in report.faults)
    assert refused >= 6


TRAINED_WITH_NONSENSE = {
    'train__grad_clip': (-1, 0, math.nan),
    'train__pixel_opt__loss_weight': (-1, math.nan, math.inf),
    'train__scheduler': (
        {'type': 'CosineAnnealingRestartCyclicLR', 'periods': [4], 'restart_weights': [-1], 'eta_mins': [0]},
        {'type': 'CosineAnnealingRestartCyclicLR', 'periods': [4], 'restart_weights': [1], 'eta_mins': [-1e-3]},
    ),
    'train__optim_g__lr': (True, math.inf, 1e30, 0, -0.1),
    'train__compile': (3, 'yes'),
    'network_g__bias': (3,),
    'val__tile': (3, -8, 'auto'),
    'val__tile_overlap': (-1, None),
    'name': ('a/b', '..', '.', '/tmp'),
    'logger__keep_last': (-1, 1.5),
}


@pytest.mark.parametrize('key', TRAINED_WITH_NONSENSE)
def test_what_once_trained_and_ended_well_is_refused_by_name(check: Any, key: str) -> None:
    for value in TRAINED_WITH_NONSENSE[key]:
        faults = check(**{'model_type': 'VmambaIRModel', key: value}).faults
        named = key.replace('__', ': ')
        assert any(named in fault for fault in faults), (value, faults)


ENDED_THE_FIRST_ITERATION = {
    'train__x_opt': (
        {'type': 'MSSIMLoss'},  # patches of 16 pixels, a window of 11 but for this one
        {'type': 'MSSIMLoss', 'window_size': 17},
        {'type': 'LDLLoss', 'ksize': 33},
        {'type': 'GridLoss', 'period': 0},
        {'type': 'GridLoss', 'period': 17},
        {'type': 'L1Loss', 'reduction': 'none'},
        {'type': 'L1Loss', 'loss_weight': 0, 'reduction': 'none'},
        {'type': 'WaveletLoss', 'levels': 2000},
    ),
    'train__ema_power': ('x', True, [0.5], -1, 2, None),
    'train__ema_gamma': ('x', 0, {}),
    'train__ema_update_after_step': (-1, 1.5, 'x', [1]),
    'train__loss_schedules': ('x', 3, [1], {'pixel': 1}, {'pixl': [[0, 1]]}),
    'val__param_key': (3, '', 'params_ema_0.5', 'params_ema'),
    'train__optim_g': (
        {'type': 'AdamW', 'lr': 1e-3, 'betas': [0.9]},
        {'type': 'Muon', 'lr': 1e-3, 'ns_steps': 'x'},
        {'type': 'Muon', 'lr': 1e-3, 'ns_coefficients': 3},
        {'type': 'Lion', 'lr': 1e-3, 'betas': [0.9]},
        {'type': 'Adan', 'lr': 1e-3, 'betas': [0.9, 0.9]},
        {'type': 'Adam', 'lr': 1e-3, 'betas': [0.9, 0.9, 0.9]},
        {'type': 'Rprop', 'lr': 1e-3, 'etas': 0.5},
    ),
}  # fmt: skip
"""Values that only the first iteration, or the first validation, would have found."""


@pytest.mark.parametrize('key', ENDED_THE_FIRST_ITERATION)
def test_what_would_end_the_first_iteration_is_refused_by_name(check: Any, key: str) -> None:
    for value in ENDED_THE_FIRST_ITERATION[key]:
        report = check(**{'model_type': 'VmambaIRModel', key: value})
        if value == {'type': 'MSSIMLoss'}:
            assert report.faults == []  # 16 pixels have room for one scale
            continue
        assert any(key.replace('__', ': ') in fault for fault in report.faults), (value, report.faults)


def test_labels_may_stand_in_sources(check: Any) -> None:
    folder = {'dataroot_gt': 'train/gt', 'dataroot_lq': 'train/lq'}
    changes = {
        'model_type': 'VmambaIRModel',
        'datasets__train__type': 'PairedProgressiveDataset',
        'datasets__train__dataroot_gt': ...,
        'datasets__train__dataroot_lq': ...,
        'datasets__train__sources': [folder | {'dataroot_label': 'train/gt'}],
    }
    assert check(**changes, train__label_pixel_opt={'type': 'L1Loss'}).faults == []
    (fault,) = check(**changes).faults
    assert 'no loss looks at the labels' in fault


def test_what_is_wrong_hides_nothing_else(check: Any, capsys: pytest.CaptureFixture) -> None:
    """A fault of the data, one of a number and the warning of a short run stand in one report."""
    cosine = {'type': 'CosineAnnealingRestartLR', 'periods': [300000], 'restart_weights': [1], 'eta_min': 1e-7}
    report = check(
        model_type='VmambaIRModel', train__scheduler=cosine, val__tile=-3, datasets__train__dataroot_lq='nowhere'
    )
    assert any('val: tile' in fault for fault in report.faults)
    assert any('nowhere' in fault for fault in report.faults)
    assert any('total_iter is 4' in warning for warning in report.warnings)
    report.faults = report.faults[:1]
    with pytest.raises(ValueError, match='val: tile'):
        report.refuse()
    assert 'total_iter is 4' in capsys.readouterr().err
    assert options()['train']['total_iter'] == 4


@pytest.mark.parametrize(
    ('key', 'value', 'wanted'),
    [
        ('num_blocks', 1, 'a list, each a whole number'),
        ('num_blocks', [1, 1, 'a', 1], 'a list, each a whole number'),
        ('dim', 8.5, 'a whole number'),
        ('dim', True, 'a whole number'),
        ('num_refinement_blocks', [], 'a whole number'),
        ('LayerNorm_type', 'None', 'WithBias or BiasFree'),
        ('bias', 0, 'true or false'),
    ],
)
def test_an_argument_of_another_kind_than_its_type_is_refused_by_name(
    check: Any, key: str, value: Any, wanted: str
) -> None:
    (fault,) = check(**{f'network_g__{key}': value}).faults
    assert fault == f'network_g: {key} must be {wanted}, not {value!r}'


@pytest.mark.parametrize(
    ('hint', 'fine', 'wrong', 'words'),
    [
        (str | Path | None, ['a', None], [1, ['a']], 'text or ~'),
        (dict[str, float] | None, [{'a': 1}, None], [1, []], 'a section or ~'),
        (tuple[float, float], [[1, 2.5]], [1, ['a']], 'a list, each a number'),
        (list, [[], ['a', 1]], [{}], 'a list'),
        (Literal['a', 'b'], ['a'], ['c', 1], 'a or b'),
        (bool, [True], [1, None], 'true or false'),
        (Any, [1, 'a'], [], ''),
        (Iterator | int, [1, 'a'], [], ''),
    ],
)
def test_kinds_of_values_by_type(hint: Any, fine: list[Any], wrong: list[Any], words: str) -> None:
    assert [unlike(value, ..., hint) for value in fine] == ['' for _ in fine]
    assert [unlike(value, ..., hint) for value in wrong] == [words for _ in wrong]


LARGEST_OF_ALL = {
    'manual_seed': 2**32 - 2**16,
    'datasets__train__manual_seed': 2**32 - 2**16,
    'dist_params__port': 65535,
    'datasets__train__num_worker_per_gpu': 1024,
    'datasets__train__num_prefetch_queue': 1024,
    'datasets__train__batch_size_per_gpu': 10**9,
    'queue_size': 10**9,
    'logger__keep_last': 10**9,
}


@pytest.mark.parametrize('key', LARGEST_OF_ALL)
def test_a_whole_number_that_is_too_large_to_be_one_is_refused_by_name(key: str) -> None:
    largest = LARGEST_OF_ALL[key]
    for value, refused in ((largest, False), (largest + 1, True), (2**64, True)):
        report = Report('')
        check_values(options(**{key: value}), report)
        assert any(fault.startswith(key.replace('__', ': ')) for fault in report.faults) == refused, value


def test_every_whole_number_has_an_end() -> None:
    """`num_gpu` is compared with the GPUs that are there."""
    endless = [path for path, rule in VALUES.items() if 'whole number' in rule.what and rule.fits(10**15)]
    assert endless == [('num_gpu',)]


@pytest.mark.parametrize('name', ['gr\udcc3\udcb6\udcc3\udc9fer', '\udc80'])
def test_a_name_in_bytes_that_the_locale_has_no_letters_for(check, name):
    """As `--force_yml name=größer` arrives under LC_ALL=C; TensorBoard cannot write it."""
    (fault,) = check(name=name).faults
    assert fault.startswith('name must be the name of a folder')
    assert 'PYTHONUTF8=1' in fault


@pytest.mark.parametrize('letter', ['a', 'ä', '漢', '😀'])
def test_a_name_leaves_room_for_what_files_put_beside_it(check: Any, letter: str) -> None:
    """A file system takes 255 bytes; logs, locks and archives of a run have its name and more."""
    longest = letter * (200 // len(letter.encode()))
    for key in ('name', 'datasets__val__name', 'val__suffix'):
        assert check(**{key: longest}).faults == []
        (fault,) = check(**{key: longest + letter}).faults
        assert fault.startswith(f'{key.replace("__", ": ")} must be the name of a folder, of at most 200 bytes')
    for beside in ('train_{}_20250101_000000.log', '.{}.lock', 'debug_{}_archived_20250101_000000_10'):
        assert len(beside.format(longest).encode()) <= 255


@pytest.mark.parametrize('key', [1, 1.5, True, False, None])
@pytest.mark.parametrize(
    'place',
    [(), ('datasets',), ('datasets', 'train'), ('network_g',), ('path',), ('train',), ('train', 'optim_g'), ('val',),
     ('val', 'metrics'), ('val', 'metrics', 'psnr'), ('logger',)],
    ids=': '.join,
)  # fmt: skip
def test_a_key_that_is_no_text_is_one_fault_wherever_it_stands(
    workplace: Path, capsys: pytest.CaptureFixture, place: tuple[str, ...], key: Any
) -> None:
    """To YAML 1, yes, on and ~ are none; what sorts keys, or hands them to a call, ends with a TypeError."""
    opt: Any = options()
    section = opt
    for name in place:
        section = section[name]
    section[key] = {'type': 'calculate_psnr', 'crop_border': 0}
    write_options(workplace / 'train.yml', opt)
    assert main(['check', '-opt', 'train.yml']) == 2
    said = capsys.readouterr().out
    assert 'train.yml: 1 fault\n' in said
    assert f'1. {": ".join((*place, f"the key {key!r}"))}' in said
    assert 'put it in quotes, or take it out' in said
