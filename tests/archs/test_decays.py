"""A = -exp(A_logs) of all blocks in two launches, as on a GPU: the same bits, whatever was done to the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vmambair_arch import OSSNet, VmambaIR
from vmambair_arch.archs import oss_block

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'VmambaIR': lambda: VmambaIR(dim=8, num_blocks=[1, 1, 0, 2], num_refinement_blocks=1, d_state=4),
    'one channel': lambda: VmambaIR(dim=8, num_blocks=[1, 0, 1, 0], d_state=3, channel_width=1, scale=2),
    'no channel scan': lambda: VmambaIR(dim=8, num_blocks=[1, 0, 0, 1], channel_directions=0),
    'OSSNet': lambda: OSSNet(dim=8, num_blocks=2, d_state=4),
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oss_block, 'AT_ONCE_ON', ('cpu',))


class Operators(TorchDispatchMode):
    """The operators that run while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def one_by_one(network: nn.Module, x: Tensor) -> Tensor:
    """The result where every block computes its own."""
    before = oss_block.AT_ONCE_ON
    oss_block.AT_ONCE_ON = ()
    try:
        with torch.no_grad():
            return network(x)
    finally:
        oss_block.AT_ONCE_ON = before


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    torch.manual_seed(0)
    yield NETWORKS[request.param]().eval()
    assert oss_block._READY.get() is None


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_the_same_bits_from_fewer_launches(network, dtype, mode):
    network.to(dtype)
    x = torch.rand(1, 3, 16, 16, dtype=dtype)
    with Operators() as alone:
        wanted = one_by_one(network, x)
    with mode(), Operators() as together:
        assert torch.equal(network(x), wanted)
    scans = sum(name.endswith(('A_logs', 'Ac_logs')) for name, _ in network.named_parameters())
    assert alone.names.count('aten.exp') - together.names.count('aten.exp') == scans
    levels = {name.partition('.')[0] for name, module in network.named_modules() if name.count('.') == 1}
    assert together.names.count('aten._foreach_exp') == len(levels & {*LEVELS})


LEVELS = (
    'encoder_level1', 'encoder_level2', 'encoder_level3', 'latent', 'decoder_level3', 'decoder_level2',
    'decoder_level1', 'refinement', 'body',
)  # fmt: skip
"""Lists of blocks that run one after the other."""


def _step(network: nn.Module, x: Tensor) -> nn.Module:
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    with torch.enable_grad():
        network(x).square().sum().backward()
    optimizer.step()
    return network.eval()


def _data(network: nn.Module, x: Tensor) -> nn.Module:
    for name, parameter in network.named_parameters():
        if 'A' in name:
            parameter.data.mul_(0.5)  # as BasicSR's average does: no counter sees it
    return network


def _load(network: nn.Module, x: Tensor) -> nn.Module:
    network.load_state_dict({name: t * 0.9 for name, t in network.state_dict().items()})
    return network


def _assign(network: nn.Module, x: Tensor) -> nn.Module:
    network.load_state_dict({name: t * 0.9 for name, t in network.state_dict().items()}, assign=True)
    return network


def _average(network: nn.Module, x: Tensor) -> nn.Module:
    average = copy.deepcopy(network)
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), [p + 1 for p in network.parameters()], 0.3)
    return average


CHANGES = [_step, _data, _load, _assign, _average, lambda network, x: network.double().float()]


@pytest.mark.parametrize('change', CHANGES, ids=['step', 'data', 'load', 'assign', 'average', 'to'])
def test_nothing_is_left_of_the_weights_before(network, change):
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = network(x)
        network = change(network, x)
        after = network(x)
    assert torch.equal(after, one_by_one(network, x))
    assert change is CHANGES[-1] or not torch.equal(after, before)


def test_gradients_are_those_of_every_block(network):
    x = torch.rand(1, 3, 16, 16)
    network(x).sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if 'A' in name)


def test_an_error_in_a_block_leaves_nothing_behind(network, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError('CUDA out of memory')

    monkeypatch.setattr(oss_block, 'omni_scan', fail)
    with torch.no_grad(), pytest.raises(RuntimeError, match='out of memory'):
        network(torch.rand(1, 3, 16, 16))
    assert oss_block._READY.get() is None


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning', 'ignore::DeprecationWarning')
def test_compilers_and_exporters_see_what_they_saw():
    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, channel_directions=0).eval()
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        wanted = network(x)
        torch.testing.assert_close(torch.compile(network, backend='eager', fullgraph=True)(x), wanted)
        program = torch.export.export(network, (x,))
        traced = torch.jit.trace(network, x, check_trace=False)
    assert not any('foreach' in str(node.target) for node in program.graph.nodes)
    assert '_foreach' not in str(traced.inlined_graph)
    torch.testing.assert_close(program.module()(x), wanted)
