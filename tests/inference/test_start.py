"""What the first photograph waits for."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy as np
from vmambair_arch import Restorer

restorer = Restorer.from_pretrained(task='derain', device='cpu')
restorer(np.full((80, 72, 3), 128, np.uint8))
for name in ('torch._dynamo', 'torch._inductor', 'sympy', 'basicsr', 'matplotlib', 'scipy'):
    if name in sys.modules:
        print(name)
"""


def test_restoring_loads_no_compiler_and_nothing_of_training():
    """torch's compiler alone takes longer to import than a small photograph to restore."""
    result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True)
    assert result.stdout == ''
