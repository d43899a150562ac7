"""The benchmark of products: the shapes of a network, and that each way computes the same."""

from __future__ import annotations

import pytest
import torch

from benchmarks import products as benchmark
from vmambair_arch.ops import products


def test_the_shapes_of_a_network():
    seen = benchmark.shapes('light', 16)
    assert seen[16 * 16, 16, 64] == 1  # into the EFFN of the one block of level 1
    assert seen[16 * 16, 32, 128] == 2  # of decoder level 1 and the refinement


@pytest.mark.skipif(not products._has_onednn(), reason='this torch has no oneDNN')
def test_every_way_computes_the_same_product():
    for runs in benchmark.of_shape(70, 32, 48).values():
        for run in runs.values():
            torch.testing.assert_close(run(), runs['torch'](), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not products._has_onednn(), reason='this torch has no oneDNN')
def test_what_is_compared_is_what_it_says():
    small = [torch.zeros(1, 4, 4, 32), torch.zeros(48, 32), None]
    used = {}
    for library in ('torch', 'onednn', 'rule'):
        with benchmark.through(library):
            used[library] = products._by_onednn(*small)
    assert used == {'torch': False, 'onednn': True, 'rule': False}


def test_a_ratio_is_of_the_same_round():
    times = {'a': [2.0, 20.0, 200.0], 'b': [1.0, 10.0, 50.0]}
    assert benchmark.ratio(times, 'a', 'b') == 2.0
