"""`vmambair profile`: parameters, multiply-adds, memory and time of networks.

Multiply-adds are counted, not measured, on tensors without storage ("meta"), so the figures hold for every backend of
the scan. G stands for 10^9 multiply-adds, which most papers of the field call FLOPs; in operations they are twice
that. What is counted, per output pixel or step:

dense       convolutions and linear layers, depthwise ones included; norms, gates and activations are left out, as
            usual.
attention   products of two activations.
projection  of a scan: x to dt, B and C, and dt to its d channels.
scan        9 L d N + L d for each direction, the count of VMamba, which most papers of the field took over. As
            multiply-adds the recurrence is (4 N + 2) L d: delta A, the write, the state, the read, and the skip.
"""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..archs import ARCHS, PRESETS, VmambaIR
from ..archs.tail import UpsamplingTail
from ..errors import UserError, nearest
from ..files import replacing
from ..inference.tiles import peak_memory
from ..ops import ScanInputs, using
from ..options import load_options
from .names import plain_text, table_row

RIVALS: dict[str, dict[str, Any]] = {
    'RRDBNet': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 23, 'num_grow_ch': 32, 'scale': 4},
    'SwinIR': {
        'upscale': 4,
        'embed_dim': 180,
        'depths': [6] * 6,
        'num_heads': [6] * 6,
        'window_size': 8,
        'mlp_ratio': 2,
        'upsampler': 'pixelshuffle',
    },
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 256, 'num_block': 32, 'upscale': 4, 'res_scale': 0.1},
}
"""Networks of BasicSR in the sizes their papers report: Real-ESRGAN's generator, SwinIR-M, EDSR, all x4."""


@dataclass(frozen=True)
class Published:
    """A row that is quoted, not measured; multiply-adds at a 64 x 64 input."""

    name: str
    parameters: float | None
    multiply_adds: float
    source: str


PUBLISHED = (
    Published(
        'Restormer',
        26.13e6,
        140e9 / 16,
        'NAFNet (ECCV 2022) quotes 140 G at 256 x 256, a sixteenth of which stands here',
    ),
    Published('MM-RealSR', None, 78.6e9, 'VmambaIR, Table 2'),
    Published('VmambaIR, real-world x4', 10.50e6, 20.5e9, 'VmambaIR, Table 2'),
)


@dataclass(frozen=True)
class Complexity:
    """Counts for one input; see the module for what each means.

    Attributes:
        scan: by 9 L d N + L d.
        scan_multiply_adds: of the recurrence itself.
    """

    parameters: int
    dense: int = 0
    attention: int = 0
    projection: int = 0
    scan: int = 0
    scan_multiply_adds: int = 0

    @property
    def without_scan(self) -> int:
        """What a counter sees that does not know the scan, as the authors' for the plane."""
        return self.dense + self.attention + self.projection

    @property
    def total(self) -> int:
        return self.without_scan + self.scan


