"""What the networks of this package share: checked arguments, a record of them, activation checkpointing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .oss_block import OSSBlock

SCALES = (1, 2, 3, 4)

_CHOICES = {
    'scale': SCALES,
    'LayerNorm_type': ('WithBias', 'BiasFree'),
    'plane_directions': (1, 2, 3, 4),
    'channel_directions': (0, 1, 2),
    'channel_fusion': ('mul', 'add'),
    'pointwise': ('conv', 'linear'),
}

HIDDEN = ('channel_fusion', 'channel_pool')
"""Arguments that leave no trace in the names and shapes of the parameters."""

FORM_KEY = 'form'
"""Buffer that carries `HIDDEN` as JSON in UTF-8, present only in networks outside the official forms."""


def official_form(channel_width: int, scale: int) -> dict[str, object]:
    """`HIDDEN` of the authors' networks: width 4 at scale 1 (the released deraining network) adds, others multiply."""
    return {'channel_fusion': 'add' if channel_width == 4 and scale == 1 else 'mul', 'channel_pool': True}


def decode_form(form: Tensor) -> dict[str, object]:
    """The content of the buffer `FORM_KEY`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        decoded = json.loads(bytes(form.to(torch.uint8).cpu().tolist()))
        return {name: decoded[name] for name in HIDDEN}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the key '{FORM_KEY}' of the checkpoint is damaged: {error}") from None


def check_arguments(name: str, **arguments: object) -> None:
    """Raise a ValueError that names the argument where one is not of its kind."""
    for key, value in arguments.items():
        if key in _CHOICES:
            if value not in _CHOICES[key]:
                raise ValueError(f'{name}: {key} must be one of {_CHOICES[key]}, got {value!r}')
        elif key == 'num_blocks':
            # isinstance(True, int) holds, but nobody means it.
            if not value or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in value):
                raise ValueError(f'{name}: num_blocks must be whole numbers >= 0, got {value!r}')
        else:
            lowest = 0 if key == 'num_refinement_blocks' else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f'{name}: {key} must be a whole number >= {lowest}, got {value!r}')


class Network(nn.Module):
    """Base of `VmambaIR` and `OSSNet`: images (b, c, h, w), RGB float 0..1, of any size >= 1 pixel.

    Attributes:
        arch: the name under which `config` rebuilds it.
        config: the keyword arguments that rebuild this network, JSON-ready.
        use_checkpoint: activations of a block are recomputed in the backward pass instead of kept.
        scale: output size over input size.
        upright: it was trained on upright pictures only, so that it may be shown mirrored ones but no turned ones.
    """

    arch: str
    config: dict[str, Any]
    scale: int
    use_checkpoint: bool = False
    upright: bool = False

    def _remember(self, constructor: Callable, arguments: dict[str, object]) -> None:
        """Keep `locals()` of a constructor as `config`, in the order of its signature.

        Most of a configuration shows in the names and shapes of the parameters. What does not (`HIDDEN`) follows the
        rule of the official forms; a network outside them carries it in a buffer, so that whoever saves the state
        dict, BasicSR's own models included, saves the whole truth.
        """
        names = [name for name in inspect.signature(constructor).parameters if name != 'self']
        self.config = {n: list(v) if isinstance(v := arguments[n], tuple) else v for n in names}
        hidden = {name: self.config[name] for name in HIDDEN}
        if self.config['channel_directions'] and hidden != official_form(
            self.config['channel_width'], self.config['scale']
        ):
            self.register_buffer(FORM_KEY, torch.tensor(list(json.dumps(hidden).encode()), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        error_msgs = args[-1]
        key = prefix + FORM_KEY
        if key in state_dict and (loaded := decode_form(state_dict[key])) != {n: self.config[n] for n in HIDDEN}:
            error_msgs.append(f'the checkpoint is of a network with {loaded}, which this one is not')

    def run_blocks(self, blocks: Iterable[OSSBlock], x: Tensor) -> Tensor:
        for block in blocks:
            recompute = self.use_checkpoint and self.training and x.requires_grad
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x

    def check_input(self, x: Tensor) -> None:
        channels = self.config['inp_channels']
        if x.ndim != 4 or x.shape[1] != channels or x.numel() == 0:
            raise ValueError(f'input must be (b, {channels}, h, w) with h, w >= 1, got {tuple(x.shape)}')
