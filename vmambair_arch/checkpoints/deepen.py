"""A network with more refinement blocks that computes what it did: the new ones pass on what comes in."""

from __future__ import annotations

import torch

from ..archs import VmambaIR
from ..errors import UserError

LAST = ('attn.out_conv.weight', 'attn.out_conv.bias', 'ffn.project_out.weight', 'ffn.project_out.bias')
"""Of a block: what the two residual branches end with, zero in a new one."""


def deepened(network: VmambaIR, blocks: int, *, like: VmambaIR | None = None, seed: int = 0) -> VmambaIR:
    """The same function with `blocks` refinement blocks.

    Args:
        network: of fewer.
        blocks: in all.
        like: a network with as many, whose weights the new blocks have but for the last products of their branches;
            None draws them.
        seed: of what is drawn.

    Raises:
        UserError: it has as many already.
    """
    now = network.config['num_refinement_blocks']
    if blocks <= now:
        raise UserError(f'the network has {now} refinement blocks, and cannot get {blocks}; ask for more')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = VmambaIR(**{**network.config, 'num_refinement_blocks': blocks})
    drawn = result.state_dict() if like is None else like.state_dict()
    result.load_state_dict(drawn | network.state_dict())
    with torch.no_grad():
        for block in result.refinement[now:]:
            for name, parameter in block.named_parameters():
                if name in LAST:
                    parameter.zero_()
    return result.eval()
