"""The Triton kernels: right in Triton's CPU interpreter, compiled ahead of time for GPUs, run where there is one."""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compiled import resources_of
from scan_cases import assert_close, outputs_and_gradients, scan_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from vmambair_arch.ops import (
    PLANE_DIRECTIONS,
    SEQUENCE_DIRECTIONS,
    ScanInputs,
    choose,
    omni_scan,
    selective_scan,
    torch_scan,
    triton_scan,
)

triton = pytest.importorskip('triton', reason='torch brings Triton on Linux only')

PLANE = {'b': 2, 'h': 64, 'w': 64, 'd': 48, 'N': 16, 'R': 3, 'directions': PLANE_DIRECTIONS}
CHANNELS = {'b': 2, 'h': 1, 'w': 96, 'd': 4, 'N': 16, 'R': 6, 'directions': SEQUENCE_DIRECTIONS}
KERNELS = ('local_states_kernel', 'carry_kernel', 'outputs_kernel', 'chunk_states_kernel', 'gradients_kernel')
RUN_TIME_NUMBERS = ('h', 'w', 'segments', 'chunks', 'images', 'row')

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')


# --- in the interpreter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('marker', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_in_the_interpreter(marker):
    inner = Path(__file__).with_name('interpreted_triton_scan.py')
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-m', marker, inner]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


# --- how a scan is cut -----------------------------------------------------------------------------------------------

H100, A100, RTX_4060 = 132, 108, 24
"""Multiprocessors."""


