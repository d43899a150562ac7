"""What the check says of option files with one thing wrong: python -m benchmarks.mutations

    python -m benchmarks.mutations --count 3000 --runs 40

draws changes of single values in all option files of `options/`: a key left out, misspelt, or with a value of another
kind, sign or size, a key that is there twice, and paths of folders where files belong and of files where folders do.
The files are made small first (networks, patches, pictures of noise in a temporary folder), and each changed file is
checked in this process. Two things may come of it: a line that names the key, or nothing, because the value is fine.
Counted, and printed with the change, is what may not:

- traceback: the check itself fails;
- unnamed: a new fault, and none of the new faults names the key or its section;
- python: a line in the words of Python or torch, which do not say what to write instead;
- taken twice: a key that is there twice, and passes.

`--only values|twice|paths` draws one of these alone. With `--runs`, so many of the files that pass are trained for two
iterations; one that fails is counted as `died`.
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from tqdm import tqdm

from vmambair_arch.errors import UserError, guard
from vmambair_arch.options import load_options, option_file

from .arguments import natural, positive

MISSING, MISSPELT, TWICE = object(), object(), object()
"""Changes of the key instead of its value."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 1.5, -0.5, 1e30, math.nan, math.inf, '', 'x', 'nowhere/at/all', '1e-3',
    [], [1], [-1, 'a'], [[]], {}, {'a': 1}, {'type': 'x'}, MISSING, MISSPELT,
)  # fmt: skip
PATHS = (
    'gt', 'empty', '.', '/', 'gt/0.png', 'list.txt', 'changed.yml', 'empty.lmdb', 'file.lmdb', 'list.txt/below',
    'net.pth', 'folder.pth', 'folder.png', 'locked', '/dev/null', 'loop',
)  # fmt: skip
"""What is there below the folder of a run, and is of another kind than most keys want."""
PATH_KEYS: dict[str, tuple[str, ...]] = {
    'path': ('pretrain_network_g', 'pretrain_network_d', 'resume_state'),
    'datasets': ('dataroot_gt', 'dataroot_lq', 'dataroot_label', 'dataroot_clean', 'meta_info_file', 'meta_info',
                 'pairs_file', 'filename_tmpl'),
}  # fmt: skip
"""Keys that are paths, by section; they are drawn as well where a file does not have them."""
KINDS = ('values', 'twice', 'paths')
PYTHONS_WORDS = re.compile(
    r'object is not|unsupported operand|not subscriptable|has no attribute|invalid literal|positional argument'
    r"|unexpected keyword|not iterable|must be str, not|NoneType|'>' not supported|'<' not supported|dict_keys"
    r"|\((?:Type|Attribute|Key|Index|Name|Assertion|Unbound\w*|Runtime|ZeroDivision|Overflow)Error\)|<class '|lambda"
    r'|\[Errno'
)
SIDE, PATCH = 48, 16
"""Pixels of the pictures and of the patches of a small file, where nothing is enlarged."""

Place = tuple[str, ...]


def write_pictures(folder: Path) -> None:
    """`gt`, `lq`, `lq4` (a fourth of the size) and `label`: four pictures of smooth noise each."""
    for name, side in (('gt', SIDE), ('lq', SIDE), ('lq4', SIDE // 4), ('label', SIDE)):
        (folder / name).mkdir()
        for number in range(4):
            small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f'{number}.png'), cv2.resize(small, (side, side)))


def write_others(folder: Path) -> None:
    """The rest of `PATHS`."""
    for name in ('empty', 'empty.lmdb', 'folder.pth', 'folder.png', 'locked'):
        (folder / name).mkdir()
    (folder / 'file.lmdb').write_bytes(b'no database')
    (folder / 'net.pth').write_bytes(b'no checkpoint')
    (folder / 'list.txt').write_text('0.png\n', encoding='utf-8')
    (folder / 'loop').symlink_to('loop')
    (folder / 'locked').chmod(0)


