"""Which states a run goes on from, and which it refuses: the same line from the check and from the training."""

from __future__ import annotations

import re
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import options, write_options, write_pairs

from vmambair_arch import preflight
from vmambair_arch.errors import UserError
from vmambair_arch.plugin import compat, launch

compat.apply()

OWN = 'experiments/tiny/training_states/2.state'
NETWORK = {'type': 'VmambaIR', 'dim': 4, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 1}
WIDER = {**NETWORK, 'dim': 8}


def opt(**changes: Any) -> dict[str, Any]:
    """A run of VmambaIRModel whose weights decay, saved at 2 and 4."""
    return options(
        **{
            'model_type': 'VmambaIRModel',
            'network_g': NETWORK,
            'val': None,
            'datasets__val': ...,
            'train__optim_g__weight_decay': 0.1,
            **changes,
        }
    )


def arguments(auto_resume: bool = False, **changes: Any) -> Namespace:
    file = write_options(Path('tiny.yml'), opt(**changes))
    return Namespace(opt=str(file), launcher='none', auto_resume=auto_resume, debug=False, force_yml=None)


def train(monkeypatch: pytest.MonkeyPatch, *args: Any, **changes: Any) -> list[int]:
    """The iterations that a training made."""
    from vmambair_arch.models.vmambair_model import VmambaIRModel

    made: list[int] = []
    step = VmambaIRModel.optimize_parameters

    def optimize_parameters(self: VmambaIRModel, current_iter: int) -> None:
        made.append(current_iter)
        step(self, current_iter)

    with monkeypatch.context() as patched:
        patched.setattr(VmambaIRModel, 'optimize_parameters', optimize_parameters)
        launch.train(arguments(*args, **changes))
    return made


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Experiments of 4 iterations: `tiny`, `twin` from another seed, `wide` of another network, `plain` of BasicSR's
    own model.
    """
    folder = tmp_path_factory.mktemp('trained')
    write_pairs(folder / 'train', 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
        launch.train(arguments())
        launch.train(arguments(name='twin', manual_seed=7))
        launch.train(arguments(name='wide', network_g=WIDER))
        launch.train(arguments(name='plain', model_type='SRModel'))
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of `trained`."""
    folder = Path(shutil.copytree(trained, tmp_path / 'place'))
    monkeypatch.chdir(folder)
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    return folder


# ---------------------------------------------------------------- refused


def altered(change: Callable[[dict[str, Any]], Any], kind: str = 'tiny') -> Callable[[], None]:
    def write() -> None:
        path = Path(f'experiments/{kind}/training_states/2.state')
        state = torch.load(path, weights_only=True)
        change(state)
        torch.save(state, path)

    return write


def copied(source: str, target: str) -> Callable[[], None]:
    return lambda: shutil.copy(source, target) and None


def nothing() -> None: ...


def files() -> list[Path]:
    return sorted(path for path in Path('experiments').rglob('*') if path.suffix != '.lock')


