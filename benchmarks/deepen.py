"""More refinement blocks for a trained network: python -m benchmarks.deepen CHECKPOINT OUT --refinement 5

A network that is as good as it was and can learn more: the new OSS blocks begin with zeros in their last products, so
that they pass on what comes in. `path: pretrain_network_g` of an option file with as many blocks takes the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmambair_arch.archs import VmambaIR
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.deepen import deepened
from vmambair_arch.checkpoints.find import find_checkpoint
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.errors import UserError, guard
from vmambair_arch.files import check_apart

from .arguments import natural, positive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('checkpoint', help='file, or a name such as realsr for the network in the package')
    parser.add_argument('out', type=Path)
    parser.add_argument('--refinement', type=positive, required=True, metavar='N', help='refinement blocks in all')
    parser.add_argument('--seed', type=natural, default=0, help='of what the new blocks begin with')
    args = parser.parse_args()
    check_apart(args.out, map(find_checkpoint, [args.checkpoint]))
    network = load_model(args.checkpoint)
    if not isinstance(network, VmambaIR):
        raise UserError(f'{args.checkpoint}: an {type(network).__name__} has no refinement blocks')
    save_checkpoint(args.out, deepened(network, args.refinement, seed=args.seed))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    sys.exit(guard(main))
