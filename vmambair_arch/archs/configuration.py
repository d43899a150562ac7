"""Read the configuration of a network off the names and shapes of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base import FORM_KEY, Network, decode_form, official_form
from .ossnet_arch import OSSNet
from .vmambair_arch import VmambaIR

NETWORKS = {network.arch: network for network in (VmambaIR, OSSNet)}
_LEVELS = ('encoder_level1', 'encoder_level2', 'encoder_level3', 'latent')


def configuration(state_dict: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The arch and its arguments that a state dict belongs to: the authors' files, and ours.

    Args:
        state_dict: parameters by name, without a prefix.

    Returns:
        The name of the arch ('VmambaIR' or 'OSSNet') and keyword arguments that rebuild it.

    Raises:
        ValueError: the parameters are of neither; the one that does not fit is named.
    """
    if 'patch_embed.proj.weight' in state_dict and 'reduce_chan_level3.weight' in state_dict:
        arch, first, blocks = 'VmambaIR', 'patch_embed.proj.weight', [f'{level}.' for level in _LEVELS]
    elif 'conv_first.weight' in state_dict and 'body.0.attn.x_proj_weight' in state_dict:
        arch, first, blocks = 'OSSNet', 'conv_first.weight', ['body.']
    else:
        some = ', '.join(map(str, list(state_dict)[:3])) or 'none at all'
        raise ValueError(f'these are not the parameters of a VmambaIR or OSSNet (found: {some})')
    try:
        counts = [_count(state_dict, prefix) for prefix in blocks]
        scale, out_channels = _tail(state_dict)
        dim, inp_channels = _shape(state_dict, first, 4)[:2]
        config: dict[str, Any] = {'inp_channels': inp_channels, 'out_channels': out_channels, 'dim': dim}
        if arch == 'VmambaIR':
            config |= {'num_blocks': counts, 'num_refinement_blocks': _count(state_dict, 'refinement.')}
            config |= {'dual_pixel_task': 'skip_conv.weight' in state_dict}
        else:
            config |= {'num_blocks': counts[0]}
        any_block = next((p.split('.norm1.')[0] for p in state_dict if '.norm1.' in p), None)
        if any_block is None:
            raise ValueError('no OSS block among the parameters')
        config |= {'scale': scale} | _block(state_dict, any_block, arch)
    except ValueError as error:
        raise ValueError(f'{arch}: {error}') from None
    config |= official_form(config['channel_width'], scale)
    if FORM_KEY in state_dict:
        config |= decode_form(state_dict[FORM_KEY])
    return arch, config


@torch.inference_mode(False)  # inside of it as well, parameters are those of a network that can be trained
def build(
    state_dict: Mapping[str, Tensor], arch: str | None = None, config: Mapping[str, Any] | None = None
) -> Network:
    """Build the network that a state dict belongs to and load it, in evaluation mode. Its parameters are copies.

    Args:
        state_dict: parameters by name, without a prefix; fp16 or bf16 parameters are loaded as float32.
        arch, config: what the checkpoint says of itself; default: `configuration`.

    Raises:
        ValueError: the parameters do not fit.
    """
    if arch is None or config is None:
        arch, config = configuration(state_dict)
    elif arch not in tuple(NETWORKS):
        raise ValueError(f'unknown arch {arch!r}; this package has {", ".join(NETWORKS)}')
    else:
        _check_size(state_dict, config)
    try:
        # Without initialisation: every parameter is about to be replaced.
        with torch.device('meta'):
            network = NETWORKS[arch](**config)
        state = {
            name: t.detach().to(torch.float32 if t.is_floating_point() else t.dtype, copy=True)
            for name, t in state_dict.items()
        }
        network.load_state_dict(state, strict=True, assign=True)
    except (TypeError, RuntimeError) as error:
        line = ' '.join(str(error).split())
        raise ValueError(f'the parameters do not fit {arch}: {line[:300]}') from None
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network.eval()


