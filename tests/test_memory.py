"""Memory that is freed and kept for what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vmambair_arch.inference import tiles

PROGRAM = """
import resource, threading
import torch
from vmambair_arch.host import keep_freed_memory

assert keep_freed_memory({arguments})
torch.set_num_threads(1)


def faults(size):
    for _ in range(20):
        torch.empty(size).fill_(1)  # what the heap grows by, in the first few
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(size).fill_(1)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


found = []
for size in {sizes}:
    faults(size)
    thread = threading.Thread(target=faults, args=[size])
    if {threads}:
        thread.start()
        thread.join()
print(max(found))
"""
FREED = """
import torch
from vmambair_arch.host import freed_memory, keep_freed_memory

keep_freed_memory(of_pictures=True)
before = freed_memory()
held = torch.ones({size})
used = freed_memory()
del held
print(before - used, freed_memory() - used)
"""
UNTOUCHED = 'from vmambair_arch.host import keep_freed_memory; print(keep_freed_memory(of_pictures=True))'
glibc = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc')


def _run(program: str, **env: str) -> str:
    return subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, env=env).stdout


@glibc
@pytest.mark.parametrize(
    ('arguments', 'sizes', 'threads'),
    [('', (1 << 22,), False), ('of_pictures=True', (1 << 22, 3 << 22), True)],
    ids=['steps', 'pictures'],
)
def test_memory_that_is_asked_for_again_costs_no_page_faults(arguments, sizes, threads):
    output = _run(PROGRAM.format(arguments=arguments, sizes=sizes, threads=threads))
    assert int(output) < 4096  # of 20 times 4096 pages, or 20 times 12288


@glibc
def test_what_is_kept_counts_as_free():
    taken, freed = map(int, _run(FREED.format(size=3 << 22)).split())
    assert freed > 0.99 * (12 << 22)  # Python takes a little of it meanwhile
    assert taken < 12 << 20  # the tensor was not there before


@glibc
def test_large_maps_are_given_back():
    """Kept as well, they leave gaps in which nothing fits: four times the memory for a photograph of 8 megapixels."""
    _, freed = map(int, _run(FREED.format(size=1 << 25)).split())
    assert freed < 1 << 20


@glibc
def test_an_allocator_that_the_user_set_up_is_left_alone():
    assert _run(UNTOUCHED, MALLOC_TRIM_THRESHOLD_='131072') == 'False\n'
    assert _run(UNTOUCHED) == 'True\n'


def test_what_fits_is_the_same_after_a_picture(monkeypatch):
    cpu = tiles.torch.device('cpu')
    monkeypatch.setattr(tiles, 'free_system_memory', lambda: 1 << 30)
    monkeypatch.setattr(tiles, 'freed_memory', lambda: 0)
    first = tiles.free_memory(cpu)
    monkeypatch.setattr(tiles, 'free_system_memory', lambda: 1 << 29)
    monkeypatch.setattr(tiles, 'freed_memory', lambda: 1 << 29)
    assert tiles.free_memory(cpu) == first
