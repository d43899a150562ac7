"""What `benchmarks.gpu` tries on a GPU, one function a trial; each returns figures, or raises.

Variants of a trial take turns; times are medians. float32 is float32, not TF32.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.released_block import ReleasedBlock, mamba_scan, scan_by_scan
from vmambair_arch.archs import VmambaIR
from vmambair_arch.archs.oss_block import BlockOptions, OSSBlock
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.ops import (
    BACKENDS,
    ScanInputs,
    choose,
    choose_depthwise,
    depthwise_gelu_gate,
    depthwise_silu,
    omni_scan,
    self_check,
    torch_depthwise,
    triton_scan,
)
from vmambair_arch.options import load_options, option_file

ROOT = Path(__file__).resolve().parents[1]
GPUS_OF_THE_PAPER = 8
MICRO_BATCH_PIXELS = 16 * 128**2
"""Pixels of the images that go through the network at once; the rest of a batch is accumulated."""


@dataclass(frozen=True)
class Machine:
    """Where trials run, and how large they are.

    Attributes:
        device: the GPU; the CPU where everything is tiny and figures mean nothing (`dry`).
        rounds: repetitions of what is timed.
        deadline: of `time.monotonic`, by which all has to be done.
    """

    device: torch.device
    dry: bool
    rounds: int
    deadline: float

    def size(self, real: int, dry: int) -> int:
        return dry if self.dry else real

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def autocast(self, enabled: bool = True) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def median_ms(self, runs: dict[str, Callable[[], object]], warm_up: int = 3) -> dict[str, float]:
        """Milliseconds of each run until the device is done, in turns."""
        times: dict[str, list[float]] = {name: [] for name in runs}
        for i in range(-min(warm_up, self.rounds), self.rounds):
            for name, run in runs.items():
                self.wait()
                start = time.perf_counter()
                run()
                self.wait()
                if i >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
        return {name: statistics.median(ms) for name, ms in times.items()}

    def peak_mib(self, run: Callable[[], object]) -> float:
        """MiB that a run takes at its peak beyond what was allocated before; 0 on a CPU."""
        if self.device.type != 'cuda':
            run()
            return 0.0
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


def relative(got: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted."""
    got, wanted = got.detach().cpu().double(), wanted.detach().cpu().double()
    return ((got - wanted).norm() / wanted.norm()).item()


def machine_network(machine: Machine, preset: str) -> VmambaIR:
    """A network of a preset on the device; dry, a tiny one of its scale."""
    torch.manual_seed(0)
    tiny = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1} if machine.dry else {}
    return VmambaIR.from_preset(preset, **tiny).eval().to(machine.device)


def real_world_networks(machine: Machine) -> dict[str, nn.Module]:
    """The real-world SR network and, with BasicSR, RRDBNet x4."""
    networks: dict[str, nn.Module] = {'vmambair': machine_network(machine, 'realsr_x4')}
    if find_spec('basicsr'):
        from basicsr.archs.rrdbnet_arch import RRDBNet

        # Convolutions in bfloat16 run fastest in this memory format.
        sizes = machine.size(64, 8), machine.size(23, 1), machine.size(32, 8)
        rrdbnet = RRDBNet(3, 3, 4, *sizes).to(machine.device, memory_format=torch.channels_last)
        networks['rrdbnet'] = rrdbnet.eval()
    return networks


# --- 1. the block ----------------------------------------------------------------------------------------------------


