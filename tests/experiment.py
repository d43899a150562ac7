"""Tiny experiments for tests that train: pictures, an option file, and the commands that run them."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]


def write_image(path: Path, height: int = 24, width: int = 24, channels: int = 3, seed: int = 0) -> None:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def write_pairs(folder: Path, count: int, size: int = 24, scale: int = 1) -> None:
    """`folder/gt` and `folder/lq` with pictures 000.png, 001.png, ..."""
    for i in range(count):
        write_image(folder / 'gt' / f'{i:03d}.png', size, size, seed=i)
        write_image(folder / 'lq' / f'{i:03d}.png', size // scale, size // scale, seed=i)


def options(**changes: Any) -> dict[str, Any]:
    """Options of a run of 4 iterations with BasicSR's own SRModel, on `train/` and `val/` of the current folder.

    Args:
        changes: values by path, `train__total_iter=8`; a value of `...` removes the key.
    """
    opt: dict[str, Any] = {
        'name': 'tiny',
        'model_type': 'SRModel',
        'scale': 1,
        'num_gpu': 'auto',
        'manual_seed': 0,
        'datasets': {
            'train': {
                'name': 'Train',
                'type': 'PairedImageDataset',
                'dataroot_gt': 'train/gt',
                'dataroot_lq': 'train/lq',
                'io_backend': {'type': 'disk'},
                'gt_size': 16,
                'use_hflip': True,
                'use_rot': True,
                'num_worker_per_gpu': 0,
                'batch_size_per_gpu': 1,
            },
            'val': {
                'name': 'Val',
                'type': 'PairedImageDataset',
                'dataroot_gt': 'val/gt',
                'dataroot_lq': 'val/lq',
                'io_backend': {'type': 'disk'},
            },
        },
        'network_g': {'type': 'VmambaIR', 'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1},
        'path': {'pretrain_network_g': None, 'resume_state': None},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 0.001},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
            'total_iter': 4,
            'warmup_iter': -1,
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 2, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': False},
    }
    return change(opt, **changes)


def change(opt: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of `opt` with values replaced by path, `train__total_iter=8`; a value of `...` removes the key."""
    opt = copy.deepcopy(opt)
    for keys, value in changes.items():
        *sections, key = keys.split('__')
        place = opt
        for section in sections:
            place = place.setdefault(section, {})
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return opt


def write_options(path: Path, opt: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return path


def listen() -> None:
    """For `preexec_fn`: Ctrl-C and a closed terminal count, also where a shell's background job or nohup started us."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(*command: str, cwd: Path, python: str | Path = sys.executable, **env: str) -> subprocess.CompletedProcess:
    """`python *command` in `cwd`, with this checkout importable and one thread; stdout and stderr as text."""
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
        **env,
    }
    return subprocess.run(
        [str(python), *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def iterations(log: str) -> list[int]:
    """The iterations that a log of BasicSR reports with print_freq 1."""
    return [int(n.replace(',', '')) for n in re.findall(r'\[epoch:.*, iter: *([0-9,]+), lr:', log)]