OTHER = r'2\.state is of another network_\* or optim_\* than the options name'
REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    'no iter': (altered(lambda s: s.pop('iter')), {}, 'is not a training state: iter is missing'),
    'iter a text': (altered(lambda s: s.update(iter='2')), {}, 'iter is not a number'),
    'iter negative': (altered(lambda s: s.update(iter=-2)), {}, 'iter is not a number'),
    'no epoch': (altered(lambda s: s.pop('epoch')), {}, 'epoch is missing'),
    'no optimizers': (altered(lambda s: s.pop('optimizers')), {}, 'optimizers are missing'),
    'optimizers empty': (altered(lambda s: s.update(optimizers=[])), {}, 'optimizers are incomplete'),
    'optimizers None': (altered(lambda s: s.update(optimizers=[None])), {}, 'optimizers are incomplete'),
    'optimizer without state': (altered(lambda s: s['optimizers'][0].pop('state')), {}, 'optimizers are incomplete'),
    'groups a number': (
        altered(lambda s: s['optimizers'][0].update(param_groups=[3])),
        {},
        'optimizers are incomplete',
    ),
    'no schedulers': (altered(lambda s: s.pop('schedulers')), {}, 'schedulers are missing'),
    'scheduler without place': (
        altered(lambda s: s['schedulers'][0].pop('last_epoch')),
        {},
        'schedulers are incomplete',
    ),
    'ranks without numbers': (altered(lambda s: s.update(ranks=[{}])), {}, 'ranks are incomplete'),
    'kinds of another number': (altered(lambda s: s.update(kinds=[])), {}, 'kinds are incomplete'),
    'points of another number': (altered(lambda s: s.update(points=[])), {}, 'points are incomplete'),
    'points of other parameters': (altered(lambda s: s.update(points=[[torch.ones(1)]])), {}, 'points are incomplete'),
    'points None': (altered(lambda s: s.update(points=[None])), {}, 'points are incomplete'),
    'more optimizers than networks': (
        altered(lambda s: s.update(optimizers=s['optimizers'] * 2, kinds=None, points=None)),
        {},
        OTHER,
    ),
    'a list': (lambda: torch.save([1], OWN), {}, 'is not a training state: it holds a list'),
    'truncated': (lambda: Path(OWN).write_bytes(Path(OWN).read_bytes()[:900]), {}, 'a damaged one'),
    'network gone': (
        lambda: Path('experiments/tiny/models/net_g_2.pth').unlink(),
        {},
        r'2\.state needs .*models/net_g_2\.pth, which is missing',
    ),
    'network cut off': (
        lambda: Path('experiments/tiny/models/net_g_2.pth').write_bytes(b'PK'),
        {},
        r'2\.state needs .*models/net_g_2\.pth, which is broken',
    ),
    'a wider network_g': (nothing, {'network_g': WIDER}, r'net_g_2\.pth is of another network: \d+ parameters have'),
    'a wider network_g, not strict': (
        nothing,
        {'network_g': WIDER, 'path__strict_load_g': False},
        r'net_g_2\.pth is of another network: \d+ parameters have',
    ),
    'a deeper network_g': (
        nothing,
        {'network_g': {**NETWORK, 'num_refinement_blocks': 1}},
        r'net_g_2\.pth is of another network: \d+ parameters are missing',
    ),
    "a twin's state": (
        copied('experiments/twin/training_states/2.state', OWN),
        {},
        r'net_g_2\.pth is not the network that was saved with it',
    ),
    "a twin's network": (
        copied('experiments/twin/models/net_g_2.pth', 'experiments/tiny/models/net_g_2.pth'),
        {},
        r'net_g_2\.pth is not the network that was saved with it',
    ),
    "another network's experiment": (
        nothing,
        {'path__resume_state': 'experiments/wide/training_states/2.state'},
        r'experiments/wide/models/net_g_2\.pth is of another network',
    ),
    "another network's state": (
        altered(lambda s: s.update(torch.load('experiments/wide/training_states/2.state'), networks={})),
        {},
        OTHER,
    ),
    'another optimiser': (nothing, {'train__optim_g': {'type': 'Rprop', 'lr': 0.1}}, OTHER),
    'amsgrad': (nothing, {'train__optim_g__amsgrad': True}, 'Adam keeps max_exp_avg_sq'),
    "timm's optimiser": (
        nothing,
        {'train__optim_g': {'type': 'Lion', 'lr': 0.1, 'weight_decay': 0.1}},
        'Lion, the state is of Adam',
    ),
    'other groups': (nothing, {'train__optim_g__decay_state_space': True}, r'groups of \[\d+, \d+\] parameters'),
    "BasicSR's model": (
        nothing,
        {'model_type': 'SRModel'},
        r'groups of \[\d+, \d+\] parameters',
    ),
    'a GAN': (
        nothing,
        {
            'model_type': 'VmambaIRSRGANModel',
            'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4},
            'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
            'train__optim_d': {'type': 'Adam', 'lr': 0.001},
        },
        r'1 optimisers and 1 schedulers, the options have 2: optim_g, optim_d',
    ),
    'beyond the run': (nothing, {'train__total_iter': 1}, 'is at iteration 2, beyond train: total_iter 1'),
    'gone': (lambda: Path(OWN).unlink(), {}, f'path: resume_state: {OWN} does not exist'),
}
"""What is done to a good state, what is changed in the options, and what is said then."""


