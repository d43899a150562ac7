"""Videos through PyAV: pictures are restored, everything else of the file is copied as it is.

Kept: sound, subtitles, chapters, fonts, titles and languages; every frame's own time, so variable rates too; rotation,
pixel aspect, 10 bits, chroma, colour tags; the exact size. The pictures are encoded anew (H.264 unless told otherwise).
Interlaced frames become whole pictures first (FFmpeg's yadif), as many as there are frames.

Work is kept in segments below `.vmambair` beside the result, so that what was interrupted goes on where it was. A
segment has no frames that refer to another one, and is put into its place only when it is whole.
"""

from __future__ import annotations

import heapq
import importlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UserError
from ..files import lock, replacing, unlock
from ..images.image_io import MAX_PIXELS, Image, check_regular
from ..images.pixels import packed
from .records import record_path, recorded
from .restorer import Restorer

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

INSTALL = 'videos need PyAV: pip install av'
SEGMENT = 120
"""Most frames of a segment."""
SEGMENT_SECONDS = 20.0
"""Seconds of work after which a segment is closed."""
READ_AHEAD = 8
"""Frames that are asked for at one time; the restorer puts into a batch what fits."""

MISSING = 0.25
"""Seconds by which a video may end earlier than it says without a word."""

CODECS = {  # encoder, the option that says the quality, its default, further options
    'h264': ('libx264', 'crf', 17, {'preset': 'medium', 'bf': '0'}),
    'h265': ('libx265', 'crf', 19, {'preset': 'medium', 'x265-params': 'bframes=0:log-level=error'}),
    'av1': ('libsvtav1', 'crf', 24, {'preset': '6'}),
    'vp9': ('libvpx-vp9', 'crf', 20, {'b': '0', 'deadline': 'good', 'cpu-used': '3', 'row-mt': '1'}),
}
LEAST = {'h265': 16, 'av1': 4}
"""Least side that an encoder takes; others take any."""
LOOK_AHEAD_H265 = 64
"""Least side with x265's look-ahead, which writes beyond its memory on smaller pictures."""
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""FFmpeg's numbers of the conversions between RGB and YUV that swscale makes, and swscale's own of the same."""
UNSAID = (0, 2, 3)
"""Of those that say none: RGB, unspecified, reserved."""
ALPHA_MODE = 'alpha_mode'
"""What WebM and Matroska say of a stream with transparency, in any case of letters."""
CONTAINERS = {  # what each is written with, the first of them by default
    '.mp4': ('h264', 'h265', 'av1', 'vp9'),
    '.m4v': ('h264', 'h265'),
    '.mov': ('h264', 'h265'),
    '.mkv': ('h264', 'h265', 'av1', 'vp9'),
    '.webm': ('vp9', 'av1'),
}
INSTEAD = '.mkv'
"""For containers that are only read (AVI, MPEG): takes every sound and subtitle."""
STRICT = ('.mp4', '.m4v', '.mov', '.webm')
"""Containers that say which sound and subtitles they hold."""
FORMATS = {'.m4v': 'mp4', '.mkv': 'matroska'}


class Progress(Protocol):
    """Called with frames done, their number (a guess where the file does not say), and a note such as a rate."""

    def __call__(self, done: int, total: int, note: str = '') -> None: ...


@dataclass(frozen=True)
class VideoOptions:
    """How pictures of a video are encoded.

    Attributes:
        codec: 'h264', 'h265', 'av1' or 'vp9'; None: as the container is used mostly.
        crf: the encoder's constant quality, lower is better; None: a good one for each encoder.
    """

    codec: str | None = None
    crf: int | None = None

    def __post_init__(self) -> None:
        if self.codec is not None and self.codec not in CODECS:
            raise UserError(f"codec '{self.codec}' is not one of {', '.join(CODECS)}")
        if self.crf is not None and not 0 <= self.crf <= 63:
            raise UserError(f'crf must be 0 to 63, got {self.crf}')

    def check(self, target: Path) -> None:
        """Refuse what cannot be written.

        Raises:
            UserError: PyAV is not installed, no such container, a codec that it does not hold.
        """
        av_module()
        self.chosen(target)

    def chosen(self, target: Path) -> str:
        held = CONTAINERS.get(target.suffix.lower())
        if held is None:
            raise UserError(f'{target}: videos are written as {", ".join(CONTAINERS)}')
        if self.codec is not None and self.codec not in held:
            raise UserError(f'{target}: {target.suffix} holds {", ".join(held)}, not {self.codec}')
        return self.codec or held[0]

    def settings(self) -> dict[str, Any]:
        return {'codec': self.codec, 'crf': self.crf}


def av_module() -> Any:
    """PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module('av')
    except ImportError as error:
        raise UserError(f'{INSTALL} ({error})') from None


