"""BasicSR drives: its own SRModel with our network, in the ways that people start it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from experiment import iterations, options, run, write_options, write_pairs

SCRIPT = """
import os

import vmambair_arch
from basicsr.train import train_pipeline

if __name__ == '__main__':
    train_pipeline(os.getcwd())
"""


def make_workplace(folder: Path) -> Path:
    write_pairs(folder / 'train', 3)
    write_pairs(folder / 'val', 2)
    write_options(folder / 'train.yml', options())
    return folder


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    return make_workplace(tmp_path)


def test_an_existing_project_needs_the_import_and_the_type(workplace):
    (workplace / 'my_train.py').write_text(SCRIPT)
    first = run('my_train.py', '-opt', 'train.yml', cwd=workplace)
    assert first.returncode == 0, first.stderr
    assert iterations(first.stderr) == [1, 2, 3, 4]
    assert first.stderr.count('# psnr') == 3  # at 2, at 4, at the end
    folder = workplace / 'experiments' / 'tiny'
    assert {path.name for path in folder.glob('models/*.pth')} == {'net_g_2.pth', 'net_g_4.pth', 'net_g_latest.pth'}

    more = write_options(workplace / 'train.yml', options(train__total_iter=6))
    resumed = run('my_train.py', '-opt', more.name, '--auto_resume', cwd=workplace)
    assert resumed.returncode == 0, resumed.stderr
    assert iterations(resumed.stderr) == [5, 6]
    trained = torch.load(folder / 'models' / 'net_g_6.pth', weights_only=True)['params']
    before = torch.load(folder / 'models' / 'net_g_4.pth', weights_only=True)['params']
    assert any(not torch.equal(trained[key], before[key]) for key in trained)


def test_command_debug_and_force_yml(workplace):
    done = run(
        '-m', 'vmambair_arch', 'train', '-opt', 'train.yml', '--debug',
        '--force_yml', 'train:total_iter=2', 'train:optim_g:lr=1e-4', cwd=workplace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [1, 2]
    assert 'lr:(1.000e-04' in done.stderr
    assert (workplace / 'experiments' / 'debug_tiny' / 'models' / 'net_g_latest.pth').is_file()


def test_workers_and_a_batch_that_does_not_divide_the_data(workplace):
    """3 images in batches of 2 are one iteration an epoch; BasicSR counts two and would stop early."""
    opt = options(datasets__train__batch_size_per_gpu=2, datasets__train__num_worker_per_gpu=1, train__total_iter=5)
    write_options(workplace / 'train.yml', opt)
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [1, 2, 3, 4, 5]


@pytest.fixture(scope='module')
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_workplace(tmp_path_factory.mktemp('trained'))
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', cwd=folder)
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [1, 2, 3, 4]
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A workplace whose experiment is at iteration 4."""
    return Path(shutil.copytree(trained_once, tmp_path / 'trained'))


def test_resume_after_the_data_grew(trained):
    """The epoch of the state lies behind the last epoch of the larger data set: BasicSR would run nothing."""
    write_pairs(trained / 'train', 20)
    write_options(trained / 'train.yml', options(train__total_iter=6))
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', '--auto_resume', cwd=trained)
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [5, 6]


def test_a_truncated_state_gives_way_to_the_one_before(trained):
    state = trained / 'experiments' / 'tiny' / 'training_states' / '4.state'
    state.write_bytes(state.read_bytes()[:1000])
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', '--auto_resume', cwd=trained)
    assert done.returncode == 0, done.stderr
    assert '4.state' in done.stderr
    assert 'trying the state before it' in done.stderr
    assert iterations(done.stderr) == [3, 4]


def test_a_new_run_says_where_the_old_one_went(trained):
    write_options(trained / 'train.yml', options(train__total_iter=1))
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', cwd=trained)
    assert done.returncode == 0, done.stderr
    assert 'experiments/tiny is there, at iteration 4; it is moved to experiments/tiny_archived_' in done.stderr
    (archive,) = (trained / 'experiments').glob('tiny_archived_*')
    assert (archive / 'training_states' / '4.state').is_file()


def test_no_readable_state_is_said_and_nothing_is_moved(workplace):
    states = workplace / 'experiments' / 'tiny' / 'training_states'
    states.mkdir(parents=True)
    (states / '2.state').write_bytes(b'PK')
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', '--auto_resume', cwd=workplace)
    assert done.returncode == 2
    assert 'no state in' in done.stderr.splitlines()[-1]
    assert [path.name for path in (workplace / 'experiments').glob('[!.]*')] == ['tiny']  # and the lock of the run


TORCHRUN = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone', '-m', 'vmambair_arch.train']


def test_two_ranks_on_a_cpu(workplace):
    done = run(*TORCHRUN, '-opt', 'train.yml', '--launcher', 'pytorch', cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert iterations(done.stderr) == [1, 2, 3, 4]


def test_of_two_ranks_one_says_the_fault(workplace):
    write_options(workplace / 'train.yml', options(train__ema_dcay=0.9, model_type='VmambaIRModel'))
    done = run(*TORCHRUN, '-opt', 'train.yml', '--launcher', 'pytorch', cwd=workplace)
    assert done.returncode != 0
    assert done.stderr.count("nothing reads 'ema_dcay'") == 1
    assert not (workplace / 'experiments').exists()


def test_test_pipeline(trained):
    opt = options(train=..., logger=..., datasets__train=..., val__val_freq=..., val__suffix=None)
    opt['name'] = 'tested'
    opt['path'] = {'pretrain_network_g': 'experiments/tiny/models/net_g_latest.pth'}
    opt['val']['save_img'] = True
    write_options(trained / 'test.yml', opt)
    done = run('-m', 'vmambair_arch.test', '-opt', 'test.yml', cwd=trained)
    assert done.returncode == 0, done.stderr
    assert '# psnr' in done.stderr
    assert len(list((trained / 'results' / 'tested' / 'visualization' / 'Val').glob('*.png'))) == 2


def test_safetensors_as_pretrained_network(workplace):
    from safetensors.torch import save_file

    from vmambair_arch import VmambaIR

    net = VmambaIR(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    save_file(net.state_dict(), workplace / 'net.safetensors')
    opt = options(path__pretrain_network_g='net.safetensors', train__total_iter=1, train__optim_g__lr=1e-30)
    write_options(workplace / 'train.yml', opt)
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', cwd=workplace)
    assert done.returncode == 0, done.stderr
    saved = torch.load(workplace / 'experiments' / 'tiny' / 'models' / 'net_g_latest.pth', weights_only=True)['params']
    for key, value in net.state_dict().items():
        assert torch.allclose(saved[key], value, rtol=0, atol=1e-20), key  # one step at a rate of 1e-30


def test_launcher_without_torchrun(workplace):
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', '--launcher', 'pytorch', cwd=workplace)
    assert done.returncode == 2
    assert 'torchrun' in done.stderr
    assert 'Traceback' not in done.stderr
