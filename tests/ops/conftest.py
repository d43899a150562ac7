"""Fixtures of the scan's tests."""

from __future__ import annotations

import pytest
import torch

from vmambair_arch.ops import c_library


@pytest.fixture
def threads():
    """A function that sets the number of torch's threads; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(params=c_library.isa_names())
def isa(request):
    """The test runs once with each instruction set of this machine."""
    before = c_library.selected_isa()
    c_library.select_isa(request.param)
    yield request.param
    c_library.select_isa(before)
