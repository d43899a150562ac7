"""What values make sense where: every number, flag and text of an option file that is no argument of a class of ours.

A path's entries may be patterns (`optim_*`). What a network, a loss, a metric or a data set checks itself when it is
built stands there; here stands what BasicSR or torch would take and train nonsense with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from realesrgan_pipeline.sources import TEMPLATE, is_template

from ..inference.tiles import MIN_TILE
from .keys import KeysRead, Path
from .report import Report, dotted

TEXT = {'name', 'suffix', 'project', 'resume_id', 'filename_tmpl'}
"""Keys whose value may look like a number."""

NUMBER = re.compile(r'([-+]?)(\d+\.?\d*|\.\d+)(?:[eE]([-+]?\d+))?')
LARGEST_RATE = 100.0
"""No optimiser that is known learns at a higher rate (SGD of adversarial patches and the like come to 10)."""


class Rule(NamedTuple):
    """What values a key may have.

    Attributes:
        fits: whether a value does.
        what: the same in words.
        schema: the same as a JSON schema.
    """

    fits: Callable[[Any], bool]
    what: str
    schema: Mapping[str, Any]


def is_number(value: Any) -> bool:
    """A finite number; true and false are none."""
    return type(value) in (int, float) and math.isfinite(value)


MOST = 10**9
"""No larger whole number means anything to a run."""
LARGEST_SEED = 2**32 - 2**16
"""Numpy takes seeds below 2**32, and BasicSR adds to them for each rank and worker."""
LONGEST_NAME = 200
"""Bytes of a name in UTF-8: file systems take 255, and logs, locks and archives put a time and more beside it."""


def whole(least: int, most: int = MOST) -> Rule:
    words = f'from {least} up' if most == MOST else f'from {least} to {most}'
    schema = {'type': 'integer', 'minimum': least, 'maximum': most}
    return Rule(lambda v: type(v) is int and least <= v <= most, f'a whole number {words}', schema)


def count(least: int) -> Rule:
    """As `whole`; `!!float 3e5` is one as well."""
    return Rule(
        lambda v: is_number(v) and least <= v <= 1e12 and v == int(v),
        f'a whole number from {least} up',
        {'type': 'integer', 'minimum': least},
    )


def number(least: float, most: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """A number of a range, whose ends belong to it but where `above` and `below` say otherwise."""
    bounds = {('exclusiveMinimum' if above else 'minimum'): least}
    what = f'a number {"above" if above else "from"} {least:g}'
    if math.isfinite(most):
        bounds['exclusiveMaximum' if below else 'maximum'] = most
        what += f' to {"below " if below else ""}{most:g}'
    elif not above:
        what += ' up'

    def fits(v: Any) -> bool:
        low = is_number(v) and (v > least if above else v >= least)
        return low and (v < most if below else v <= most)

    return Rule(fits, what, {'type': 'number', **bounds})


def or_none(rule: Rule) -> Rule:
    kinds = [rule.schema['type'], 'null']
    return Rule(lambda v: v is None or rule.fits(v), rule.what, {**rule.schema, 'type': kinds})


def list_of(rule: Rule, length: int | None = None, *, empty: bool = False) -> Rule:
    size = {} if length is None else {'minItems': length, 'maxItems': length}

    def fits(v: Any) -> bool:
        fine = isinstance(v, list) and all(map(rule.fits, v)) and (empty or bool(v))
        return fine and length in (None, len(v))

    several = f'a list of {length}' if length else 'a list'
    return Rule(fits, f'{several}, each {rule.what}', {'type': 'array', 'items': dict(rule.schema), **size})


def one_or_list(rule: Rule) -> Rule:
    many = list_of(rule)
    return Rule(
        lambda v: rule.fits(v) or many.fits(v),
        f'{rule.what}, or a list of them',
        {'anyOf': [dict(rule.schema), {**many.schema, 'minItems': 1}]},
    )


def one_of(*names: str) -> Rule:
    return Rule(lambda v: isinstance(v, str) and v in names, f'one of {", ".join(names)}', {'enum': list(names)})


SHARE = number(0, 1, below=True)._replace(what='a number from 0 to below 1')
FLAG = Rule(lambda v: isinstance(v, bool), 'true or false', {'type': 'boolean'})
TEXTS = Rule(
    lambda v: isinstance(v, str) and v != '',
    'text, in quotes where it looks like a number',
    {'type': 'string', 'minLength': 1},
)
NAME = Rule(
    lambda v: (
        isinstance(v, str)
        and re.fullmatch(r'(?!\.{1,2}$)[^/\\\0-\x1f]+', v) is not None
        and len(v.encode('utf-8', 'surrogatepass')) <= LONGEST_NAME
        and not re.search('[\ud800-\udfff]', v)  # bytes of a command line that the locale has no letters for
    ),
    f'the name of a folder, of at most {LONGEST_NAME} bytes, without / and \\, in quotes where it looks like a number, '
    'beyond ASCII only with a UTF-8 locale or PYTHONUTF8=1',
    {'type': 'string', 'minLength': 1, 'maxLength': LONGEST_NAME, 'pattern': r'^(?!\.{1,2}$)[^/\\]+$'},
)
SEED = whole(0, LARGEST_SEED)
SECTION = Rule(lambda v: isinstance(v, Mapping), 'a section', {'type': 'object'})
WEIGHT = number(0, 1e6)
RATE = number(0, LARGEST_RATE, above=True)

VALUES: dict[Path, Rule] = {
    ('name',): NAME,
    ('import',): Rule(
        lambda v: v is None or one_or_list(TEXTS).fits(v) or v == [],
        'the name of a package, or a list of names',
        {'anyOf': [{'type': 'string', 'minLength': 1}, {'type': 'array', 'items': dict(TEXTS.schema)}]},
    ),
    ('scale',): whole(1),
    ('num_gpu',): Rule(
        lambda v: v == 'auto' or (type(v) is int and v >= 0),
        "'auto' or a whole number from 0 up",
        {'anyOf': [{'const': 'auto'}, {'type': 'integer', 'minimum': 0}]},
    ),
    ('manual_seed',): or_none(SEED),
    ('find_unused_parameters',): FLAG,
    ('gt_size',): whole(1),
    ('queue_size',): whole(0),
    ('*_usm',): FLAG,
    ('network_*',): SECTION,
    ('network_*', 'ffn_expansion_factor'): number(0, 64, above=True),
    ('network_*', 'plane_directions'): whole(1),
    ('network_*', 'channel_directions'): whole(0),
    ('network_*', 'scale'): whole(1),
    ('network_*', 'num_in_ch'): whole(1),
    ('network_*', 'num_out_ch'): whole(1),
    ('network_*', 'num_feat'): whole(1),
    ('dist_params', 'port'): or_none(whole(1, 65535)),
    ('path', 'pretrain_network_*'): or_none(TEXTS),
    ('path', 'resume_state'): or_none(TEXTS),
    ('path', 'param_key_*'): or_none(TEXTS),
    ('path', 'strict_load_*'): FLAG,
    ('train', 'total_iter'): count(1),
    ('train', 'warmup_iter'): count(-1),
    ('train', 'ema_decay'): one_or_list(SHARE),
    ('train', 'ema_power'): number(0, 1),
    ('train', 'ema_gamma'): number(0, above=True),
    ('train', 'ema_update_after_step'): count(0),
    ('train', 'loss_schedules'): or_none(SECTION),
    ('train', 'accumulate'): whole(1),
    ('train', 'max_bad_steps'): whole(1),
    ('train', 'net_d_iters'): count(1),
    ('train', 'net_d_init_iters'): count(0),
    ('train', 'use_grad_clip'): FLAG,
    ('train', 'grad_clip'): number(0, above=True)._replace(
        what='a number above 0, the largest norm (use_grad_clip: true alone takes 0.01)'
    ),
    ('train', 'compile'): FLAG,
    ('train', 'deterministic'): FLAG,
    ('train', 'tf32'): FLAG,
    ('train', 'amp'): or_none(Rule(one_of('bf16', 'fp16').fits, 'bf16 or fp16', {'type': 'string'})),
    ('train', 'scheduler'): SECTION,
    ('train', 'scheduler_*'): or_none(SECTION),
    ('train', 'optim_*'): or_none(SECTION),
    ('train', 'optim_*', 'lr'): RATE,
    ('train', 'optim_*', 'weight_decay'): number(0, 100),
    ('train', 'optim_*', 'betas'): list_of(SHARE),
    ('train', 'optim_*', 'eps'): number(0, 1),
    ('train', 'optim_*', 'momentum'): number(0, 1),
    ('train', 'optim_*', 'decay_state_space'): FLAG,
    ('train', 'scheduler*', 'periods'): list_of(count(1)),
    ('train', 'scheduler*', 'restart_weights'): list_of(WEIGHT),
    ('train', 'scheduler*', 'eta_mins'): list_of(number(0, LARGEST_RATE)),
    ('train', 'scheduler*', 'eta_min'): number(0, LARGEST_RATE),
    ('train', 'scheduler*', 'gamma'): number(0, 1, above=True),
    ('train', 'scheduler*', 'milestones'): list_of(count(1), empty=True),
    ('train', 'scheduler*', 'restarts'): list_of(count(0), empty=True),
    ('train', '*_opt'): or_none(SECTION),
    ('train', '*_opt', 'loss_weight'): WEIGHT,
    ('train', '*_opt', '*_weight'): WEIGHT,
    ('train', '*_opt', 'criterion'): TEXTS,
    ('train', '*_opt', 'gan_type'): TEXTS,
    ('train', '*_opt', 'layer_weights'): SECTION,
    ('train', '*_opt', 'layer_weights', '*'): WEIGHT,
    ('train', '*_opt', 'use_input_norm'): FLAG,
    ('train', '*_opt', 'range_norm'): FLAG,
    ('train', '*_opt', 'real_label_val'): number(-10, 10),
    ('train', '*_opt', 'fake_label_val'): number(-10, 10),
    ('val', 'val_freq'): count(1),
    ('val', 'param_key'): TEXTS,
    ('val', 'save_img'): FLAG,
    ('val', 'pbar'): FLAG,
    ('val', 'suffix'): or_none(NAME),
    ('val', 'tile'): or_none(
        Rule(
            lambda v: type(v) is int and (v == 0 or MIN_TILE <= v <= MOST),
            f'a whole number from {MIN_TILE} up, or 0',
            {'type': 'integer', 'minimum': 0, 'maximum': MOST},
        )
    ),
    ('val', 'tile_overlap'): whole(0),
    ('val', 'metrics', '*', 'crop_border'): whole(0),
    ('val', 'metrics', '*', 'test_y_channel'): FLAG,
    ('logger', 'print_freq'): count(1),
    ('logger', 'save_checkpoint_freq'): count(1),
    ('logger', 'keep_last'): or_none(whole(0)),
    ('logger', 'use_tb_logger'): FLAG,
    ('logger', 'wandb'): or_none(SECTION),
    ('logger', 'wandb', '*'): or_none(TEXTS),
    ('datasets', '*', 'name'): NAME,
    ('datasets', '*', 'io_backend'): or_none(SECTION),
    ('datasets', '*', 'dataroot_gt'): or_none(TEXTS),
    ('datasets', '*', 'dataroot_lq'): or_none(TEXTS),
    ('datasets', '*', 'dataroot_label'): or_none(TEXTS),
    ('datasets', '*', 'dataroot_clean'): or_none(TEXTS),
    ('datasets', '*', 'sources'): or_none(list_of(SECTION)),
    ('datasets', '*', 'recursive'): or_none(FLAG),
    ('datasets', '*', 'meta_info*'): or_none(TEXTS),
    ('datasets', '*', 'pairs_file'): or_none(TEXTS),
    ('datasets', '*', 'filename_tmpl'): or_none(Rule(is_template, TEMPLATE, {'type': 'string'})),
    ('datasets', '*', 'batch_size_per_gpu'): whole(1),
    ('datasets', '*', 'crop_pad_size'): or_none(whole(1)),
    ('datasets', '*', 'num_worker_per_gpu'): whole(0, 1024),
    ('datasets', '*', 'prefetch_mode'): Rule(
        lambda v: v is None or v in ('cpu', 'cuda'), '~, cpu or cuda', {'enum': [None, 'cpu', 'cuda']}
    ),
    ('datasets', '*', 'num_prefetch_queue'): or_none(whole(1, 1024)),
    ('datasets', '*', 'manual_seed'): or_none(SEED),
    ('datasets', '*', 'gt_size'): or_none(whole(1)),
    ('datasets', '*', 'dataset_enlarge_ratio'): number(0, 1e9, above=True),
    ('datasets', '*', 'use_hflip'): FLAG,
    ('datasets', '*', 'use_rot'): FLAG,
    ('datasets', '*', 'use_shuffle'): or_none(FLAG),
    ('datasets', '*', 'cache'): or_none(FLAG),
    ('datasets', '*', 'bicubic'): or_none(FLAG),
    ('datasets', '*', 'pin_memory'): or_none(FLAG),
    ('datasets', '*', 'persistent_workers'): or_none(FLAG),
}
"""What must be a number or flag, besides the arguments that classes check themselves."""


def check_values(options: Mapping[str, Any], report: Report, known: KeysRead | None = None) -> None:
    """Every rule, and that no number anywhere is NaN or infinite.

    Args:
        options: of the file.
        report: gets what is wrong.
        known: what pipeline and model read; a key beside the data sets that nothing reads may be empty. None: all.
    """
    for path, rule in VALUES.items():
        for place, value in values_at(options, path):
            reader = known if len(path) <= 2 and path[0] != 'datasets' else None
            if value is None and reader is not None and not reader.knows(place[:-1], place[-1]):
                continue
            fault = f'{dotted(*place)} must be {rule.what}, not {value!r}'
            if not rule.fits(value) and not looks_like_number(place[-1], value) and fault not in report.faults:
                report.faults.append(fault)
    for place, value in _numbers(options):
        if not math.isfinite(value) and not report.has(dotted(*place)):
            report.faults.append(f'{dotted(*place)} must be a finite number, not {value!r}')


def without_odd_keys(section: Mapping[Any, Any], report: Report, place: Path = ()) -> dict[str, Any]:
    """The options without the keys that are no text, each of which is a fault: the rest of the check may sort keys.

    What a class takes by one of its arguments is its own affair, and stays as it is.
    """
    kept = {}
    for key, value in section.items():
        if not isinstance(key, str):
            where = f'{dotted(*place)}: ' if place else ''
            says = ' (as yes, on, no, off and ~ are to YAML)' if key is None or isinstance(key, bool) else ''
            report.faults.append(f'{where}the key {key!r}{says} is no text; put it in quotes, or take it out')
        elif isinstance(value, Mapping) and 'type' not in section:
            kept[key] = without_odd_keys(value, report, (*place, key))
        else:
            kept[key] = value
    return kept


def values_at(options: Any, path: Path, place: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values at a path whose entries may be patterns, with where they are."""
    if not path:
        yield place, options
    elif isinstance(options, Mapping):
        for key in options:
            if fnmatchcase(str(key), path[0]):
                yield from values_at(options[key], path[1:], (*place, str(key)))


def _numbers(value: Any, place: Path = ()) -> Iterator[tuple[Path, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, (*place, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, place)
    elif isinstance(value, float):
        yield place, value


def looks_like_number(key: str, value: Any) -> bool:
    return isinstance(value, str) and key not in TEXT and NUMBER.fullmatch(value) is not None
