"""Figures of a training as data: every line that BasicSR logs is a line of `metrics.jsonl` too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import MessageLogger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.logger import init_tb_logger as original_tb_logger

from ..files import METRICS_FILE, append_record


def init_tb_logger(log_dir: str) -> Any:
    """BasicSR's, which TensorBoard ends with an error where a folder above has a name that the locale cannot read."""
    try:
        log_dir.encode()
    except UnicodeEncodeError:
        log_dir = os.path.relpath(log_dir)
    return original_tb_logger(log_dir=log_dir)


class RecordingLogger(MessageLogger):
    """BasicSR's logger, which also writes records and tells images a second, a GPU's memory and the time left."""

    def __init__(self, opt: dict[str, Any], start_iter: int = 1, tb_logger: Any = None) -> None:
        super().__init__(opt, start_iter, tb_logger)
        self.max_iters += 1  # BasicSR leaves one out of the time left, which is "-1 day, 23:59:58" at the last
        self._path = Path(opt['path']['experiments_root']) / METRICS_FILE

    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Log one iteration; `images`, the images of its batch over all ranks, becomes `images_s`."""
        if get_dist_info()[0] == 0:
            images = log_vars.pop('images', 0)
            if images and log_vars.get('time'):
                log_vars['images_s'] = images / log_vars['time']
            if torch.cuda.is_available():
                log_vars['gpu_gb'] = torch.cuda.max_memory_allocated() / 1e9
            append_record(self._path, log_vars)
        super().__call__(log_vars)
