"""A network as one HTML file that restores photographs in the browser, with no server and no connection.

The file holds the network and onnxruntime-web (its JavaScript, and the WebAssembly that runs on any processor), all as
gzip in base64, so that it may be opened from a disk, where a page can fetch nothing.
"""

from __future__ import annotations

import base64
import gzip
import html
import string
from pathlib import Path

from ..errors import UserError

TEMPLATE = Path(__file__).with_name('browser.html')
RUNTIME, WASM = 'ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'
"""Files of onnxruntime-web."""


def runtime_files(folder: str | Path) -> tuple[Path, Path]:
    """The two files of onnxruntime-web in a folder: where npm installed it, its package, or its `dist`.

    Raises:
        UserError: they are not there.
    """
    for inner in ('', 'dist', 'onnxruntime-web/dist', 'node_modules/onnxruntime-web/dist'):
        files = Path(folder) / inner / RUNTIME, Path(folder) / inner / WASM
        if all(file.is_file() for file in files):
            return files
    raise UserError(
        f'{folder}: no onnxruntime-web there ({RUNTIME} and {WASM}); install it with: npm install onnxruntime-web'
    )


def page(model: bytes, title: str, runtime: str | Path) -> str:
    """The page for an ONNX file of one RGB network.

    Args:
        model: the file's bytes.
        title: of the page, plain text.
        runtime: see `runtime_files`.
    """
    script, wasm = (file.read_bytes() for file in runtime_files(runtime))
    packed = {'runtime': script, 'wasm': wasm, 'network': model}
    template = string.Template(TEMPLATE.read_text(encoding='utf-8'))
    return template.substitute(title=html.escape(title), **{name: _packed(data) for name, data in packed.items()})


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
