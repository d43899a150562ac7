"""A deepened network is the one that it was, and its new blocks learn."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import deepen
from vmambair_arch import OSSNet, VmambaIR
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.deepen import LAST, deepened
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.errors import guard

SMALL = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'd_state': 4}


@pytest.mark.parametrize('changes', [{}, {'scale': 4}, {'bias': True}, {'pointwise': 'linear'}])
def test_it_computes_the_same_and_learns(changes):
    torch.manual_seed(0)
    network = VmambaIR(**SMALL | changes).eval()
    deeper = deepened(network, 3)
    assert len(deeper.refinement) == 3
    x = torch.rand(1, 3, 17, 24)
    torch.testing.assert_close(deeper(x), network(x), rtol=0, atol=0)
    deeper(x).square().mean().backward()
    assert all(
        parameter.grad.abs().max() > 0 for name, parameter in deeper.refinement[2].named_parameters() if name in LAST
    )


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['deepen', *map(str, arguments)])
    return guard(deepen.main)


def test_the_command_writes_what_a_training_starts_from(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / 'a.pth', VmambaIR(**SMALL))
    assert run(monkeypatch, tmp_path / 'a.pth', tmp_path / 'b.pth', '--refinement', 2) == 0
    assert load_model(tmp_path / 'b.pth').config['num_refinement_blocks'] == 2


@pytest.mark.parametrize(('network', 'blocks'), [(VmambaIR(**SMALL), 1), (OSSNet(dim=8, num_blocks=1), 3)])
def test_what_cannot_be_deepened_is_a_line(network, blocks, tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / 'a.pth', network)
    assert run(monkeypatch, tmp_path / 'a.pth', tmp_path / 'b.pth', '--refinement', blocks) == 2
    assert 'refinement blocks' in capsys.readouterr().err
    assert not (tmp_path / 'b.pth').exists()


def test_a_network_is_not_replaced_by_its_deeper_one(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / 'a.pth', VmambaIR(**SMALL))
    assert run(monkeypatch, tmp_path / 'a.pth', tmp_path / 'a.pth', '--refinement', 2) == 2
    assert 'would be overwritten' in capsys.readouterr().err
    assert load_model(tmp_path / 'a.pth').config['num_refinement_blocks'] == 1