@dataclass(frozen=True)
class _Look:
    """How pictures lie in the file, the same for source and result.

    Attributes:
        pixels: FFmpeg's name of the pixel format that is written.
        deep: more than 8 bits a channel.
        turns: quarter turns, counted as numpy does, that make a stored picture upright.
        matrix, full: of the conversion between RGB and YUV.
        tags: primaries, transfer and matrix that the result says it has, in FFmpeg's numbers.
    """

    pixels: str
    deep: bool
    turns: int
    matrix: int
    full: bool
    tags: tuple[int, int, int]


def restore_video(
    source: Path,
    target: Path,
    restorer: Restorer,
    options: VideoOptions | None = None,
    *,
    made_by: dict[str, Any] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> list[str]:
    """Restore a video, whole or not at all; an attempt that was interrupted goes on.

    Args:
        source: whatever FFmpeg reads.
        target: one of `CONTAINERS` by its suffix.
        options: default: a good quality in the container's usual codec.
        made_by: the network and the settings, for the record of the result; segments of others are not gone on with.
        max_pixels: of a frame.
        progress: see `Progress`.

    Returns:
        What is otherwise than in the source, a line each.

    Raises:
        UserError: PyAV is missing, no video, nothing in it that can be decoded, a sound that the container cannot hold.
    """
    av = av_module()
    options = options or VideoOptions()
    codec = options.chosen(target)
    check_regular(source)
    notes: list[str] = []
    segments: _Segments | None = None
    try:
        with av.open(str(source), metadata_errors='replace') as container:
            _film(container, source)
            _check_copies(container, target, source)
        segments = _Segments(
            target, {**(made_by or {}), 'codec': codec, 'crf': options.crf, 'av': av.__version__}, source
        )
        done, add_stream = _restore_frames(source, restorer, options, codec, segments, max_pixels, progress, notes)
        if not done or add_stream is None:
            raise UserError(f'{source}: is not a video that can be decoded, or has no frames')
        with recorded(target, source, made_by or {}) as temporary:
            _join(source, temporary, target, segments, add_stream, notes)
        segments.remove()
    except av.error.FFmpegError as error:
        raise UserError(
            f'{source}: is not a video that can be decoded, or is damaged ({error.strerror or error})'
        ) from None
    finally:
        if segments is not None:
            segments.release()
    return notes


def _film(container: InputContainer, source: Path) -> VideoStream:
    """The pictures that a player would show, which need not be the first: a cover may come before them.

    Raises:
        UserError: there are none, or a cover alone.
    """
    cover = av_module().stream.Disposition.attached_pic
    films = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not films:
        raise UserError(f'{source}: has no pictures in it')
    best = container.streams.best('video')
    return next((stream for stream in films if best is not None and stream.index == best.index), films[0])


@contextmanager
def _into(target: Path) -> Iterator[None]:
    """Where FFmpeg writes: what goes wrong is not the source's doing.

    Raises:
        UserError: it cannot be written.
    """
    try:
        yield
    except (av_module().error.FFmpegError, OSError) as error:
        raise UserError(f'{target}: cannot be written ({error.strerror or error})') from error


class _Segments:
    """Finished parts of a result, in order, below a folder of their own.

    Raises:
        UserError: another process makes the same result.
    """

    def __init__(self, target: Path, made_by: dict[str, Any], source: Path) -> None:
        self.target = target
        self.folder = record_path(target).with_suffix('.parts')
        self._lock = self.folder.with_suffix('.lock')
        if holder := lock(self._lock):
            raise UserError(f'{target}: is being made by {holder}; wait for that, or choose another output')
        self._about = self.folder / 'about.json'
        status = source.stat()
        about = json.dumps({'made_by': made_by, 'size': status.st_size, 'mtime_ns': status.st_mtime_ns}, sort_keys=True)
        try:
            known = self._about.read_text(encoding='utf-8')
        except OSError:
            known = ''
        if known != about:
            self.remove()
            try:
                with replacing(self._about) as temporary:
                    temporary.write_text(about, encoding='utf-8')
            except UserError:
                self.release()
                raise

    def parts(self) -> list[Path]:
        """Those that follow each other from the first on; the name ends in the number of frames so far."""
        found, at = [], 0
        for path in sorted(self.folder.glob('[0-9]*-[0-9]*.nut')):
            first, last = (int(number) for number in path.stem.split('-'))
            if first == at:
                found.append(path)
                at = last
        return found

    def frames(self) -> int:
        parts = self.parts()
        return int(parts[-1].stem.split('-')[1]) if parts else 0

    def path(self, first: int, last: int) -> Path:
        return self.folder / f'{first:08}-{last:08}.nut'

    def release(self) -> None:
        unlock(self._lock)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _restore_frames(
    source: Path,
    restorer: Restorer,
    options: VideoOptions,
    codec: str,
    segments: _Segments,
    max_pixels: int,
    progress: Progress | None,
    notes: list[str],
) -> tuple[int, Callable[[OutputContainer, int, int], Any] | None]:
    """Restore what is not in a segment yet; the number of frames in all, and what adds their stream to a container."""
    av = av_module()
    done = segments.frames()
    with av.open(str(source), metadata_errors='replace') as container:
        stream = _film(container, source)
        stream.thread_type = 'AUTO'
        expected = stream.frames or _guess_frames(stream, container)
        if done:
            notes.append(f'went on after {done} frames that were there from an earlier run')
        look, encoder, skipped = None, None, 0
        started, first = time.monotonic(), done
        batch: list[VideoFrame] = []
        try:
            for frame in _frames(container, stream, source, notes):
                if frame.width * frame.height > max_pixels:
                    raise UserError(f'{source}: frames of {frame.width}x{frame.height} pixels are too large')
                if look is None or encoder is None:
                    scale = restorer.outscale or restorer.scale
                    if round(min(frame.width, frame.height) * scale) < LEAST.get(codec, 1):
                        instead = 'use vp9' if segments.target.suffix.lower() == '.webm' else 'use h264'
                        raise UserError(f'{source}: {frame.width}x{frame.height} is too small for {codec}; {instead}')
                    look = _look(frame, stream, restorer, codec, notes)
                    encoder = _Encoder(stream, look, options, codec, segments, done)
                if skipped < done and not batch:
                    skipped += 1
                    continue
                skipped = done
                batch.append(frame)
                if len(batch) == READ_AHEAD:
                    done = skipped = _encode(batch, restorer, look, encoder, done)
                    batch = []
                    _say(progress, done, expected, first, started)
            if look is not None and encoder is not None:
                done = _encode(batch, restorer, look, encoder, done)
                encoder.close()
                _say(progress, done, expected, first, started)
        finally:
            if encoder is not None:
                encoder.give_up()
    return done, None if encoder is None else encoder.add_stream


def _say(progress: Progress | None, done: int, expected: int, first: int, started: float) -> None:
    if progress is not None:
        rate = (done - first) / max(time.monotonic() - started, 1e-6)
        progress(min(done, expected or done), expected or done, f'{rate:.2f} frames/s')


def _guess_frames(stream: VideoStream, container: InputContainer) -> int:
    seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, 1_000_000)
    return int(seconds * stream.average_rate) if seconds and stream.average_rate else 0