def block(machine: Machine) -> dict[str, Any]:
    """Forward and backward of one block, ours and as released, on the same input."""
    torch.manual_seed(0)
    width, side = machine.size(96, 16), machine.size(64, 8)
    ours = OSSBlock(width, BlockOptions(channel_width=1)).to(machine.device)
    x = torch.randn(machine.size(8, 2), side, side, width, device=machine.device)
    grad = torch.randn_like(x)
    mamba = next(backend for backend in BACKENDS if backend.name == 'mamba')
    installed = mamba.unavailable(machine.device, torch.float32) is None
    released = ReleasedBlock(ours, mamba_scan if installed else scan_by_scan)

    def step(network: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
        leaf = x.clone().requires_grad_()

        def run() -> Tensor:
            for parameter in [leaf, *ours.parameters()]:
                parameter.grad = None
            y = network(leaf)
            y.backward(grad)
            return y.detach()

        return run

    first = [t.permute(0, 3, 1, 2).contiguous() for t in (x, grad)]
    runs = {'ours': step(ours, x, grad), 'released': step(released, *first)}
    wanted = runs['released']().permute(0, 2, 3, 1)
    deviation = ((runs['ours']() - wanted).norm() / wanted.norm()).item()
    ms = machine.median_ms(runs)
    mib = {name: machine.peak_mib(run) for name, run in runs.items()}
    return {
        'released_scan': 'mamba-ssm' if installed else 'ours, one direction at a time (mamba-ssm is not installed)',
        'relative_deviation': deviation,
        'ms': ms,
        'peak_mib': mib,
        'faster_x': ms['released'] / ms['ours'],
        'memory_x': mib['ours'] / max(mib['released'], 1e-9),
    }


# --- 2. the network --------------------------------------------------------------------------------------------------


def network(machine: Machine) -> dict[str, Any]:
    """Images a second of the real-world SR network and, with BasicSR, of RRDBNet x4."""
    batch, side = machine.size(16, 1), machine.size(64, 16)
    torch.manual_seed(0)
    x = torch.rand(batch, 3, side, side, device=machine.device)
    networks = real_world_networks(machine)

    def forward(network: nn.Module) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.inference_mode(), machine.autocast():
                return network(x)

        return run

    ms = machine.median_ms({name: forward(network) for name, network in networks.items()})
    images = {name: 1000 * batch / value for name, value in ms.items()}
    figures: dict[str, Any] = {'images_per_s': images}
    if 'rrdbnet' in images:
        figures['against_rrdbnet_x'] = images['vmambair'] / images['rrdbnet']
    return figures


# --- 3. the schedule -------------------------------------------------------------------------------------------------


def training_step(
    machine: Machine, network: nn.Module, options: dict[str, Any], size: int, batch: int, amp: bool
) -> Callable[[], None]:
    """One optimizer step on `batch` patches of `size`, a micro-batch at a time."""
    optimizer_options = {key: value for key, value in options['train']['optim_g'].items() if key != 'type'}
    optimizer = torch.optim.AdamW(network.parameters(), **optimizer_options)
    lq, gt = (torch.rand(batch, 3, size, size, device=machine.device) for _ in range(2))
    micro = max(1, MICRO_BATCH_PIXELS // size**2)

    def run() -> None:
        optimizer.zero_grad()
        for lq_part, gt_part in zip(lq.split(micro), gt.split(micro), strict=True):
            with machine.autocast(amp):
                loss = F.l1_loss(network(lq_part).float(), gt_part)
            (loss * (len(lq_part) / batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), options['train']['grad_clip'])
        optimizer.step()

    return run


def schedule(machine: Machine) -> dict[str, Any]:
    """Hours of the schedule of options/train_derain.yml, in bfloat16 autocast and in float32."""
    options = load_options(option_file('train_derain.yml'))
    data = options['datasets']['train']
    stages = list(zip(data['gt_sizes'], data['mini_batch_sizes'], data['iters'], strict=True))
    figures: dict[str, Any] = {}
    for name, amp in (('bfloat16', True), ('float32', False)):
        network = machine_network(machine, 'derain').train()
        rows = []
        for size, per_gpu, iterations in stages:
            batch = per_gpu * GPUS_OF_THE_PAPER
            if machine.dry:
                size, batch = 16, 2
            step = training_step(machine, network, options, size, batch, amp)
            ms = replace(machine, rounds=machine.size(2, 1)).median_ms({'step': step}, warm_up=1)['step']
            rows.append({'size': size, 'batch': batch, 'ms': ms, 'hours': ms * iterations / 3.6e6})
        figures[name] = {'stages': rows, 'hours': sum(row['hours'] for row in rows)}
    return figures


# --- 4. the scan -----------------------------------------------------------------------------------------------------


def scan_inputs(
    machine: Machine, b: int, h: int, w: int, d: int, K: int = 4, dtype: torch.dtype = torch.float32
) -> ScanInputs:
    """Random inputs of a plane scan with 16 states."""
    N, R = 16, -(-d // 16)
    torch.manual_seed(0)
    on = {'device': machine.device}
    return ScanInputs(
        torch.randn(b, h, w, d, dtype=dtype, **on),
        torch.randn(b, h, w, K * (R + 2 * N), dtype=dtype, **on),
        0.1 * torch.randn(K, d, R, **on),
        torch.empty(K, d, **on).uniform_(-7, -2),
        -torch.arange(1.0, N + 1, **on).repeat(K, d, 1),
        torch.ones(K, d, **on),
    )


def _scan_runs(inputs: ScanInputs, backend: str) -> dict[str, Callable[[], object]]:
    grad = torch.randn_like(inputs.x)

    def forward() -> None:
        with torch.no_grad():
            omni_scan(inputs, backend=backend)

    def both() -> None:
        torch.autograd.grad(omni_scan(inputs, backend=backend), list(inputs), grad)

    return {'forward': forward, 'both': both}


def scan(machine: Machine) -> dict[str, Any]:
    """Milliseconds and MiB of the scan alone, forward and forward + backward, by backend, at two sizes and dtypes."""
    figures: dict[str, Any] = {}
    names = [b.name for b in BACKENDS if b.unavailable(machine.device, torch.float32) is None]
    for label, (b, side, d) in {'8x64x64x96': (8, 64, 96), '1x128x128x48': (1, 128, 48)}.items():
        for dtype in (torch.float32, torch.bfloat16):
            if machine.dry:
                b, side, d = 1, 8, 8
            inputs = ScanInputs(*(t.requires_grad_() for t in scan_inputs(machine, b, side, side, d, dtype=dtype)))
            runs = {
                f'{name} {kind}': run for name in names for kind, run in _scan_runs(inputs, name).items()
            }  # fmt: skip
            figures[f'{label} {str(dtype).removeprefix("torch.")}'] = {
                'ms': machine.median_ms(runs), 'peak_mib': {name: machine.peak_mib(run) for name, run in runs.items()},
            }  # fmt: skip
    return figures


def scan_cuts(machine: Machine) -> dict[str, Any]:
    """The Triton scan by pixels of a chunk and chunks of a segment."""
    if triton_scan.unavailable(machine.device, torch.float32):
        return {'skipped': triton_scan.unavailable(machine.device, torch.float32)}
    figures: dict[str, Any] = {}
    before = triton_scan.CHUNK_PIXELS, triton_scan.SEGMENT_CHUNKS
    try:
        for label, (b, side, d) in {'8x64x64x96': (8, 64, 96), '1x32x32x192': (1, 32, 192)}.items():
            inputs = ScanInputs(*(t.requires_grad_() for t in scan_inputs(machine, b, side, side, d)))
            for pixels in (2, 4):
                for chunks in (4, 8, 16, 32):
                    triton_scan.CHUNK_PIXELS, triton_scan.SEGMENT_CHUNKS = pixels, (chunks,)
                    figures[f'{label} {pixels} pixels x {chunks}'] = machine.median_ms(_scan_runs(inputs, 'triton'))
    finally:
        triton_scan.CHUNK_PIXELS, triton_scan.SEGMENT_CHUNKS = before
    return figures


# --- 5. right at all -------------------------------------------------------------------------------------------------


def versions(machine: Machine) -> dict[str, Any]:
    """What is installed, and the GPU."""
    found: dict[str, Any] = {'torch': torch.__version__, 'cuda': torch.version.cuda, 'hip': torch.version.hip}
    found |= self_check.surroundings(machine.device, torch.float32, [])
    if tool := shutil.which('nvidia-smi'):
        query = [tool, '--query-gpu=name,driver_version,clocks.max.sm,power.limit', '--format=csv,noheader']
        found['nvidia-smi'] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return found


def check(machine: Machine) -> dict[str, Any]:
    """The self-check of every dtype."""
    figures: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        choice = choose(machine.device, dtype, fresh=True)
        verdicts = [asdict(verdict) for verdict in choice.verdicts]
        figures[str(dtype)] = {'chosen': choice.backend.name, 'why': choice.why, 'verdicts': verdicts}
    return figures


_WITHOUT_GCC = """
import json, logging, sys, torch
from vmambair_arch.ops import choose, omni_scan
from benchmarks.gpu_trials import Machine, scan_inputs
said = []
class Note(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger('vmambair_arch').addHandler(Note())
machine = Machine(torch.device(sys.argv[1]), False, 1, 0)
choice = choose(machine.device, torch.float32)
y = omni_scan(scan_inputs(machine, 1, 8, 8, 8))
print(json.dumps({'chosen': choice.backend.name, 'why': choice.why, 'said': said, 'finite': bool(y.isfinite().all())}))
"""


def without_compiler(machine: Machine) -> dict[str, Any]:
    """The choice of a process that finds no C compiler and no compiled kernels: torch, with one warning and the fix."""
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            'PATH': folder,
            'TRITON_CACHE_DIR': f'{folder}/triton',
            'VMAMBAIR_CACHE': f'{folder}/cache',
        }
        env.pop('CC', None)
        run = _python(machine, '-c', _WITHOUT_GCC, str(machine.device), env=env)
    return json.loads(run.stdout.splitlines()[-1])


def tests(machine: Machine) -> dict[str, Any]:
    """The tests that need a GPU; dry, that they are there."""
    more = ['--collect-only'] if machine.dry else []
    names = ('triton_scan', 'triton_depthwise', 'mamba_scan')
    files = [f'tests/ops/test_{name}.py' for name in names]
    run = _python(machine, '-m', 'pytest', '-q', '-k', 'on_a_gpu', *more, *files, check=False)
    return {'exit_code': run.returncode, 'said': run.stdout.splitlines()[-12:]}


def _python(machine: Machine, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python at the top of the checkout until the time is up."""
    options = {'cwd': ROOT, 'check': True, **options}
    limit = max(machine.seconds_left, 1)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=limit, **options)


def devices_agree(machine: Machine) -> dict[str, Any]:
    """Networks on the CPU against the device: relative deviation, in float32 and under bfloat16 autocast."""
    figures: dict[str, Any] = {}
    for preset in ('derain', 'realsr_x4', 'light'):
        network = machine_network(machine, preset)
        x = torch.rand(1, 3, machine.size(64, 16), machine.size(72, 16))
        with torch.inference_mode():
            on_device = network(x.to(machine.device))
            with machine.autocast():
                half = network(x.to(machine.device))
            wanted = network.cpu()(x)
        figures[preset] = {'float32': relative(on_device, wanted), 'bfloat16': relative(half, wanted)}
    return figures


def training_modes(machine: Machine) -> dict[str, Any]:
    """A step in float32, under bfloat16 and with the network checkpointed: losses, gradients and memory."""
    from torch.utils.checkpoint import checkpoint

    network = machine_network(machine, 'light').train()
    x = torch.rand(machine.size(4, 1), 3, machine.size(64, 16), machine.size(64, 16), device=machine.device)

    def step(amp: bool, kept: bool) -> Tensor:
        network.zero_grad()
        with machine.autocast(amp):
            y = network(x) if kept else checkpoint(network, x, use_reentrant=False)
        y.float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    runs = {'float32': (False, True), 'bfloat16': (True, True), 'checkpointed': (False, False)}
    wanted = step(False, True)
    return {
        name: {'deviation': relative(step(*how), wanted), 'peak_mib': machine.peak_mib(partial(step, *how))}
        for name, how in runs.items()
    }


def large_scan(machine: Machine) -> dict[str, Any]:
    """One map of more than 2^31 elements: its first and last rows against scans of these rows alone."""
    d = machine.size(96, 4)
    rows, width = machine.size(2**31 // (96 * 4096) + 8, 8), machine.size(4096, 5)
    edge = 2
    figures: dict[str, Any] = {'elements': rows * width * d}
    for direction in (0, 2):
        inputs = scan_inputs(machine, 1, rows, width, d, K=1, dtype=torch.bfloat16)
        part = slice(0, edge) if direction == 0 else slice(-edge, None)
        with torch.no_grad():
            y = omni_scan(inputs, (direction,))[:, part].clone()
            few = inputs._replace(x=inputs.x[:, part].contiguous(), x_dbl=inputs.x_dbl[:, part].contiguous())
            figures[f'direction {direction}'] = relative(y, omni_scan(few, (direction,), backend='torch'))
        del inputs, y
    return figures


# --- 6. launches, tiles, memory --------------------------------------------------------------------------------------


def launches(machine: Machine) -> dict[str, Any]:
    """A forward pass in bfloat16: time until the host has launched all, the whole time, and that of a CUDA graph."""
    figures: dict[str, Any] = {}
    for name, network in real_world_networks(machine).items():
        figures[name] = {'operators': _operators(machine, network)}
        for batch in (1, machine.size(16, 2)):
            figures[name][f'batch {batch}'] = _launch_ms(machine, network, batch)
    return figures


def _launch_ms(machine: Machine, network: nn.Module, batch: int) -> dict[str, Any]:
    side = machine.size(64, 16)
    x = torch.rand(batch, 3, side, side, device=machine.device)

    def run() -> Tensor:
        with torch.inference_mode(), machine.autocast():
            return network(x)

    host = []
    for _ in range(machine.rounds + 1):
        machine.wait()
        start = time.perf_counter()
        run()
        host.append(1000 * (time.perf_counter() - start))
    row: dict[str, Any] = {'host_ms': statistics.median(host[1:]), 'whole_ms': machine.median_ms({'it': run})['it']}
    if machine.device.type == 'cuda':
        try:
            row |= _graph(machine, run)
        except RuntimeError as error:
            row['graph'] = str(error).splitlines()[0]
    return row


class _Operators(TorchDispatchMode):
    """How many operators ran while it is on, views left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _operators(machine: Machine, network: nn.Module) -> int:
    side = machine.size(64, 16)
    with torch.inference_mode(), _Operators() as operators:
        network(torch.rand(1, 3, side, side, device=machine.device))
    return operators.count


def graphs(machine: Machine) -> dict[str, Any]:
    """The restorer on a picture in small tiles with CUDA graphs and without: seconds, and how far apart results are."""
    side = machine.size(1024, 96)
    picture = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    figures: dict[str, Any] = {}
    for preset in ('light', 'realsr_x4'):
        network = machine_network(machine, preset)
        for tile in (64, 128, 256):
            options: dict[str, Any] = {'tile': machine.size(tile, 32), 'overlap': 8, 'precision': 'bf16'}
            restorers = {
                name: Restorer(network, device=machine.device, graphs=name == 'graphs', **options)
                for name in ('launches', 'graphs')
            }
            results = {name: restorer(picture) for name, restorer in restorers.items()}  # compiled, recorded
            row: dict[str, Any] = machine.median_ms(
                {name: partial(restorer, picture) for name, restorer in restorers.items()}, warm_up=1
            )
            used = restorers['graphs']._graphs
            row |= {'deviation': relative(results['graphs'], results['launches'])}
            row |= {'kept': used.count, 'bytes': used.held, 'off': used.off} if used else {'off': 'no GPU'}
            figures[f'{preset} tiles of {options["tile"]}'] = row
            if machine.dry:
                break
    return figures


def _graph(machine: Machine, run: Callable[[], Tensor]) -> dict[str, Any]:
    wanted = run()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()
    return {'graph_ms': machine.median_ms({'it': graph.replay})['it'], 'graph_deviation': relative(y, wanted)}


def depthwise(machine: Machine) -> dict[str, Any]:
    """Depthwise 3x3 with SiLU and with the GELU gate, forward and backward, float32 and bfloat16.

    torch channels last, torch channels first, and what `ops` has chosen, with the verdicts that it chose by.
    """
    figures: dict[str, Any] = {}
    if machine.device.type == 'cuda':
        for dtype in (torch.float32, torch.bfloat16):
            choice = choose_depthwise(machine.device, dtype, fresh=True)
            verdicts = [asdict(verdict) for verdict in choice.verdicts]
            figures[f'choice {dtype}'] = {'chosen': choice.backend.name, 'why': choice.why, 'verdicts': verdicts}
    for activation, fused in ((torch_depthwise.SILU, depthwise_silu), (torch_depthwise.GELU_GATE, depthwise_gelu_gate)):
        for dtype in (torch.float32, torch.bfloat16):
            kind = 'silu' if activation == torch_depthwise.SILU else 'gate'
            figures[f'{kind} {str(dtype).removeprefix("torch.")}'] = _depthwise_ms(machine, activation, fused, dtype)
    return figures


def _depthwise_ms(
    machine: Machine, activation: int, fused: Callable[..., Tensor], dtype: torch.dtype
) -> dict[str, float]:
    b, side, c = machine.size(8, 1), machine.size(64, 8), machine.size(192, 16)
    x = torch.randn(b, side, side, c, device=machine.device, dtype=dtype, requires_grad=True)
    first = x.detach().permute(0, 3, 1, 2).contiguous().requires_grad_()
    weight = torch.randn(c, 1, 3, 3, device=machine.device, dtype=dtype, requires_grad=True)

    def last() -> None:
        torch.autograd.grad(torch_depthwise.depthwise(x, weight, None, activation).sum(), [x, weight])

    def channels_first() -> None:
        y = torch_depthwise.depthwise(first.permute(0, 2, 3, 1), weight, None, activation)
        torch.autograd.grad(y.sum(), [first, weight])

    def ours() -> None:
        torch.autograd.grad(fused(x, weight).sum(), [x, weight])

    return machine.median_ms({'torch NHWC': last, 'torch NCHW': channels_first, 'ops': ours})


def tiles(machine: Machine) -> dict[str, Any]:
    """A picture of 3000 x 2000 whole and in tiles: seconds, peak memory, and how far apart the results are."""
    height, width = machine.size(2000, 48), machine.size(3000, 64)
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    network = machine_network(machine, 'light')
    figures: dict[str, Any] = {}
    results = {}
    for name, tile in (('automatic', None), ('whole', 0), ('tiles', machine.size(512, 32))):
        restorer = Restorer(network, device=machine.device, tile=tile, overlap=machine.size(32, 8))
        start = time.perf_counter()
        mib = machine.peak_mib(lambda r=restorer, n=name: results.update({n: r(picture)}))
        figures[name] = {'seconds': time.perf_counter() - start, 'peak_mib': mib}
        figures[name]['deviation'] = relative(results[name], results['automatic'])
    return figures


def out_of_memory(machine: Machine) -> dict[str, Any]:
    """A picture that does not fit: the tiles that it is restored in after all."""
    network = machine_network(machine, 'light')
    picture = torch.rand(3, machine.size(1600, 80), machine.size(1600, 80))
    seen: list[int] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: seen.append(max(inputs[0].shape[-2:])))
    try:
        with _little_memory(machine, network):
            y = Restorer(network, device=machine.device, tile=0)(picture)
    finally:
        hook.remove()
    return {'tiles_tried': sorted(set(seen), reverse=True), 'finite': bool(y.isfinite().all())}


@contextmanager
def _little_memory(machine: Machine, network: nn.Module) -> Iterator[None]:
    if machine.device.type == 'cuda':
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(machine.device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 2**30) / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def refuse(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if max(inputs[0].shape[-2:]) > 48:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory (as if)')

    hook = network.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


def degradation(machine: Machine) -> dict[str, Any]:
    """The real-world degradation on the CPU against the device: the same draws, hence nearly the same pictures."""
    from realesrgan_pipeline import Degradation, image_generator

    side = machine.size(256, 64)
    gt = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    degrade = Degradation()
    results = {
        device: degrade(gt.to(device), [image_generator(0, 0, place) for place in range(len(gt))])[0].cpu()
        for device in ('cpu', str(machine.device))
    }
    off = (results['cpu'] - results[str(machine.device)]).abs()
    return {'largest': off.max().item(), 'mean': off.mean().item(), 'shape': list(off.shape)}


# --- 7. the trainer --------------------------------------------------------------------------------------------------


def trainer(machine: Machine) -> dict[str, Any]:
    """A run under torchrun, one that is killed and goes on, and one that is compiled: do the first two end the same?"""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        iterations = machine.size(20, 4)
        options = _training_options(machine, work, iterations)
        figures: dict[str, Any] = {}
        start = time.perf_counter()
        whole = _train(machine, work, options, 'whole')
        figures['seconds'] = time.perf_counter() - start
        state = work / 'experiments' / 'killed' / 'training_states' / f'{iterations // 2}.state'
        _train(machine, work, options, 'killed', kill_after=state)
        killed = _train(machine, work, options, 'killed')
        figures['iterations'] = iterations
        figures['largest_difference_after_a_kill'] = max(
            (whole[name].double() - killed[name].double()).abs().max().item() for name in whole
        )
        if not machine.dry:
            start = time.perf_counter()
            _train(machine, work, options, 'compiled', 'train:compile=true')
            figures['compiled_seconds'] = time.perf_counter() - start
    return figures


def _training_options(machine: Machine, work: Path, iterations: int) -> Path:
    """Pairs and an option file in `work`."""
    import PIL.Image
    import yaml

    side = machine.size(96, 32)
    for i in range(6):
        small = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        for name in ('gt', 'lq'):
            path = work / name / f'{i}.png'
            path.parent.mkdir(exist_ok=True)
            PIL.Image.fromarray(small.numpy()).resize((side, side)).save(path)
    data = {
        'name': 'pairs', 'type': 'PairedProgressiveDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq',
        'io_backend': {'type': 'disk'}, 'gt_sizes': [side], 'mini_batch_sizes': [2], 'iters': [iterations],
        'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1,
    }  # fmt: skip
    options = {
        'name': 'run', 'model_type': 'VmambaIRModel', 'scale': 1, 'num_gpu': 0 if machine.device.type == 'cpu' else 1,
        'manual_seed': 1, 'datasets': {'train': data},
        'network_g': {'type': 'VmambaIR', 'dim': 16, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {
            'deterministic': True, 'optim_g': {'type': 'AdamW', 'lr': 1e-4}, 'total_iter': iterations,
            'warmup_iter': -1, 'scheduler': {'type': 'MultiStepLR', 'milestones': [1000], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1, 'reduction': 'mean'},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': iterations // 2, 'use_tb_logger': False},
    }  # fmt: skip
    path = work / 'options.yml'
    path.write_text(yaml.safe_dump(options))
    return path


def _train(
    machine: Machine, work: Path, options: Path, name: str, *changes: str, kill_after: Path | None = None
) -> Any:
    """Train under torchrun; the weights at the end, or nothing where the run is killed once a file is there."""
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1']
    arguments = ['-m', 'vmambair_arch.train', '-opt', str(options), '--launcher', 'pytorch', '--auto_resume']
    command = [*launcher, *arguments, '--force_yml', f'name={name}', *changes]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
    with (work / f'{name}.log').open('w') as log:
        process = subprocess.Popen(command, cwd=work, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None and machine.seconds_left > 0 and not (kill_after and kill_after.exists()):
                time.sleep(0.05)
        finally:
            ended = process.poll()
            if ended is None:
                os.killpg(process.pid, 9)
                process.wait()
    if kill_after:
        return None
    if ended != 0:
        lines = (work / f'{name}.log').read_text(errors='replace').splitlines()
        telling = [line for line in lines if 'error' in line.lower()] or lines[-1:]
        raise RuntimeError(f'training {name}: exit code {ended}: {telling[0] if telling else ""}')
    found = torch.load(work / 'experiments' / name / 'models' / 'net_g_latest.pth', weights_only=True)
    return found['params']


TRIALS: dict[str, Callable[[Machine], dict[str, Any]]] = {
    'versions': versions,
    'self-check': check,
    'without a C compiler': without_compiler,
    'tests': tests,
    'CPU against GPU': devices_agree,
    'scan': scan,
    'block': block,
    'network': network,
    'launches': launches,
    'graphs': graphs,
    'training modes': training_modes,
    'trainer': trainer,
    'depthwise': depthwise,
    'cuts of the scan': scan_cuts,
    'tiles': tiles,
    'out of memory': out_of_memory,
    'degradation': degradation,
    'scan above 2^31 elements': large_scan,
    'schedule': schedule,
}
"""In the order in which they are worth having, should the time not suffice."""
