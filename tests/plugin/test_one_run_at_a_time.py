"""No process gets into the folder of an experiment that another trains in, and none that is gone keeps one out."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from experiment import options, write_options, write_pairs

from vmambair_arch import files
from vmambair_arch.errors import UserError
from vmambair_arch.plugin import compat, launch
from vmambair_arch.ranks.start import hold_experiment, refuse_strays

compat.apply()

HOLD = 'import sys; from vmambair_arch.ranks.start import hold_experiment; hold_experiment(sys.argv[1]); print("held", flush=True); sys.stdin.read()'  # noqa: E501


@pytest.fixture(autouse=True)
def nothing_held() -> None:
    files.unlock()


def another(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'held\n'
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / 'experiments' / 'tiny'
    process = another(folder)
    with pytest.raises(UserError, match=f'{folder} is in use by process {process.pid} on '):
        hold_experiment(folder)
    process.kill()
    process.communicate()
    hold_experiment(folder)
    hold_experiment(folder)  # its own


def test_a_run_of_a_name_in_use_ends_in_one_line_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / 'train', 2)
    write_pairs(tmp_path / 'val', 1)
    (tmp_path / 'experiments/tiny/models').mkdir(parents=True)
    process = another(tmp_path / 'experiments/tiny')
    file = write_options(tmp_path / 'tiny.yml', options())
    for auto_resume in (False, True):
        arguments = Namespace(opt=str(file), launcher='none', auto_resume=auto_resume, debug=False, force_yml=None)
        with pytest.raises(UserError, match='in use by process'):
            launch.train(arguments)
    assert [path.name for path in sorted((tmp_path / 'experiments').iterdir())] == ['.tiny.lock', 'tiny']
    process.kill()
    process.communicate()


def test_a_second_test_of_a_name_ends_in_one_line_and_leaves_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / 'val', 1)
    (tmp_path / 'results/tiny/visualization').mkdir(parents=True)
    process = another(tmp_path / 'results/tiny')
    opt = options(datasets__train=..., train=..., logger=..., datasets__test={'name': 'Test'})
    opt['datasets'] = {'test': {**opt['datasets']['val'], 'type': 'PairedValidationDataset'}}
    opt |= {'model_type': 'VmambaIRModel', 'num_gpu': 0}
    file = write_options(tmp_path / 'tiny.yml', opt)
    arguments = Namespace(opt=str(file), launcher='none', auto_resume=False, debug=False, force_yml=None)
    with pytest.raises(UserError, match=f'results/tiny is in use by process {process.pid}'):
        launch.test(arguments)
    assert [path.name for path in sorted((tmp_path / 'results').iterdir())] == ['.tiny.lock', 'tiny']
    process.kill()
    process.communicate()
    launch.test(arguments)
    hold_elsewhere = another(tmp_path / 'results/tiny')  # it was given back at the end
    hold_elsewhere.kill()
    hold_elsewhere.communicate()


def test_ranks_that_know_nothing_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(UserError, match='add --launcher pytorch'):
        refuse_strays(distributed=False)
    refuse_strays(distributed=True)


def test_a_script_without_a_guard_is_told_so_by_its_worker(tmp_path: Path) -> None:
    """Under spawn a worker imports the script, and would begin the training anew in its parent's folder."""
    (tmp_path / 'script.py').write_text(
        'import multiprocessing\n'
        'from vmambair_arch.errors import UserError\n'
        'from vmambair_arch.ranks.start import refuse_strays\n'
        'def work(): pass\n'
        'try:\n'
        '    refuse_strays(distributed=False)\n'
        'except UserError as error:\n'
        '    print(error, flush=True)\n'
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=work)\n"
        '    worker.start()\n'
        '    worker.join()\n'
    )
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "if __name__ == '__main__'" in done.stdout


def test_states_that_cannot_be_listed_are_not_a_new_experiment(tmp_path: Path) -> None:
    from vmambair_arch.plugin.resume import find_state

    (tmp_path / 'training_states').write_text('a file in the place of the folder')
    opt = {'auto_resume': True, 'path': {'experiments_root': str(tmp_path)}}
    with pytest.raises(UserError, match='cannot be listed'):
        find_state(opt)
    opt['path']['experiments_root'] = str(tmp_path / 'nothing yet')
    assert find_state(opt) is None
