"""Averages of the weights: several decays, a warm-up, and which of them is validated."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vmambair_arch.errors import UserError
from vmambair_arch.models.ema import Averages, decays, follow, key_of


def test_a_number_and_a_list_name_the_averages():
    assert decays(0) == ()
    assert decays(0.999) == (0.999,)
    assert decays([0.999, 0.9999]) == (0.999, 0.9999)
    assert [key_of(d, 0.999) for d in (0.999, 0.9999)] == ['params_ema', 'params_ema_0.9999']


@pytest.mark.parametrize('value', [1, -0.1, True, '0.9', None, [0.9, 0.9], [0.9, 0], [[0.9]]])
def test_other_decays_are_refused(value):
    with pytest.raises(UserError, match='ema_decay'):
        decays(value)


@given(st.floats(0.1, 1), st.floats(0.5, 100), st.integers(0, 50), st.floats(0.5, 0.99999))
def test_the_warm_up_rises_from_zero_to_the_decay_and_never_falls(power, gamma, start, decay):
    averages = Averages([decay], power, gamma, start)
    values = [averages.decay_at(iteration, decay) for iteration in (*range(1, 60), 10**12)]
    assert values == sorted(values)
    assert all(value == 0 for value in values[:start])
    assert 0 < values[start] <= decay
    assert power < 0.5 or values[-1] == decay


def test_without_a_power_the_decay_is_constant():
    assert {Averages([0.9]).decay_at(iteration, 0.9) for iteration in (1, 10, 1000)} == {0.9}


def test_a_constant_weight_is_its_own_average_and_a_changed_one_is_approached():
    network = nn.Linear(2, 1, bias=False)
    averages = Averages([0.5, 0.75])
    averages.begin(network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    averages.update(network, 1)
    assert torch.allclose(averages.states['params_ema_0.75']['weight'], before + 0.25)


@given(st.floats(0, 1), st.integers(0, 2**31))
def test_an_average_follows_as_basicsr_has_it_but_for_rounding(decay, seed):
    rng = torch.Generator().manual_seed(seed)
    averages, values = ([torch.randn(n, generator=rng) for n in (1, 7, 64)] for _ in range(2))
    wanted = [
        average.double() * decay + value.double() * (1 - decay) for average, value in zip(averages, values, strict=True)
    ]
    follow(averages, values, 1 - decay)
    for average, exact in zip(averages, wanted, strict=True):
        torch.testing.assert_close(average.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize('decay', [0.0, 0.3, 0.999, 0.9999])
def test_a_weight_that_does_not_change_is_its_own_average_to_the_bit(decay):
    value = torch.randn(1000)
    average = value.clone()
    follow([average], [value], 1 - decay)
    assert torch.equal(average, value)
    follow([average], [value + 1], 1)
    assert torch.equal(average, value + 1), 'copied'


def test_each_average_is_one_operator():
    class Operators(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func.overloadpacket))
            return func(*args, **(kwargs or {}))

    network = nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(10)))  # with buffers, some of whole numbers
    averages = Averages([0.9, 0.99, 0.999])
    averages.begin(network)
    with Operators() as operators:
        averages.update(network, 1)
    computed = [name for name in operators.names if name not in ('aten.detach', 'aten.copy_')]
    assert computed == ['aten._foreach_lerp_'] * 2


@pytest.mark.parametrize('wrong', [{'power': -1}, {'power': 2}, {'gamma': 0}, {'start': -1}])
def test_a_warm_up_out_of_range_is_refused(wrong):
    with pytest.raises(UserError, match='ema_power'):
        Averages([0.9], **wrong)
