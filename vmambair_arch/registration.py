"""Make the networks, data sets, losses, metrics and models of this distribution known to BasicSR.

Importing basicsr takes seconds and asks for OpenCV's system libraries, so `import vmambair_arch` does not import it:
the mends (`compat`) and the registration run around the first import of basicsr, whoever makes it, or at once where
it was imported before.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import compat

FOLDERS = {
    'vmambair_arch.data': '_dataset',
    'vmambair_arch.losses': '_loss',
    'vmambair_arch.metrics': '_metric',
    'vmambair_arch.models': '_model',
}
"""Where modules register what they hold, and how their names end: BasicSR's convention."""


def register() -> None:
    """Mend the imported basicsr and register everything. Twice is as good as once.

    A name that somebody else registered before is left to them.
    """
    compat.apply()
    from basicsr.utils.registry import ARCH_REGISTRY

    from .archs import ARCHS

    for arch in ARCHS:
        if arch.__name__ not in ARCH_REGISTRY:
            ARCH_REGISTRY.register(arch)
    for folder, ending in FOLDERS.items():
        package = importlib.import_module(folder)
        for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            if module.endswith(ending):
                importlib.import_module(f'{folder}.{module}')


class _BasicSRFinder(MetaPathFinder):
    """Finds basicsr where it is, and puts the mends before its import and the registration after it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != 'basicsr':
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                compat.prepare()
                execute(module)
                register()

            spec.loader.exec_module = exec_module
        return spec


def install() -> None:
    """Register now where basicsr is imported, else as soon as it is."""
    if sys.modules.get('basicsr') is not None:
        register()
    elif not any(isinstance(finder, _BasicSRFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BasicSRFinder())


def import_basicsr() -> None:
    """Import basicsr where it is installed: a registered module that is imported first must not meet its own import."""
    if importlib.util.find_spec('basicsr') and importlib.util.find_spec('cv2'):
        importlib.import_module('basicsr')
