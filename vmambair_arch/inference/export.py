"""Networks for other programs: ONNX, and torch.export's programs for C++ and AOTInductor."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import ops
from ..archs.base import Network
from ..archs.vmambair_arch import MULTIPLE, VmambaIR
from ..checkpoints.load import METADATA_KEY
from ..errors import UserError
from ..files import replacing
from ..ops import loop_scan
from .browser import page, runtime_files
from .onnx_graph import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from .onnx_network import network_graph

SMALLEST, LARGEST = 9, 16384
"""Sides of the images that a program of torch.export takes, in pixels."""
EXAMPLE = (27, 45)


class _AnySize(nn.Module):
    """The network, with the padding done by indices, which stay dynamic where torch's padding fixes the size.

    Image (1, 3, h, w) in 0..1 -> (1, 3, h * scale, w * scale) in 0..1, RGB.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        if not isinstance(self.network, VmambaIR):  # which alone pads
            return self.network(image).clamp(0, 1)
        h, w = image.shape[-2:]
        padded = image.index_select(-2, _mirrored(h, image)).index_select(-1, _mirrored(w, image))
        rows, columns = (torch.arange(side * self.network.scale, device=image.device) for side in (h, w))
        return self.network(padded).index_select(-2, rows).index_select(-1, columns).clamp(0, 1)


def _mirrored(length: int, like: Tensor) -> Tensor:
    """Indices 0 … length - 1 and on, by reflection at the last, to a multiple of MULTIPLE."""
    index = torch.arange((length + MULTIPLE - 1) // MULTIPLE * MULTIPLE, device=like.device)
    return torch.where(index < length, index, 2 * (length - 1) - index)


def export_program(network: Network, size: tuple[int, int] | None = None) -> torch.export.ExportedProgram:
    """The network as torch.export's program for one RGB image (1, 3, h, w), in and out in 0..1.

    Args:
        network: in evaluation mode, on the CPU.
        size: height and width; None: any. AOTInductor of torch 2.15 compiles programs of one size only.

    Raises:
        ValueError: this torch is too old, see `loop_scan.unavailable`.
    """
    sides = {
        2: torch.export.Dim('height', min=SMALLEST, max=LARGEST),
        3: torch.export.Dim('width', min=SMALLEST, max=LARGEST),
    }
    image = torch.rand(1, network.config['inp_channels'], *(size or EXAMPLE))
    with torch.no_grad(), ops.using('loop'):
        return torch.export.export(
            _AnySize(network).eval(),
            (image,),
            dynamic_shapes=None if size else {'image': sides},
            strict=False,
            # Conditions that hold but that torch cannot prove, such as 1 % (8 * ((width + 7) // 8)) != 0.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


SUFFIXES = ('.onnx', '.pt2', '.html')


def export(
    network: Network,
    target: str | Path,
    size: tuple[int, int] | None = None,
    *,
    half: bool = False,
    opset: int = DEFAULT_OPSET,
    kernel: bool = False,
    runtime: str | Path = '.',
) -> None:
    """Write a network for other programs.

    Args:
        network: in evaluation mode, on the CPU.
        target: `.onnx` for ONNX runtimes: input 'image' (batch, channels, height, width), output 'restored', both
            float32 RGB in 0..1, any batch and size. `.pt2` for torch.export.load and AOTInductor: one image (1, 3, h,
            w) with sides of SMALLEST to LARGEST pixels. `.html` for a page that restores photographs in the browser.
        size: height and width to fix; see `export_program`.
        half: `.onnx` only: keep the weights as float16 in the file, as `.html` always does; runtimes compute with them
            in float32.
        opset: `.onnx` only: OLDEST_OPSET to NEWEST_OPSET.
        kernel: `.onnx` only: scan with our C kernel, for sessions of onnxruntime that have registered
            the file of `ops.c_library.path` as a library of custom operators. Nothing else can read such a file.
        runtime: `.html` only: a folder with onnxruntime-web; see `browser.runtime_files`.

    Raises:
        UserError: another suffix, a size or an opset out of range, an option that the format does not have, a missing
            package, a torch that is too old, or the file cannot be written.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise UserError(f'{target}: a network is exported as {", ".join(SUFFIXES[:-1])} or {SUFFIXES[-1]}')
    if target.suffix != '.onnx' and (kernel or opset != DEFAULT_OPSET or (half and target.suffix == '.pt2')):
        raise UserError(f'{target}: float16 weights, an opset and the kernel are options of .onnx files')
    if target.suffix == '.pt2' and (reason := loop_scan.unavailable()):
        raise UserError(f"{target}: {reason}; pip install -U 'torch>=2.9', or export as .onnx")
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UserError(f'opset {opset}: networks are written for the ONNX opsets {OLDEST_OPSET} to {NEWEST_OPSET}')
    smallest = SMALLEST if target.suffix == '.pt2' else 1
    if size and not all(smallest <= side <= LARGEST for side in size):
        given = f'{size[1]}x{size[0]}'
        raise UserError(f'{target}: takes sides of {smallest} to {LARGEST} pixels, got {given}')
    if target.suffix == '.html':
        if size:
            raise UserError(f'{target}: a page takes photographs of any size; leave the size out')
        content = _page(network, runtime)
        with replacing(target) as temporary:
            temporary.write_text(content, encoding='utf-8')
    elif target.suffix == '.onnx':
        content_onnx = _onnx_model(network, size, opset, half, kernel)
        with replacing(target) as temporary:
            temporary.write_bytes(content_onnx)
    else:
        buffer = io.BytesIO()  # torch's own writer aborts the process where the disk is full
        torch.export.save(export_program(network, size), buffer)
        with replacing(target) as temporary:
            temporary.write_bytes(buffer.getvalue())


def _page(network: Network, runtime: str | Path) -> str:
    channels = network.config['inp_channels'], network.config['out_channels']
    if channels != (3, 3):
        raise UserError(f'a page in the browser shows pictures of 3 channels; this network has {channels[0]}')
    task = 'Restore a photograph' if network.scale == 1 else f'Enlarge a photograph {network.scale} times'
    runtime_files(runtime)  # before the work
    return page(_onnx_model(network, None, DEFAULT_OPSET, True, False), task, runtime)


def _onnx_model(network: Network, size: tuple[int, int] | None, opset: int, half: bool, kernel: bool) -> bytes:
    try:
        import onnx
    except ImportError:
        raise UserError('ONNX needs the package onnx: pip install onnx') from None
    if opset > onnx.defs.onnx_opset_version():
        newest = onnx.defs.onnx_opset_version()
        raise UserError(f'opset {opset}: the installed onnx {onnx.__version__} knows the opsets up to {newest}')
    model = network_graph(network, size, opset, half, kernel)
    about = {'arch': network.arch, 'config': network.config, 'scale': network.scale, 'colour_fix': network.colour_fix}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(about)})
    onnx.checker.check_model(model)
    return model.SerializeToString()
