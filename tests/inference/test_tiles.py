"""Tiles: every pixel is covered once in sum, memory is bounded, running out of it is survived."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vmambair_arch.errors import UserError
from vmambair_arch.inference import tiles


def identity(x):
    return x


def blur(x):
    """A network of receptive field 5."""
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode='replicate'), 5, stride=1)


def nearest_x2(x):
    return F.interpolate(x, scale_factor=2, mode='nearest')


sizes = st.integers(1, 400)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 5000), tile=st.integers(32, 600), part=st.floats(0, 1 / 3))
def test_spans_cover_the_axis_and_weights_sum_to_one(length, tile, part):
    overlap = int(tile * part)
    spans = tiles.spans(length, tile, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    total = torch.zeros(length)
    for index, (start, stop) in enumerate(spans):
        assert start % tiles.ALIGN == 0
        assert 0 < stop - start <= tile
        head = overlap if index else 0
        tail = overlap if index < len(spans) - 1 else 0
        assert head + tail <= stop - start
        total[start:stop] += tiles.weights(stop - start, head, tail)
    for (_, stop), (start, _) in zip(spans[:-1], spans[1:], strict=True):
        assert stop - start == overlap
    assert (total - 1).abs().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, tile=st.integers(32, 200), overlap=st.integers(0, 64), value=st.floats(0, 1))
def test_constant_in_constant_out(height, width, tile, overlap, value):
    image = torch.full((3, height, width), value)
    for network, scale in ((identity, 1), (nearest_x2, 2)):
        out = tiles.run_in_tiles(network, image, scale=scale, tile=tile, overlap=overlap)
        assert out.shape == (3, height * scale, width * scale)
        assert (out - value).abs().max() <= 1e-6


@settings(max_examples=30, deadline=None)
@given(height=sizes, width=sizes, tile=st.integers(32, 200), overlap=st.integers(0, 64))
def test_a_pointwise_network_is_the_same_in_tiles(height, width, tile, overlap):
    image = torch.rand(3, height, width)
    torch.testing.assert_close(
        tiles.run_in_tiles(lambda x: x * x, image, tile=tile, overlap=overlap), image * image, atol=1e-6, rtol=0
    )


def test_seams_vanish_with_the_overlap():
    image = torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(0))
    errors = [
        (tiles.run_in_tiles(blur, image, tile=100, overlap=overlap) - blur(image[None])[0]).abs().max().item()
        for overlap in (0, 8, 32)
    ]
    assert errors[0] > 0.02
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_only_tiles_reach_the_network():
    seen = []

    def network(x):
        seen.append(tuple(x.shape))
        return x

    tiles.run_in_tiles(network, torch.rand(3, 500, 70), tile=96, overlap=16)
    assert all(shape[0] == 1 and max(shape[2:]) <= 96 for shape in seen)
    seen.clear()
    tiles.run_in_tiles(network, torch.rand(3, 500, 70), tile=None)
    assert seen == [(1, 3, 500, 70)]


@pytest.mark.parametrize(
    'error',
    [
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB'),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        MemoryError(),
        # More than 2^31 elements, as torch and cuDNN say it.
        RuntimeError('input tensor must fit into 32-bit index math: canUse32BitIndexMath(input)'),
        RuntimeError('Expected input.numel() <= INT_MAX'),
        RuntimeError('cuDNN error: CUDNN_STATUS_NOT_SUPPORTED'),
    ],
)
def test_out_of_memory_halves_the_tile_and_starts_over(error, caplog):
    shapes = []

    def network(x):
        shapes.append(max(x.shape[2:]))
        if max(x.shape[2:]) > 70 or len(shapes) == 6:  # once more in the middle of a run
            raise error
        return x * 0.5

    image = torch.rand(3, 200, 260)
    out = tiles.run_in_tiles(network, image, tile=None, overlap=16)
    torch.testing.assert_close(out, image * 0.5, atol=1e-6, rtol=0)
    assert shapes[0] == 260
    assert shapes[-1] <= 32
    assert 'starting this image over with tiles of 65 pixels' in caplog.text


def test_out_of_memory_to_the_end_is_said():
    def network(x):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    with pytest.raises(UserError, match='out of memory even with tiles of'):
        tiles.run_in_tiles(network, torch.rand(3, 200, 200))


def test_other_errors_pass():
    def network(x):
        raise RuntimeError('shapes do not fit')

    with pytest.raises(RuntimeError, match='shapes do not fit'):
        tiles.run_in_tiles(network, torch.rand(3, 20, 20))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_no_black_tile(value):
    def network(x):
        return x * (value if x.shape[-1] < 96 else 1)

    with pytest.raises(tiles.NotFiniteError, match='the network returned NaN') as refused:
        tiles.run_in_tiles(network, torch.rand(3, 40, 200), tile=96, overlap=16)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_what_is_in_the_image_is_not_the_networks_fault(value):
    image = torch.rand(3, 40, 200)
    image[1, 7, 190] = value
    with pytest.raises(tiles.NotFiniteError, match='the image has NaN'):
        tiles.run_in_tiles(lambda x: x, image, tile=96, overlap=16)


def test_too_small_a_tile():
    with pytest.raises(UserError, match='tile of 8 pixels is too small'):
        tiles.run_in_tiles(identity, torch.rand(3, 20, 20), tile=8)


def test_progress_counts_tiles():
    calls = []
    tiles.run_in_tiles(identity, torch.rand(3, 100, 64), tile=64, overlap=16, progress=lambda *a: calls.append(a))
    assert calls == [(1, 2), (2, 2)]


def test_memory_is_measured():
    def network(x):
        wide = x.repeat(1, 100, 1, 1)  # 1200 bytes a pixel
        return wide[:, :3].clone()

    assert 1200 <= tiles.memory_per_pixel(network, torch.device('cpu')) <= 1300


def test_a_signal_while_memory_is_measured_is_not_swallowed(monkeypatch):
    """It was where it came as a tensor was given back."""
    freed = tiles._PeakMemory._freed

    def interrupted(memory, *args):
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        freed(memory, *args)

    sent = []
    monkeypatch.setattr(tiles._PeakMemory, '_freed', interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tiles.memory_per_pixel(lambda x: (x + 1) * 2, torch.device('cpu'))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent


def test_the_widest_tensor_is_found_wherever_it_is_in_the_network():
    def network(x):
        return F.conv2d(F.interpolate(x, scale_factor=2), torch.ones(5, 3, 1, 1)).mean()

    assert tiles.elements_per_pixel(network, torch.device('cpu')) == 5 * 4


def test_the_tile_that_fits():
    assert tiles.tile_that_fits(300, 300, 90_000) is None
    assert tiles.tile_that_fits(301, 300, 90_000) == 296
    assert tiles.tile_that_fits(10**5, 10**5, 1.5) == tiles.MIN_TILE


def test_free_memory_is_bounded_on_a_cpu():
    assert 0 < tiles.free_memory(torch.device('cpu')) <= tiles.CPU_BUDGET


def test_a_container_may_use_its_limit_but_for_what_files_make_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, 'CGROUP', tmp_path)
    for name, content in {'max': '600000', 'current': '500000', 'stat': 'anon 100000\ninactive_file 300000'}.items():
        (tmp_path / f'memory.{name}').write_text(f'{content}\n')
    monkeypatch.setattr(tiles, 'freed_memory', lambda: 0)  # what the process keeps is more than so small a container
    assert tiles.free_system_memory() == 400_000
    assert tiles.free_memory(torch.device('cpu')) == 200_000
    (tmp_path / 'memory.max').write_text('max\n')
    assert tiles.free_system_memory() > 400_000


@pytest.mark.parametrize(
    'error',
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")],
)
@pytest.mark.parametrize('tile', [None, 64])
def test_no_room_for_the_result_is_not_taken_for_the_network_s(monkeypatch, caplog, error, tile):
    def refuse(*_size, **_options):
        raise error

    ran = []
    monkeypatch.setattr(tiles.torch, 'empty', refuse)
    with pytest.raises(type(error)):
        tiles.run_in_tiles(lambda x: ran.append(x) or x, torch.zeros(3, 100, 120), tile=tile)
    assert ran == []
    assert not caplog.records


@settings(max_examples=40, deadline=None)
@given(height=sizes, width=sizes, scale=st.integers(1, 3), tile=st.sampled_from([None, 32, 48]), data=st.data())
def test_any_order_in_memory_gives_the_same(height, width, scale, tile, data):
    def network(x):
        assert x.is_contiguous()
        return F.interpolate(x * 0.7 - 0.1, scale_factor=scale, mode='nearest')

    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    other = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    results = [tiles.run_in_tiles(network, one, scale=scale, tile=tile, overlap=8) for one in (image, other)]
    assert torch.equal(*results)
    assert results[0].permute(1, 2, 0).is_contiguous()
    if tile is None:
        assert torch.equal(results[0], network(image[None])[0])


def test_a_network_that_returns_its_input_has_it_unchanged():
    image = torch.rand(3, 40, 40)
    before = image.clone()
    tiles.run_in_tiles(lambda x: x, image).mul_(0)
    assert torch.equal(image, before)


@pytest.mark.parametrize('network', [torch.nn.Identity(), lambda x: x[:, :, ::2], lambda x: x.detach()])
def test_a_network_that_takes_no_memory_takes_that_of_the_picture(network):
    """There is always a largest picture: one divides by these figures."""
    assert tiles.memory_per_pixel(network, torch.device('cpu')) == 3 * 4
    assert tiles.elements_per_pixel(network, torch.device('cpu')) == 3
