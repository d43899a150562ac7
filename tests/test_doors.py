"""One reader for each thing: whatever is put in, every door gives one answer: the same pixels, or the same refusal.

The doors are `check`, `train` (two iterations), `test` (BasicSR's validation), `evaluate`, `restore` and `info`. They
are run in this process on images of a few pixels. Of an image the answer is what reaches the network; of a checkpoint
it is the restored image.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiment import change, options, write_image, write_options
from numpy.typing import NDArray
from safetensors.torch import save_file

from vmambair_arch import VmambaIR, load_model, preflight
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.describe import describe
from vmambair_arch.errors import UserError
from vmambair_arch.evaluation.evaluate import evaluate
from vmambair_arch.images.image_io import read_image
from vmambair_arch.inference.restore import restore
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.plugin import compat, launch

compat.apply()

NETWORK: dict[str, Any] = {'dim': 8, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 2}
SIDE = 16
Answer = NDArray[np.uint8] | str
"""Pixels, or the line of a refusal."""


class Doors:
    """A folder with a training and a test set of one pair each, and every way into it.

    Attributes:
        folder: the current one.
        network: the checkpoint that all doors are given.
        seen: what reached a network, (h, w, 3) uint8 each.
    """

    def __init__(self, folder: Path, network: Path) -> None:
        self.folder = folder
        self.network: str | Path = network
        self.changes: dict[str, Any] = {}
        self.seen: list[NDArray[np.uint8]] = []
        for kind in ('gt', 'lq'):
            write_image(folder / kind / 'a.png', SIDE, SIDE)

    def options(self) -> dict[str, Any]:
        opt = options(
            model_type='VmambaIRModel',
            network_g={'type': 'VmambaIR', **NETWORK},
            path__pretrain_network_g=str(self.network),
            datasets__train__type='PairedProgressiveDataset',
            datasets__train__gt_sizes=[SIDE],
            datasets__train__mini_batch_sizes=[1],
            datasets__train__iters=[2],
            datasets__train__use_hflip=False,
            datasets__train__use_rot=False,
            datasets__val__type='PairedValidationDataset',
            train__total_iter=2,
            train__optim_g__lr=1e-12,  # the weights stay as they were read
            val__save_img=True,
            logger__save_checkpoint_freq=100,
        )
        for section in ('train', 'val'):
            opt['datasets'][section] |= {'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
        return change(opt, datasets__train__gt_size=..., **self.changes)

    def arguments(self, opt: dict[str, Any]) -> Namespace:
        file = write_options(self.folder / 'tiny.yml', opt)
        return Namespace(opt=str(file), launcher='none', auto_resume=False, debug=False, force_yml=None)

    def check(self) -> str:
        """The first fault, or ''."""
        return next(iter(preflight.check(self.arguments(self.options())).faults), '')

    def train(self) -> NDArray[np.uint8]:
        launch.train(self.arguments(self.options()))
        return _pixels(self.folder / 'experiments/tiny/visualization/a/a_2.png')

    def validate(self) -> NDArray[np.uint8]:
        opt = self.options()
        del opt['train'], opt['logger'], opt['datasets']['train']
        opt['datasets'] = {'test': opt['datasets']['val']}
        launch.test(self.arguments(opt))
        return _pixels(self.folder / 'results/tiny/visualization/Val/a_tiny.png')

    def evaluate(self) -> NDArray[np.uint8]:
        evaluate([f'net={self.network}'], [['set', 'gt', 'lq']], ['psnr'], 'evaluated', device='cpu')
        return _pixels(self.folder / 'evaluated/restored/net/set/a.png')

    def restore(self) -> NDArray[np.uint8]:
        (source,) = (self.folder / 'lq').iterdir()
        restore(source, 'restored/a.png', Restorer.from_pretrained(str(self.network), device='cpu'))
        return _pixels(self.folder / 'restored/a.png')

    def info(self) -> str:
        describe(self.network)
        return ''

    def answer(self, door: str) -> Answer:
        self.seen.clear()
        try:
            return getattr(self, door)()
        except UserError as error:
            return str(error)


WITH_PIXELS = ('train', 'validate', 'evaluate', 'restore')


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.rint(read_image(path).rgb * 255).astype(np.uint8)


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Doors:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    save_checkpoint(tmp_path / 'net.safetensors', network(0))
    return Doors(tmp_path, tmp_path / 'net.safetensors')


def network(seed: int) -> VmambaIR:
    """A network that changes what it is shown, differently for every seed."""
    torch.manual_seed(seed)
    built = VmambaIR(**NETWORK)
    with torch.no_grad():
        built.output.weight.mul_(20)
    return built.eval()


# ---------------------------------------------------------------- checkpoints


def _prefixed(*prefixes: str) -> Callable[[], dict[str, Any]]:
    return lambda: {'params': {''.join(prefixes) + k: v for k, v in network(1).state_dict().items()}}


SAME = {
    'bare': lambda: network(1).state_dict(),
    'state_dict': lambda: {'state_dict': network(1).state_dict(), 'epoch': 3},
    'params': lambda: {'params': network(1).state_dict()},
    'params_ema alone': lambda: {'params_ema': network(1).state_dict()},
    'params_ema None': lambda: {'params': network(1).state_dict(), 'params_ema': None},
    'params and params_ema': lambda: {'params': network(2).state_dict(), 'params_ema': network(1).state_dict()},
    'module.': _prefixed('module.'),
    '_orig_mod.': _prefixed('_orig_mod.'),
    'module._orig_mod.': _prefixed('module.', '_orig_mod.'),
    '_orig_mod.module.': _prefixed('_orig_mod.', 'module.'),
}
"""Files that hold the parameters of network(1)."""


@pytest.mark.parametrize('form', [*SAME, 'safetensors'])
def test_every_door_reads_a_checkpoint_alike(doors: Doors, form: str) -> None:
    save_checkpoint(doors.folder / 'plain.safetensors', network(1))
    doors.network = doors.folder / 'plain.safetensors'
    expected = doors.restore()
    if form == 'safetensors':
        save_file(network(1).state_dict(), doors.folder / 'net.safetensors')
        doors.network = doors.folder / 'net.safetensors'
    else:
        torch.save(SAME[form](), doors.folder / 'net.pth')
        doors.network = doors.folder / 'net.pth'
    assert doors.check() == ''
    assert doors.info() == ''
    for door in WITH_PIXELS:
        np.testing.assert_array_equal(doors.answer(door), expected, err_msg=f'{form}: {door}')


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flipped(path: Path) -> None:
    """One bit of the parameters."""
    data = bytearray(path.read_bytes())
    weight = network(1).state_dict()['output.weight'].numpy().tobytes()
    data[data.index(weight) + len(weight) // 2] ^= 16
    path.write_bytes(data)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    'truncated': (_truncated, 'net.pth: not a checkpoint, or a damaged one'),
    'a bit flipped': (_flipped, 'net.pth: not a checkpoint, or a damaged one'),
    'empty': (lambda path: path.write_bytes(b''), 'net.pth: not a checkpoint, or a damaged one'),
    'text': (lambda path: path.write_text('hello'), 'net.pth: not a checkpoint, or a damaged one'),
    'gone': (lambda path: path.unlink(), 'net.pth: no such checkpoint file'),
    'no parameters': (lambda path: torch.save({'params': {}}, path), 'net.pth: holds no state dict'),
    'an optimiser': (lambda path: torch.save({'iter': 3, 'optimizers': []}, path), 'net.pth: holds no state dict'),
}
"""What is done to a good file, and what every door says then."""


@pytest.mark.parametrize('fault', REFUSED)
def test_every_door_refuses_a_checkpoint_alike(doors: Doors, fault: str) -> None:
    doors.network = doors.folder / 'net.pth'
    torch.save({'params': network(1).state_dict()}, doors.network)
    harm, expected = REFUSED[fault]
    harm(doors.network)
    answers = {door: doors.answer(door) for door in ('check', 'train', 'validate', 'restore', 'info')}
    said = {str(answer).removeprefix('path: pretrain_network_g: ') for answer in answers.values()}
    assert len(said) == 1, answers
    assert expected in said.pop()


def test_an_altered_file_is_refused_by_its_own_checksum_at_every_door(doors: Doors) -> None:
    doors.network = doors.folder / 'net.safetensors'
    save_checkpoint(doors.network, network(1))
    _flipped(doors.network)
    for door in ('check', 'train', 'validate', 'evaluate', 'restore', 'info'):
        assert 'the parameters are not those that its sha256 was taken of' in doors.answer(door), door
    with pytest.raises(UserError, match='sha256'):
        load_model(doors.network)


def test_half_precision_is_the_same_network_at_every_door(doors: Doors) -> None:
    doors.network = doors.folder / 'half.safetensors'
    save_checkpoint(doors.network, network(1), half=True)
    assert doors.check() == ''
    first, *others = [doors.answer(door) for door in WITH_PIXELS]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_name_of_the_package_is_read_at_every_door(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('vmambair_arch.checkpoints.find.WEIGHTS', doors.folder)
    doors.network = 'net'
    assert doors.check() == ''
    first, *others = [doors.answer(door) for door in WITH_PIXELS]
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert load_model('net').config['dim'] == 8


def test_a_file_of_two_sets_may_be_read_as_the_option_file_says(doors: Doors) -> None:
    doors.network = doors.folder / 'two.pth'
    torch.save({'params': network(2).state_dict(), 'params_ema': network(1).state_dict()}, doors.network)
    averaged = doors.validate()
    doors.changes = {'path__param_key_g': 'params'}
    as_trained = doors.validate()
    assert (averaged != as_trained).any()
    save_checkpoint(doors.folder / 'other.safetensors', network(2))
    doors.network, doors.changes = doors.folder / 'other.safetensors', {}
    np.testing.assert_array_equal(doors.validate(), as_trained)


def test_what_is_not_strict_must_still_load_something(doors: Doors) -> None:
    """And what was left out is one warning with counts."""
    doors.changes = {'path__strict_load_g': False}
    doors.network = doors.folder / 'other.pth'
    torch.save({'params': {f'other.{k}': v for k, v in network(1).state_dict().items()}}, doors.network)
    assert 'fills only 0.0% of this one' in doors.check()
    assert 'fills only 0.0% of this one' in doors.answer('validate')
    state = network(1).state_dict()
    state['unknown'] = state.pop('output.weight')
    torch.save({'params': state}, doors.network)
    report = preflight.check(doors.arguments(doors.options()))
    assert report.faults == []
    (warning,) = (line for line in report.warnings if 'left out' in line)
    assert '1 parameters are missing (output.weight' in warning
    assert '1 parameters are unknown (unknown' in warning
    assert isinstance(doors.answer('validate'), np.ndarray)
