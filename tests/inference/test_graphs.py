"""CUDA graphs in the restorer, told on the CPU: stand-ins that record, fail, lie, run out of memory and make room."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from vmambair_arch import Restorer
from vmambair_arch.inference import graphs as module
from vmambair_arch.inference.graphs import CudaRecording, Graphs
from vmambair_arch.ops import using

ROOM = 10**9
OUT_OF_MEMORY = 'CUDA out of memory. Tried to allocate 2.00 GiB'


class StandIn:
    """A recording that runs the pass again; what it does is counted in `log`."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor, log: list[str], size: int = 100) -> None:
        self.run, self.log, self.size, self.closed = run, log, size, False
        self.name = 'x'.join(map(str, x.shape[2:]))
        run(x)
        log.append(f'record {self.name}')

    def replay(self, x: Tensor) -> Tensor:
        assert not self.closed
        self.log.append(f'replay {self.name}')
        return self.run(x)

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        self.log.append(f'close {self.name}')


class Machine:
    """Graphs over a pass that adds one, and what happened: 'run', 'record', 'replay' and 'close', with the shape."""

    def __init__(self, record: Callable[..., Any] | None = None, room: int = ROOM, **limits: int) -> None:
        self.log: list[str] = []
        self.fail: list[Exception] = []
        self.graphs = Graphs(lambda run, x: self._record(record or StandIn, x), lambda device: room, **limits)

    def _record(self, record: Callable[..., Any], x: Tensor) -> Any:
        return record(self._quiet, x, self.log)

    @staticmethod
    def _quiet(x: Tensor) -> Tensor:
        return x + 1

    def run(self, x: Tensor) -> Tensor:
        if self.fail:
            raise self.fail.pop()
        self.log.append('run ' + 'x'.join(map(str, x.shape[2:])))
        return x + 1

    def __call__(self, *sides: int, state: object = None) -> list[str]:
        """Pass over tensors of these heights; what came of it."""
        self.log.clear()
        for side in sides:
            x = torch.rand(1, 3, side, 2)
            torch.testing.assert_close(self.graphs(self.run, x, state), x + 1)
        return list(self.log)


# --- the policy ------------------------------------------------------------------------------------------------------


def test_a_shape_is_run_then_recorded_then_compared_then_replayed():
    machine = Machine()
    assert machine(8) == ['run 8x2']
    assert machine(8) == ['run 8x2', 'record 8x2']
    assert machine(8) == ['run 8x2', 'replay 8x2']
    assert machine(8, 8) == ['replay 8x2', 'replay 8x2']
    assert (machine.graphs.count, machine.graphs.held) == (1, 100)


def test_sizes_that_are_seen_once_are_never_recorded():
    machine = Machine()
    machine(*range(1, 60))
    assert machine.graphs.count == 0


def test_dtypes_strides_and_batches_are_shapes_of_their_own():
    machine = Machine()
    for _ in range(3):
        for x in (
            torch.rand(1, 3, 8, 6),
            torch.rand(1, 3, 8, 6).half(),
            torch.rand(1, 3, 6, 8).transpose(2, 3),
            torch.rand(2, 3, 8, 6),
        ):
            assert torch.equal(machine.graphs(machine.run, x), x + 1)
    assert machine.graphs.count == 4


def test_what_is_large_is_left_alone():
    machine = Machine(most_pixels=20)
    machine(11, 11, 11, 10, 10, 10)
    assert machine.log == ['run 11x2'] * 3 + ['run 10x2', 'run 10x2', 'record 10x2', 'run 10x2', 'replay 10x2']


def test_a_bounded_number_is_kept_and_one_more_shape_in_turn_records_nothing_again():
    machine = Machine(most=2)
    for _ in range(10):
        machine(4, 5, 6)
    assert machine.graphs.count == 2
    assert machine(4, 5, 6) == ['replay 4x2', 'replay 5x2', 'run 6x2']


