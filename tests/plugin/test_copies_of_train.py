"""A project that runs its own copy of `basicsr/train.py` trains on what our launcher trains on, and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import ROOT, options, run, write_options, write_pairs

from vmambair_arch.errors import UserError
from vmambair_arch.plugin import compat

compat.apply()

SPY = """
import hashlib, json, sys
from basicsr.data.prefetch_dataloader import CPUPrefetcher

seen, original = [], CPUPrefetcher.next

def next(self):
    batch = original(self)
    if batch is not None:
        seen.append(hashlib.sha256(batch['lq'].numpy().tobytes() + batch['gt'].numpy().tobytes()).hexdigest())
    return batch

CPUPrefetcher.next = next
"""
DRIVER = """
import json, runpy, sys, types

from torchvision.transforms.functional import rgb_to_grayscale

name = 'torchvision.transforms.functional_tensor'  # as in a torchvision with which BasicSR imports by itself
sys.modules[name] = types.ModuleType(name)
sys.modules[name].rgb_to_grayscale = rgb_to_grayscale
script, told = sys.argv[1:]
for arguments, file in json.loads(told):
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name='__main__')
    except SystemExit as end:
        assert not end.code, end.code
    import spy
    with open(file, 'w') as out:
        json.dump(spy.seen, out)
    spy.seen.clear()
"""
LAUNCHER = """
import sys
import vmambair_arch
import spy
from vmambair_arch.plugin import launch

if __name__ == '__main__':
    sys.exit(launch.main(launch.train))
"""
IMPORT = 'import vmambair_arch\nimport spy\n'
LAST = 'from basicsr.utils.options import copy_opt_file, dict2str, parse_options\n'
NETWORK = {'type': 'VmambaIR', 'dim': 4, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 1}
DATA = ('PairedProgressiveDataset', 'PairedImageDataset')


def verbatim() -> str:
    import basicsr.train

    return Path(basicsr.train.__file__).read_text()


def changed() -> str:
    """One that a project went on with: neither function is BasicSR's any more."""
    text = verbatim().replace(LAST, LAST + IMPORT)
    for old, new in (
        ('        device_id = torch.cuda.current_device()\n', "        print('our own way')\n"),
        ('map_location=lambda storage, loc: storage.cuda(device_id)', "map_location='cpu'"),
        ('    train_loader, val_loaders = None, []\n', "    train_loader, val_loaders = None, []\n    print('ours')\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def inlined() -> str:
    """As before BasicSR 1.3: the state is loaded in the pipeline itself."""
    old = '    resume_state = load_resume_state(opt)\n'
    text = changed()
    assert old in text
    new = (
        "    resume_state = None\n    if opt['auto_resume']:\n"
        '        path = f"experiments/{opt[\'name\']}/training_states/2.state"\n'
        "        resume_state = torch.load(path, map_location='cpu')\n"
        "        check_resume(opt, resume_state['iter'])\n"
    )
    return text.replace(old, new)


SCRIPTS = {
    'first import': lambda: IMPORT + verbatim(),
    'last import': lambda: verbatim().replace(LAST, LAST + IMPORT),
    'changed': changed,
    'inlined': inlined,
}


def batches(folder: Path, script: str) -> dict[str, tuple[list[str], list[str]]]:
    """What is trained on from each data set: 4 iterations, and what follows a resume at the second."""
    write_pairs(folder / 'train', 8)
    (folder / 'own').mkdir()
    (folder / 'own' / 'train.py').write_text(script)
    (folder / 'spy.py').write_text(SPY)
    (folder / 'driver.py').write_text(DRIVER)
    tasks = []
    for name in DATA:
        opt = options(name=name, network_g=NETWORK, datasets__train__type=name, val=None, datasets__val=...)
        for suffix, arguments in (('', []), ('again', ['--auto_resume'])):
            file = str(write_options(folder / f'{name}.yml', opt))
            tasks.append((['-opt', file, *arguments], f'{name}{suffix}.json'))
    seen = {}
    for part in (tasks[::2], tasks[1::2]):
        done = run('driver.py', 'own/train.py', json.dumps(part), cwd=folder, PYTHONPATH=f'{folder}:{ROOT}')
        assert done.returncode == 0, done.stderr[-2000:]
        for name in DATA:
            (folder / 'experiments' / name / 'training_states' / '4.state').unlink()
    for name in DATA:
        whole, again = (json.loads((folder / f'{name}{suffix}.json').read_text()) for suffix in ('', 'again'))
        seen[name] = whole, again
    return seen


@pytest.fixture(scope='module')
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], list[str]]]:
    return batches(tmp_path_factory.mktemp('ours'), LAUNCHER)


@pytest.mark.parametrize('kind', SCRIPTS)
def test_a_copy_trains_on_the_same_and_resumes(tmp_path: Path, ours: dict[str, Any], kind: str) -> None:
    theirs = batches(tmp_path, SCRIPTS[kind]())
    for name in DATA:
        wanted = ours[name][0][:4]
        assert len(set(wanted)) == 4
        assert theirs[name][0][:4] == wanted, name
        if kind == 'inlined' and name == 'PairedImageDataset':
            continue  # its epoch begins anew, as in BasicSR
        assert theirs[name][1][:2] == wanted[2:] == ours[name][1][:2], name


# ---------------------------------------------------------------- the net below


def section(folder: Path, kind: str, **more: Any) -> dict[str, Any]:
    write_pairs(folder / 'train', 3)
    return {
        'name': 'mine', 'type': kind, 'phase': 'train', 'scale': 1, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1,
        'dataroot_gt': str(folder / 'train' / 'gt'), 'dataroot_lq': str(folder / 'train' / 'lq'), **more,
    }  # fmt: skip


NUMBERED = {
    'of one size': ('PairedProgressiveDataset', {'gt_size': 8}),
    'of stages': ('PairedProgressiveDataset', {'gt_sizes': [8], 'mini_batch_sizes': [2], 'iters': [9]}),
    'photographs': ('RealESRGANPipelineDataset', {'crop_pad_size': 16}),
}


@pytest.mark.parametrize('kind', NUMBERED)
def test_a_data_set_that_was_told_nothing_of_the_run_says_so(tmp_path: Path, kind: str) -> None:
    from basicsr.data import build_dataset

    name, more = NUMBERED[kind]
    opt = section(tmp_path, name, **more)
    with pytest.raises(UserError, match=r'^data set mine: was not told total_iter.*vmambair_arch\.train'):
        build_dataset(opt)
    assert len(build_dataset(opt | {'total_iter': 5})) == 5


@pytest.mark.parametrize('sampler', [None, torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler])
@pytest.mark.parametrize('kind', NUMBERED)
def test_a_data_set_of_iterations_is_asked_in_its_order(tmp_path: Path, kind: str, sampler: Any) -> None:
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler

    name, more = NUMBERED[kind]
    opt = section(tmp_path, name, total_iter=5, **more)
    dataset = build_dataset(opt)
    with pytest.raises(
        UserError, match='data set mine: its items are iterations in their order, and .*EnlargedSampler'
    ):
        build_dataloader(dataset, opt, num_gpu=0, sampler=sampler and sampler(dataset))
    assert len(build_dataloader(dataset, opt, num_gpu=0, sampler=EnlargedSampler(dataset, 1, 0))) == 5
