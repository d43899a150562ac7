"""`vmambair doctor`: what is installed, which scan is used, whether it is right, and what would make it faster."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import __version__
from ..options import option_folder

if TYPE_CHECKING:
    import torch

    from ..ops import Choice

EXAMPLES = ('vmambair doctor',)

PACKAGES = ('torch', 'torchvision', 'numpy', 'opencv-python', 'basicsr', 'timm', 'lpips', 'safetensors', 'mamba-ssm')
SYSTEM_LIBRARIES = 'apt install libgl1 libglib2.0-0'
TOLERANCE = 1e-4
"""Largest difference to the reference that is still the same scan, outputs being of order 1."""


@dataclass(frozen=True)
class Line:
    """One line of the report; `well` is False where something has to be done."""

    text: str
    well: bool = True


def examine() -> Iterator[Line]:
    """The report, line by line as it is found."""
    yield Line(f'vmambair-arch {__version__}, Python {platform.python_version()}, {platform.platform()}')
    for name in PACKAGES:
        try:
            yield Line(f'  {name} {importlib.metadata.version(name)}')
        except importlib.metadata.PackageNotFoundError:
            yield Line(f'  {name}: not installed')
    yield Line(f'option files: {option_folder()}')
    yield _examine_opencv()
    yield _examine_basicsr()
    yield from _examine_scan()


def _examine_opencv() -> Line:
    try:
        cv2 = importlib.import_module('cv2')
    except ModuleNotFoundError:
        return Line('OpenCV: not installed; networks work, files and training do not: pip install opencv-python', False)
    except ImportError as error:
        return Line(f'OpenCV: {error}; on Debian and Ubuntu: {SYSTEM_LIBRARIES}', False)
    return Line(f'OpenCV: {cv2.__version__} imports')


def _examine_basicsr() -> Line:
    from ..errors import UserError
    from ..plugin.launch import import_basicsr

    try:
        import_basicsr()
    except UserError as error:
        return Line(f'BasicSR: {error}', False)
    from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

    from ..archs import ARCHS

    registered = sum(arch.__name__ in ARCH_REGISTRY for arch in ARCHS)
    others = f'{len(DATASET_REGISTRY.keys())} data sets and {len(MODEL_REGISTRY.keys())} models in its registries'
    return Line(f'BasicSR: imports; {registered} of our networks, {others}')


def _examine_scan() -> Iterator[Line]:
    import torch

    from ..ops import c_library, choose

    platform_of_torch = f'ROCm {torch.version.hip}' if torch.version.hip else f'CUDA {torch.version.cuda}'
    if not torch.cuda.is_available():
        built = 'is built for the CPU only' if torch.version.cuda is torch.version.hip is None else 'sees no device'
        yield Line(f'GPU: torch {built}')
    yield Line(f'CPU: {torch.get_num_threads()} threads')
    device = torch.device('cpu')
    try:
        choice = choose(device, torch.float32)
    except ValueError as error:
        yield Line(f'scan on cpu: {error}', False)
    else:
        yield Line(f"scan on cpu: '{choice.backend.name}', {choice.why}")
        yield from _missing(choice)
        if choice.backend.name == 'c' and not c_library.has_threads():
            yield Line(f'  one thread: {c_library.ONE_THREAD}', False)
        yield _try_scan(device, choice.backend.name)
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield Line(f'GPU cuda:{index}: {torch.cuda.get_device_name(index)}, torch built for {platform_of_torch}')
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            yield from examine_gpu(torch.device('cuda', index), dtype)


def examine_gpu(device: torch.device, dtype: torch.dtype) -> Iterator[Line]:
    """The choices for one GPU and dtype after all that is there was tried anew: one line for each of them."""
    from ..ops import choose, choose_depthwise

    kind = str(dtype).removeprefix('torch.')
    for subject, choosing in (('scan', choose), ('depthwise', choose_depthwise)):
        try:
            choice = choosing(device, dtype, fresh=True)
        except ValueError as error:
            yield Line(f'{subject} on {device} in {kind}: {error}', False)
            continue
        yield Line(f"{subject} on {device} in {kind}: '{choice.backend.name}', {choice.why}")
        yield from _verdicts(choice)
        yield from _missing(choice)


def _verdicts(choice: Choice) -> Iterator[Line]:
    from ..ops import faults

    for verdict in choice.verdicts:
        text = f'  {verdict.name:<7} {verdict.outcome:<11}'
        if verdict.right:
            text += f' forward {verdict.forward_ms:8.2f} ms, backward {verdict.backward_ms:8.2f} ms'
            text += '' if verdict.repeatable else '; two runs differ in the last bits'
        else:
            fix = faults.fix(verdict.reason)
            text += f' {verdict.reason}' + (f'. Fix: {fix}' if fix else '')
        yield Line(text.rstrip(), verdict.outcome in ('right', 'not checked'))


def _missing(choice: Choice) -> Iterator[Line]:
    for backend, reason in choice.missing:
        yield Line(f"  faster, but not there: '{backend.name}', {reason}. Fix: {backend.fix(reason)}")


def _try_scan(device: torch.device, backend: str) -> Line:
    """Run the chosen backend against the definition on a small map."""
    import torch

    from ..ops import ScanInputs, omni_scan

    def timed(name: str) -> tuple[torch.Tensor, float]:
        fastest = float('inf')
        for _ in range(3):
            start = time.perf_counter()
            with torch.no_grad():
                y = omni_scan(inputs, backend=name)
            if y.is_cuda:
                torch.cuda.synchronize()
            fastest = min(fastest, time.perf_counter() - start)
        return y, fastest

    torch.manual_seed(0)
    h = w = 32
    d, K, N, R = 48, 4, 16, 3
    shapes = ((1, h, w, d), (1, h, w, K * (R + 2 * N)), (K, d, R), (K, d), (K, d, N), (K, d))
    x, x_dbl, dt_weight, dt_bias, A, D = (torch.randn(shape).mul(0.5).to(device) for shape in shapes)
    inputs = ScanInputs(x, x_dbl, dt_weight, dt_bias, -A.exp(), D)
    wanted, slow = timed('reference')
    try:
        got, fast = timed(backend)
    except Exception as error:  # Triton compiles at the first call: no compiler, a driver that is too old, …
        reason = ' '.join(str(error).split())[:200]
        return Line(f'  fails: {type(error).__name__}: {reason}; use VMAMBAIR_SCAN=torch meanwhile, slowly', False)
    distance = ((got - wanted).abs().max() / wanted.abs().max()).item()
    speed = f'{fast * 1e3:.1f} ms for a {h} x {w} map of {d} channels, {slow / fast:.0f} times the reference'
    if not distance < TOLERANCE:
        return Line(f'  wrong: differs from the reference by {distance:.1e} of its range', False)
    return Line(f'  right: differs from the reference by {distance:.1e} of its range; {speed}')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> int:
    healthy = True
    for line in examine():
        print(line.text, flush=True)
        healthy &= line.well
    return 0 if healthy else 1
