"""The networks: torch above `vmambair_arch.ops`, no BasicSR, no files."""

from .configuration import build, configuration
from .ossnet_arch import OSSNet
from .vmambair_arch import PRESETS, MambaRealSR11, MambaSISR6, Mamber32, Mamber33, VmambaIR

ARCHS = (VmambaIR, OSSNet, MambaRealSR11, MambaSISR6, Mamber32, Mamber33)
"""What is registered with BasicSR; the last four are the authors' class names."""

__all__ = [
    'ARCHS',
    'MambaRealSR11',
    'MambaSISR6',
    'Mamber32',
    'Mamber33',
    'OSSNet',
    'PRESETS',
    'VmambaIR',
    'build',
    'configuration',
]
