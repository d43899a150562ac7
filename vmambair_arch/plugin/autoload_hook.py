"""What `vmambair autoload on` copies beside BasicSR and spandrel: plain `python -m basicsr.train` then runs our
launcher, and plain spandrel opens our checkpoints.

Runs at every start of Python in that environment, so it imports nothing until one of the two is imported.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing it from typing would cost every start of Python
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


class _Autoload:
    """A finder that brings vmambair_arch along with basicsr and spandrel, and hands `-m basicsr.train` to it."""

    HANDED = {'basicsr.train': 'vmambair_arch.train', 'basicsr.test': 'vmambair_arch.test'}

    def __init__(self) -> None:
        self.searching = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if self.searching or name not in ('basicsr', 'spandrel', *self.HANDED):
            return None
        from importlib import util

        self.searching = True
        try:
            if util.find_spec('vmambair_arch') is None:
                return None
            import vmambair_arch  # noqa: F401

            spec = util.find_spec(name)
        finally:
            self.searching = False
        if spec is not None and name in self.HANDED:
            self.hand_over(spec, util.find_spec(self.HANDED[name]))
        return spec

    @staticmethod
    def hand_over(spec: Any, other: Any) -> None:
        """Importing a module executes it; `python -m` asks its loader for the code, and gets that of `other`."""
        get_code = spec.loader.get_code
        spec.loader.exec_module = lambda module: exec(get_code(spec.name), module.__dict__)
        spec.loader.get_code = lambda name: other.loader.get_code(other.name)


sys.meta_path.insert(0, _Autoload())
