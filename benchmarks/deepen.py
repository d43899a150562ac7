"""More refinement blocks for a trained network: python -m benchmarks.deepen CHECKPOINT OUT --refinement 5

A network that is as good as it was and can learn more: the new OSS blocks begin with zeros in their last products, so
that they pass on what comes in. `path: pretrain_network_g` of an option file with as many blocks takes the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vmambair_arch.archs import VmambaIR
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.errors import UserError, guard

from .arguments import natural, positive

LAST = ('attn.out_conv.weight', 'attn.out_conv.bias', 'ffn.project_out.weight', 'ffn.project_out.bias')
"""Of a block: what the two residual branches end with."""


def deepened(network: VmambaIR, blocks: int, seed: int = 0) -> VmambaIR:
    """The same function with `blocks` refinement blocks.

    Raises:
        UserError: it has as many already.
    """
    now = network.config['num_refinement_blocks']
    if blocks <= now:
        raise UserError(f'--refinement {blocks}: the network has {now} refinement blocks; ask for more')
    torch.manual_seed(seed)
    result = VmambaIR(**{**network.config, 'num_refinement_blocks': blocks})
    result.load_state_dict(result.state_dict() | network.state_dict())
    with torch.no_grad():
        for block in result.refinement[now:]:
            for name, parameter in block.named_parameters():
                if name in LAST:
                    parameter.zero_()
    return result.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('checkpoint', help='file, or a name such as realsr for the network in the package')
    parser.add_argument('out', type=Path)
    parser.add_argument('--refinement', type=positive, required=True, metavar='N', help='refinement blocks in all')
    parser.add_argument('--seed', type=natural, default=0, help='of what the new blocks begin with')
    args = parser.parse_args()
    network = load_model(args.checkpoint)
    if not isinstance(network, VmambaIR):
        raise UserError(f'{args.checkpoint}: an {type(network).__name__} has no refinement blocks')
    save_checkpoint(args.out, deepened(network, args.refinement, args.seed))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    sys.exit(guard(main))
