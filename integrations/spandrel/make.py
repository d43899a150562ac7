"""Write `VmambaIR/`, the architecture as spandrel's own repository has them: with all that it needs, on torch alone.

    python integrations/spandrel/make.py [FOLDER]

The networks and the scan in torch are those of the package, copied, so the folder is made when it is wanted and not
kept twice; of the operations only the plain ones stay. To propose it: write it to
`libs/spandrel/spandrel/architectures/`, copy `test_VmambaIR.py` to `tests/`, and add the lines of `REGISTRATION` to
`libs/spandrel/spandrel/__helpers/main_registry.py`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / 'vmambair_arch'
IMPORT = 'from ..architectures import VmambaIR'
REGISTRATION = """
# After all others: nobody else has these names.
MAIN_REGISTRY.add(
    ArchSupport.from_architecture(VmambaIR.VmambaIRArch(), before=("Restormer",)),
    ArchSupport.from_architecture(VmambaIR.OSSNetArch()),
)
"""

INIT = '''from typing_extensions import override

from ...__helpers.model_descriptor import Architecture, ImageModelDescriptor, StateDict
from .__arch.archs.base import Network
from .__arch.archs.configuration import build, configuration
from .__arch.archs.ossnet_arch import OSSNet
from .__arch.archs.vmambair_arch import VmambaIR


def _is(state_dict: StateDict, arch: str) -> bool:
    try:
        return configuration(state_dict)[0] == arch
    except ValueError:
        return False


def _load(
    architecture: "VmambaIRArch | OSSNetArch", state_dict: StateDict
) -> ImageModelDescriptor[Network]:
    network = build(state_dict)
    config = network.config
    return ImageModelDescriptor(
        network,
        state_dict,
        architecture=architecture,
        purpose="Restoration" if network.scale == 1 else "SR",
        tags=[f"{config['dim']}dim", f"{config['d_state']}state"],
        supports_half=True,
        supports_bfloat16=True,
        scale=network.scale,
        input_channels=config["inp_channels"],
        output_channels=config["out_channels"],
    )


class VmambaIRArch(Architecture[Network]):
    def __init__(self) -> None:
        super().__init__(id="VmambaIR", detect=lambda state: _is(state, "VmambaIR"))

    @override
    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        return _load(self, state_dict)


class OSSNetArch(Architecture[Network]):
    """The same blocks without the U-Net."""

    def __init__(self) -> None:
        super().__init__(id="OSSNet", detect=lambda state: _is(state, "OSSNet"))

    @override
    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        return _load(self, state_dict)


__all__ = ["OSSNet", "OSSNetArch", "VmambaIR", "VmambaIRArch"]
'''

OPS = '''"""The operations of the networks on torch alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .reference import PLANE_DIRECTIONS, SEQUENCE_DIRECTIONS, ScanInputs, scan_order
from .torch_scan import omni_scan, without_autocast


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight, bias)


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.silu(F.linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
    return other + F.linear(x, weight, bias)


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (b, h, w, c), weight (c, 1, 3, 3) -> (b, h, w, c)."""
    return F.silu(_convolve(x, weight, bias))


def depthwise_gelu_gate(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (b, h, w, 2c), weight (2c, 1, 3, 3) -> (b, h, w, c)."""
    a, b = _convolve(x, weight, bias).chunk(2, -1)
    return F.gelu(a) * b


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1)


__all__ = [
    'PLANE_DIRECTIONS',
    'SEQUENCE_DIRECTIONS',
    'ScanInputs',
    'depthwise_gelu_gate',
    'depthwise_silu',
    'linear',
    'linear_add',
    'linear_silu',
    'omni_scan',
    'scan_order',
    'without_autocast',
]
'''


def files() -> dict[str, str]:
    """What the folder holds: text by path."""
    found = {'__init__.py': INIT, '__arch/__init__.py': '', '__arch/ops/__init__.py': OPS}
    found['__arch/LICENSE'] = (PACKAGE.parent / 'LICENSE').read_text(encoding='utf-8')
    for path in sorted((PACKAGE / 'archs').glob('*.py')):
        found[f'__arch/archs/{path.name}'] = path.read_text(encoding='utf-8')
    for name in ('reference.py', 'torch_scan.py'):
        found[f'__arch/ops/{name}'] = (PACKAGE / 'ops' / name).read_text(encoding='utf-8')
    found['__arch/errors.py'] = _function(PACKAGE / 'errors.py', 'nearest')
    return found


def _function(path: Path, name: str) -> str:
    """One function of a module, on its own."""
    text = path.read_text(encoding='utf-8')
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    return f'from __future__ import annotations\n\n\n{ast.get_source_segment(text, node)}\n'


def write(folder: Path) -> None:
    """Write `VmambaIR` below a folder of architectures."""
    for name, text in files().items():
        path = folder / 'VmambaIR' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')


def register(registry: Path) -> None:
    """Add the architecture to spandrel's `main_registry.py`."""
    first = 'from ..architectures import ('
    text = registry.read_text(encoding='utf-8').replace(first, f'{IMPORT}\n{first}', 1)
    registry.write_text(text + REGISTRATION, encoding='utf-8')


if __name__ == '__main__':
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
