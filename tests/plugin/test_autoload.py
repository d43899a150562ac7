"""`vmambair autoload`: plain BasicSR commands in a virtual environment of their own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from experiment import ROOT, iterations, options, run, write_options, write_pairs


@pytest.fixture(scope='module')
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that borrows the packages of the running one."""
    folder = tmp_path_factory.mktemp('autoload') / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(folder)], check=True)
    lent = f'{sysconfig.get_path("purelib")}\n{ROOT}\n'
    (site_packages(folder) / 'lent.pth').write_text(lent)
    return folder


def site_packages(venv: Path) -> Path:
    return next(venv.glob('lib/python3*/site-packages'))


def python(venv: Path) -> Path:
    return venv / 'bin' / 'python'


def tree(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def vmambair(venv: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess:
    return run('-m', 'vmambair_arch', *args, python=python(venv), cwd=cwd, PYTHONPATH='')


@pytest.fixture
def autoloaded(venv: Path, tmp_path: Path) -> Path:
    before = tree(site_packages(venv))
    done = vmambair(venv, 'autoload', 'on', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = set(tree(site_packages(venv))) - set(before)
    assert {line.removeprefix('wrote ') for line in done.stdout.splitlines()} == {
        str(site_packages(venv) / path) for path in written
    }
    yield venv
    assert vmambair(venv, 'autoload', 'off', cwd=tmp_path).returncode == 0
    assert tree(site_packages(venv)) == before
    assert vmambair(venv, 'autoload', 'off', cwd=tmp_path).stdout == ''


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    write_pairs(tmp_path / 'train', 3)
    write_pairs(tmp_path / 'val', 1)
    write_options(tmp_path / 'train.yml', options(train__total_iter=2))
    return tmp_path


def test_plain_basicsr_trains_our_network(autoloaded, workplace):
    alone = ['-m', 'basicsr.train', '-opt', 'train.yml']
    started = ['-m', 'torch.distributed.run', '--standalone', *alone, '--launcher', 'pytorch']
    resumed = ['--auto_resume', '--force_yml', 'train:total_iter=3']
    for command, expected in (alone, [1, 2]), ([*started, *resumed], [3]):
        done = run(*command, python=python(autoloaded), cwd=workplace, PYTHONPATH='')
        assert done.returncode == 0, done.stderr
        assert iterations(done.stderr) == expected
    assert (workplace / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth').is_file()


def test_plain_basicsr_meets_our_messages(autoloaded, workplace):
    (workplace / 'twice.yml').write_text('name: a\nname: b\n')
    done = run('-m', 'basicsr.test', '-opt', 'twice.yml', python=python(autoloaded), cwd=workplace, PYTHONPATH='')
    assert done.returncode == 2, done.stderr
    assert "line 2: key 'name' is there twice" in done.stderr


def test_the_hook_costs_nothing_until_basicsr_is_imported(autoloaded, tmp_path):
    code = "import sys; print([n for n in sys.modules if n.partition('.')[0] in ('vmambair_arch', 'torch', 'typing')])"
    done = run('-c', code, python=python(autoloaded), cwd=tmp_path, PYTHONPATH='')
    assert done.stdout.strip() == '[]'


def test_importing_basicsr_still_gives_its_own_train_module(autoloaded, tmp_path):
    code = 'import basicsr.train as t; print(t.train_pipeline.__module__, t.__file__)'
    done = run('-c', code, python=python(autoloaded), cwd=tmp_path, PYTHONPATH='')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == 'basicsr.train'


def test_the_hook_outlives_the_package_in_silence(autoloaded, tmp_path):
    """Uninstalled without `autoload off`: basicsr is as it was, here not importable on a current torchvision."""
    code = """
import sys
sys.path = [p for p in sys.path if p != sys.argv[1]]
import importlib.util
assert importlib.util.find_spec('vmambair_arch') is None
print(importlib.util.find_spec('basicsr').name)
"""
    done = run('-c', code, str(ROOT), python=python(autoloaded), cwd=tmp_path, PYTHONPATH='')
    assert done.stdout.strip() == 'basicsr', done.stderr


def test_outside_a_virtual_environment_it_refuses(monkeypatch):
    from vmambair_arch.errors import UserError
    from vmambair_arch.plugin import autoload

    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    with pytest.raises(UserError, match='--force'):
        autoload.turn_on()
    assert not any(path.exists() for path in autoload.files())
