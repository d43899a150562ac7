"""What the commands share in reading their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def pick(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Some arguments by name, to be handed on as keywords."""
    return {name: getattr(args, name) for name in names}
