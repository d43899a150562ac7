"""`vmambair web`: a page in the browser to restore a photograph and compare. For this computer, unless told otherwise.

Pictures go through `image_io` and its limits, never through the page's own decoders, and live in one temporary folder
that is swept while the server runs and removed when it ends.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..checkpoints.card import TITLES
from ..checkpoints.describe import describe
from ..checkpoints.find import bundled, find_checkpoint
from ..errors import UserError
from ..images.image_io import FORMATS, read_image, to_array, write_image
from .restorer import Restorer

if TYPE_CHECKING:
    import gradio

MAX_PIXELS = 2**25
"""Largest picture that a visitor may send: 33 megapixels."""
MAX_UPLOAD = '100mb'
PREVIEW = 2000
"""Longest side of the two pictures under the slider; the download has them all."""
SWEEP, KEEP = 60, 600
"""Every SWEEP seconds, pictures older than KEEP seconds are deleted."""

CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
#title h1 {margin: .2em 0 0}
#title p {opacity: .75; margin: .2em 0 .6em}
#figures p {opacity: .75}
"""


def checkpoints_by_title(sources: list[str]) -> dict[str, Path]:
    """The checkpoints to choose from, by what they do.

    Args:
        sources: as `find_checkpoint` takes them; none: those that come with the package.

    Raises:
        UserError: one cannot be opened, or there is none.
    """
    paths = [find_checkpoint(source) for source in sources] or list(bundled().values())
    if not paths:
        raise UserError('the package has no checkpoint of its own; name one: vmambair web -m CHECKPOINT')
    titles = {}
    for path in paths:
        about = describe(path)
        title = TITLES.get(about['task'], 'Restoration') + (f' x{about["scale"]}' if about['scale'] > 1 else '')
        titles[f'{title} ({path.stem})'] = path
    return titles


def restore_upload(
    upload: Path, restorer: Restorer, progress: Callable[[int, int], None], max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, np.ndarray, Path, str]:
    """Restore an uploaded file.

    Returns:
        Preview before and after, uint8 RGB of one size; the restored file, beside the upload in its format; a line
        about it.

    Raises:
        UserError: not a picture that can be restored; the message names the file without its folder.
    """
    try:
        image = read_image(upload, max_pixels=max_pixels)
    except UserError as error:
        raise UserError(str(error).replace(str(upload), upload.name)) from error
    start = time.monotonic()
    restored = restorer.restore(image, progress=progress)
    seconds = time.monotonic() - start
    suffix = upload.suffix.lower() if upload.suffix.lower() in FORMATS else '.png'
    target = upload.with_name(f'{upload.stem}_restored{suffix}')
    write_image(target, restored)
    (height, width), (new_height, new_width) = image.rgb.shape[:2], restored.rgb.shape[:2]
    size = f'{width} x {height}' + (f' to {new_width} x {new_height}' if new_width != width else '')
    shrink = min(1.0, PREVIEW / max(new_height, new_width))
    preview = (max(1, round(new_width * shrink)), max(1, round(new_height * shrink)))
    before, after = (_preview(np.atleast_3d(to_array(picture, np.uint8)), preview) for picture in (image, restored))
    return before, after, target, f'{size} pixels in {seconds:.1f} s'


def _preview(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, c) -> RGB of (width, height) `size`, on white where it is transparent."""
    channels = pixels.shape[2]
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else pixels[..., :3]
    if channels in (2, 4):
        alpha = pixels[..., -1:].astype(np.float32) / 255
        rgb = np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if size == (rgb.shape[1], rgb.shape[0]):
        return rgb
    shrinks = size[0] < rgb.shape[1]
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def build(titles: dict[str, Path], device: str | None = None) -> gradio.Blocks:
    """The page.

    Args:
        titles: see `checkpoints_by_title`.
        device: as for `Restorer`.
    """
    import gradio as gr

    restorers: dict[str, Restorer] = {}

    def run(upload: str | None, title: str, progress: Any = gr.Progress()) -> tuple[Any, Any, str]:  # noqa: B008 gradio's way
        if not upload:
            raise gr.Error('Choose a photograph first.', print_exception=False)
        progress(0.0, desc='Restoring')
        try:
            if title not in restorers:
                restorers[title] = Restorer.from_pretrained(titles[title], device=device)
            before, after, file, line = restore_upload(
                Path(upload), restorers[title], lambda done, total: progress(done / total, desc='Restoring')
            )
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return (before, after), gr.DownloadButton(value=file, interactive=True), line

    with gr.Blocks(title='VmambaIR', analytics_enabled=False, delete_cache=(SWEEP, KEEP)) as page:
        gr.Markdown('# VmambaIR\nRestore a photograph. It is worked on here and kept nowhere.', elem_id='title')
        with gr.Row():
            with gr.Column(scale=1, min_width=330):
                upload = gr.File(label='Photograph', file_types=['image'], elem_id='upload', height=170)
                task = gr.Dropdown(list(titles), value=next(iter(titles)), label='Task', elem_id='task')
                button = gr.Button('Restore', variant='primary', elem_id='restore')
                download = gr.DownloadButton('Download', interactive=False, elem_id='download')
                figures = gr.Markdown('Drag the handle to compare, turn the wheel to zoom.', elem_id='figures')
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label='Before and after', format='png', max_height=720, interactive=False,
                    buttons=['fullscreen'], elem_id='slider',
                )  # fmt: skip
        button.click(run, [upload, task], [slider, download, figures], show_progress_on=slider, concurrency_limit=1)
    return page


@contextmanager
def serve(
    sources: list[str], *, host: str = '127.0.0.1', port: int | None = None, device: str | None = None
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        sources: checkpoints to choose from, see `checkpoints_by_title`.
        host: the address to listen at; '0.0.0.0' lets other computers in.
        port: None: the first free one from 7860 on.

    Yields:
        The address of the page.

    Raises:
        UserError: gradio is not installed, no checkpoint, the port is taken.
    """
    titles = checkpoints_by_title(sources)
    with tempfile.TemporaryDirectory(prefix='vmambair-web-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = folder
        try:
            import gradio as gr
        except ImportError:
            raise UserError("the page needs gradio: pip install 'gradio>=6'") from None
        # Fonts of the system: nothing is fetched from elsewhere.
        theme = gr.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
        page = build(titles, device).queue(max_size=8)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
                max_file_size=MAX_UPLOAD, theme=theme, css=CSS, footer_links=[],
            )  # fmt: skip
        except OSError as error:
            raise UserError(f'port {port} of {host} cannot be used ({error})') from None
        try:
            yield address
        finally:
            page.close(verbose=False)