@pytest.mark.parametrize(
    ('multiprocessors', 'shape', 'cut'),
    [
        (H100, (8, 64, 64, 96), (16, 2)),  # 3 blocks x 64 segments x 8 images x 2 axes: enough
        (H100, (1, 64, 64, 96), (8, 4)),
        (H100, (1, 32, 32, 192), (4, 4)),
        (H100, (1, 16, 16, 384), (4, 4)),
        (H100, (1, 8, 8, 384), (4, 4)),  # more cannot be had
        (H100, (1, 128, 128, 48), (16, 4)),
        (H100, (16, 64, 64, 48), (16, 2)),
        (A100, (1, 64, 64, 96), (8, 4)),
        (RTX_4060, (1, 64, 64, 96), (16, 2)),
        (RTX_4060, (1, 16, 16, 384), (16, 4)),
        (0, (1, 8, 8, 384), (16, 2)),
    ],
)
def test_small_maps_are_cut_finer_until_every_multiprocessor_has_work(multiprocessors, shape, cut):
    problem = triton_scan._Problem(*shape, 16, -(-shape[-1] // 16), PLANE_DIRECTIONS, multiprocessors)
    assert (problem.chunks, problem.axes) == cut


@pytest.mark.parametrize('multiprocessors', [1, 24, 108, 132])
@pytest.mark.parametrize('b', [1, 3, 16])
def test_a_cut_is_the_coarsest_that_is_enough(b, multiprocessors):
    enough = 8 * multiprocessors
    for side, d in itertools.product((2, 8, 24, 64, 200), (8, 48, 96, 384)):
        problem = triton_scan._Problem(b, side, side, d, 16, 3, PLANE_DIRECTIONS, multiprocessors)

        def programs(chunks: int, axes: int, pixels: int = side**2, d: int = d) -> int:
            return -(-d // min(32, d)) * -(-pixels // (4 * chunks)) * b * axes

        if problem.chunks < 16:
            assert programs(2 * problem.chunks, 4) < enough
        if problem.segments == 1:
            assert problem.axes == 2  # one launch
        else:
            assert problem.axes == (2 if programs(problem.chunks, 2) >= enough else 4)
            assert programs(problem.chunks, problem.axes) >= enough or (problem.chunks, problem.axes) == (4, 4)


@pytest.mark.parametrize(('width', 'segments'), [(1, 1), (48, 1), (96, 1), (128, 1), (129, 33), (384, 96)])
def test_short_sequences_are_one_segment(width, segments):
    problem = triton_scan._Problem(2, 1, width, 1, 16, 6, SEQUENCE_DIRECTIONS, H100)
    assert problem.segments * problem.chunks * triton_scan.CHUNK_PIXELS >= width
    if segments == 1:
        assert (problem.segments, problem.axes) == (1, 1)
    else:
        assert problem.segments == -(-width // (4 * problem.chunks))
        assert problem.axes == 2


def test_directions_that_share_no_axis_are_never_paired():
    assert triton_scan._Problem(64, 99, 99, 96, 16, 6, (3, 0, 1), 1).axes == 3
    assert triton_scan._Problem(64, 99, 99, 96, 16, 6, (0, 1), 1).axes == 2


@pytest.mark.parametrize(
    ('d', 'N', 'tile'),
    [
        (96, 16, (32, 2)),
        (384, 16, (32, 2)),
        (48, 16, (16, 1)),  # three of 16, not two of 32
        (24, 8, (32, 1)),  # one of 32 is less work than three of 8
        (192, 8, (32, 1)),
        (16, 8, (16, 1)),
        (8, 8, (8, 1)),
        (96, 64, (8, 2)),
        (1, 16, (1, 1)),
        (40, 1, (32, 1)),
    ],
)
def test_channels_and_pieces_of_the_gradients(d, N, tile):
    cut = triton_scan._Problem(1, 64, 64, d, N, -(-d // 16), PLANE_DIRECTIONS).gradient_tile()
    assert (cut['P'] * cut['Q'], cut['PIECES']) == tile
    assert cut['T'] * cut['PIECES'] == triton_scan.CHUNK_PIXELS


@pytest.mark.parametrize('multiprocessors', [0, 132])
@pytest.mark.parametrize(
    'shape', [(2, 8, 9, 40, 16, 3), (1, 1, 96, 4, 16, 6), (3, 1, 300, 1, 8, 2), (1, 33, 5, 7, 3, 1)]
)
def test_what_a_gradient_takes_is_told_to_the_byte(monkeypatch, shape, multiprocessors):
    class Allocated(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.new_empty, torch.ops.aten.empty_like):
                self.bytes += made.numel() * made.element_size()
            return made

    class Nothing:
        def __getattr__(self, name):
            return self

        def __getitem__(self, grid):
            return lambda *args, **rest: None

    monkeypatch.setattr(triton_scan, '_kernels', Nothing)
    monkeypatch.setattr(triton_scan, '_multiprocessors', lambda device: multiprocessors)
    directions = SEQUENCE_DIRECTIONS if shape[1] == 1 else PLANE_DIRECTIONS
    inputs = ScanInputs(**scan_inputs(*shape, directions))
    states = torch.zeros(triton_scan._states_shape(inputs, directions))
    with Allocated() as allocated:
        triton_scan._backward(torch.ones_like(inputs.x), inputs, states, directions)
    assert triton_scan.backward_bytes(inputs, directions) == allocated.bytes


def test_a_gpu_that_is_not_there_can_be_planned_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert triton_scan._multiprocessors(torch.device('cuda')) == triton_scan.MULTIPROCESSORS
    assert triton_scan._multiprocessors(torch.device('cpu')) == 0


# --- compiled ahead of time ------------------------------------------------------------------------------------------


def compile_kernel(name: str, problem: dict, target: tuple, dtype: str) -> dict:
    """Compile one kernel as `triton_scan` launches it for a problem; what the compiler made, by kind."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vmambair_arch.ops import triton_kernels

    kernel = getattr(triton_kernels, name)
    cut = triton_scan._Problem(**problem)
    if name == 'carry_kernel':
        constants = cut.carry_sizes() | {'AGAINST': False}
    else:
        tile = cut.gradient_tile() if name == 'gradients_kernel' else cut.tile()
        constants = cut.scan_sizes() | tile | {'AXES': cut.axes, 'EMPTY': False}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {
        arg: 'constexpr' if arg in constants
        else 'i32' if arg in RUN_TIME_NUMBERS
        else f'*{dtype}' if arg in ('x', 'x_dbl', 'dy')
        else '*fp32'
        for arg in kernel.arg_names
    }  # fmt: skip
    aligned = {(i,): [['tt.divisibility', 16]] for i, arg in enumerate(kernel.arg_names) if signature[arg][0] == '*'}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    of_gradients = triton_scan.gradient_options(target[0] == 'hip')
    options = of_gradients if name == 'gradients_kernel' else triton_scan.ONE_WARP
    return triton.compile(source, target=GPUTarget(*target), options=options).asm


def name_of(parameter: tuple | dict | str) -> str:
    """Of a target, a problem or a dtype."""
    if isinstance(parameter, dict):
        return 'd{d}-N{N}-K{}'.format(len(parameter['directions']), **parameter)
    return parameter if isinstance(parameter, str) else f'{parameter[0]}-{parameter[1]}'


SM_80, SM_90, GFX90A = ('cuda', 80, 32), ('cuda', 90, 32), ('hip', 'gfx90a', 64)


@pytest.mark.parametrize(
    ('target', 'problem', 'dtype'),
    [
        (SM_80, CHANNELS, 'fp32'),
        (SM_90, PLANE, 'bf16'),
        (GFX90A, CHANNELS, 'fp32'),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            (SM_80, PLANE, 'fp16'),
            (SM_90, CHANNELS, 'fp32'),
            (SM_90, {**PLANE, 'd': 384, 'R': 24}, 'fp32'),
            (SM_90, {**PLANE, 'N': 64}, 'fp32'),
            (SM_90, {**PLANE, 'directions': (3, 0, 1)}, 'fp32'),
            (GFX90A, PLANE, 'bf16'),
            (('hip', 'gfx1100', 32), PLANE, 'fp32'),
            (('cuda', 75, 32), PLANE, 'fp32'),
        )),
    ],
    ids=name_of,
)  # fmt: skip
def test_ahead_of_time(target, problem, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for name in KERNELS:
        made = compile_kernel(name, problem, target, dtype)
        if target[0] == 'cuda':
            assert f'.target sm_{target[1]}' in made['ptx'], name
            assert f'.entry {name}' in made['ptx']
            assert made['cubin'][:4] == b'\x7fELF', name
        else:
            assert target[1] in made['amdgcn'], name
            assert made['hsaco'][:4] == b'\x7fELF', name


def test_the_states_of_a_chunk_stay_in_registers(tmp_path, monkeypatch):
    """The recurrence over a chunk is plain arithmetic of one thread: lanes exchange nothing in the forward pass."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    ptx = compile_kernel('outputs_kernel', PLANE, SM_90, 'fp32')['ptx']
    assert 'shfl' not in ptx
    assert 'ld.local' not in ptx
    states_of_a_lane = triton_scan.TILE // 32
    # One exp for every state, one for every softplus.
    assert ptx.count('ex2.approx') == triton_scan.CHUNK_PIXELS * (states_of_a_lane + 1)


def resources(name: str, problem: dict, target: tuple) -> dict[str, int]:
    """Registers of a thread, and bytes that it spills to memory, of a compiled kernel."""
    made = compile_kernel(name, problem, target, 'fp32')
    return resources_of(made, target)


GFX942 = ('hip', 'gfx942', 64)
MOST_SPILLED = {SM_80: 8, SM_90: 0, GFX942: 0}
"""Bytes a thread of the gradients' kernel, none of them for each pixel; nothing else spills."""
MOST_REGISTERS = {SM_80: 255, SM_90: 255, GFX942: 256}
"""Of a thread of the gradients' kernel: with 256 of its 512, two programs share a lane of an MI300."""
SLOW_TARGETS = [pytest.param(SM_80, marks=pytest.mark.slow), SM_90, GFX942]


@pytest.mark.parametrize('target', SLOW_TARGETS, ids=name_of)
def test_registers_and_what_is_spilled(target, tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    for name in KERNELS:
        used = resources(name, {**PLANE, 'd': 96, 'R': 6}, target)
        assert used['spilled'] <= (MOST_SPILLED[target] if name == 'gradients_kernel' else 0), name
        most = 512 if target[0] == 'hip' and name != 'gradients_kernel' else MOST_REGISTERS[target]
        assert used['registers'] <= most, name


WIDE_SPILL = {
    (384, 16): {SM_80: 280, SM_90: 104, GFX942: 16},
    (192, 8): {SM_80: 168, SM_90: 96, GFX942: 16},
}
"""Likewise, by channels and states: what a tile that spills nothing costs more is said at `TWO_OF_A_LANE`."""


@pytest.mark.parametrize(('d', 'N'), WIDE_SPILL)
@pytest.mark.parametrize('target', SLOW_TARGETS, ids=name_of)
def test_registers_of_many_channels(target, d, N, tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    problem = {**PLANE, 'd': d, 'N': N, 'R': d // 16}
    made = compile_kernel('gradients_kernel', problem, target, 'fp32')
    used = resources_of(made, target)
    assert used['registers'] <= MOST_REGISTERS[target]
    assert used['spilled'] <= WIDE_SPILL[d, N][target]
    if target[0] == 'hip':
        of_pixels = [loop for loop in loops(made['amdgcn']) if 'v_exp_f32' in loop and '_store_' in loop]
        chunks, *_, directions = of_pixels
        assert 'scratch_' not in chunks, 'nothing for each pixel'
        assert 'scratch_' in directions


def loops(code: str) -> list[str]:
    """The loops in AMD's assembly, those inside others first."""
    lines = code.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r'(\.LBB\w+):', line))}
    back = [
        (labels[m[1]], i)
        for i, line in enumerate(lines)
        if (m := re.search(r's_c?branch\w*\s+(\.LBB\w+)', line)) and labels[m[1]] < i
    ]
    return ['\n'.join(lines[first:last]) for first, last in sorted(back, key=lambda loop: loop[1] - loop[0])]


# --- the first call --------------------------------------------------------------------------------------------------


class Compiles:
    """Kernels that take as long as Triton takes to compile them, on the calls where they are compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.seconds = 0.0, 0.0
        monkeypatch.setattr(triton_scan, '_explained', False)
        monkeypatch.setattr(triton_scan, 'INTERPRETED', False)
        monkeypatch.setattr(triton_scan.time, 'monotonic', lambda: self.clock)
        monkeypatch.setattr(triton_scan, '_forward', self.forward)
        monkeypatch.setattr(triton_scan, '_backward', self.backward)

    def forward(self, inputs, directions, keep):
        self.clock += self.seconds
        return torch_scan.omni_scan(inputs, directions).contiguous(), inputs.x.new_zeros(1 if keep else 0)

    def backward(self, grad_y, inputs, states, directions):
        self.clock += self.seconds
        return ScanInputs(*(torch.zeros_like(t) for t in inputs))

    def scan(self, seconds: float, forward: bool = True) -> None:
        inputs = ScanInputs(*(t.requires_grad_() for t in scan_inputs(1, 4, 5, 6, 3, 2).values()))
        self.seconds = seconds if forward else 0
        y = omni_scan(inputs, backend='triton')
        self.seconds = 0 if forward else seconds
        y.sum().backward()


@pytest.mark.parametrize('forward', [True, False])
def test_the_first_compile_is_explained_in_one_line(monkeypatch, caplog, forward):
    monkeypatch.setenv('TRITON_CACHE_DIR', '/kernels')
    kernels = Compiles(monkeypatch)
    with caplog.at_level(logging.INFO, 'vmambair_arch'):
        kernels.scan(0.01)
        assert caplog.messages == [], 'compiled by an earlier run'
        kernels.scan(1.2, forward)
        (said,) = caplog.messages
        assert 'Triton compiles the kernels of the scan' in said
        assert said.endswith('keeps them in /kernels')
        kernels.scan(1.2, forward)
        assert caplog.messages == [said], 'once'


# --- the choice ------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A function that claims a GPU of a compute capability, on which every backend is right; forgotten afterwards."""

    def claim(*capability: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: capability)
        monkeypatch.setattr(torch.version, 'hip', None)
        monkeypatch.setattr(
            selective_scan.self_check,
            'check',
            lambda device, dtype, them, fresh: tuple(selective_scan.self_check.Verdict(c.name, 'right') for c in them),
        )
        return torch.device('cuda')

    selective_scan.forget()
    yield claim
    selective_scan.forget()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_it_serves_gpus_by_default(gpu, dtype):
    assert choose(gpu(9, 0), dtype).backend.name == 'triton'


def test_float64_goes_to_the_torch_version(gpu):
    choice = choose(gpu(9, 0), torch.float64)
    assert choice.backend.name == 'torch'
    assert 'float64' in {backend.name: why for backend, why in choice.missing}['triton']


def test_a_gpu_that_is_too_old_is_named(gpu):
    assert '6.1' in triton_scan.unavailable(gpu(6, 1), torch.float32)


def test_cpu_tensors_want_the_interpreter():
    assert 'CUDA' in triton_scan.unavailable(torch.device('cpu'), torch.float32)


def test_without_triton_the_reason_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, 'vmambair_arch.ops.triton_kernels', raising=False)
    monkeypatch.delattr('vmambair_arch.ops.triton_kernels', raising=False)
    monkeypatch.setitem(sys.modules, 'triton', None)
    triton_scan._load.cache_clear()
    try:
        assert 'Triton cannot be imported' in triton_scan.unavailable(torch.device('cuda'), torch.float32)
    finally:
        triton_scan._load.cache_clear()


# --- on a GPU --------------------------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize(
    ('shape', 'directions', 'delta'),
    [
        ((2, 64, 64, 96, 16, 6), PLANE_DIRECTIONS, (1e-3, 0.1)),
        ((1, 37, 53, 48, 16, 3), PLANE_DIRECTIONS, (1e-6, 100.0)),
        ((3, 8, 8, 384, 16, 24), PLANE_DIRECTIONS, (1e-3, 0.1)),
        ((3, 1, 96, 1, 16, 6), SEQUENCE_DIRECTIONS, (1e-3, 1.0)),
        ((3, 1, 384, 4, 16, 6), SEQUENCE_DIRECTIONS, (1e-3, 1.0)),
        ((1, 19, 23, 40, 64, 3), PLANE_DIRECTIONS, (1e-3, 0.1)),
        ((2, 11, 13, 5, 3, 2), (3, 0, 1), (1e-3, 0.1)),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_on_a_gpu(shape, directions, delta, dtype):
    inputs = {name: t.cuda() for name, t in scan_inputs(*shape, directions, delta).items()}
    inputs |= {name: inputs[name].to(dtype) for name in ('x', 'x_dbl')}
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn_like(inputs['x'])
    wanted = outputs_and_gradients(lambda *a: omni_scan(*a, backend='torch'), exact, directions, grad_y.double())
    got = outputs_and_gradients(lambda *a: omni_scan(*a, backend='triton'), inputs, directions, grad_y)
    again = outputs_and_gradients(lambda *a: omni_scan(*a, backend='triton'), inputs, directions, grad_y)
    rounding = torch.finfo(dtype).eps
    for name, value in got.items():
        assert_close(value, wanted[name], max(rounding, 4e-6 if name == 'y' else 1e-4), name)
        assert torch.equal(value, again[name]), f'{name} differs between two runs'


@on_a_gpu
def test_every_pixel_of_every_image_has_a_scan_of_its_own_on_a_gpu():
    """The channel scan without pooling: more sequences than the second axis of a grid can have."""
    inputs = {name: t.cuda() for name, t in scan_inputs(40000, 1, 12, 2, 16, 6, SEQUENCE_DIRECTIONS).items()}
    wanted = omni_scan(ScanInputs(*(t.double() for t in inputs.values())), SEQUENCE_DIRECTIONS, backend='torch')
    assert_close(omni_scan(ScanInputs(**inputs), SEQUENCE_DIRECTIONS, backend='triton'), wanted, 4e-6, 'y')
