"""What the networks of this package share: checked arguments, a record of them, activation checkpointing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .oss_block import BlockOptions, decays_at_once

SCALES = (1, 2, 3, 4)

_CHOICES = {
    'scale': SCALES,
    'LayerNorm_type': ('WithBias', 'BiasFree'),
    'plane_directions': (1, 2, 3, 4),
    'channel_directions': (0, 1, 2),
    'channel_fusion': ('mul', 'add'),
    'pointwise': ('conv', 'linear'),
}

_FLAGS = ('bias', 'dual_pixel_task', 'channel_pool', 'effn', 'checkpoint')

_LOWEST = {
    'inp_channels': 1,
    'out_channels': 1,
    'dim': 1,
    'num_refinement_blocks': 0,
    'd_state': 1,
    'channel_width': 1,
}
"""The smallest of the whole numbers."""

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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the key '{FORM_KEY}' of the checkpoint is damaged: {error}") from None


def _check_arguments(name: str, arguments: dict[str, Any]) -> None:
    """Raise a ValueError that names the argument where one is not of its kind."""
    for key, value in arguments.items():
        if key in _CHOICES:
            # True and 4.0 are among numbers, and nobody means them.
            if not any(type(value) is type(choice) and value == choice for choice in _CHOICES[key]):
                raise ValueError(f'{name}: {key} must be one of {_CHOICES[key]}, got {value!r}')
        elif key in _FLAGS:
            if not isinstance(value, bool):
                raise ValueError(f'{name}: {key} must be true or false, got {value!r}')
        elif key == 'num_blocks':
            # isinstance(True, int) holds, but nobody means it.
            counts = value if isinstance(value, list) else [value]
            if not counts or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in counts):
                raise ValueError(f'{name}: num_blocks must be whole numbers >= 0, got {value!r}')
        elif key == 'ffn_expansion_factor':
            dim = arguments.get('dim', 1)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float('inf')
            if not number or int(dim * value) < 1:
                raise ValueError(
                    f'{name}: {key} must be a number that makes at least one channel of {dim}, got {value!r}'
                )
        elif key in _LOWEST and (not isinstance(value, int) or isinstance(value, bool) or value < _LOWEST[key]):
            raise ValueError(f'{name}: {key} must be a whole number >= {_LOWEST[key]}, got {value!r}')


class Network(nn.Module):
    """Base of `VmambaIR` and `OSSNet`: images (b, c, h, w), RGB float 0..1, of any size >= 1 pixel.

    Attributes:
        arch: the name under which `config` rebuilds it.
        config: the keyword arguments that rebuild this network, JSON-ready.
        use_checkpoint: activations of a block are recomputed in the backward pass instead of kept.
        scale: output size over input size.
        upright: it was trained on upright pictures only, so that it may be shown mirrored ones but no turned ones.
        colour_fix: what its results want to have the colours of their inputs, see `images.colour`.
        parameter_set: of a network from a file, which of its sets of parameters this is, in words; empty where the file
            has no sets.
    """

    arch: str
    config: dict[str, Any]
    scale: int
    use_checkpoint: bool = False
    upright: bool = False
    colour_fix: str = 'none'
    parameter_set: str = ''

    def _describe(self, constructor: type[Network], block: BlockOptions, **own: object) -> None:
        """Check the arguments of a constructor, and keep them as `config` in the order of its signature.

        Most of a configuration shows in the names and shapes of the parameters. What does not (`HIDDEN`) follows the
        rule of the official forms; a network outside them carries it in a buffer, so that whoever saves the state
        dict, BasicSR's own models included, saves the whole truth.

        Args:
            constructor: the class whose arguments they are.
            block: those that every block shares.
            own: the others.

        Raises:
            ValueError: an argument outside its range, named.
        """
        given = vars(block) | own
        names = inspect.signature(constructor).parameters
        self.config = {n: list(v) if isinstance(v := given[n], tuple) else v for n in names}
        _check_arguments(constructor.__name__, self.config)
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

    def run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # a compiler joins launches itself
            return self._run_blocks(blocks, x)
        blocks = list(blocks)
        with decays_at_once(blocks, x.device):
            return self._run_blocks(blocks, x)

    def _run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            recompute = self.use_checkpoint and self.training and x.requires_grad
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return x

    def check_input(self, x: Tensor) -> None:
        channels = self.config['inp_channels']
        if x.ndim != 4 or x.shape[1] != channels or x.numel() == 0:
            raise ValueError(f'input must be (b, {channels}, h, w) with b, h, w >= 1, got {tuple(x.shape)}')