def count(network: nn.Module, height: int = 64, width: int = 64) -> Complexity:
    """Count the multiply-adds of a network for one RGB image.

    The tail of an upsampler counts as the convolutions that the paper has; it computes fewer (`archs.tail`).

    Raises:
        UserError: the network takes no such image.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in network.parameters())
    network = copy.deepcopy(network).eval().to('meta')
    for module in network.modules():
        if isinstance(module, UpsamplingTail):
            module.forward = module.chain  # type: ignore[method-assign]
    image = torch.empty(1, 3, height, width, device='meta')
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _counted_scans() as scans, counter:
        try:
            network(image)
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            reason = ' '.join(str(error).split())[:160]
            raise UserError(f'{type(network).__name__} takes no (1, 3, {height}, {width}) image: {reason}') from None
    by_operator = {str(name): operations // 2 for name, operations in counter.get_flop_counts()['Global'].items()}
    attention = sum(n for name, n in by_operator.items() if 'bmm' in name or 'attention' in name)
    # The projection of x is a linear layer to torch; that of dt happens inside the scan.
    x_projection = sum(scan.x_projection for scan in scans)
    return Complexity(
        parameters=parameters,
        dense=sum(by_operator.values()) - attention - x_projection,
        attention=attention,
        projection=x_projection + sum(scan.dt_projection for scan in scans),
        scan=sum(scan.states * 9 + scan.steps for scan in scans),
        scan_multiply_adds=sum(scan.states * 4 + scan.steps * 2 for scan in scans),
    )


@dataclass(frozen=True)
class _Scan:
    x_projection: int
    dt_projection: int
    steps: int
    states: int


@contextmanager
def _counted_scans() -> Iterator[list[_Scan]]:
    """Every scan inside is noted instead of run."""
    scans: list[_Scan] = []

    def note(inputs: ScanInputs, directions: Sequence[int]) -> Tensor:
        K, d, R = inputs.dt_weight.shape
        pixels = inputs.x.numel() // d
        steps = pixels * K * d
        scans.append(_Scan(inputs.x_dbl.numel() * d, steps * R, steps, steps * inputs.A.shape[-1]))
        return torch.empty_like(inputs.x)

    with using(note):
        yield scans


@dataclass(frozen=True)
class Measurement:
    """Seconds of a forward pass (median) and bytes of working memory at its peak, for one image."""

    seconds: float
    memory: int


@torch.inference_mode()
def measure(network: nn.Module, height: int, width: int, device: torch.device, repeats: int = 3) -> Measurement:
    """Time a network on one RGB image in float32, after a run that is not counted.

    Memory is what the tensors of the forward pass hold at one time; the parameters and what kernels and libraries
    take for themselves on a CPU are not in it.
    """
    network = network.eval().to(device)
    image = torch.rand(1, 3, height, width, device=device)
    memory = peak_memory(network, image)
    times = []
    for _ in range(repeats):
        _wait_for(device)
        start = time.perf_counter()
        network(image)
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return Measurement(statistics.median(times), memory)


def _wait_for(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)  # without a name it waits for the current GPU, which may be another


def find_network(target: str) -> tuple[str, Callable[[], nn.Module]]:
    """What a preset, a name of BasicSR's arch registry, or an option file (its `network_g`) stands for.

    Returns:
        A name for tables, and a function that builds the network.

    Raises:
        UserError: none of the three.
    """
    if target in PRESETS:
        return target, lambda: VmambaIR.from_preset(target)
    if target.endswith(('.yml', '.yaml')):
        section = load_options(target).get('network_g')
        if not isinstance(section, dict) or 'type' not in section:
            raise UserError(f'{target} has no section network_g with a type')
        arguments = dict(section)
        return Path(target).stem, _builder(arguments.pop('type'), arguments, target)
    return target, _builder(target, RIVALS.get(target), target)


def _builder(arch: str, arguments: dict[str, Any] | None, target: str) -> Callable[[], nn.Module]:
    registry = _registry()
    if arch not in registry:
        valid = [*PRESETS, *registry]
        raise UserError(f"{target}: no preset or arch '{arch}'{nearest(arch, valid)}; an option file must end in .yml")
    if arguments is None:
        # The channels of the image are the one thing that BasicSR's networks insist on.
        required = [p.name for p in inspect.signature(registry[arch]).parameters.values() if p.default is p.empty]
        arguments = {name: 3 for name in required if name in ('num_in_ch', 'num_out_ch', 'in_chans', 'out_chans')}

    def build() -> nn.Module:
        try:
            return registry[arch](**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f'{target}: {arch} cannot be built ({error}); give an option file with network_g') from None

    return build


def _registry() -> dict[str, type[nn.Module]]:
    """BasicSR's archs where it is installed, ours in any case."""
    archs: dict[str, type[nn.Module]] = {arch.__name__: arch for arch in ARCHS}
    try:
        from basicsr.utils.registry import ARCH_REGISTRY
    except ImportError:
        return archs
    import basicsr.archs  # noqa: F401 fills the registry

    # Its own SRVGGNetCompact stands there as SRVGGNetCompact_basicsr, and is found without the ending.
    return {name.removesuffix('_basicsr'): arch for name, arch in ARCH_REGISTRY} | archs


def parse_size(text: str) -> tuple[int, int]:
    """'64' or '48x64' (height x width) as (height, width).

    Raises:
        UserError: anything else.
    """
    height, _, width = text.partition('x')
    try:
        size = int(height), int(width or height)
    except ValueError:
        size = 0, 0
    if min(size) < 1:
        raise UserError(f"'{text}' is not a size; write pixels as 64 or, height first, as 48x64")
    return size


@dataclass(frozen=True)
class Row:
    """One network of a profile: its name, its counts and measurements by (height, width)."""

    name: str
    complexity: Complexity
    measured: dict[tuple[int, int], Measurement]


def profile(
    targets: Sequence[str], sizes: Sequence[tuple[int, int]], *, device: torch.device, repeats: int = 3
) -> list[Row]:
    """Count at the first size and measure at every size, with progress on stderr.

    Args:
        targets: see `find_network`; none: all presets and `RIVALS`.
        sizes: (height, width) in pixels, multiples of 8 where SwinIR is among the targets.
        device: where to measure.
        repeats: timed runs for each figure.

    Raises:
        UserError: see `find_network` and `count`; no repeats.
    """
    from tqdm import tqdm

    if repeats < 1:
        raise UserError(f'--repeats must be 1 or more, not {repeats}')
    found = [find_network(target) for target in targets or [*PRESETS, *RIVALS]]
    rows = []
    with tqdm(total=len(found) * (1 + len(sizes)), unit='run') as bar:
        for name, build in found:
            bar.set_description(name)
            torch.manual_seed(0)
            network = build()
            complexity = count(network, *sizes[0])
            bar.update()
            measured = {}
            for size in sizes:
                measured[size] = measure(network, *size, device, repeats)
                bar.update()
            rows.append(Row(name, complexity, measured))
    return rows


