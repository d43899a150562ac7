"""The sections of an option file: known keys, numbers where numbers belong, arguments that fit what they are for."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from ..errors import nearest
from .keys import KeysRead, Path, keys_read_by, uses
from .report import Report, dotted
from .values import NUMBER, check_values, looks_like_number, values_at

Options = Mapping[str, Any]

OURS = ('basicsr', 'vmambair_arch', 'realesrgan_pipeline')
"""Packages whose option keys are all found; what a stranger's class reads may be hidden too well to refuse a key."""

SET_BY_BASICSR = {
    (): {'auto_resume', 'dist', 'is_train', 'manual_seed', 'rank', 'root_path', 'world_size'},
    ('path',): {'experiments_root', 'log', 'models', 'results_root', 'root', 'training_states', 'visualization'},
}
"""Keys that are read, but not of the file."""

READ_BY_NOBODY = {('datasets', '*'): {'use_shuffle', 'mode'}, ('train',): {'manual_seed'}}
"""Keys that BasicSR's own option files have and nothing reads."""

    sign, digits, exponent = NUMBER.fullmatch(text).groups()
