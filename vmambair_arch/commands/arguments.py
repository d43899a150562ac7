"""What the commands share in reading their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TASKS = tuple(sorted(path.stem for path in (Path(__file__).parents[1] / 'weights').glob('*.safetensors')))
"""Tasks that the package has a network for; read off its files, since listing them properly would import torch."""


def pick(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Some arguments by name, to be handed on as keywords."""
    return {name: getattr(args, name) for name in names}