def _frames(container: InputContainer, stream: VideoStream, source: Path, notes: list[str]) -> Iterator[VideoFrame]:
    """Frames with a time each; what is missing or damaged is said, and a frame that cannot be decoded is the last."""
    av = av_module()
    last = None
    size = None
    end, corrupt = 0.0, 0
    try:
        for frame in _whole_pictures(container.decode(stream), stream, notes):
            step = int(1 / (stream.average_rate * stream.time_base)) if stream.average_rate and stream.time_base else 1
            if frame.pts is None or last is not None and frame.pts <= last:  # AVI and the like do not say
                frame.pts = 0 if last is None else last + max(1, step)
            last = frame.pts
            if size not in (None, (frame.width, frame.height)):
                raise UserError(f'{source}: its frames change their size; split it there')
            size = (frame.width, frame.height)
            end = float((last + (frame.duration or step)) * (frame.time_base or stream.time_base or 0))
            corrupt += frame.is_corrupt
            yield frame
        whole = _seconds_in_all(container, stream)
        slack = max(MISSING, 2 / float(stream.average_rate or 25))
        if last is not None and whole is not None and end < whole - slack:
            notes.append(f'ended at {end:.1f} s of {whole:.1f} s: {source.name} is cut off or damaged there')
    except av.error.FFmpegError as error:
        if last is None:
            raise
        notes.append(f'ended early, {source.name} is damaged there ({error.strerror or error})')
    if corrupt:
        notes.append(f'{corrupt} frames of {source.name} are damaged; they are shown as far as they can be decoded')


