"""Make the networks, data sets, losses, metrics and models of this distribution known to BasicSR, and the networks to
spandrel.

Importing either takes seconds, and basicsr asks for OpenCV's system libraries, so `import vmambair_arch` does not
import them: the fixes (`compat`) and the registration run around the first import of the package, whoever makes it, or
at once where it was imported before.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
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
    """Fix the imported basicsr and register everything. Twice is as good as once.

    A name that somebody else registered before is left to them.
    """
    compat.apply()
    from basicsr.utils.registry import ARCH_REGISTRY

    from ..archs import ARCHS

    for arch in ARCHS:
        if arch.__name__ not in ARCH_REGISTRY:
            ARCH_REGISTRY.register(arch)
    for folder, ending in FOLDERS.items():
        package = importlib.import_module(folder)
        for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            if module.endswith(ending):
                importlib.import_module(f'{folder}.{module}')


def _register_with_spandrel() -> None:
    importlib.import_module('vmambair_arch.plugin.spandrel_plugin').register()


class _Finder(MetaPathFinder):
    """Finds one package where it is, and calls `before` ahead of its import and `after` behind it."""

    def __init__(self, name: str, before: Callable[[], object], after: Callable[[], object]) -> None:
        self.name, self.before, self.after = name, before, after

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self.before()
                execute(module)
                self.after()

            vars(spec.loader)['exec_module'] = exec_module
        return spec


HOSTS = (_Finder('basicsr', compat.prepare, register), _Finder('spandrel', lambda: None, _register_with_spandrel))


def install() -> None:
    """Register now with the hosts that are imported, with the others as soon as they are."""
    for host in HOSTS:
        if sys.modules.get(host.name) is not None:
            host.after()
        elif host not in sys.meta_path:
            sys.meta_path.insert(0, host)
