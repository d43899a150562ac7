"""What a kernel that was compiled ahead of time needs of a GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest


def resources_of(made: Any, target: tuple) -> dict[str, int]:
    """Registers of a thread, and bytes that it spills to memory.

    Args:
        made: `triton.compile(...).asm`.
        target: arguments of `GPUTarget`.
    """
    if target[0] == 'hip':
        found = re.findall(r'\.(vgpr_count|vgpr_spill_count):\s+(\d+)', made['amdgcn'])
        return {'registers' if key == 'vgpr_count' else 'spilled': int(value) for key, value in found}
    triton = pytest.importorskip('triton')
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.is_file():
        pytest.skip('this Triton comes without cuobjdump')
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(made['cubin'])
        file.flush()
        said = subprocess.run([tool, '--dump-resource-usage', file.name], capture_output=True, text=True, check=True)
    registers, stack = re.findall(r'(?:REG|STACK):(\d+)', said.stdout)
    return {'registers': int(registers), 'spilled': int(stack)}