def test_a_recording_that_was_not_used_for_long_makes_room():
    machine = Machine(most=2, patience=6)
    machine(4, 4, 4, 5, 5, 5)
    machine(5, 5, 5, 5)
    assert machine(6, 6, 6, 6) == [
        'run 6x2', 'close 4x2', 'run 6x2', 'record 6x2', 'run 6x2', 'replay 6x2', 'replay 6x2',
    ]  # fmt: skip
    assert machine.graphs.count == 2
    assert machine(4) == ['run 4x2'], 'it starts over'


def test_shapes_that_are_known_are_bounded_and_recordings_are_not_forgotten():
    machine = Machine()
    machine(100, 100, 100)
    machine(*range(1, 90))
    assert len(machine.graphs._shapes) <= module.KNOWN_SHAPES
    assert machine(100) == ['replay 100x2']


def test_other_weights_or_another_scan_start_over():
    machine = Machine()
    machine(8, 8, 8, state=1)
    assert machine(8, state=2) == ['close 8x2', 'run 8x2']
    assert machine(8, 8, 8, state=2) == ['run 8x2', 'record 8x2', 'run 8x2', 'replay 8x2', 'replay 8x2']


def raising(message: str) -> Callable[..., Any]:
    def record(run: object, x: Tensor, log: list[str]) -> None:
        log.append('try')
        raise RuntimeError(message)

    return record


def test_a_pass_that_cannot_be_recorded_costs_one_warning(caplog):
    machine = Machine(raising('operation not permitted when stream is capturing'))
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert machine(8, 8, 8, 9, 9, 9) == ['run 8x2', 'run 8x2', 'try', 'run 8x2', *['run 9x2'] * 3]
    (said,) = [record.getMessage() for record in caplog.records]
    assert 'recording failed: RuntimeError: operation not permitted' in said
    assert 'VMAMBAIR_GRAPHS=0' in said


LIES: dict[str, Callable[[Tensor], Tensor]] = {
    'is off by 1.0e-02': lambda y: y * 1.01,
    'is off by': lambda y: torch.zeros_like(y),
    'has other NaN': lambda y: y * float('nan'),
    'is (1, 3, 7, 2)': lambda y: y[:, :, :-1],
    'torch.float64, not': lambda y: y.double(),
}


@pytest.mark.parametrize('fault', LIES)
def test_a_recording_that_lies_is_never_used_and_costs_one_warning(fault, caplog):
    class Liar(StandIn):
        def replay(self, x: Tensor) -> Tensor:
            return LIES[fault](super().replay(x))

    machine = Machine(Liar)
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        machine(8, 8)
        assert machine(8, 8, 9, 9) == ['run 8x2', 'replay 8x2', 'close 8x2', 'run 8x2', 'run 9x2', 'run 9x2']
    (said,) = [record.getMessage() for record in caplog.records]
    assert fault in said


def test_a_result_that_is_nan_either_way_is_no_lie():
    graphs = Graphs(lambda run, x: StandIn(run, x, []), lambda device: ROOM)
    x = torch.full((1, 3, 4, 4), float('nan'))
    for _ in range(4):
        assert graphs(lambda x: x + 1, x).isnan().all()
    assert graphs.count == 1
    assert not graphs.off


def test_a_recording_with_the_values_of_the_picture_it_was_made_with_is_found():
    """It is compared on another picture than the one that was recorded."""

    class Stale(StandIn):
        def __init__(self, run: Callable, x: Tensor, log: list[str]) -> None:
            super().__init__(run, x, log)
            self.y = run(x)

        def replay(self, x: Tensor) -> Tensor:
            return self.y

    machine = Machine(Stale)
    machine(8, 8, 8, 8)
    assert 'is off by' in machine.graphs.off


def test_memory_that_runs_out_while_recording_is_no_fault(caplog):
    machine = Machine(raising(OUT_OF_MEMORY))
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert machine(8, 8) == ['run 8x2', 'run 8x2', 'try']
        assert machine(8, 8) == ['run 8x2', 'run 8x2', 'try'], 'another try'
        assert machine(8, 8, 8, 8) == ['run 8x2'] * 4, 'and no more'
    assert caplog.records == []


