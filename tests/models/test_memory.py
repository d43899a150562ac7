"""Memory that is kept between two steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from vmambair_arch.models.memory import keep_freed_memory

assert keep_freed_memory()
torch.set_num_threads(1)
for size in (1 << 18, 1 << 20, 1 << 22):
    torch.empty(size).fill_(1)  # what the heap grows by, once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(1 << 22).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')
def test_memory_that_is_asked_for_again_costs_no_page_faults():
    result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 4096  # of 20 times 4096 pages
