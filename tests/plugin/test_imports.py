"""A package of the user's own: `import: [mypkg]` in the option file, or `--import mypkg`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiment import iterations, options, run, write_options, write_pairs
from test_registration import STUB

from vmambair_arch.cli import main
from vmambair_arch.plugin import compat

compat.apply()

NET = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class MyNet(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3, 1, 1), torch.nn.Conv2d(width, 3, 3, 1, 1))

    def forward(self, x):
        return x + self.body(x)
"""
DATA = """
import random
import torch
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class MyPairs(torch.utils.data.Dataset):
    def __init__(self, opt):
        self.opt = opt
        self.level = opt['level']

    def __len__(self):
        return 7

    def __getitem__(self, index):
        gt = torch.full((3, 16, 16), index / 7)
        return {'gt': gt, 'lq': gt + self.level * random.random() + 0.1 * torch.rand(1), 'lq_path': 'a', 'gt_path': 'a'}
"""
LOSS = """
from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY
from basicsr.losses.basic_loss import L1Loss

@LOSS_REGISTRY.register()
class MyLoss(L1Loss):
    pass

@METRIC_REGISTRY.register()
def my_metric(img, img2, crop_border=0, **kwargs):
    return float(abs(img.astype(float) - img2).mean())
"""
TYPES = {
    'network_g': {'type': 'MyNet', 'width': 3},
    'datasets__train': {
        'name': 'Mine', 'type': 'MyPairs', 'level': 0.1, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2,
    },
    'train__pixel_opt': {'type': 'MyLoss'},
    'val__metrics': {'mine': {'type': 'my_metric', 'better': 'lower'}},
}  # fmt: skip


def write_package(folder: Path, name: str = 'mypkg', **modules: str) -> None:
    package = folder / name
    package.mkdir(parents=True)
    modules = modules or {'my_arch': NET, 'my_dataset': DATA, 'my_loss': LOSS}
    for module, text in modules.items():
        (package / f'{module}.py').write_text(text)
    (package / '__init__.py').write_text(''.join(f'from . import {module}\n' for module in modules))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package; what is imported and registered is forgotten afterwards."""
    from basicsr.utils import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if entry not in ('', str(tmp_path))])
    for part in ('ARCH', 'DATASET', 'LOSS', 'METRIC', 'MODEL'):
        known = getattr(registry, f'{part}_REGISTRY')
        monkeypatch.setattr(known, '_obj_map', dict(known._obj_map))
    write_pairs(tmp_path / 'train', 3)
    write_pairs(tmp_path / 'val', 1)
    write_package(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith(('vmambair_arch', 'basicsr', 'torch')):
            del sys.modules[name]


@pytest.fixture
def check(workplace: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    def check(*arguments: str, **changes: Any) -> tuple[int, str]:
        write_options(workplace / 'train.yml', options(**TYPES | changes))
        code = main(['check', '-opt', 'train.yml', *arguments])
        said = capsys.readouterr()
        assert 'Traceback' not in said.out + said.err
        return code, said.out + said.err

    return check


def test_without_the_package_the_check_names_the_remedy(check: Callable[..., tuple[int, str]]) -> None:
    code, said = check()
    assert code == 2
    for name in ('MyNet', 'MyPairs', 'MyLoss', 'my_metric'):
        (line,) = (line for line in said.splitlines() if f"there is no '{name}'" in line)
        assert 'import: [package]' in line
        assert '--import package' in line


@pytest.mark.parametrize(
    ('arguments', 'changes'),
    [
        (('--import', 'mypkg'), {}),
        ((), {'import': ['mypkg']}),
        ((), {'import': 'mypkg'}),
        ((), {'import': ['mypkg.my_arch', 'mypkg']}),
        (('--import', 'mypkg.my_arch', '--import', 'mypkg'), {'import': None}),
        (('--force_yml', 'import=[mypkg]'), {}),
    ],
)
def test_with_it_there_is_no_fault(
    check: Callable[..., tuple[int, str]], arguments: tuple[str, ...], changes: dict[str, Any]
) -> None:
    code, said = check(*arguments, **changes)
    assert code == 0, said
    assert "nothing reads 'import'" not in said


BAD = {
    'missing': (['nopkg'], ("there is no module 'nopkg'", 'install it')),
    'a part is missing': (['mypkg.nothing'], ("there is no module 'mypkg.nothing'",)),
    'misses another': (['needs'], ("No module named 'surely_not_there'", 'needs', 'line 2')),
    'raises': (['raises'], ('no licence (RuntimeError at', 'part.py, line 3')),
    'exits': (['exits'], ('SystemExit at', 'part.py, line 1')),
    'does not parse': (['wrong'], ('SyntaxError at', 'part.py, line 1')),
    'a name that is taken': (['taken'], ("'RRDBNet' was already registered", 'part.py, line 4')),
    'a path': (['./mypkg'], ('./mypkg: not the name of a package',)),
    'a file': (['mypkg.py '], ('not the name of a package',)),
    'an empty name': ([''], ('not the name of a package',)),
    'a number': (3, ('must be the name of a package, or a list of names, not 3',)),
    'a list of numbers': ([1], ('must be the name of a package, or a list of names',)),
    'a section': ({'mypkg': 1}, ('must be the name of a package',)),
}
PACKAGES = {
    'needs': '\nimport surely_not_there\n',
    'raises': "def f():\n    # far down\n    raise RuntimeError('no\\nlicence')\nf()\n",
    'exits': 'raise SystemExit(5)\n',
    'wrong': 'class :\n',
    'taken': 'from basicsr.utils.registry import ARCH_REGISTRY as a\nclass RRDBNet: pass\n\na.register(RRDBNet)\n',
}


@pytest.mark.parametrize('command', ['check', 'train', 'test'])
@pytest.mark.parametrize('kind', BAD)
def test_a_package_that_cannot_be_imported_is_one_line(
    workplace: Path, capsys: pytest.CaptureFixture, kind: str, command: str
) -> None:
    for name, text in PACKAGES.items():
        write_package(workplace, name, part=text)
    names, expected = BAD[kind]
    write_options(workplace / 'train.yml', options(**TYPES | {'import': names}))
    assert main([command, '-opt', 'train.yml']) == 2
    said = capsys.readouterr()
    (line,) = (said.out + said.err).splitlines()
    assert all(words in line for words in expected), line
    assert not (workplace / 'experiments').exists()


def test_profile_knows_it_too(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    write_options(workplace / 'train.yml', options(**TYPES | {'import': ['mypkg']}))
    assert main(['profile', 'train.yml', '--sizes', '8', '--repeats', '1']) == 0
    assert main(['profile', 'MyNet', '--import', 'mypkg', '--sizes', '8', '--repeats', '1']) == 0
    assert 'MyNet' in capsys.readouterr().out


SPAWNING = """
import sys, torch.multiprocessing
from vmambair_arch.plugin import launch
if __name__ == '__main__':
    torch.multiprocessing.set_start_method('spawn')
    sys.exit(launch.main(launch.train))
