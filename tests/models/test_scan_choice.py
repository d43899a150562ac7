"""One scan for all ranks, and for a run and its continuation."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from test_exact_resume import run

from vmambair_arch.models import scan_choice
from vmambair_arch.ops import BACKENDS, Choice, choose, forget
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