@pytest.mark.parametrize('fault', REFUSED)
def test_a_state_that_does_not_fit_is_refused_alike_by_check_and_training(place, monkeypatch, fault):
    harm, changes, expected = REFUSED[fault]
    harm()
    before = files()
    asked = arguments(**{'path__resume_state': OWN, **changes})
    (said,) = preflight.check(asked).faults
    assert re.search(expected, said)
    assert '\n' not in said
    with pytest.raises(UserError) as refused:
        launch.train(asked)
    assert refused.value.exit_code == 2
    assert str(refused.value) == said
    assert files() == before


@pytest.mark.parametrize('fault', [name for name in REFUSED if name != 'beyond the run'])
def test_a_script_without_the_check_is_refused_too(place, monkeypatch, fault):
    harm, changes, _ = REFUSED[fault]
    harm()
    monkeypatch.setattr(preflight, 'check', lambda *args: preflight.Report(''))
    with pytest.raises(UserError) as refused:
        launch.train(arguments(**{'path__resume_state': OWN, **changes}))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize('fault', ['a wider network_g', 'another optimiser', 'beyond the run'])
def test_auto_resume_of_another_network_does_not_look_for_an_older_state(place, fault):
    harm, changes, _ = REFUSED[fault]
    harm()
    report = preflight.check(arguments(auto_resume=True, **changes))
    (said,) = report.faults
    assert '4' in said
    assert not any('trying the state before' in warning for warning in report.warnings)


# ---------------------------------------------------------------- gone on from


def test_auto_resume_passes_over_a_state_without_a_part(place, monkeypatch):
    state = Path('experiments/tiny/training_states/4.state')
    torch.save({'iter': 4}, state)
    asked = arguments(auto_resume=True, train__total_iter=5)
    report = preflight.check(asked)
    assert report.faults == []
    assert any('4.state is not a training state' in w and 'trying the state before it' in w for w in report.warnings)
    assert train(monkeypatch, True, train__total_iter=5) == [3, 4, 5]


@pytest.mark.parametrize('changes', [{}, {'train__optim_g__type': 'AdamW'}, {'train__optim_g__lr': 0.1}])
def test_an_ordinary_resume_goes_on(place, monkeypatch, changes):
    assert train(monkeypatch, True, train__total_iter=5, **changes) == [5]


def test_a_state_of_the_experiment_by_name_goes_on_in_its_folder(place, monkeypatch):
    assert preflight.check(arguments(path__resume_state=OWN)).warnings == []
    assert train(monkeypatch, path__resume_state=OWN) == [3, 4]
    assert not list(Path('experiments').glob('tiny_archived*'))


@pytest.mark.parametrize('by_name', [False, True])
def test_a_renamed_experiment_goes_on(place, monkeypatch, by_name):
    Path('experiments/tiny').rename('experiments/renamed')
    named = {'path__resume_state': 'experiments/renamed/training_states/4.state'} if by_name else {}
    assert train(monkeypatch, not by_name, name='renamed', train__total_iter=5, **named) == [5]


def test_a_moved_folder_of_experiments_goes_on(place, monkeypatch):
    for link in (False, True):
        target = place / f'elsewhere{link}'
        shutil.copytree('experiments', target / 'experiments')
        shutil.copytree('train', target / 'train')
        if link:  # as with a larger disk
            (target / 'experiments/tiny').rename(target / 'large')
            (target / 'experiments/tiny').symlink_to(target / 'large')
        with monkeypatch.context() as there:
            there.chdir(target)
            assert train(monkeypatch, True, train__total_iter=5) == [5]


