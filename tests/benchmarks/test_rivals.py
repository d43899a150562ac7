"""The comparison with other shapes of network is at equal size, equal time, and on what it says."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import rivals

NAMES = list(rivals.RIVALS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ('train', 'val'):
        for folder in ('target', 'input'):
            (tmp_path / part / folder).mkdir(parents=True)
        for i in range(2):
            target = cv2.resize(rng.integers(40, 216, (8, 8, 3), dtype=np.uint8), (136, 144))
            cv2.imwrite(str(tmp_path / part / 'target' / f'{i}.png'), target)
            cv2.imwrite(str(tmp_path / part / 'input' / f'{i}.png'), target + 30)
    return tmp_path


def test_sizes_are_equal_within_5_percent() -> None:
    sizes = [sum(p.numel() for p in rivals.RIVALS[name]().parameters()) for name in NAMES]
    assert max(sizes) < 1.05 * sizes[0]
    assert min(sizes) > 0.95 * sizes[0]


@pytest.mark.parametrize('name', NAMES)
def test_every_network_restores_a_batch_and_learns_from_it(name: str) -> None:
    torch.manual_seed(0)
    network = rivals.RIVALS[name]()
    clean = torch.rand(2, 3, 16, 16)
    rainy = (clean + 0.2).clamp(0, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        result = network(rainy)
        assert result.shape == clean.shape
        loss = (result - clean).abs().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.7 * losses[0]
    assert all(p.grad is not None for p in network.parameters())


def test_the_rate_rises_and_ends_its_cosine_with_the_time() -> None:
    assert rivals.rate(0) < rivals.rate(0.01) < rivals.rate(0.03)
    assert rivals.rate(0.5) == pytest.approx((rivals.RATE + rivals.LAST_RATE) / 2)
    assert rivals.rate(1) == rivals.rate(1.1) == pytest.approx(rivals.LAST_RATE)


def test_a_training_takes_the_time_it_may_and_is_done_once(data: Path) -> None:
    start = time.thread_time()
    first = rivals.run(NAMES[2], 0, 0.02, data, data)
    assert time.thread_time() - start > 1.2
    assert first['steps'] > 0
    start = time.thread_time()
    assert rivals.run(NAMES[2], 0, 0.02, data, data) == first
    assert time.thread_time() - start < 0.5


def test_doing_nothing_scores_what_the_inputs_have(data: Path) -> None:
    assert rivals.score(torch.nn.Identity(), data) == pytest.approx(20 * np.log10(255 / (30 * 219 / 255)), abs=0.3)