def table(rows: Sequence[Row], device: torch.device) -> str:
    """A profile as Markdown, with what it counts and what the paper's figure leaves out."""
    height, width = next(iter(rows[0].measured))
    head = ['network', 'parameters, M', 'dense, G', 'attention, G', 'projection, G', 'scan, G', 'total, G']
    head += ['without scan, G', 'scan as multiply-adds, G', 'time, ms', 'memory, MB']
    lines = [f'Input {height} x {width}, one RGB image, float32; time and memory on {_device_name(device)}.', '']
    lines += [table_row(head), table_row(['---', *['---:'] * (len(head) - 1)])]
    for row in rows:
        c, m = row.complexity, row.measured[height, width]
        giga = [c.dense, c.attention, c.projection, c.scan, c.total, c.without_scan, c.scan_multiply_adds]
        cells = [row.name, f'{c.parameters / 1e6:.3f}', *[f'{n / 1e9:.2f}' if n else '' for n in giga]]
        lines.append(table_row([*cells, f'{m.seconds * 1e3:.0f}', f'{m.memory / 1e6:.0f}']))
    if (height, width) == (64, 64):
        for quoted in PUBLISHED:
            parameters = f'{quoted.parameters / 1e6:.2f}' if quoted.parameters else ''
            cells = [f'{quoted.name} (published)', parameters, '', '', '', '', f'{quoted.multiply_adds / 1e9:.1f}']
            lines.append(table_row([*cells, '', '', '', '']))
        lines += ['', *(f'- {quoted.name}: {quoted.source}.' for quoted in PUBLISHED)]
    return '\n'.join([*lines, '', *_notes(rows)]) + '\n'


def report(rows: Sequence[Row], device: torch.device, output: str | Path | None = None) -> str:
    """The table; written to `output`/profile.md where a folder is given, with profile.png where sizes differ."""
    text = table(rows, device)
    if output is not None:
        if len(rows[0].measured) > 1:
            plot(rows, Path(output) / 'profile.png')
        with replacing(Path(output) / 'profile.md') as temporary:
            temporary.write_text(text, encoding='utf-8')
    return text


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [
        '- G: 10^9 multiply-adds, called FLOPs in most papers. dense: convolutions and linear layers. attention: '
        'products of two activations. projection: x to dt, B, C, and dt to delta. scan: 9 L d N + L d a direction, '
        'the count most papers took over from VMamba; as multiply-adds it is (4 N + 2) L d.'
    ]
    if any(PRESETS.get(row.name, {}).get('scale', 1) > 1 for row in rows):
        notes.append(
            '- Upsamplers of ours are counted with the tail of the paper, of which they compute a fifth to a fifteenth '
            '(`archs/tail.py`); time and memory are what they take.'
        )
    for row in rows:
        if row.name == 'realsr_x4' and next(iter(row.measured)) == (64, 64):
            twice = (row.complexity.total + row.complexity.projection) / 1e9
            notes.append(
                f'- realsr_x4 is the network of which the paper says 20.5 G. Nearest is {twice:.2f} G, with '
                "the projections counted twice. The authors' released counter leaves the scans of the plane out."
            )
    return notes


def _device_name(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'the CPU, {torch.get_num_threads()} threads'


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Time and memory over the size of the image, two panels of one PNG, both axes logarithmic."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for row in rows:
        measured = dict(sorted(row.measured.items(), key=lambda entry: entry[0][0] * entry[0][1]))
        pixels = [height * width for height, width in measured]
        style = {'marker': 'o', 'linestyle': '-' if row.complexity.scan else '--', 'label': plain_text(row.name)}
        axes[0].plot(pixels, [m.seconds for m in measured.values()], **style)
        axes[1].plot(pixels, [m.memory / 1e6 for m in measured.values()], **style)
    sizes = list(rows[0].measured)
    for axis, label in zip(axes, ('time, s', 'memory, MB'), strict=True):
        axis.set(xscale='log', yscale='log', xlabel='input, pixels', ylabel=label)
        axis.set_xticks([h * w for h, w in sizes], [f'{h}x{w}' for h, w in sizes])
        axis.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)
        axis.grid(alpha=0.3)
    axes[1].legend(loc='center left', bbox_to_anchor=(1, 0.5))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