def small(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An option file as it is but for its size, on the pictures of a folder."""
    options = copy.deepcopy(options)
    for key, section in options.items():
        if key.startswith('network_') and section.get('type') == 'VmambaIR':
            section.update({'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1})
            section.pop('heads', None)
    inputs = 'lq4' if options.get('scale', 1) == 4 else 'lq'
    for section in options.get('datasets', {}).values():
        for key, place in (('gt', 'gt'), ('lq', inputs), ('label', 'label'), ('clean', 'gt')):
            if f'dataroot_{key}' in section:
                section[f'dataroot_{key}'] = str(folder / place)
        section.pop('meta_info', None)
        section.pop('meta_info_file', None)
        section.pop('persistent_workers', None)  # there are none
        for key in ('gt_size', 'batch_size_per_gpu', 'mini_batch_size', 'num_worker_per_gpu', 'dataset_enlarge_ratio'):
            if key in section:
                section[key] = {'gt_size': PATCH, 'num_worker_per_gpu': 0}.get(key, 1)
        if 'gt_sizes' in section:
            stages = len(section['gt_sizes'])
            section['gt_sizes'] = [PATCH] * stages
            section['mini_batch_sizes'] = [1] * stages
    train = options.get('train', {})
    for key in ('perceptual_opt', 'label_lpips_opt', 'lpips_opt'):  # their weights are downloads
        train.pop(key, None)
        train.get('loss_schedules', {}).pop(key.removesuffix('_opt'), None)
    for metric in [name for name in (options.get('val') or {}).get('metrics') or {} if 'lpips' in name]:
        del options['val']['metrics'][metric]
    for key in [key for key in options.get('path') or {} if key.startswith(('pretrain_', 'param_key', 'resume'))]:
        options['path'][key] = None if not key.startswith('param_key') else options['path'][key]
    options.get('logger', {})['use_tb_logger'] = False
    return options


def places(section: Mapping[str, Any], above: Place = ()) -> Iterator[Place]:
    """Where the values of an option file are."""
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, Mapping):
            yield from places(value, (*above, key))


def changed(options: dict[str, Any], place: Place, value: Any, draw: random.Random) -> tuple[dict[str, Any], str]:
    """The options with one change, and the key that a message should name."""
    options = copy.deepcopy(options)
    section = options
    for key in place[:-1]:
        section = section[key]
    key = place[-1]
    if value is MISSING:
        del section[key]
    elif value is TWICE:
        pass  # in the text of the file, see `as_yaml`
    elif value is MISSPELT:
        at = draw.randrange(len(key))
        wrong = key[:at] + draw.choice('abcdefgh_') + key[at:]
        section[wrong] = section.pop(key)
        key = wrong
    else:
        section[key] = value
    return options, key


def as_yaml(options: dict[str, Any], twice: Place = ()) -> str:
    """The text of an option file, in which the key at a place stands a second time, without a value."""
    dumper = yaml.SafeDumper(io.StringIO(), sort_keys=False)
    root = dumper.represent_data(options)
    node = root
    for key in twice:
        pairs = node.value
        node = next(value for name, value in pairs if name.value == str(key))
    if twice:
        pairs.append((dumper.represent_data(twice[-1]), dumper.represent_data(None)))
    return yaml.serialize(root, Dumper=yaml.SafeDumper)


def check(options: dict[str, Any], folder: Path, twice: Place = ()) -> list[str]:
    """The faults of an option file; whatever the check itself fails with is raised."""
    from vmambair_arch import preflight

    file = folder / 'changed.yml'
    file.write_text(as_yaml(options, twice), encoding='utf-8')
    arguments = Namespace(opt=str(file), launcher='none', auto_resume=False, debug=False, force_yml=None)
    try:
        return preflight.check(arguments).faults
    except UserError as error:
        return [str(error)]


def judge(base: list[str], faults: list[str], place: Place, key: str) -> str:
    """What is wrong with the faults of a changed file, beside those it had before; '' where nothing is."""
    new = [fault for fault in faults if fault not in base]
    if any(PYTHONS_WORDS.search(fault) for fault in new):
        return 'python'
    named = {key, *place[-2:]}
    if new and not any(any(name in fault for name in named) for fault in new):
        return 'unnamed'
    return ''


def dies(options: dict[str, Any], folder: Path) -> str:
    """The last line of two iterations of a file that passes the check, or '' where they end well."""
    options = copy.deepcopy(options)
    options['train']['total_iter'] = 2
    file = folder / 'run.yml'
    file.write_text(yaml.safe_dump(options, sort_keys=False), encoding='utf-8')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    command = [sys.executable, '-m', 'vmambair_arch.train', '-opt', str(file)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding='utf-8', check=False
    )
    lines = done.stderr.strip().splitlines() or ['']
    return '' if done.returncode == 0 else f'exit code {done.returncode}: {lines[-1][:200]}'


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """The option files of the package, made small, by name; those of tests of networks that are not there left out."""
    names = sorted(path.name for path in option_file('train_derain.yml').parent.glob('*.yml'))
    return {name: small(load_options(option_file(name)), folder) for name in names}


def drawn(options: dict[str, Any], kind: str, draw: random.Random) -> tuple[Place, Any]:
    """A place in an option file, and what is to become of it."""
    there = list(places(options))
    if kind == 'twice':
        return draw.choice(there), TWICE
    if kind == 'values':
        return draw.choice(there), draw.choice(VALUES)
    keys = [('path', key) for key in PATH_KEYS['path']]
    keys += [('datasets', phase, key) for phase in options['datasets'] for key in PATH_KEYS['datasets']]
    return draw.choice(draw.choice((there, keys))), draw.choice(PATHS)


def mutate(
    count: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], object],
    runs: int = 0,
    names: Collection[str] | None = None,
    kinds: Sequence[str] = KINDS,
) -> collections.Counter[str]:
    """Draw changes and judge what is said of each.

    Args:
        count: changes.
        seed: of the draws.
        folder: a folder of its own, for pictures and option files; the current folder is it as well, best.
        tell: gets a line for each that is wrong.
        runs: how many of those that pass are trained.
        names: of the option files to change; all by default.
        kinds: of `KINDS`, one of which is drawn for each change.

    Returns:
        how many were `refused` with a good line, `passed`, or wrong, by kind.
    """
    write_pictures(folder)
    write_others(folder)
    draw = random.Random(seed)
    sources = {name: options for name, options in files(folder).items() if names is None or name in names}
    known = {name: check(options, folder) for name, options in sources.items()}
    counts: collections.Counter[str] = collections.Counter()
    passed = []
    for _ in tqdm(range(count), desc='changes', disable=None):
        name = draw.choice(sorted(sources))
        place, value = drawn(sources[name], draw.choice(kinds), draw)
        options, key = changed(sources[name], place, value, draw)
        what = repr(value)
        for mark, words in ((MISSING, 'left out'), (MISSPELT, f'misspelt as {key}'), (TWICE, 'there twice')):
            what = words if value is mark else what
        change = f'{name}: {": ".join(place)}: {what}'
        try:
            faults = check(options, folder, place if value is TWICE else ())
        except Exception as error:
            counts['traceback'] += 1
            tell(f'traceback  {change}\n           {type(error).__name__}: {error}')
            continue
        if wrong := judge(known[name], faults, place, key):
            counts[wrong] += 1
            new = [fault for fault in faults if fault not in known[name]]
            tell(f'{wrong:10} {change}\n           ' + '\n           '.join(new[:3]))
        elif set(faults) - set(known[name]):
            counts['refused'] += 1
        else:
            counts['passed'] += 1
            if value is TWICE:
                counts['taken twice'] += 1
                tell(f'taken twice {change}')
            if not known[name] and 'train' in options:
                passed.append((change, options))
    for change, options in tqdm(draw.sample(passed, min(runs, len(passed))), desc='runs', disable=None):
        if last := dies(options, folder):
            counts['died'] += 1
            tell(f'died       {change}\n           {last}')
    return counts


def _mutate() -> int:
    parser = argparse.ArgumentParser(prog='benchmarks.mutations', description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=positive, default=3000, help='changes (default: %(default)s)')
    parser.add_argument(
        '--runs', type=natural, default=0, help='of those that pass, so many are trained for two iterations'
    )
    parser.add_argument('--seed', type=natural, default=0)
    parser.add_argument('--only', choices=KINDS, help='one kind of change alone')
    args = parser.parse_args()
    from vmambair_arch.plugin import launch

    launch.import_basicsr()
    with tempfile.TemporaryDirectory() as folder:
        home = Path.cwd()
        os.chdir(folder)  # where experiments would go
        try:
            counts = mutate(
                args.count, args.seed, Path(folder), print, args.runs, kinds=(args.only,) if args.only else KINDS
            )
        finally:
            os.chdir(home)
    print(', '.join(f'{number} {kind}' for kind, number in sorted(counts.items())))
    return 1 if set(counts) - {'refused', 'passed'} else 0


def main() -> int:
    return guard(_mutate)


if __name__ == '__main__':
    sys.exit(main())
