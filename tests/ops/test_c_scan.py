"""The C kernel as a citizen of torch: instruction sets, threads, compilation, and what happens without it."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from scan_cases import ScanNetwork, assert_close, outputs_and_gradients, scan_inputs, training_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vmambair_arch.ops import (
    PLANE_DIRECTIONS,
    SEQUENCE_DIRECTIONS,
    ScanInputs,
    c_library,
    c_scan,
    choose,
    omni_scan,
    selective_scan,
)


def c(*args) -> Tensor:
    return omni_scan(*args, backend='c')


@pytest.fixture
def network() -> ScanNetwork:
    torch.manual_seed(0)
    return ScanNetwork()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 7, 20, generator=torch.Generator().manual_seed(3))


def assert_same_step(got: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_it_is_built_and_serves_cpus_by_default():
    assert c_library.isa_names()[-1] == 'portable'
    assert c_library.selected_isa() == os.environ.get(c_library.ENV_ISA, c_library.isa_names()[0])
    assert choose(torch.device('cpu'), torch.float32).backend.name == 'c'
    assert choose(torch.device('cpu'), torch.bfloat16).backend.name == 'c'
    assert choose(torch.device('cpu'), torch.float64).backend.name == 'torch'


@pytest.mark.parametrize(
    ('shape', 'directions', 'delta'),
    [
        ((2, 7, 11, 41, 16, 3), PLANE_DIRECTIONS, (1e-3, 0.1)),
        ((1, 5, 13, 18, 7, 2), PLANE_DIRECTIONS, (1e-6, 100.0)),
        ((2, 1, 50, 4, 16, 6), SEQUENCE_DIRECTIONS, (1e-3, 1.0)),
    ],
)
def test_every_instruction_set_is_right(isa, shape, directions, delta):
    inputs = scan_inputs(*shape, directions, delta)
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn_like(inputs['x'])
    wanted = outputs_and_gradients(lambda *a: omni_scan(*a, backend='reference'), exact, directions, grad_y)
    got = outputs_and_gradients(c, inputs, directions, grad_y)
    for name, value in got.items():
        assert_close(value, wanted[name], 2e-6 if name == 'y' else 1e-5, f'{isa}: {name}')


@pytest.mark.parametrize('x_dbl_type', [torch.float32, torch.bfloat16], ids=['x_dbl32', 'x_dbl16'])
@pytest.mark.parametrize('x_type', [torch.float32, torch.bfloat16], ids=['x32', 'x16'])
@pytest.mark.parametrize('strided', [False, True], ids=['dense', 'strided'])
def test_every_instruction_set_steps_through_every_map_on_its_own(isa, x_type, x_dbl_type, strided):
    """x, x_dbl, the sums and the gradients lie apart by other numbers of bytes, and each has its own."""
    inputs = scan_inputs(2, 7, 11, 20, 4, 2)
    inputs |= {name: inputs[name].to(dtype) for name, dtype in (('x', x_type), ('x_dbl', x_dbl_type))}
    if strided:
        for name in ('x', 'x_dbl'):
            inputs[name] = torch.cat([inputs[name]] * 3, 2)[:, :, 11:22]
    exact = {name: t.double() for name, t in inputs.items()}
    grad_y = torch.randn(inputs['x'].shape).to(x_type)
    wanted = outputs_and_gradients(
        lambda *a: omni_scan(*a, backend='reference'), exact, PLANE_DIRECTIONS, grad_y.double()
    )
    got = outputs_and_gradients(c, inputs, PLANE_DIRECTIONS, grad_y)
    for name, value in got.items():
        assert_close(value.double(), wanted[name], 1e-2 if value.dtype == torch.bfloat16 else 1e-5, f'{isa}: {name}')


def test_every_instruction_set_rounds_to_bfloat16_as_torch_does(isa):
    inputs = scan_inputs(1, 5, 7, 37, 4, 2, (0,))
    x = inputs['x'].bfloat16()
    x[0, 0, 0, :2] = torch.tensor([float('nan'), float('inf')])
    inputs = {**inputs, 'x': x, 'x_dbl': torch.zeros_like(inputs['x_dbl'], dtype=torch.bfloat16)}
    y = c(ScanInputs(**inputs), (0,))
    # B is 0: the skip D x is all there is, except where 0 times infinity got into a state.
    assert torch.equal(y[..., 2:], (inputs['D'][0] * x.float()).bfloat16()[..., 2:])
    assert torch.isnan(y[..., :2]).all()


def test_the_exponential_of_every_instruction_set(isa):
    t = torch.cat([torch.linspace(-150, 0, 64 * 2000 - 64), -torch.logspace(-12, 0, 64)])
    t[:4] = torch.tensor([-float('inf'), float('nan'), -1e30, 0.0])
    out = torch.empty_like(t)
    c_scan.decay(t, 1.0, out)
    assert out[0] == 0
    assert torch.isnan(out[1])
    assert out[2] == 0
    assert out[3] == 1
    rest, exact = out[4:].double(), t[4:].double().exp2()
    normal = t[4:] > -125.5
    assert ((rest - exact).abs() / exact)[normal].max() < 2e-7
    assert rest[~normal].max() < 2**-125
    assert rest.max() <= 1  # a decay above 1 would let the state grow


def test_softplus_and_its_slope_to_float32_precision(isa):
    """A scan over one pixel with B = C = x = 1 and D = 0 gives the step size itself."""
    z = torch.cat([torch.linspace(-80, 100, 1801), torch.linspace(-1, 1, 201)])
    one = torch.ones(1, 1, 1, z.numel())
    bias = z[None].clone().requires_grad_()
    d = z.numel()
    A, D = -torch.ones(1, d, 1), torch.zeros(1, d)
    y = c(ScanInputs(one, torch.ones(1, 1, 1, 3), torch.zeros(1, d, 1), bias, A, D), (0,))
    y.sum().backward()
    exact = torch.nn.functional.softplus(z.double(), threshold=1000)
    slope = torch.sigmoid(z.double())
    tolerance = 4e-6 if isa == 'portable' else 3e-7  # without a fused multiply-add
    assert ((y.flatten().double() - exact) / exact).abs().max() < tolerance
    assert ((bias.grad.flatten().double() - slope) / slope).abs().max() < tolerance


def test_softplus_of_what_no_network_should_have(isa):
    z = torch.tensor(
        [199.0, 201.0, 1e6, 1e17, 1e30, 3e38, -199.0, -201.0, -1e6, -1e17, -3e38, -float('inf'), float('nan')]
    )
    d = z.numel()
    one, bias = torch.ones(1, 1, 1, d), z[None].clone().requires_grad_()
    inputs = ScanInputs(
        one, torch.ones(1, 1, 1, 3), torch.zeros(1, d, 1), bias, -torch.ones(1, d, 1), torch.zeros(1, d)
    )
    y = c(inputs, (0,))
    y.sum().backward()
    assert torch.isnan(y.flatten()[-1])
    torch.testing.assert_close(y.flatten()[:-1], torch.nn.functional.softplus(z)[:-1], rtol=1e-6, atol=1e-38)
    torch.testing.assert_close(bias.grad.flatten()[:-1], torch.sigmoid(z)[:-1], rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize(
    ('shape', 'directions'),
    [
        ((1, 24, 27, 48, 16, 3), PLANE_DIRECTIONS),
        ((3, 9, 14, 112, 16, 3), PLANE_DIRECTIONS),
        ((1, 40, 40, 20, 16, 3), (2, 1, 0)),
        ((2, 40, 40, 20, 16, 3), (3,)),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(threads, shape, directions, dtype):
    inputs = scan_inputs(*shape, directions)
    inputs = {**inputs, 'x': inputs['x'].to(dtype), 'x_dbl': inputs['x_dbl'].to(dtype)}
    grad_y = torch.randn_like(inputs['x'])
    assert inputs['x'].numel() * len(directions) * 16 >= 7 * c_scan.ELEMENTS_PER_THREAD  # enough for seven threads
    threads(1)
    wanted = outputs_and_gradients(c, inputs, directions, grad_y)
    for count in (2, 7):
        threads(count)
        for name, value in outputs_and_gradients(c, inputs, directions, grad_y).items():
            assert torch.equal(value, wanted[name]), f'{name} with {count} threads'


# --- torch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('keep_states', [False, True])
def test_operator_contract(keep_states):
    inputs = [t.requires_grad_() for t in scan_inputs(2, 4, 5, 6, 4, 2).values()]
    torch.library.opcheck(torch.ops.vmambair.c_scan, (*inputs, [0, 1, 2, 3], keep_states))


def test_states_that_were_not_kept_are_computed_again(x):
    inputs = [t.requires_grad_() for t in scan_inputs(2, 5, 7, 20, 4, 2).values()]
    grads = []
    for keep in (False, True):
        y, states = torch.ops.vmambair.c_scan(*inputs, PLANE_DIRECTIONS, keep)
        assert bool(states.numel()) == keep
        grads.append(torch.autograd.grad(y, inputs, x))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_no_states_are_kept_without_a_gradient(network, x, monkeypatch):
    kept = []
    results = c_scan.empty_results
    monkeypatch.setattr(c_scan, 'empty_results', lambda *a: kept.append(a[-1]) or results(*a))
    network(x)
    with torch.no_grad():
        network(x)
    network.requires_grad_(False)(x)
    assert kept == [True, False, False]


@pytest.mark.parametrize('dynamic', [False, True])
def test_compile_without_a_graph_break(network, x, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend='aot_eager', dynamic=dynamic)
    assert_same_step(training_step(compiled, x), training_step(network, x))
    other = torch.randn(1, 9, 4, 20)
    assert_same_step(training_step(compiled, other), training_step(network, other))


@pytest.mark.slow
def test_compile_with_inductor(network, x):
    torch._dynamo.reset()
    assert_same_step(training_step(torch.compile(network, fullgraph=True), x), training_step(network, x))


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.skipif(not hasattr(torch.export.Dim, 'AUTO'), reason='torch.export.Dim.AUTO came with torch 2.5')
def test_export_with_any_size(network, x, strict):
    auto = torch.export.Dim.AUTO
    with torch.no_grad():
        program = torch.export.export(network, (x,), dynamic_shapes={'x': {0: auto, 1: auto, 2: auto}}, strict=strict)
    assert any('vmambair.c_scan' in str(node.target) for node in program.graph.nodes)
    for size in ((2, 5, 7), (1, 12, 9)):
        other = torch.randn(*size, 20)
        torch.testing.assert_close(program.module()(other), network(other))


def test_inference_mode(network, x):
    with torch.inference_mode():
        y = network(x)
    assert torch.equal(y, network(x))


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_activation_checkpointing(network, x, use_reentrant):
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x.requires_grad_(), use_reentrant=use_reentrant)

    wanted = training_step(network, x)
    for got, want in zip(training_step(Checkpointed(), x.clone()), wanted, strict=True):
        assert torch.equal(got, want)


def test_a_deep_copy_is_independent(network, x):
    twin = copy.deepcopy(network)
    wanted = training_step(network, x)
    assert all(torch.equal(a, b) for a, b in zip(training_step(twin, x), wanted, strict=True))
    assert all(a.grad is not b.grad for a, b in zip(twin.parameters(), network.parameters(), strict=True))


def test_distributed_data_parallel(network, x, tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1)
    try:
        wanted = training_step(copy.deepcopy(network), x)
        assert_same_step(training_step(nn.parallel.DistributedDataParallel(network), x), wanted)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_scan_alone(network, x, dtype):
    with torch.autocast('cpu', dtype):
        x_dbl = network.project(x)
        y = network(x)
    assert x_dbl.dtype == dtype
    assert y.dtype == torch.float32
    exact = ScanInputs(*(t.double() for t in (x, x_dbl, *network.parameters_of_scan)))
    assert_close(y, omni_scan(exact, backend='reference'), 2e-6, 'y under autocast')


def test_a_second_derivative_is_refused_not_wrong():
    inputs = [t.requires_grad_() for t in scan_inputs(1, 2, 3, 4, 2, 1).values()]
    (grad,) = torch.autograd.grad(c(ScanInputs(*inputs)).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='second derivative'):
        grad.sum().backward()


# --- without it ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_choice():
    """Backends are chosen and libraries loaded once in a process: forget it before and after."""

    def forget() -> None:
        selective_scan.forget()
        c_library._load.cache_clear()

    forget()
    yield
    forget()


def test_without_the_library_torch_serves_and_one_warning_names_the_fix(fresh_choice, monkeypatch, tmp_path, caplog, x):
    monkeypatch.setattr(c_library, 'LIBRARY', tmp_path / '_kernels.so')
    monkeypatch.setattr(sys, 'path', [])
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert choose(torch.device('cpu'), torch.float32).backend.name == 'torch'
        ScanNetwork()(x)
        ScanNetwork()(x)
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert 'install gcc or clang' in caplog.text
    assert 'not built' in caplog.text


def test_float64_is_slow_and_no_compiler_mends_that(fresh_choice, caplog):
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert choose(torch.device('cpu'), torch.float64).backend.name == 'torch'
    assert 'no float64. Fix: use a network in float32' in caplog.text


def test_a_broken_library_is_named(fresh_choice, monkeypatch, tmp_path):
    (tmp_path / '_kernels.so').write_text('not a library')
    monkeypatch.setattr(c_library, 'LIBRARY', tmp_path / '_kernels.so')
    monkeypatch.setattr(sys, 'path', [])
    assert 'cannot be loaded' in c_scan.unavailable(torch.device('cpu'), torch.float32)


def installed(tmp_path):
    """An entry of `sys.path` with the library in use in it, as `pip install .` leaves it; skips where there is none.

    It need not be beside the sources: a checkout may stand before an installed copy.
    """
    if why := c_library.why_not():
        pytest.skip(why)
    ops = tmp_path / 'site-packages' / 'vmambair_arch' / 'ops'
    ops.mkdir(parents=True)
    shutil.copy(c_library.path(), ops / c_library.LIBRARY.name)
    c_library._load.cache_clear()
    return str(tmp_path / 'site-packages')


def test_a_checkout_before_an_installed_copy_uses_the_library_of_that(fresh_choice, monkeypatch, tmp_path, x):
    monkeypatch.setattr(sys, 'path', ['', str(tmp_path), installed(tmp_path)])
    monkeypatch.setattr(c_library, 'LIBRARY', tmp_path / '_kernels.so')
    assert choose(torch.device('cpu'), torch.float32).backend.name == 'c'
    ScanNetwork()(x)


def test_a_library_of_other_sources_is_not_loaded(fresh_choice, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(sys, 'path', [installed(tmp_path)])
    monkeypatch.setattr(c_library, 'LIBRARY', tmp_path / '_kernels.so')
    monkeypatch.setattr(c_library, 'sources', lambda: 'of another version')
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert choose(torch.device('cpu'), torch.float32).backend.name == 'torch'
    assert 'built from other sources' in caplog.text
    assert 'reinstall' in caplog.text


@pytest.mark.parametrize('stale', ['broken', 'of other sources'])
def test_a_stale_library_does_not_hide_a_good_one(fresh_choice, monkeypatch, tmp_path, stale):
    entry = installed(tmp_path)
    beside, good = tmp_path / '_kernels.so', Path(entry, 'vmambair_arch/ops', c_library.LIBRARY.name).read_bytes()
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'nothing'), entry])
    ours = c_library.sources().encode()
    assert ours in good
    beside.write_bytes(b'not a library' if stale == 'broken' else good.replace(ours, b'0' * len(ours)))
    monkeypatch.setattr(c_library, 'LIBRARY', beside)
    assert c_library.why_not() is None
    c_library._load.cache_clear()
    monkeypatch.setattr(sys, 'path', [])
    assert c_library.why_not()


@pytest.mark.parametrize('name', ['._scan.c', '.#scan.c', '.scan.h'])
@pytest.mark.parametrize('dangling', [False, True])
def test_what_editors_leave_beside_the_sources_is_none_of_them(monkeypatch, tmp_path, name, dangling):
    shutil.copytree(c_library.LIBRARY.parent / 'csrc', tmp_path / 'csrc')
    monkeypatch.setattr(c_library, '__file__', str(tmp_path / 'c_library.py'))
    before = c_library.sources()
    if dangling:
        (tmp_path / 'csrc' / name).symlink_to('somebody@somewhere.1234')
    else:
        (tmp_path / 'csrc' / name).write_bytes(b'Mac OS X')
    assert c_library.sources() == before


def test_sources_that_cannot_be_read_refuse_the_library_and_nothing_else(fresh_choice, monkeypatch, tmp_path):
    (tmp_path / 'csrc').mkdir()
    (tmp_path / 'csrc' / 'scan.c').symlink_to('nowhere')
    monkeypatch.setattr(c_library, '__file__', str(tmp_path / 'c_library.py'))
    assert 'built from other sources' in c_library.why_not()


@pytest.mark.parametrize(
    ('reason', 'fix'),
    [
        ('the C kernel was not built', 'install gcc or clang'),
        ('the C kernel was built from other sources', 'reinstall'),
        ('VMAMBAIR_SCAN_ISA=avx1024 is not one of avx2, portable', 'unset VMAMBAIR_SCAN_ISA'),
        ('no float64', 'use a network in float32'),
        ('runs on CUDA devices only', 'name a backend of this device'),
    ],
)
def test_every_reason_has_its_own_fix(reason, fix):
    for backend in selective_scan.BACKENDS[:3]:
        assert (fix in backend.fix(reason)) or (backend.name != 'c' and 'install' in backend.fix(reason))


def test_an_instruction_set_that_is_not_there_is_no_missing_compiler(fresh_choice, monkeypatch, caplog):
    monkeypatch.setenv(c_library.ENV_ISA, 'avx1024')
    with caplog.at_level(logging.WARNING, 'vmambair_arch'):
        assert choose(torch.device('cpu'), torch.float32).backend.name == 'torch'
    assert 'Fix: unset VMAMBAIR_SCAN_ISA' in caplog.text
    assert 'gcc' not in caplog.text


def test_a_forced_instruction_set(fresh_choice, monkeypatch):
    monkeypatch.setenv(c_library.ENV_ISA, 'portable')
    assert c_scan.unavailable(torch.device('cpu'), torch.float32) is None
    assert c_library.selected_isa() == 'portable'


def test_an_unknown_instruction_set_is_named(fresh_choice, monkeypatch):
    monkeypatch.setenv(c_library.ENV_ISA, 'avx1024')
    why = c_scan.unavailable(torch.device('cpu'), torch.float32)
    assert 'avx1024' in why
    assert 'portable' in why
    with pytest.raises(ValueError, match='avx1024'):
        c_library.select_isa('avx1024')


def test_float64_goes_to_the_torch_version():
    assert 'float64' in c_scan.unavailable(torch.device('cpu'), torch.float64)


@pytest.mark.parametrize('compiler', [pytest.param('cc', marks=pytest.mark.slow), 'no-such-compiler'])
def test_the_build_never_fails_an_install(root, tmp_path, compiler):
    built = subprocess.run(
        [sys.executable, 'setup.py', 'build_ext', f'--build-lib={tmp_path}', f'--build-temp={tmp_path}'],
        cwd=root, env={**os.environ, 'CC': compiler, 'CFLAGS': '-O0'}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    libraries = list(tmp_path.rglob('_kernels.so'))
    assert bool(libraries) == (compiler == 'cc')


SELECT = """
import ctypes, os, sys
from vmambair_arch.ops import c_library
print(c_library.why_not() or c_library.selected_isa())
library = ctypes.CDLL(str(c_library.found()[0]))  # what the operator of onnxruntime asks
library.vmambair_isa_selected.restype = ctypes.c_char_p
assert library.vmambair_isa_select(os.environb.get(b'VMAMBAIR_SCAN_ISA')) == (1 if c_library.why_not() else 0) * -1
"""


@pytest.mark.parametrize(
    ('value', 'chosen'),
    [('PORTABLE', 'portable'), (' portable\t', 'portable'), ('Portable ', 'portable'), ('  ', ''), ('', ''),
     ('portabl', None), ('portable2', None), ('port able', None)],
)  # fmt: skip
def test_an_instruction_set_is_read_alike_by_python_and_the_library(value, chosen):
    done = subprocess.run(
        [sys.executable, '-c', SELECT], env={**os.environ, 'VMAMBAIR_SCAN_ISA': value}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    if chosen is None:
        assert f'VMAMBAIR_SCAN_ISA={value.strip()} is not one of' in done.stdout
    else:
        assert done.stdout.strip() == (chosen or c_library.isa_names()[0])


ONE_THREAD = """
import logging, pathlib, sys, torch
logging.basicConfig()
from vmambair_arch.ops import c_library
c_library.LIBRARY = pathlib.Path(sys.argv[1])
torch.set_num_threads(2)
print(c_library.why_not(), c_library.has_threads())
from vmambair_arch.commands import doctor
print([line.text for line in doctor._examine_scan() if 'one thread' in line.text and not line.well])
"""


@pytest.mark.skipif(not shutil.which('cc'), reason='no C compiler')
def test_kernels_of_one_thread_are_named(root, tmp_path):
    """A compiler without OpenMP builds them all the same, and nobody knew."""
    from vmambair_arch.ops.c_library import sources

    library = tmp_path / '_kernels.so'
    files = sorted(map(str, (root / 'vmambair_arch' / 'ops' / 'csrc').glob('[!.]*.c')))
    subprocess.run(
        ['cc', '-shared', '-fPIC', '-O0', '-w', '-fno-strict-aliasing', f'-DVMAMBAIR_SOURCES="{sources()}"', *files,
         '-o', str(library), '-lm'], check=True,
    )  # fmt: skip
    done = subprocess.run([sys.executable, '-c', ONE_THREAD, str(library)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('None False\n')
    assert 'libomp-dev' in done.stdout
    assert done.stderr.count('The C kernels use one thread') == 1