def _seconds_in_all(container: InputContainer, stream: VideoStream) -> float | None:
    """When the pictures end by what the file says of them; None where it says nothing."""
    if stream.duration is not None and stream.time_base:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    said = next((value for key, value in stream.metadata.items() if key.upper() == 'DURATION'), '')  # Matroska's
    if match := re.fullmatch(r'(\d+):(\d+):(\d+(?:\.\d*)?)', said):
        hours, minutes, seconds = map(float, match.groups())
        return hours * 3600 + minutes * 60 + seconds
    alone = len(container.streams) == 1  # a sound may be longer
    return container.duration / 1_000_000 if container.duration and alone else None


def _whole_pictures(frames: Iterator[VideoFrame], stream: VideoStream, notes: list[str]) -> Iterator[VideoFrame]:
    """The frames; from the first interlaced one on through yadif, which leaves those alone that are not."""
    graph = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            notes.append('interlaced frames became whole pictures (yadif): networks know no others')
            graph = av_module().filter.Graph()
            graph.link_nodes(
                graph.add_buffer(template=stream), graph.add('yadif', 'mode=send_frame:deint=interlaced'),
                graph.add('buffersink'),
            ).configure()  # fmt: skip
        graph.vpush(frame)
        yield from _pull(graph, stream)
    if graph is not None:
        graph.vpush(None)
        yield from _pull(graph, stream)


def _pull(graph: Any, stream: VideoStream) -> Iterator[VideoFrame]:
    """What a graph has ready, with times in those of the stream: yadif counts in halves of them."""
    av = av_module()
    while True:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None and frame.time_base and stream.time_base:
            frame.pts = round(frame.pts * frame.time_base / stream.time_base)
            frame.time_base = stream.time_base
        yield frame


