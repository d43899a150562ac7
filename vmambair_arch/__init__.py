"""VmambaIR for BasicSR: image restoration with omni selective scans.

Importing this package registers everything with BasicSR, which it neither needs nor imports: see `registration`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .plugin import registration

if TYPE_CHECKING:
    from .archs import OSSNet, VmambaIR
    from .checkpoints.load import load_model
    from .inference.restorer import Restorer

__version__ = '0.1.0'

_LAZY = {
    'OSSNet': '.archs',
    'Restorer': '.inference.restorer',
    'VmambaIR': '.archs',
    'load_model': '.checkpoints.load',
}
__all__ = ['OSSNet', 'Restorer', 'UserError', 'VmambaIR', 'load_model']


def __getattr__(name: str) -> Any:
    """Networks and inference are imported at the first use, so that importing the package takes no time."""
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    importlib.import_module('.checkpoints.hub', __name__).attach()
    return getattr(importlib.import_module(_LAZY[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


registration.install()
