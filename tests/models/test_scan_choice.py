"""One scan for all ranks, and for a run and its continuation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import pytest
import torch
from test_exact_resume import run

from vmambair_arch.models import scan_choice
from vmambair_arch.ops import BACKENDS, Choice, choose, choose_depthwise, depthwise, forget
from vmambair_arch.ops.self_check import Verdict

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv('VMAMBAIR_SCAN', raising=False)
    forget()
    yield
    forget()


def test_rank_1_uses_what_rank_0_chose(monkeypatch):
    monkeypatch.setattr(scan_choice, 'gather', lambda own: [{'float32': 'torch'}, own])
    assert scan_choice.agree(CPU, [torch.float32], 1, False) == {'float32': 'torch'}
    assert choose(CPU, torch.float32).why == 'the choice of rank 0'


def test_a_choice_that_cannot_be_had_is_said(caplog, monkeypatch):
    monkeypatch.setattr(scan_choice.get_root_logger(), 'propagate', True)
    with caplog.at_level(logging.WARNING, 'basicsr'):
        used = scan_choice.use({'float32': 'mamba'}, CPU, 'that of the training state')
    assert used == {'float32': choose(CPU, torch.float32).backend.name}
    assert "The scan 'mamba' in float32 is that of the training state, but not to be had on cpu" in caplog.text


def test_what_is_to_repeat_itself_takes_a_scan_that_does():
    by_name = {backend.name: backend for backend in BACKENDS}
    verdicts = (
        Verdict('triton', 'wrong', 'a reason'),
        Verdict('mamba', 'right', repeatable=False),
        Verdict('torch', 'right'),
    )
    assert scan_choice._repeatable(Choice(by_name['mamba'], '', (), verdicts)) == 'torch'
    assert scan_choice._repeatable(Choice(by_name['triton'], '', (), ())) == 'triton'


def test_a_state_brings_its_scan_along(build, options):
    del options['val']
    model = build()
    assert model.scans == {'float32': choose(CPU, torch.float32).backend.name}
    model.scans = {'float32': 'torch'}
    run(model, 1, 1, save_at=1)
    state = torch.load(f'{options["path"]["training_states"]}/1.state', weights_only=True)
    assert state['scans'] == {'float32': 'torch'}
    resumed = build()
    resumed.resume_training(state)
    assert resumed.scans == {'float32': 'torch'}
    assert choose(CPU, torch.float32).why == 'that of the training state'


def test_a_state_from_before_is_read(build, options):
    del options['val']
    model = build()
    run(model, 1, 1, save_at=1)
    state = torch.load(f'{options["path"]["training_states"]}/1.state', weights_only=True)
    del state['scans']
    build().resume_training(state)


@pytest.fixture
def ways(monkeypatch):
    """Depthwise convolutions that have a choice on the CPU, as on a GPU: 'triton' is there and found right."""

    def verdicts(device, dtype, candidates, fresh):
        return tuple(Verdict(candidate.name, 'right') for candidate in candidates)

    monkeypatch.delenv(depthwise.ENV, raising=False)
    monkeypatch.setattr(depthwise, 'DEVICES', ('cuda', 'cpu'))
    here = dataclasses.replace(scan_choice.CONVOLUTIONS, devices=('cuda', 'cpu'))
    monkeypatch.setattr(scan_choice, 'CONVOLUTIONS', here)
    monkeypatch.setattr(depthwise.Backend, 'unavailable', lambda way, device, dtype: None)
    monkeypatch.setattr(depthwise.self_check, 'check', verdicts)
    depthwise.forget_depthwise()
    yield
    depthwise.forget_depthwise()


def test_rank_1_convolves_as_rank_0_chose(ways, monkeypatch):
    monkeypatch.setattr(scan_choice, 'gather', lambda own: [{'float32': 'torch'}, own])
    assert choose_depthwise(CPU, torch.float32).backend.name == 'triton', 'its own choice'
    assert scan_choice.agree(CPU, [torch.float32], 1, False, scan_choice.CONVOLUTIONS) == {'float32': 'torch'}
    choice = choose_depthwise(CPU, torch.float32)
    assert (choice.backend.name, choice.why) == ('torch', 'the choice of rank 0')


def test_a_state_brings_its_convolutions_along(ways, build, options, monkeypatch):
    del options['val']
    model = build()
    assert model.convolutions == {'float32': 'triton'}
    model.convolutions = {'float32': 'torch'}
    state = model._state(1, [], {}, [[]])
    assert state['convolutions'] == {'float32': 'torch'}
    resumed = build()
    resumed.resume_training(state)
    assert resumed.convolutions == {'float32': 'torch'}
    assert choose_depthwise(CPU, torch.float32).why == 'that of the training state'


@pytest.mark.parametrize(
    ('name', 'setting', 'said'),
    [('triton', 'torch', 'VMAMBAIR_DEPTHWISE=torch is set'), ('magic', '', "there is no backend 'magic'")],
)
def test_convolutions_that_cannot_be_had_are_said(ways, caplog, monkeypatch, name, setting, said):
    monkeypatch.setenv(depthwise.ENV, setting)
    own = choose_depthwise(CPU, torch.float32).backend.name
    monkeypatch.setattr(scan_choice.get_root_logger(), 'propagate', True)
    with caplog.at_level(logging.WARNING, 'basicsr'):
        used = scan_choice.use({'float32': name}, CPU, 'that of the training state', scan_choice.CONVOLUTIONS)
    assert used == {'float32': own}
    assert f"The depthwise convolution '{name}' in float32" in caplog.text
    assert said in caplog.text


def test_on_a_cpu_convolutions_leave_no_choice(build, options):
    del options['val']
    assert build().convolutions == {}


@pytest.fixture
def flags() -> Iterator[None]:
    """torch's switches as they were."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


def test_deterministic_and_tf32_turn_the_switches_of_torch(build, flags):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.benchmark, cudnn.deterministic = True, False  # as BasicSR leaves them
    build()
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    build(deterministic=True, tf32=True)
    assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    build(tf32=False)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