def test_a_pass_that_needs_the_memory_gets_it():
    machine = Machine()
    machine(8, 8, 8, 8)
    machine.fail.append(RuntimeError(OUT_OF_MEMORY))
    assert machine(50) == ['close 8x2', 'run 50x2']
    assert machine.graphs.held == 0
    machine.fail.append(RuntimeError(OUT_OF_MEMORY))
    with pytest.raises(RuntimeError, match='out of memory'):
        machine(50)


def test_what_takes_too_much_memory_is_given_back_and_not_tried_again():
    machine = Machine(room=150)
    machine(8, 8, 8, 8)
    assert machine(9, 9, 9, 9) == ['run 9x2', 'run 9x2', 'record 9x2', 'close 9x2', 'run 9x2', 'run 9x2']
    assert machine(8) == ['replay 8x2']


@pytest.mark.parametrize(('when', 'message'), [(3, OUT_OF_MEMORY), (4, OUT_OF_MEMORY), (5, 'graph exec is gone')])
def test_a_replay_that_fails_is_done_again(when, message):
    class Failing(StandIn):
        def replay(self, x: Tensor) -> Tensor:
            if self.log.count(f'replay {self.name}') == when - 3:
                raise RuntimeError(message)
            return super().replay(x)

    machine = Machine(Failing)
    for _ in range(7):
        x = torch.rand(1, 3, 8, 2)
        torch.testing.assert_close(machine.graphs(machine.run, x), x + 1)
    assert 'close 8x2' in machine.log


@pytest.mark.parametrize('recording', [True, False])
def test_a_lost_device_is_raised_with_the_way_round(recording):
    lost = 'CUDA error: an illegal memory access was encountered'

    class Losing(StandIn):
        def replay(self, x: Tensor) -> Tensor:
            raise RuntimeError(lost)

    machine = Machine(raising(lost) if recording else Losing)
    with pytest.raises(RuntimeError, match='VMAMBAIR_GRAPHS=0'):
        machine(8, 8, 8)


def test_an_error_of_the_pass_is_the_callers():
    machine = Machine()
    for _ in range(3):
        machine.fail.append(ValueError('no such picture'))
        with pytest.raises(ValueError, match='no such picture'):
            machine(8)
    assert machine(8, 8, 8)[-1] == 'replay 8x2'
    assert not machine.graphs.off


def test_threads_record_once_and_wait_for_nobody():
    class Slow(StandIn):
        def __init__(self, run: Callable, x: Tensor, log: list[str]) -> None:
            threading.Event().wait(0.02)
            super().__init__(run, x, log)

    machine = Machine(Slow)
    with ThreadPoolExecutor(8) as pool:
        for result, x in pool.map(lambda x: (machine.graphs(machine.run, x), x), torch.rand(200, 1, 3, 8, 2)):
            assert torch.equal(result, x + 1)
    assert machine.log.count('record 8x2') == 1
    assert machine.graphs.count == 1


def test_recordings_go_with_what_holds_them():
    graphs = Graphs(lambda run, x: StandIn(run, x, []), lambda device: ROOM)
    for _ in range(4):
        graphs(lambda x: x + 1, torch.rand(1, 3, 4, 4))
    (recording,) = (weakref.ref(shape.recording) for shape in graphs._shapes.values())
    gc.disable()
    try:
        del graphs
        assert recording() is None
    finally:
        gc.enable()


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda graphs: pickle.loads(pickle.dumps(graphs))])
def test_a_copy_starts_with_none(duplicate):
    graphs = Graphs(most=3)
    graphs._shapes[1] = module._Shape(4, recording=StandIn(torch.abs, torch.rand(1, 3, 2, 2), []))
    again = duplicate(graphs)
    assert (again.count, again._limits['most']) == (0, 3)


# --- the calls of CUDA, with a graph that records operators on the CPU -----------------------------------------------


