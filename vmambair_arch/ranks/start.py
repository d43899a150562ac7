"""Joining the other processes of a run: torchrun or srun, with or without GPUs."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from ..errors import UserError
from ..files import lock


def init_dist(launcher: str, backend: str | None = None, port: int | None = None) -> None:
    """Join the process group of `torchrun` (launcher 'pytorch') or `srun` ('slurm').

    Args:
        launcher: 'pytorch' or 'slurm'.
        backend: of torch.distributed; default nccl with CUDA, gloo without.
        port: of the machine of rank 0, slurm only; default `MASTER_PORT`, then 29500.

    Raises:
        UserError: the launcher did not start this process.
    """
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp

    if mp.get_start_method(allow_none=True) is None:
        mp.set_start_method('spawn')
    if launcher == 'slurm':
        slurm_environment(port)
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher}: {", ".join(missing)} not set; start with '
            'torchrun --nproc_per_node N -m vmambair_arch.train -opt FILE --launcher pytorch'
        )
    if torch.cuda.is_available():
        local_rank = int(os.environ.get('LOCAL_RANK', os.environ['RANK']))
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
        dist.init_process_group(backend or 'nccl')
    else:
        dist.init_process_group('gloo')


def slurm_environment(port: int | None) -> None:
    """Say in torchrun's variables what srun says in its own."""
    import subprocess

    try:
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
        hosts = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
    except KeyError as error:
        raise UserError(f'--launcher slurm: {error.args[0]} is not set; start with srun') from None
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', '29500')


def refuse_strays(distributed: bool) -> None:
    """Raise a UserError in a process that must not begin a run: it would move the folder of the running one away.

    Args:
        distributed: the process was told of a launcher.
    """
    # While a spawned process imports the script, that is all that it knows of being one.
    if getattr(multiprocessing.current_process(), '_inheriting', False):
        raise UserError(
            'a worker of the data loader began the training again, since it imports the script that began it; put the '
            "last lines of the script under: if __name__ == '__main__':"
        )
    ranks = os.environ.get('WORLD_SIZE', '1')
    if not distributed and ranks.isdigit() and int(ranks) > 1:
        raise UserError(
            f'WORLD_SIZE is {ranks}, but --launcher is none: {ranks} processes would train in one folder; '
            'add --launcher pytorch'
        )


def hold_experiment(folder: str | Path) -> None:
    """Keep other processes out of the folder of an experiment, or of results, until this process ends, however it ends.

    The lock lies beside the folder, which a new run moves away.

    Raises:
        UserError: another process trains or tests in it.
    """
    folder = Path(folder)
    if holder := lock(folder.with_name(f'.{folder.name}.lock')):
        raise UserError(f'{folder} is in use by {holder}; wait for it, stop it, or give this run another name')
