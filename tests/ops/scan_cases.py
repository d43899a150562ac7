"""Inputs of the scan, and what counts as equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vmambair_arch.ops import BACKENDS, PLANE_DIRECTIONS, ScanInputs, omni_scan

NAMES = ScanInputs._fields

CPU_BACKENDS = tuple(b.name for b in BACKENDS if not b.devices or 'cpu' in b.devices)
"""Every backend that runs on CPUs. One that is missing here fails its tests: they are not to be skipped in silence."""


def scan_inputs(
    b: int,
    h: int,
    w: int,
    d: int,
    N: int,
    R: int,
    directions: Sequence[int] = PLANE_DIRECTIONS,
    delta: tuple[float, float] = (1e-3, 0.1),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random inputs in float32 whose step sizes lie around the range `delta`; A from -1 to -N as S4D starts it."""
    rng = torch.Generator().manual_seed(seed)
    K = len(directions)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    log_delta = torch.empty(K, d).uniform_(*torch.tensor(delta).log().tolist(), generator=rng)
    return {
        'x': normal(b, h, w, d),
        'x_dbl': normal(b, h, w, K * (R + 2 * N)),
        'dt_weight': normal(K, d, R) * 0.3 * R**-0.5,
        'dt_bias': log_delta.double().exp().expm1().log().float(),  # the inverse of softplus
        'A': -torch.arange(1, N + 1.0) * (0.8 + 0.4 * torch.rand(K, d, N, generator=rng)),
        'D': normal(K, d),
    }


def assert_close(got: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    """Largest deviation relative to the largest number that is expected."""
    assert got.shape == wanted.shape, name
    assert torch.isfinite(got).all(), f'{name} is not finite'
    scale = wanted.abs().max().item() + 1e-30
    worst = (got.double() - wanted.double()).abs().max().item() / scale
    assert worst <= tolerance, f'{name}: off by {worst:.1e} of the largest value, allowed {tolerance:.0e}'


def outputs_and_gradients(
    scan: Callable[..., Tensor], inputs: dict[str, Tensor], directions: Sequence[int], grad_y: Tensor
) -> dict[str, Tensor]:
    """y and the gradient of every input, by name."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    y = scan(ScanInputs(**leaves), directions)
    grads = torch.autograd.grad(y, list(leaves.values()), grad_y.to(y.dtype))
    return {'y': y.detach(), **{f'gradient of {name}': grad for name, grad in zip(NAMES, grads, strict=True)}}


class ScanNetwork(nn.Module):
    """The smallest network with a scan in it: maps (b, h, w, d) to such maps."""

    def __init__(
        self,
        d: int = 20,
        N: int = 4,
        R: int = 2,
        directions: Sequence[int] = PLANE_DIRECTIONS,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.directions, self.backend = tuple(directions), backend
        inputs = scan_inputs(1, 1, 1, d, N, R, directions)
        self.project = nn.Linear(d, inputs['x_dbl'].shape[-1])
        self.parameters_of_scan = nn.ParameterList(list(inputs.values())[2:])

    def forward(self, x: Tensor) -> Tensor:
        inputs = ScanInputs(x, self.project(x), *self.parameters_of_scan)
        return omni_scan(inputs, self.directions, backend=self.backend)


def training_step(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and parameter gradients of one training step."""
    network.zero_grad()
    y = network(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in network.parameters())]
