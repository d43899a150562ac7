"""BasicSR is imported before the modules that register with it."""

from __future__ import annotations

import importlib
import importlib.util


def import_basicsr() -> None:
    """Import basicsr where it is installed: a registered module that is imported first must not meet its own import."""
    if importlib.util.find_spec('basicsr') and importlib.util.find_spec('cv2'):
        importlib.import_module('basicsr')