def _look(frame: VideoFrame, stream: VideoStream, restorer: Restorer, codec: str, notes: list[str]) -> _Look:
    """How the pictures are written, which is as they were read as far as the encoder can; what is not is noted."""
    components = frame.format.components
    bits = max(component.bits for component in components)
    scale = restorer.outscale or restorer.scale
    turns = round(frame.rotation / 90) % 4  # FFmpeg counts counter-clockwise, as numpy does
    rgb = frame.format.is_rgb or frame.format.has_palette
    if rgb:
        notes.append('RGB became YUV, as players expect it: colours may be off by a level or two')
    # The decoder of VP9 leaves transparency out, and only the stream says that there was any.
    if any(component.is_alpha for component in components) or _alpha_keys(stream):
        notes.append('without its transparency, which is not restored')
    chroma = '444' if rgb else _chroma(frame, notes)
    odd = {
        '420': round(frame.width * scale) % 2 or round(frame.height * scale) % 2,
        '422': round(frame.width * scale) % 2,
    }
    if codec in ('h264', 'h265') and odd.get(chroma):
        notes.append(
            'an odd size needs 4:4:4 chroma in this codec, which some players do not show; webm has no such limit'
        )
        chroma = '444'
    if codec == 'av1' and chroma != '420':
        notes.append(f'chroma {chroma} became 420, all that this encoder has')
        chroma = '420'
    deep = bits > 8 and codec != 'vp9'
    if bits > 8 and not deep:
        notes.append(f'{bits} bits became 8, all that this encoder has; use mkv or mp4')
    elif bits > 10:
        notes.append(f'{bits} bits became 10, the most that is written')
    tag = frame.colorspace
    if tag not in MATRICES and tag not in UNSAID:
        # Back is the same way as forth, so that the source's tag stays right.
        notes.append(f'the network saw colours that are somewhat off: matrix {tag} of the source is not known here')
    matrix = MATRICES.get(tag) or (1 if frame.height >= 720 else 5)  # as players guess
    full = frame.color_range == 2 or frame.format.name.startswith('yuvj')
    tags = (frame.color_primaries, frame.color_trc, matrix if tag in UNSAID else tag)
    return _Look(f'yuv{chroma}p{"10le" if deep else ""}', deep, turns, matrix, full, tags)