def test_another_experiment_of_the_network_is_gone_on_with_under_a_new_name(place, monkeypatch):
    changes = {'name': 'more', 'path__resume_state': OWN}
    report = preflight.check(arguments(**changes))
    assert report.faults == []
    assert report.warnings == [f'{OWN} is of another experiment, which this run goes on with as experiments/more']
    assert train(monkeypatch, **changes, train__optim_g__lr=1e-12) == [3, 4]
    assert sorted(path.name for path in Path('experiments/more/models').iterdir()) == [
        'net_g_4.pth',
        'net_g_latest.pth',
    ]
    begun, ended = (
        torch.load(f'experiments/{file}.pth', weights_only=True)['params']
        for file in ('tiny/models/net_g_2', 'more/models/net_g_4')
    )
    assert all(torch.allclose(begun[key], ended[key], rtol=0, atol=1e-8) for key in begun)
    assert Path('experiments/tiny/training_states/4.state').is_file()
    # Started again as it was, by a queue of jobs: from where it stands, not from where it began.
    assert train(monkeypatch, True, **changes, train__total_iter=6) == [5, 6]


def test_a_run_of_the_name_makes_room_for_one_that_goes_on_with_another(place, monkeypatch):
    changes = {'path__resume_state': 'experiments/twin/training_states/2.state'}
    (other, moved) = preflight.check(arguments(**changes)).warnings
    assert 'is of another experiment' in other
    assert 'experiments/tiny is there, at iteration 4; it is moved' in moved
    assert train(monkeypatch, **changes) == [3, 4]
    (archive,) = Path('experiments').glob('tiny_archived_*')
    assert (archive / 'training_states/4.state').is_file()
    assert not Path(OWN).exists()


def test_auto_resume_begins_with_the_state_that_is_named(place, monkeypatch):
    assert train(monkeypatch, True, name='fresh', path__resume_state=OWN) == [3, 4]


def test_a_state_kept_elsewhere_belongs_to_the_networks_of_the_experiment(place, monkeypatch):
    shutil.move(OWN, 'kept.state')
    assert preflight.check(arguments(path__resume_state='kept.state')).warnings == []
    assert train(monkeypatch, path__resume_state='kept.state') == [3, 4]


def test_a_state_with_its_network_beside_it_is_enough(place, monkeypatch):
    Path('kept').mkdir()
    shutil.move(OWN, 'kept/2.state')
    shutil.move('experiments/tiny/models/net_g_2.pth', 'kept/net_g_2.pth')
    shutil.rmtree('experiments')
    assert train(monkeypatch, path__resume_state='kept/2.state') == [3, 4]


def test_networks_that_start_afresh_need_no_file(place, monkeypatch):
    Path('experiments/tiny/models/net_g_2.pth').unlink()
    changes = {'path__resume_state': OWN, 'path__ignore_resume_networks': ['network_g']}
    assert train(monkeypatch, **changes) == [3, 4]


@pytest.mark.parametrize('kind', ['SRModel', 'VmambaIRModel'])
def test_a_state_of_plain_basicsr_goes_on(place, monkeypatch, kind):
    """Of the model that it was saved by, and of ours, where the optimiser has one group as well."""
    altered(lambda state: [state.pop(key, None) for key in ('networks', 'kinds', 'ranks')], 'plain')()
    changes = {'name': 'plain', 'path__resume_state': 'experiments/plain/training_states/2.state', 'model_type': kind}
    changes['train__optim_g__weight_decay'] = 0.0
    assert preflight.check(arguments(**changes)).faults == []
    if kind == 'VmambaIRModel':
        assert train(monkeypatch, **changes) == [3, 4]
    else:
        launch.train(arguments(**changes))
    wider = preflight.check(arguments(**changes, network_g=WIDER)).faults
    assert len(wider) == 1
    assert 'is of another network' in wider[0]
