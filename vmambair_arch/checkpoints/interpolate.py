"""A network between two: their parameters averaged, as between a careful and a bold one (ESRGAN, section 3.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..archs import VmambaIR
from ..archs.base import Network
from ..errors import UserError
from ..files import check_apart
from .convert import save_checkpoint
from .deepen import deepened
from .find import find_checkpoint
from .load import CLAIMS, build_network, read_checkpoint


@torch.inference_mode(False)  # inside of it as well, what comes back can be trained
def interpolate(first: str | Path, second: str | Path, alpha: float = 0.5) -> tuple[Network, dict[str, Any]]:
    """The network whose parameters are (1 - alpha) of the first's and alpha of the second's.

    Args:
        first, second: anything that `find_checkpoint` finds. One should have been trained from the other: parameters of
            networks that were trained apart do not correspond, and what is between them restores nothing. One may have
            more refinement blocks, which the other gets without effect (`deepen`).
        alpha: 0 to 1; outside of it is extrapolated, to -1 and 2 at most.

    Returns:
        The network, and what it says of itself.

    Raises:
        UserError: one cannot be read, they are of different shape, alpha out of range.
    """
    if not -1 <= alpha <= 2:
        raise UserError(f'alpha must be 0 to 1, or -1 to 2 to extrapolate, got {alpha:g}')
    a, b = read_checkpoint(first), read_checkpoint(second)
    networks = _as_deep(build_network(a, str(first)), build_network(b, str(second)))
    one, other = (_function(network) for network in networks)
    for key, value in one.items():
        if other.get(key) != value:
            raise UserError(f'{first} and {second} are of different networks: {key} {value} and {other.get(key)}')
    network, states = networks[0], [network.state_dict() for network in networks]
    for name, tensor in states[0].items():
        if name not in states[1] or states[1][name].shape != tensor.shape:
            there = tuple(states[1][name].shape) if name in states[1] else 'not there'
            raise UserError(f'{first} and {second} are of different networks: {name} {tuple(tensor.shape)} and {there}')
    mixed = {
        name: ((1 - alpha) * tensor.double() + alpha * states[1][name].double()).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }
    network.load_state_dict(mixed)
    about = {key: a.about.get(key) for key in CLAIMS if a.about.get(key) == b.about.get(key)}
    about |= {'recipe': f'{1 - alpha:g} of {Path(first).name} and {alpha:g} of {Path(second).name}', 'metrics': None}
    taking_part = [checkpoint for checkpoint, share in ((b, alpha), (a, 1 - alpha)) if share]
    about['upright'] = True if a.about.get('upright') or b.about.get('upright') else None
    about['colour_fix'] = next((c.about['colour_fix'] for c in taking_part if c.about.get('colour_fix')), None)
    network.upright, network.colour_fix = about['upright'] is True, about['colour_fix'] or 'none'
    about['task'] = b.about.get('task') if alpha >= 0.5 else a.about.get('task')
    return network, about


def _function(network: Network) -> dict[str, Any]:
    """What decides what a network computes, beside the shapes of its parameters."""
    config = dict(arch=network.arch, **network.config)
    del config['ffn_expansion_factor']  # several make the same widths
    if config['channel_directions'] == 0:
        for key in ('channel_width', 'channel_fusion', 'channel_pool'):
            config.pop(key, None)
    return config


def _as_deep(one: Network, other: Network) -> tuple[Network, Network]:
    """Both with as many refinement blocks, where that is all that they differ in."""
    blocks = [network.config.get('num_refinement_blocks', 0) for network in (one, other)]
    same = {**_function(one), 'num_refinement_blocks': blocks[1]} == _function(other)
    if not (isinstance(one, VmambaIR) and isinstance(other, VmambaIR) and same):
        return one, other
    if blocks[0] < blocks[1]:
        return deepened(one, blocks[1], like=other), other
    return one, deepened(other, blocks[0], like=one) if blocks[1] < blocks[0] else other


def write_interpolated(
    first: str | Path, second: str | Path, target: str | Path, alpha: float = 0.5, *, half: bool = False
) -> None:
    """Write `interpolate(first, second, alpha)` as a checkpoint.

    Args:
        first, second, alpha: as for `interpolate`.
        target: .safetensors or .pth.
        half: store fp16.

    Raises:
        UserError: as `interpolate`, or the file cannot be written, or is one of the two.
    """
    check_apart(target, map(find_checkpoint, (first, second)))
    network, about = interpolate(first, second, alpha)
    save_checkpoint(target, network, half=half, **about)