def _chroma(frame: VideoFrame, notes: list[str]) -> str:
    """The nearest of '444', '422' and '420'; grey is written with the chroma that every player shows."""
    form = frame.format
    if not any(component.is_chroma for component in form.components) and len(form.components) < 3:
        return '420'
    across, down = (64 // side for side in (form.chroma_width(64), form.chroma_height(64)))
    kept = {(1, 1): '444', (2, 1): '422', (2, 2): '420'}.get((across, down))
    if kept is None:
        had = {(4, 1): '4:1:1', (1, 2): '4:4:0', (4, 4): '4:1:0'}.get((across, down), f'of 1/{across} by 1/{down}')
        notes.append(f'chroma {had} became 4:2:0, which players show')
    return kept or '420'


def _alpha_keys(stream: Stream) -> list[str]:
    return [key for key, value in stream.metadata.items() if key.lower() == ALPHA_MODE and value != '0']


def _encode(batch: Sequence[VideoFrame], restorer: Restorer, look: _Look, encoder: _Encoder, done: int) -> int:
    for frame, image in zip(batch, restorer.restore_many(_image(frame, look) for frame in batch), strict=True):
        encoder.write(_frame(image, look, frame))
        done += 1
    return done


def _image(frame: VideoFrame, look: _Look) -> Image:
    """Upright RGB in 0..1."""
    planes = frame.reformat(
        format='rgb48le' if look.deep else 'rgb24', src_colorspace=look.matrix, src_color_range=_range(look),
        dst_color_range='JPEG', interpolation='BICUBIC',
    ).to_ndarray()  # fmt: skip
    rgb = planes.astype(np.float32) / (65535 if look.deep else 255)
    return Image(packed(np.rot90(rgb, look.turns)), bits=16 if look.deep else 8)


def _frame(image: Image, look: _Look, like: VideoFrame) -> VideoFrame:
    """The encoder's picture, lying as in the source."""
    av = av_module()
    rgb = packed(np.rot90(image.rgb, -look.turns))
    levels = np.rint(rgb.clip(0, 1) * (65535 if look.deep else 255)).astype(np.uint16 if look.deep else np.uint8)
    frame = av.VideoFrame.from_ndarray(levels, format='rgb48le' if look.deep else 'rgb24')
    frame = frame.reformat(
        format=look.pixels, dst_colorspace=look.matrix, src_color_range='JPEG', dst_color_range=_range(look),
        interpolation='BICUBIC',
    )  # fmt: skip
    frame.pts, frame.time_base = like.pts, like.time_base
    return frame


def _range(look: _Look) -> str:
    return 'JPEG' if look.full else 'MPEG'


class _Encoder:
    """Writes frames into segments."""

    def __init__(
        self,
        stream: VideoStream,
        look: _Look,
        options: VideoOptions,
        codec: str,
        segments: _Segments,
        first: int,
    ) -> None:
        self._look, self._segments = look, segments
        # Its container may be closed when they are asked for.
        self._rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._time_base, self._aspect = stream.time_base, stream.sample_aspect_ratio
        self._options, self._codec = options, codec
        self._first = self._last = first
        self._output: OutputContainer | None = None
        self._video: Any = None
        self._path = segments.folder
        self._started = 0.0

    def write(self, frame: VideoFrame) -> None:
        if self._output is None:
            self._open(frame)
        assert self._output is not None
        with _into(self._segments.target):
            self._output.mux(self._video.encode(frame))
        self._last += 1
        if self._last - self._first >= SEGMENT or time.monotonic() - self._started > SEGMENT_SECONDS:
            self.close()

    def _open(self, frame: VideoFrame) -> None:
        self._path = self._segments.folder / f'next-{secrets.token_hex(6)}.nut'
        with _into(self._segments.target):
            self._output = av_module().open(str(self._path), 'w', format='nut')
            self._video = self.add_stream(self._output, frame.width, frame.height)
        self._started = time.monotonic()

    def add_stream(self, output: OutputContainer, width: int, height: int) -> Any:
        """The stream of pictures in a container; two with the same encoder take each other's packets."""
        encoder, quality, default, further = CODECS[self._codec]
        if self._codec == 'h265' and min(width, height) < LOOK_AHEAD_H265:
            further = further | {'x265-params': f'{further["x265-params"]}:rc-lookahead=0:scenecut=0'}
        crf = default if self._options.crf is None else self._options.crf
        video: Any = output.add_stream(encoder, rate=self._rate, options={quality: str(crf), **further})
        video.width, video.height, video.pix_fmt = width, height, self._look.pixels
        context = video.codec_context
        context.time_base = self._time_base
        context.thread_type = 'AUTO'
        if self._aspect:
            context.sample_aspect_ratio = self._aspect
        context.color_range = 2 if self._look.full else 1
        context.color_primaries, context.color_trc, context.colorspace = self._look.tags
        return video

    def close(self) -> None:
        """End the segment that is being written."""
        if self._output is None:
            return
        with _into(self._segments.target):
            self._output.mux(self._video.encode(None))
            self._output.close()
            self._path.replace(self._segments.path(self._first, self._last))
        self._output, self._first = None, self._last

    def give_up(self) -> None:
        """Throw away a segment that was not ended."""
        if self._output is not None:
            with suppress(av_module().error.FFmpegError, OSError):  # what is thrown away need not be whole
                self._output.close()
            self._path.unlink(missing_ok=True)
            self._output = None


def _check_copies(container: InputContainer, target: Path, source: Path) -> None:
    """Refuse a container that cannot hold the sound of the source, before any work."""
    av = av_module()
    if target.suffix.lower() not in STRICT:
        return
    form = FORMATS.get(target.suffix.lower(), target.suffix[1:].lower())
    output = av.open('/dev/null' if Path('/dev/null').exists() else 'nul', 'w', format=form)
    known = output.supported_codecs
    output.close()
    for stream in container.streams:
        if stream.type in ('audio', 'subtitle') and (name := _codec_name(stream)) not in known and known:
            raise UserError(
                f'{target}: {target.suffix} cannot hold the {stream.type} of {source} ({name}); use {INSTEAD}'
            )


def _codec_name(stream: Stream) -> str:
    context = stream.codec_context
    return context.codec.canonical_name if context is not None else ''


def _join(
    source: Path,
    temporary: Path,
    target: Path,
    segments: _Segments,
    add_stream: Callable[[OutputContainer, int, int], Any],
    notes: list[str],
) -> None:
    """The segments one after another, and all else of the source beside them."""
    av = av_module()
    form = FORMATS.get(target.suffix.lower())
    options = {'movflags': 'faststart+use_metadata_tags'} if target.suffix.lower() in ('.mp4', '.m4v', '.mov') else {}
    parts = segments.parts()
    with (
        av.open(str(source), metadata_errors='replace') as container,
        av.open(str(parts[0])) as first,
        _opened(temporary, target, form, options) as output,
    ):
        pictures = _film(container, source)
        output.metadata.update(container.metadata)
        video = add_stream(output, first.streams.video[0].width, first.streams.video[0].height)
        _dress(video, pictures)
        for key in _alpha_keys(pictures):  # a player would look for what is not there
            del video.metadata[key]
        if rotation := _rotation(source):
            video.set_display_rotation(rotation)
        copies: dict[int, Stream] = {}
        for stream in container.streams:
            if stream.type in ('audio', 'subtitle'):
                copies[stream.index] = output.add_stream_from_template(stream, opaque=True)
                _dress(copies[stream.index], stream)
            elif stream.type == 'attachment':
                output.add_attachment(stream.name, stream.mimetype, stream.data)
            elif stream.index != pictures.index and not (stream.type == 'data' and container.chapters()):
                # MP4 has its chapters as such a stream, and they are written anew.
                notes.append(f'without a stream of type {stream.type}, which is not copied')
        if chapters := container.chapters():
            output.set_chapters(chapters)
        packets = [_picture_packets(parts, video), _other_packets(container, copies)]
        for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
            with _into(target):
                output.mux_one(packet)


@contextmanager
def _opened(temporary: Path, target: Path, form: str | None, options: dict[str, str]) -> Iterator[OutputContainer]:
    """A container to write, and only its own faults in the name of the target."""
    with _into(target):
        output: OutputContainer = av_module().open(str(temporary), 'w', format=form, options=options)
    try:
        yield output
    except BaseException:
        with suppress(av_module().error.FFmpegError, OSError):
            output.close()
        raise
    with _into(target):
        output.close()


def _dress(stream: Stream, like: Stream) -> None:
    stream.metadata.update(like.metadata)
    stream.disposition = like.disposition


def _rotation(source: Path) -> int:
    av = av_module()
    with av.open(str(source)) as container:
        for frame in container.decode(_film(container, source)):
            return int(frame.rotation)
    return 0


def _picture_packets(parts: list[Path], stream: VideoStream) -> Iterator[tuple[float, Packet]]:
    av = av_module()
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    yield _seconds(packet), packet


def _other_packets(container: InputContainer, copies: dict[int, Stream]) -> Iterator[tuple[float, Packet]]:
    if not copies:
        return
    last = 0.0
    for packet in container.demux([container.streams[index] for index in copies]):
        if packet.size:
            last = _seconds(packet) if packet.dts is not None else last
            packet.stream = copies[packet.stream.index]
            yield last, packet


def _seconds(packet: Packet) -> float:
    at = packet.dts if packet.dts is not None else packet.pts
    return float(at * packet.time_base) if at is not None and packet.time_base else 0.0