class FakeGraph(TorchDispatchMode):
    """What a CUDA graph does: the operators of the capture, again, on the memory that they had."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if 'item' in str(func) or '_local_scalar' in str(func):
            raise RuntimeError('operation not permitted when stream is capturing')
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        # What is computed while a capture is under way is not there: nothing runs.
        tree_map_only(Tensor, lambda t: self._spoil(t, args), result)
        return result

    @staticmethod
    def _spoil(result: Tensor, args: Any) -> Tensor:
        given = {t.untyped_storage()._cdata for t in tree_flatten(args)[0] if isinstance(t, Tensor)}
        if result.untyped_storage()._cdata not in given and result.is_floating_point():
            result.fill_(7e7)
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(result)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def reset(self) -> None:
        self.done.clear()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """torch.cuda as far as a recording calls it; the stream that is current, and the memory that is reserved."""
    state = SimpleNamespace(stream='default', reserved=0, events=[])

    class Stream:
        def __init__(self, device: object = None) -> None:
            self.name = 'side'

        def wait_stream(self, other: Stream) -> None:
            state.events.append(f'{self.name} waits for {other.name}')

        def wait_event(self, event: Event) -> None:
            state.events.append('wait')

    class Event:
        def record(self, stream: Stream) -> None:
            state.events.append('done')

        def synchronize(self) -> None:
            state.events.append('synchronize')

    def current_stream(device: object = None) -> Stream:
        stream = Stream()
        stream.name = state.stream
        return stream

    def set_stream(stream: Stream) -> None:
        state.stream = stream.name

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        before, state.stream = state.stream, stream.name
        yield
        state.stream = before  # as torch's: not where something is raised

    @contextmanager
    def graph(graph: FakeGraph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == 'thread_local'
        state.stream = stream.name
        try:
            with graph:
                yield
        except Exception:
            raise RuntimeError('the capture was invalidated') from None
        state.reserved += 4096
        state.stream = 'default'

    for name, value in {
        'Stream': Stream, 'Event': Event, 'current_stream': current_stream, 'set_stream': set_stream, 'stream': on,
        'graph': graph, 'CUDAGraph': FakeGraph, 'device': lambda device: nullcontext(), 'synchronize': lambda d: None,
        'empty_cache': lambda: None, 'memory_reserved': lambda device: state.reserved,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    module._stream.cache_clear()
    yield state
    module._stream.cache_clear()


def test_a_recording_of_cuda_computes_anew_for_every_input(cuda):
    layer = nn.Conv2d(3, 3, 3, padding=1)
    with torch.inference_mode():
        recording = CudaRecording(lambda x: layer(x).relu().float(), torch.rand(1, 3, 5, 6))
        assert cuda.events == ['side waits for default', 'default waits for side']
        results = []
        for _ in range(3):
            x = torch.rand(1, 3, 5, 6)
            results.append((recording.replay(x), layer(x).relu()))
        for got, wanted in results:  # none is overwritten by the next
            torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        x = torch.rand(1, 3, 5, 6)
        torch.testing.assert_close(recording.replay(x), layer(x).relu())
        layer.weight.mul_(2)  # read where they are
        torch.testing.assert_close(recording.replay(x), layer(x).relu())
    assert recording.size == 4096
    recording.close()
    assert cuda.events[-1] == 'synchronize'


def test_a_capture_that_fails_names_the_reason_and_leaves_the_stream_as_it_was(cuda):
    with pytest.raises(RuntimeError, match='not permitted when stream'):
        CudaRecording(lambda x: x * x.sum().item(), torch.rand(1, 3, 5, 6))
    assert cuda.stream == 'default'
    assert not module._RECORDING.locked()


# --- in the restorer -------------------------------------------------------------------------------------------------


def with_graphs(restorer: Restorer, record: Any = None) -> Restorer:
    """A restorer on the CPU that has graphs as on a GPU."""
    restorer._graphs = Graphs(record or CudaRecording, lambda device: ROOM)
    return restorer


@pytest.mark.parametrize('options', [{}, {'precision': 'bf16'}, {'self_ensemble': True}], ids=str)
def test_a_picture_in_tiles_is_the_same_with_graphs(tiny, cuda, options):
    source = np.random.default_rng(0).random((100, 130, 3)).astype(np.float32)
    options |= {'tile': 32, 'overlap': 8, 'device': 'cpu'}
    wanted = Restorer(tiny, **options)(source)
    restorer = with_graphs(Restorer(tiny, **options))
    calls: list[int] = []
    hook = tiny.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    try:
        for _ in range(2):
            np.testing.assert_array_equal(restorer(source), wanted)
            calls.append(0)
    finally:
        hook.remove()
    assert not restorer._graphs.off
    assert 1 <= restorer._graphs.count <= module.MOST_GRAPHS
    first, second = (' '.join(map(str, calls)).split('0')[i].count('1') for i in (0, 1))
    assert second < first, 'the second time most are replays'


def test_blocks_of_a_recording_are_not_counted_as_done(tiny, cuda):
    restorer = with_graphs(Restorer(tiny, tile=32, overlap=8, device='cpu'))
    most: list[int] = []
    for _ in range(2):
        said: list[tuple[int, int]] = []
        restorer(np.zeros((96, 96, 3), np.float32), progress=lambda *now, said=said: said.append(now))
        assert [done for done, _ in said] == sorted(done for done, _ in said)
        assert said[-1][0] == said[-1][1]
        most.append(max(said.count(one) for one in said))
    assert most == [2, 2]  # the last block of a tile, and the tile


@pytest.mark.parametrize('change', ['in place', 'moved', 'replaced'])
def test_weights_that_change_are_seen(cuda, change):
    network = nn.Conv2d(3, 3, 1)
    restorer = with_graphs(Restorer(network, device='cpu'))
    source = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    for _ in range(4):
        restorer(source)
    assert restorer._graphs.count == 1
    with torch.no_grad():
        if change == 'in place':
            network.load_state_dict({name: t / 2 for name, t in network.state_dict().items()})
        elif change == 'moved':
            network.weight.data = network.weight.data / 2
        else:
            network.weight = nn.Parameter(network.weight / 2)
    np.testing.assert_array_equal(restorer(source), Restorer(network, device='cpu')(source))
    assert not restorer._graphs.off


def test_a_scan_that_is_named_for_a_block_is_not_that_of_a_recording(tiny, cuda):
    restorer = with_graphs(Restorer(tiny, device='cpu'))
    source = np.zeros((16, 16, 3), np.float32)
    for _ in range(3):
        restorer(source)
    assert restorer._graphs.count == 1
    with using('torch'):
        restorer(source)
    assert restorer._graphs.count == 0


def test_gradients_and_measurements_are_of_ordinary_passes(tiny):
    def record(run: Any, x: Tensor) -> None:
        raise AssertionError('recorded')

    restorer = with_graphs(Restorer(tiny, device='cpu'), record)
    for _ in range(4):
        x = torch.rand(1, 3, 16, 16, requires_grad=True)
        restorer.network(x).sum().backward()
        assert x.grad is not None
        restorer._bytes_per_pixel = None
        assert restorer._cost() > 0
    assert not restorer._graphs.off


def test_what_recordings_hold_is_not_free_for_a_picture(tiny, monkeypatch):
    restorer = with_graphs(Restorer(tiny, device='cpu'))
    monkeypatch.setattr(module.tiles, 'free_memory', lambda device: 10_000_000)
    before = restorer._most_pixels()
    restorer._graphs._shapes[0] = module._Shape(1, recording=StandIn(torch.abs, torch.rand(1, 3, 2, 2), [], 4_000_000))
    assert restorer._most_pixels() == pytest.approx(0.6 * before)


@pytest.mark.parametrize(('device', 'graphs', 'variable', 'there'), [
    ('cuda', True, None, True), ('cuda', True, '1', True), ('cuda', False, None, False), ('cuda', True, '0', False),
    ('cuda', True, 'off', False), ('cpu', True, None, False),
])  # fmt: skip
def test_where_there_are_graphs(halve, monkeypatch, device, graphs, variable, there):
    from vmambair_arch.inference import restorer as restorer_module

    monkeypatch.setattr(restorer_module, 'find_device', lambda wanted: torch.device(wanted))
    monkeypatch.setattr(halve, 'to', lambda device: halve)
    monkeypatch.delenv('VMAMBAIR_GRAPHS', raising=False)
    if variable is not None:
        monkeypatch.setenv('VMAMBAIR_GRAPHS', variable)
    assert (Restorer(halve, device=device, graphs=graphs)._graphs is not None) == there