def _check_size(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not that of the parameters before a network of any size is built from it."""
    _, found = configuration(state_dict)
    for key in ('dim', 'num_blocks', 'num_refinement_blocks', 'd_state'):
        if key in found and key in config and config[key] != found[key]:
            raise ValueError(f'its description says {key} {str(config[key])[:40]}, its parameters have {found[key]}')


def _shape(state_dict: Mapping[str, Tensor], name: str, *ranks: int) -> tuple[int, ...]:
    """The shape of a parameter.

    Args:
        ranks: how many dimensions it may have.

    Raises:
        ValueError: it is missing, has other dimensions or is empty; names it.
    """
    tensor = state_dict.get(name)
    if not isinstance(tensor, Tensor):
        raise ValueError(f"the parameter '{name}' is missing")
    if tensor.ndim not in ranks or not tensor.numel():
        wanted = ' or '.join(map(str, ranks))
        raise ValueError(f"the parameter '{name}' has the shape {tuple(tensor.shape)}, not {wanted} dimensions above 0")
    return tuple(tensor.shape)


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    numbers = set()
    for key in state_dict:
        if key.startswith(prefix):
            number = key[len(prefix) :].split('.')[0]
            if not number.isdecimal():
                raise ValueError(f"the parameter '{key}' has no number of a block after '{prefix}'")
            numbers.add(int(number))
    return len(numbers)


def _tail(state_dict: Mapping[str, Tensor]) -> tuple[int, int]:
    """Scale and output channels."""
    if 'output.weight' in state_dict:
        return 1, _shape(state_dict, 'output.weight', 4)[0]
    out, width = _shape(state_dict, 'tail.0.0.weight', 4)[:2]
    scale = 4 if 'tail.0.2.weight' in state_dict else {4: 2, 9: 3}.get(out // width, 0)
    return scale, _shape(state_dict, 'tail.1.weight', 4)[0]


def _block(state_dict: Mapping[str, Tensor], prefix: str, arch: str) -> dict[str, Any]:
    """The arguments that every OSS block shares, read off one of them."""

    def shape(name: str, *ranks: int) -> tuple[int, ...]:
        return _shape(state_dict, f'{prefix}.{name}', *ranks)

    N = shape('attn.A_logs', 2)[1]
    channel_scan = shape('attn.xc_proj_weight', 3) if f'{prefix}.attn.xc_proj_weight' in state_dict else (0, 0, 1)
    config: dict[str, Any] = {
        'LayerNorm_type': 'WithBias' if f'{prefix}.norm1.body.bias' in state_dict else 'BiasFree',
        'd_state': N,
        'plane_directions': shape('attn.x_proj_weight', 3)[0],
        'channel_directions': channel_scan[0],
        'channel_width': channel_scan[2],
        'effn': f'{prefix}.ffn.project_in.weight' in state_dict,
    }
    if arch == 'VmambaIR':
        config['pointwise'] = 'linear' if len(shape('attn.in_conv.weight', 2, 4)) == 2 else 'conv'
        config['bias'] = 'reduce_chan_level3.bias' in state_dict
    if config['effn']:
        config['bias'] = f'{prefix}.ffn.project_in.bias' in state_dict
        config['ffn_expansion_factor'] = _expansion(state_dict)
    return config


def _expansion(state_dict: Mapping[str, Tensor]) -> float:
    """An expansion factor f with int(d * f) = hidden at every width: 2.66 where it fits, or one of few decimals."""
    pairs = {_shape(state_dict, key, 2, 4)[:2] for key in state_dict if key.endswith('.ffn.project_out.weight')}
    # What a person would have written before any other of the numbers that make the same widths.
    written = [-(-hidden * unit // d) / unit for unit in (1, 10, 100, 1000) for d, hidden in sorted(pairs)]
    candidates = [2.66, *written, *((hidden + 0.5) / d for d, hidden in pairs)]
    for factor in candidates:
        if all(int(d * factor) == hidden for d, hidden in pairs):
            return factor
    raise ValueError('the widths of the EFFN follow no single expansion factor')
