"""Tiny trainings: eight pairs of 32 x 32 pixels, a VmambaIR of width 8, seconds a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import ROOT, listen, write_options, write_pairs

RUNNER = Path(__file__).with_name('run_tiny.py')

OPTIONS: dict[str, Any] = {
    'name': 'tiny',
    'model_type': 'VmambaIRModel',
    'scale': 1,
    'num_gpu': 0,
    'manual_seed': 3,
    'datasets': {
        'train': {
            'name': 'pairs',
            'type': 'PairedProgressiveDataset',
            'dataroot_gt': 'train/gt',
            'dataroot_lq': 'train/lq',
            'io_backend': {'type': 'disk'},
            'gt_sizes': [16, 24],
            'mini_batch_sizes': [4, 2],
            'iters': [6, 100],
            'num_worker_per_gpu': 0,
            'batch_size_per_gpu': 1,
        },
        'val': {
            'name': 'three',
            'type': 'PairedValidationDataset',
            'dataroot_gt': 'val/gt',
            'dataroot_lq': 'val/lq',
            'io_backend': {'type': 'disk'},
        },
    },
    'network_g': {'type': 'VmambaIR', 'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'd_state': 2},
    'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
    'train': {
        'ema_decay': 0.9,
        'optim_g': {'type': 'AdamW', 'lr': 0.001, 'weight_decay': 0.0001, 'betas': [0.9, 0.999]},
        'scheduler': {
            'type': 'CosineAnnealingRestartCyclicLR',
            'periods': [6, 6],
            'restart_weights': [1, 1],
            'eta_mins': [0.001, 0.000001],
        },
        'total_iter': 12,
        'warmup_iter': -1,
        'use_grad_clip': True,
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1, 'reduction': 'mean'},
    },
    'val': {
        'val_freq': 4,
        'save_img': False,
        'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_channel': False}},
    },
    'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'use_tb_logger': False, 'wandb': {'project': None}},
}


class Experiment:
    """A folder with data and an option file, in which training runs as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = deepcopy(OPTIONS)
        # Adam makes whole steps of rounding errors: at a higher rate two orders of summation drift apart.
        self.options['train']['optim_g']['lr'] = 0.0002
        self.options['train']['scheduler']['eta_mins'] = [0.0002, 0.000001]
        self.root = folder / 'experiments' / 'tiny'
        if not (folder / 'train').is_dir():
            write_pairs(folder / 'train', 8, size=32)
            write_pairs(folder / 'val', 3, size=40)

    def start(self, *arguments: str, ranks: int = 0, **popen: Any) -> subprocess.Popen:
        """Start a training; `arguments` are those of run_tiny.py and of the launcher."""
        file = write_options(self.folder / 'tiny.yml', self.options)
        command = [sys.executable]
        if ranks:
            command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}']
        command += [str(RUNNER), '-opt', str(file), *arguments]
        command += ['--launcher', 'pytorch'] if ranks else []
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)}
        pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True, 'preexec_fn': listen}
        return subprocess.Popen(command, cwd=self.folder, env=environment, **pipes | popen)

    def run(self, *arguments: str, ranks: int = 0, code: int = 0, timeout: float = 120) -> str:
        """Train to the end; what it printed. Fails where the exit code is not `code`."""
        process = self.start(*arguments, ranks=ranks)
        try:
            output = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f'hangs: {process.communicate()[0][-3000:]}')
        assert process.returncode == code, output[-3000:]
        return output

    def losses(self) -> dict[int, float]:
        """Loss of every iteration in full precision; those of a later run win."""
        lines = (json.loads(line) for line in (self.folder / 'losses.jsonl').read_text().splitlines())
        return {line['iter']: line['l_pix'] for line in lines}

    def states(self) -> list[int]:
        """Iterations with a training state."""
        return sorted(int(path.stem) for path in (self.root / 'training_states').glob('[!.]*.state'))

    def state(self, iteration: int) -> dict[str, Any]:
        return torch.load(self.root / 'training_states' / f'{iteration}.state', weights_only=True)

    def networks(self, iteration: int | str) -> dict[str, Any]:
        return torch.load(self.root / 'models' / f'net_g_{iteration}.pth', weights_only=True)


@pytest.fixture(scope='session')
def finished(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run of 12 iterations that nothing disturbed."""
    experiment = Experiment(tmp_path_factory.mktemp('finished'))
    experiment.run()
    return experiment


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options as BasicSR's parser hands them to a model, for models that are built in this process."""
    options = deepcopy(OPTIONS)
    options |= {'dist': False, 'rank': 0, 'world_size': 1, 'is_train': True, 'auto_resume': False}
    options['path']['experiments_root'] = str(tmp_path)
    for key in ('models', 'training_states', 'visualization'):
        options['path'][key] = str(tmp_path / key)
        Path(options['path'][key]).mkdir()
    return options


@pytest.fixture
def build(options: dict[str, Any]) -> Callable[..., Any]:
    """Build the model of `options`, after changes to its section `train`; `...` takes a key out."""

    def build_model(**train: Any) -> Any:
        from basicsr.models import build_model

        import vmambair_arch  # noqa: F401 registers the model

        torch.manual_seed(0)
        options['train'] = {k: v for k, v in (options['train'] | train).items() if v is not ...}
        return build_model(options)

    return build_model