"""


def test_ranks_and_spawned_workers_know_it(workplace: Path) -> None:
    """Torchrun, two ranks, each with a worker that starts as a new process."""
    (workplace / 'start.py').write_text(SPAWNING)
    changes = {'datasets__train__num_worker_per_gpu': 1, 'datasets__train__persistent_workers': True}
    changes |= {'import': ['mypkg'], 'train__total_iter': 1, 'val__val_freq': 1}
    write_options(workplace / 'train.yml', options(**TYPES | changes))
    torchrun = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone', 'start.py']
    done = run(*torchrun, '-opt', 'train.yml', '--launcher', 'pytorch', cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [1]
    assert '# mine' in done.stderr


@pytest.mark.parametrize('first', ['mypkg', 'vmambair_arch'])
def test_the_order_of_imports_does_not_matter(tmp_path: Path, first: str) -> None:
    """Names that both have stand for the user's own, whoever is imported first; the rest of both is there."""
    theirs = """
        from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
        @ARCH_REGISTRY.register()
        class VmambaIR: pass
        @ARCH_REGISTRY.register()
        class MyNet: pass
        @LOSS_REGISTRY.register()
        class FFTLoss: pass
        @METRIC_REGISTRY.register()
        def calculate_psnr_y(img, img2): pass
        @MODEL_REGISTRY.register()
        class VmambaIRModel: pass
        """
    write_package(tmp_path, part='\n'.join(line.strip() for line in theirs.splitlines()))
    packages = ['mypkg', 'vmambair_arch'] if first == 'mypkg' else ['vmambair_arch', 'mypkg']
    program = STUB + '\n'.join(f'import {package}' for package in packages)
    program += """
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
for registry, names in (
    (ARCH_REGISTRY, ('VmambaIR', 'MyNet', 'OSSNet')), (LOSS_REGISTRY, ('FFTLoss', 'EdgeLoss')),
    (MODEL_REGISTRY, ('VmambaIRModel', 'VmambaIRRealSRModel')),
):
    for name in names:
        print(name, registry.get(name).__module__.partition('.')[0])
"""
    done = run('-c', program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == {
        'VmambaIR': 'mypkg', 'MyNet': 'mypkg', 'OSSNet': 'vmambair_arch', 'FFTLoss': 'mypkg',
        'EdgeLoss': 'vmambair_arch', 'VmambaIRModel': 'mypkg', 'VmambaIRRealSRModel': 'vmambair_arch',
    }  # fmt: skip
    assert "'FFTLoss' is that of mypkg.part" in done.stderr
