"""Fixtures that every room uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vmambair_arch import VmambaIR

# Threads that spin while they wait make the suite ten times slower as soon as anything else wants a core. OpenMP reads
# this when torch is first imported, here and in the processes that tests start.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 8  # more would wait for the longest file


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def workers() -> int:
    """How many processes the whole suite gets: one for each core, as far as the memory goes; each takes 1 to 2 GB."""
    try:
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, OSError, ValueError):  # not POSIX
        memory = 8 * 2**30
    return min(WORKERS, cores(), memory // (3 * 2**30))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs on all cores, a file at a time in each process; whatever is picked runs in this one.

    `-n 0` keeps the whole suite in this process, `-n 2` spreads what is picked.
    """
    given = config.option
    picked = config.args_source is pytest.Config.ArgsSource.ARGS or given.markexpr != 'not slow'
    asked = ('keyword', 'lf', 'failedfirst', 'stepwise', 'usepdb', 'collectonly', 'setuponly', 'setupshow', 'setupplan')
    picked = picked or any(config.getoption(name, False) for name in asked) or given.capture == 'no'
    spread = config.pluginmanager.hasplugin('xdist') and given.numprocesses is None and given.dist == 'no'
    if spread and not picked and workers() > 1:
        given.numprocesses, given.dist, given.loadscopereorder = workers(), 'loadfile', False
        # Two at least, so that code for several threads has them.
        os.environ.setdefault('OMP_NUM_THREADS', str(max(2, cores() // workers())))


@pytest.fixture(scope='session')
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """Development data beside the checkout: real images, weights and parity fixtures. Skips where there is none."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'fixtures').is_dir():
        pytest.skip('no shared development data beside the checkout')
    return folder


@pytest.fixture(scope='session')
def tiny() -> VmambaIR:
    """A real network, random and small."""
    import torch

    from vmambair_arch import VmambaIR

    torch.manual_seed(0)
    network = VmambaIR(dim=8, num_blocks=[1, 0, 0, 0], num_refinement_blocks=0, d_state=4, channel_width=1)
    return network.eval()


@pytest.fixture(scope='session')
def checkpoint(tiny: VmambaIR, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` as BasicSR saves it."""
    import torch

    path = tmp_path_factory.mktemp('checkpoint') / 'net_g_latest.pth'
    torch.save({'params': tiny.state_dict()}, path)
    return path
