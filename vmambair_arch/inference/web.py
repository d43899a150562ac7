"""`vmambair web`: a page in the browser to restore a photograph and compare. For this computer, unless told otherwise.

Pictures go through `image_io` and its limits, never through the page's own decoders, and live in one temporary folder
that is swept while the server runs and removed when it ends.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..checkpoints.card import TITLES
from ..checkpoints.describe import describe
from ..checkpoints.find import bundled, find_checkpoint
from ..errors import UserError
from ..files import scratch_folder
from ..images.alpha import can_hold
from ..images.formats import SUFFIXES
from ..images.image_io import Image, read_image, to_array, write_image
from .restorer import Restorer
from .web_call import LOCAL, Guard, asked_at, route

if TYPE_CHECKING:
    import gradio

MAX_PIXELS = 2**25
"""Largest picture that a visitor may send: 33 megapixels."""
MAX_UPLOAD = 100
"""Most megabytes of a file."""
PREVIEW = 2000
"""Longest side of the two pictures under the slider; the download has them all."""
SWEEP, KEEP = 60, 3600
"""Every SWEEP seconds, pictures older than KEEP seconds are deleted; an upload may wait for its turn that long."""
WAITING = 16
"""Most visitors in the queue."""
LOOK = 0.2
"""Seconds after which who waits for a place looks again whether it was cancelled."""
SIDE_BY_SIDE = 4
"""Most pictures that are worked on at a time, and no more than there are cores: a small one need not wait for long."""

CSS = """
.gradio-container, .gradio-container main {width: 100% !important}
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
#title h1 {margin: .2em 0 0}
#title p, #figures p, #limits p {opacity: .8}
#title p {margin: .2em 0 .6em}
#limits p {font-size: .92em; margin: 0}
#preview {min-height: 320px}
#preview img {max-height: 640px}
@media (max-width: 700px) {#preview {min-height: 180px}}
"""


@dataclass(frozen=True)
class Offer:
    """A checkpoint that a visitor may choose.

    Attributes:
        path: its file.
        limits: what it is known to do badly, in a sentence; may be empty.
        name: for the HTTP call, its task.
    """

    path: Path
    limits: str = ''
    name: str = ''


@dataclass
class Settings:
    """What the page may do.

    Attributes:
        device: as for `Restorer`.
        max_pixels: of a picture.
        max_upload: megabytes of a file.
        examples: pictures to try.
    """

    device: str | None = None
    max_pixels: int = MAX_PIXELS
    max_upload: int = MAX_UPLOAD
    examples: Sequence[Path] = ()


class StoppedError(Exception):
    """The visitor has pressed Cancel."""


@dataclass
class Kitchen:
    """The restorers that are open, each once, and how many pictures are worked on at a time."""

    offers: dict[str, Offer]
    settings: Settings
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(places_here()))
    _open: dict[tuple[str, float | None, int | None], Restorer] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def restorer(self, title: str, outscale: float | None = None, tile: int | None = None) -> Restorer:
        key = (title, outscale, tile)
        with self._lock:
            if key not in self._open:
                network = next((known.model for (of, _, _), known in self._open.items() if of == title), None)
                options: dict[str, Any] = {'device': self.settings.device, 'outscale': outscale, 'tile': tile}
                if network is None:
                    made = Restorer.from_pretrained(self.offers[title].path, **options)
                else:
                    made = Restorer(network, **options)
                if len(self._open) >= 16:
                    self._open.pop(next(iter(self._open)))
                self._open[key] = made
            return self._open[key]

    @contextmanager
    def place(self, check: Callable[[], None]) -> Iterator[None]:
        """One of the places, for which a visitor waits as long as `check` raises nothing."""
        while not self.places.acquire(timeout=LOOK):
            check()
        try:
            yield
        finally:
            self.places.release()

    def by_name(self, name: str | None, outscale: float | None) -> Restorer:
        """For the HTTP call: by the task, default the first.

        Raises:
            UserError: there is none of that name.
        """
        names: dict[str, str] = {}
        for title, offer in self.offers.items():
            names.setdefault(offer.name, title)  # of two for one task the first
        if name is not None and name not in names:
            raise UserError(f"no network for the task '{name}'; there are {', '.join(names)}")
        return self.restorer(next(iter(self.offers)) if name is None else names[name], outscale)


def places_here() -> int:
    return max(1, min(SIDE_BY_SIDE, os.cpu_count() or 1))


def offers(sources: Sequence[str]) -> dict[str, Offer]:
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
        title = TITLES.get(str(about['task']), 'Restoration') + (f' x{about["scale"]}' if about['scale'] > 1 else '')
        limits = str(about['limits'] or '').partition('. ')[0].strip()
        # Every training calls its last network alike: as many of the folders above as tell them apart.
        stem, *above = path.with_suffix('').parts[::-1]
        while f'{title} ({stem})' in titles and above:
            stem = f'{above.pop(0)}/{stem}'
        titles[f'{title} ({stem})'] = Offer(path, limits, str(about['task'] or stem))
    return titles


def restore_upload(
    upload: Path,
    restorer: Restorer,
    progress: Callable[[int, int], None],
    max_pixels: int = MAX_PIXELS,
    folder: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, Path, str]:
    """Restore an uploaded file.

    Args:
        upload, restorer, progress, max_pixels: as for `Restorer.restore` and `read_image`.
        folder: of the result; default that of the upload.

    Returns:
        Preview before and after, uint8 RGB of one size; the restored file in the format of the upload; a line about it.

    Raises:
        UserError: not a picture that can be restored; the message names the file without its folder.
    """
    if not upload.exists():
        raise UserError(f'{upload.name}: was deleted after {KEEP // 60} minutes; choose it again')
    try:
        image = read_image(upload, max_pixels=max_pixels)
    except UserError as error:
        raise UserError(_kindly(error, upload)) from error
    start = time.monotonic()
    restored = restorer.restore(image, progress=progress)
    seconds = time.monotonic() - start
    target = (folder or upload.parent) / f'{upload.stem}_restored{_suffix(upload, restored)}'
    write_image(target, restored)
    (height, width), (new_height, new_width) = image.rgb.shape[:2], restored.rgb.shape[:2]
    size = f'{width} x {height}' + (f' to {new_width} x {new_height}' if new_width != width else '')
    before, after = (_preview(picture, new_width, new_height) for picture in (image, restored))
    return before, after, target, f'{size} pixels in {seconds:.1f} s'


def _kindly(error: UserError, upload: Path) -> str:
    """The message without the folder, and with the option that raises a limit."""
    said = str(error).replace(str(upload), upload.name)
    ending = '; shrink it, or raise that where you trust it'
    return said.replace(ending, '). Shrink it, or start the page with --max-pixels and a larger number').replace(
        'pixels))', 'pixels)'
    )


def _suffix(upload: Path, image: Image) -> str:
    kind = SUFFIXES.get(upload.suffix.lower())
    return upload.suffix.lower() if kind and can_hold(kind, image) else '.png'


def _preview(picture: Image, width: int, height: int) -> np.ndarray:
    """uint8 RGB as large as `width` x `height` and as `PREVIEW` allows, on white where it is transparent."""
    shrink = min(1.0, PREVIEW / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    pixels = np.atleast_3d(to_array(picture, np.uint8))
    channels = pixels.shape[2]
    rgb = np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else pixels[..., :3]
    if channels in (2, 4):
        alpha = pixels[..., -1:].astype(np.float32) / 255
        rgb = np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    if size == (rgb.shape[1], rgb.shape[0]):
        return rgb
    shrinks = size[0] < rgb.shape[1]
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def build(titles: dict[str, Offer], settings: Settings, kitchen: Kitchen) -> gradio.Blocks:
    """The page.

    Args:
        titles: see `offers`.
        settings: see `Settings`.
        kitchen: where pictures are restored.
    """
    import gradio as gr

    cancelled: dict[str, float] = {}  # when a visitor pressed Cancel last, which ends what was asked for before

    def asked_by(function: Callable[..., Any]) -> Callable[..., Any]:
        """Gradio looks for the request by its type, which it cannot find by the name that is imported here."""
        function.__annotations__['request'] = gr.Request
        return function

    def show(uploads: list[str] | None) -> Any:
        """What was chosen, before it is restored."""
        if not uploads:
            return gr.Image(value=None, visible=True), gr.ImageSlider(visible=False), HINT
        upload = Path(uploads[0])
        try:
            image = read_image(upload, max_pixels=settings.max_pixels)
        except UserError as error:
            raise gr.Error(_kindly(error, upload), print_exception=False) from None
        height, width = image.rgb.shape[:2]
        line = f'{upload.name}: {width} x {height} pixels'
        line += f', and {len(uploads) - 1} more' if len(uploads) > 1 else ''
        return gr.Image(value=_preview(image, width, height), visible=True), gr.ImageSlider(visible=False), line

    @asked_by
    def run(
        uploads: list[str] | None,
        title: str,
        outscale: float | None,
        tile: float | None,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008 gradio's way
    ) -> Any:
        if not uploads:
            raise gr.Error('Choose a photograph first.', print_exception=False)
        asked = asked_at(request)

        def check() -> None:
            if cancelled.get(str(request.session_hash), -math.inf) >= asked:
                raise StoppedError

        progress(0.0, desc='Waiting for a place')
        files, lines, faults, shown, stopped = [], [], [], None, False
        with _results() as results:
            try:
                with kitchen.place(check):
                    restorer = kitchen.restorer(title, outscale or None, int(tile) if tile else None)
                    for number, upload in enumerate(map(Path, uploads)):
                        check()
                        name = upload.name if len(uploads) == 1 else f'{upload.name} ({number + 1} of {len(uploads)})'

                        def moved(done: int, total: int, number: int = number, name: str = name) -> None:
                            check()
                            _touch(uploads[number:])
                            progress((number + done / total) / len(uploads), desc=f'Restoring {name}')

                        _touch(uploads[number:])
                        try:
                            before, after, file, line = restore_upload(
                                upload, restorer, moved, settings.max_pixels, results.folder()
                            )
                        except UserError as error:
                            faults.append(str(error))
                            continue
                        shown = shown or (before, after)
                        files.append(file)
                        lines.append(line)
            except StoppedError:
                stopped = True
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from None
            if not files and not stopped:
                raise gr.Error('; '.join(faults), print_exception=False)
            if not files:
                return gr.Image(), gr.ImageSlider(), gr.DownloadButton(), 'Cancelled.'
            file = results.keep(files)
        line = lines[0] if len(lines) == 1 else f'{len(lines)} pictures; the first: {lines[0]}'
        left = [f'Not restored: {fault}' for fault in faults]
        left += [f'Cancelled after {len(files) + len(faults)} of {len(uploads)}.'] if stopped else []
        label = 'Download' if len(files) == 1 else 'Download all (zip)'
        button = gr.DownloadButton(label, value=file, interactive=True)
        return gr.Image(visible=False), gr.ImageSlider(value=shown, visible=True), button, '\n\n'.join([line, *left])

    @asked_by
    def cancel(request: gr.Request) -> None:
        now = time.monotonic()
        for session in [session for session, at in list(cancelled.items()) if now - at > KEEP]:
            cancelled.pop(session, None)  # whose uploads are gone as well
        if request.session_hash:
            cancelled[request.session_hash] = now

    def about(title: str) -> str:
        return titles[title].limits

    first = next(iter(titles))
    with gr.Blocks(title='VmambaIR', analytics_enabled=False, delete_cache=(SWEEP, KEEP)) as page:
        gr.Markdown('# VmambaIR\nRestore a photograph. It is worked on here and kept nowhere.', elem_id='title')
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                upload = gr.File(
                    label='Photographs', file_types=['image'], file_count='multiple', elem_id='upload', height=150
                )
                task = gr.Dropdown(list(titles), value=first, label='Task', elem_id='task')
                limits = gr.Markdown(about(first), elem_id='limits')
                with gr.Accordion('More', open=False, elem_id='more'):
                    outscale = gr.Number(
                        None, label='Final size over input size', minimum=0, maximum=16, elem_id='outscale',
                        info="empty: the network's own",
                    )  # fmt: skip
                    tile = gr.Number(
                        None, label='Largest side of a tile, in pixels', minimum=0, precision=0, elem_id='tile',
                        info='empty: what memory allows',
                    )  # fmt: skip
                with gr.Row():
                    button = gr.Button('Restore', variant='primary', elem_id='restore', min_width=120)
                    stop = gr.Button('Cancel', elem_id='cancel', min_width=80)
                download = gr.DownloadButton('Download', interactive=False, elem_id='download')
                figures = gr.Markdown(HINT, elem_id='figures')
            with gr.Column(scale=3, min_width=320, elem_id='stage'):
                preview = gr.Image(label='Before', interactive=False, elem_id='preview', buttons=[])
                slider = gr.ImageSlider(
                    label='Before and after', format='png', max_height=720, interactive=False, visible=False,
                    buttons=['fullscreen'], elem_id='slider',
                )  # fmt: skip
        if settings.examples:
            gr.Examples([[[str(path)]] for path in settings.examples], [upload], label='Try one', elem_id='examples')
        task.change(about, task, limits, queue=False, show_progress='hidden')
        upload.change(show, upload, [preview, slider, figures], queue=False, show_progress='hidden')
        button.click(
            run, [upload, task, outscale, tile], [preview, slider, download, figures],
            show_progress_on=[preview, slider], concurrency_limit=places_here(),
        )  # fmt: skip
        stop.click(cancel, queue=False, show_progress='hidden')
    return page


HINT = 'Drag the handle to compare, turn the wheel to zoom.'


class _Results:
    """The files that a job makes, of which only what the visitor gets stays behind: others would never be swept.

    Apart from the uploads, whose folder two visitors share who send the same picture.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.kept: Path | None = None

    def folder(self) -> Path:
        """One for each picture, as two may have the same name."""
        return Path(tempfile.mkdtemp(dir=self.top))

    def keep(self, files: Sequence[Path]) -> Path:
        """The one file for the visitor."""
        self.kept = files[0] if len(files) == 1 else _zip(files, self.top / 'restored.zip')
        return self.kept


@contextmanager
def _results() -> Iterator[_Results]:
    results = _Results(Path(tempfile.mkdtemp(prefix='job-', dir=os.environ.get('GRADIO_TEMP_DIR'))))
    try:
        yield results
    finally:
        if results.kept is None:
            shutil.rmtree(results.top, ignore_errors=True)
        else:
            for made in results.top.iterdir():
                if not results.kept.is_relative_to(made):
                    shutil.rmtree(made, ignore_errors=True)


def _touch(files: Sequence[str]) -> None:
    """Uploads that are needed yet are not old, however long those before them take."""
    for file in files:
        with suppress(OSError):
            os.utime(file)


def _zip(files: Sequence[Path], target: Path) -> Path:
    """All results in one file, each under a name of its own."""
    taken: set[str] = set()
    with zipfile.ZipFile(target, 'w', zipfile.ZIP_STORED) as archive:  # pictures are compressed already
        for file in files:
            name, number = file.name, 2
            while name in taken:
                name, number = f'{file.stem}-{number}{file.suffix}', number + 1
            taken.add(name)
            archive.write(file, name)
    return target


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


@contextmanager
def serve(
    sources: Sequence[str], *, host: str = '127.0.0.1', port: int | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """Serve the page, and the call of `web_call`, while the block runs.

    Args:
        sources: checkpoints to choose from, see `offers`.
        host: the address to listen at; '0.0.0.0' lets other computers in.
        port: 1 to 65535; 0: any free one; None: the first free one from 7860 on.
        settings: see `Settings`.

    Yields:
        The address of the page.

    Raises:
        UserError: gradio is not installed, no checkpoint, the port is none or taken.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f'port {port} is none: give 1 to 65535, or 0 for any free one')
    settings = settings or Settings()
    titles = offers(sources)
    with scratch_folder('vmambair-web-') as folder:
        os.environ['GRADIO_TEMP_DIR'] = str(folder)
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError:
            raise UserError("the page needs gradio: pip install 'gradio>=6'") from None
        kitchen = Kitchen(titles, settings)
        # Fonts of the system: nothing is fetched from elsewhere.
        theme = gr.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
        page = build(titles, settings, kitchen).queue(max_size=WAITING)
        hosts = LOCAL if host in LOCAL or host == '::1' else ()
        call = route(kitchen.by_name, kitchen.places, settings.max_pixels, settings.max_upload * 10**6)
        try:
            port = _free_port(host) if port == 0 else port  # which gradio would take by the number
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
                max_file_size=f'{settings.max_upload}mb', theme=theme, css=CSS, footer_links=[],
                allowed_paths=sorted({str(path.parent) for path in settings.examples}),
                app_kwargs={'routes': [call], 'middleware': [Middleware(Guard, hosts=hosts)]},
            )  # fmt: skip
        except OSError as error:
            reason = getattr(error, 'strerror', None) or error
            raise UserError(f'port {port} of {host} cannot be used ({reason})') from None
        try:
            yield address
        finally:
            page.close(verbose=False)
