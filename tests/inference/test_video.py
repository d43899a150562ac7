"""Videos: the pictures are restored, and nothing else of the file is lost."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch

from vmambair_arch import Restorer, files
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.inference import records
from vmambair_arch.inference import video as video_module
from vmambair_arch.inference.restore_files import restore_files

av = pytest.importorskip('av')
RATE = Fraction(30000, 1001)


def red(number):
    return 60 + 12 * number


def make(
    path, frames=6, size=(48, 64), times=None, rotation=0, pixels='yuv420p', sound=True, subtitles=False, codec=None
):
    """A clip whose frames get redder, with a sound of a second."""
    names = {'.webm': 'libvpx-vp9', '.mpg': 'mpeg2video', '.avi': 'mpeg4'}
    with av.open(str(path), 'w') as output:
        video = output.add_stream(codec or names.get(path.suffix, 'libx264'), rate=RATE)
        video.height, video.width, video.pix_fmt = *size, pixels
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            video.set_display_rotation(rotation)
        video.metadata['language'] = 'deu'
        audio = None
        if sound:
            name, rate = {'.webm': ('libopus', 48000), '.mpg': ('mp2', 44100), '.avi': ('mp2', 44100)}.get(
                path.suffix, ('aac', 44100)
            )
            audio = output.add_stream(name, rate=rate)
            audio.metadata['language'] = 'eng'
        output.metadata['title'] = 'A rainy day'
        if path.suffix in ('.mp4', '.mkv', '.mov'):
            output.set_chapters(
                [{'id': 1, 'start': 0, 'end': 100, 'time_base': Fraction(1, 1000), 'metadata': {'title': 'First'}}]
            )
        for number in range(frames):
            picture = np.full((*size, 3), (red(number), 80, 60), np.uint8)
            picture[: size[0] // 4] = 0  # the upper edge is dark
            frame = av.VideoFrame.from_ndarray(picture, format='rgb24').reformat(format=pixels)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio is not None:
            step = audio.codec_context.frame_size or 1152
            form = audio.codec_context.format.name
            for number in range(10):
                wave = np.sin(np.arange(step) / 9 + number).astype(np.float32)[None] * 0.2
                sound_frame = av.AudioFrame.from_ndarray(wave, format='fltp', layout='mono')
                sound_frame.rate, sound_frame.pts = audio.rate, number * step
                resampled = av.AudioResampler(form, audio.layout, audio.rate).resample(sound_frame)
                for one in resampled:
                    one.pts = number * step
                    output.mux(audio.encode(one))
            output.mux(audio.encode(None))
    return path


def probe(path):
    """What a player would find."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = [(frame.time, frame.to_ndarray(format='rgb24'), frame.rotation) for frame in container.decode(video)]
        found = {
            'size': (video.height, video.width),
            'rate': video.average_rate,
            'pixels': video.codec_context.pix_fmt,
            'codec': video.codec_context.codec.canonical_name,
            'times': [time for time, _, _ in frames],
            'reds': [picture[picture.shape[0] // 2, picture.shape[1] // 2, 0] for _, picture, _ in frames],
            'frames': [picture for _, picture, _ in frames],
            'rotation': frames[0][2],
            'title': container.metadata.get('title'),
            'chapters': [chapter['metadata'].get('title') for chapter in container.chapters()],
            'languages': [stream.metadata.get('language') for stream in container.streams],
        }
    with av.open(str(path)) as container:
        found['sound'] = (
            [bytes(packet) for packet in container.demux(audio=0) if packet.size] if container.streams.audio else []
        )
    return found


def tree(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file() and records.FOLDER not in path.parts
    )


@pytest.mark.parametrize('suffix', ['.mp4', '.m4v', '.mov', '.mkv', '.webm'])
def test_sound_titles_rate_and_pictures(tmp_path, halve_x2, suffix):
    source = make(tmp_path / f'rain{suffix}')
    report = restore_files(source, tmp_path / 'out', Restorer(halve_x2))
    assert tree(tmp_path / 'out') == [f'rain{suffix}']
    before, after = probe(source), probe(report.written[0])
    assert after['size'] == (96, 128)
    assert after['times'] == pytest.approx(before['times'], abs=0.0011)
    assert float(after['rate']) == pytest.approx(float(before['rate']), rel=0.01)
    np.testing.assert_allclose(after['reds'], [red(n) / 2 for n in range(6)], atol=6)
    assert len(before['sound']) > 5
    assert after['sound'] == before['sound']
    assert after['title'] == before['title']
    assert after['chapters'] == before['chapters']
    assert after['languages'] == before['languages']
    assert after['pixels'] == 'yuv420p'


def test_a_rate_that_is_no_whole_number_is_kept_to_the_last_frame(tmp_path, halve):
    restore_files(make(tmp_path / 'a.mp4', frames=8), tmp_path / 'out', Restorer(halve))
    with av.open(str(tmp_path / 'out/a.mp4')) as container:
        assert container.streams.video[0].average_rate == RATE
        assert container.streams.video[0].frames == 8


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
def test_a_variable_rate_is_kept(tmp_path, halve, suffix):
    times = [0, 40, 50, 190, 200, 1000]
    source = make(tmp_path / f'a{suffix}', times=times)
    assert probe(source)['times'] == pytest.approx([t / 1000 for t in times], abs=0.0006)
    restore_files(source, tmp_path / 'out', Restorer(halve))
    assert probe(tmp_path / f'out/a{suffix}')['times'] == pytest.approx([t / 1000 for t in times], abs=0.0006)


def test_subtitles_are_copied(tmp_path, halve):
    make(tmp_path / 'bare.mkv')
    (tmp_path / 'a.srt').write_text('1\n00:00:00,000 --> 00:00:00,150\nIt rains\n')
    with (
        av.open(str(tmp_path / 'bare.mkv')) as clip,
        av.open(str(tmp_path / 'a.srt')) as words,
        av.open(str(tmp_path / 'a.mkv'), 'w') as output,
    ):
        copies = {id(stream): output.add_stream_from_template(stream, opaque=True) for stream in clip.streams}
        written = output.add_stream_from_template(words.streams[0])
        written.metadata['language'] = 'deu'
        for source in (clip, words):
            for packet in source.demux():
                if packet.size:
                    packet.stream = copies.get(id(packet.stream), written)
                    output.mux(packet)
    restore_files(tmp_path / 'a.mkv', tmp_path / 'out', Restorer(halve))
    with av.open(str(tmp_path / 'out/a.mkv')) as result:
        subtitle = result.streams.subtitles[0]
        assert subtitle.metadata['language'] == 'deu'
        assert [bytes(packet) for packet in result.demux(subtitle) if packet.size] == [b'It rains']


@pytest.mark.parametrize('suffix', ['.mpg', '.avi', '.ts'])
def test_containers_that_are_only_read_become_another_and_it_is_said(tmp_path, halve, suffix):
    source = make(tmp_path / f'a{suffix}')
    report = restore_files(source, tmp_path / 'out', Restorer(halve))
    assert tree(tmp_path / 'out') == ['a.mkv']
    assert any('written as .mkv' in note for _, note in report.notes)
    before, after = probe(source), probe(tmp_path / 'out/a.mkv')
    # A transport stream has a header before each packet of AAC, which Matroska has once.
    assert len(after['sound']) > 5
    assert all(full.endswith(bare) for full, bare in zip(before['sound'], after['sound'], strict=True))
    assert len(after['times']) == len(before['times'])
    np.testing.assert_allclose(np.diff(after['times']), 1 / float(RATE), atol=0.0011)


@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_a_turned_clip_is_upright_for_the_network_and_turned_in_the_file(tmp_path, halve, rotation):
    class Top(type(halve)):
        """Darkens the upper half of what it sees."""

        def forward(self, x):
            x = super().forward(x) * 2
            x[..., : x.shape[-2] // 2, :] /= 4
            return x

    source = make(tmp_path / 'a.mp4', rotation=rotation)
    before = probe(source)
    assert before['rotation'] % 360 == rotation % 360
    network = Top()
    restore_files(source, tmp_path / 'out', Restorer(network))
    after = probe(tmp_path / 'out/a.mp4')
    assert after['rotation'] == before['rotation']
    assert after['size'] == before['size']
    assert network.shapes[-1][2:] == ((48, 64) if rotation == 180 else (64, 48))
    # Turned as a player turns it (counter-clockwise), the upper half is the dark one; the dark edge says nothing.
    turned, was = (np.rot90(found['frames'][-1].astype(float), rotation // 90) for found in (after, before))
    ratio = np.where(was[..., 0] > 60, turned[..., 0] / was[..., 0].clip(1), np.nan)
    half = ratio.shape[0] // 2
    assert np.nanmean(ratio[: half - 4]) < 0.4 < 0.9 < np.nanmean(ratio[half + 4 :])


@pytest.mark.parametrize(('suffix', 'codec'), [('.webm', None), ('.mp4', 'h264'), ('.mkv', 'h265'), ('.mkv', 'av1')])
def test_an_odd_size_stays_odd(tmp_path, halve, suffix, codec):
    source = make(tmp_path / f'a{suffix}', size=(67, 97), pixels='yuv444p' if suffix != '.webm' else 'yuv420p')
    report = restore_files(source, tmp_path / 'out', Restorer(halve), codec=codec)
    after = probe(report.written[0])
    assert after['size'] == (67, 97)
    np.testing.assert_allclose(after['reds'], [red(n) / 2 for n in range(6)], atol=6)
    assert after['frames'][0][:, -1, 0].std() < 40  # nothing of the padding shows


def test_ten_bits_stay_ten(tmp_path, halve):
    source = make(tmp_path / 'a.mkv', pixels='yuv420p10le')
    restore_files(source, tmp_path / 'out', Restorer(halve))
    assert probe(tmp_path / 'out/a.mkv')['pixels'] == 'yuv420p10le'
    report = restore_files(source, tmp_path / 'other', Restorer(halve), codec='vp9')
    assert any('10 bits became 8' in note for _, note in report.notes)


@pytest.mark.parametrize('codec', ['h264', 'h265', 'av1', 'vp9'])
def test_codecs(tmp_path, halve, codec):
    source = make(tmp_path / 'a.mkv', size=(96, 96))
    restore_files(source, tmp_path / 'out', Restorer(halve), codec=codec)
    names = {'h265': 'hevc'}
    after = probe(tmp_path / 'out/a.mkv')
    assert after['codec'] == names.get(codec, codec)
    np.testing.assert_allclose(after['reds'], [red(n) / 2 for n in range(6)], atol=6)


def test_what_cannot_be_is_refused_before_any_work(tmp_path, halve, monkeypatch):
    source = make(tmp_path / 'a.mp4')
    restorer = Restorer(halve)
    for target, options, message in [
        ('x.webm', {}, r'x.webm: .webm cannot hold the audio of .*a.mp4 \(aac\); use .mkv'),
        ('x.webm', {'codec': 'h264'}, 'holds vp9, av1, not h264'),
        ('x.mpg', {}, 'x.mpg: videos are written as .mp4'),
        ('x.png', {}, 'cannot become that'),
        ('x.mp4', {'codec': 'divx'}, "codec 'divx'"),
        ('x.mp4', {'crf': 99}, 'crf must be'),
    ]:
        with pytest.raises(UserError, match=message):
            restore_files(source, tmp_path / target, restorer, **options)
    assert not halve.shapes
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(UserError, match='pip install av'):
        restore_files(source, tmp_path / 'x.mp4', restorer)
    assert not list(tmp_path.glob('x*'))


def test_options_of_pictures_are_noted_where_there_are_videos(tmp_path, halve):
    (tmp_path / 'in').mkdir()
    make(tmp_path / 'in/a.mp4', frames=4)
    write_image(tmp_path / 'in/b.png', Image(np.full((8, 9, 3), 0.5, np.float32)))
    report = restore_files(
        tmp_path / 'in', tmp_path / 'out', Restorer(halve), format='webp', crf=30, quality=80, report_seams=True
    )
    assert tree(tmp_path / 'out') == ['a.mp4', 'b.webp']
    assert (tmp_path / 'out/a.mp4', '--format is of pictures, not of videos') in report.notes
    assert (tmp_path / 'in/a.mp4', 'seams are measured in pictures that stand still') in report.notes
    assert not any('--crf' in note or '--quality' in note for _, note in report.notes)
    with pytest.raises(UserError, match="ends in '.mkv', and the format is to be png"):
        restore_files(tmp_path / 'in/a.mp4', tmp_path / 'a.mkv', Restorer(halve), format='png')


@pytest.mark.parametrize('options', [{}, {'codec': 'h264'}])
def test_videos_that_cannot_be_written_do_not_hold_up_photographs(tmp_path, halve, monkeypatch, options):
    source = tmp_path / 'in'
    source.mkdir()
    (source / 'a.webm').write_bytes(b'a clip')
    write_image(source / 'b.png', Image(np.full((8, 9, 3), 0.5, np.float32)))
    if not options:
        monkeypatch.setitem(sys.modules, 'av', None)
    report = restore_files(source, tmp_path / 'out', Restorer(halve), **options)
    assert [path.name for path, _ in report.failed] == ['a.webm']
    assert not any('--codec' in note for _, note in report.notes)
    assert ('pip install av' if not options else 'not h264') in report.failed[0][1]
    assert read_image(tmp_path / 'out/b.png').rgb.max() < 0.3
    assert tree(tmp_path / 'out') == ['b.png']


def test_no_video(tmp_path, halve):
    (tmp_path / 'bad.mp4').write_bytes(b'not a video')
    with pytest.raises(UserError, match='bad.mp4: is not a video'):
        restore_files(tmp_path / 'bad.mp4', tmp_path / 'out', Restorer(halve))
    assert not (tmp_path / 'out').exists() or not tree(tmp_path / 'out')


def test_a_clip_that_is_cut_off_gives_what_it_has(tmp_path, halve):
    source = make(tmp_path / 'a.mkv', frames=40)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    report = restore_files(source, tmp_path / 'out', Restorer(halve))
    assert 1 < len(probe(tmp_path / 'out/a.mkv')['times']) < 40
    assert any(re.match(r'ended at \d\.\d s of 1\.3 s: a\.mkv is cut off', note) for _, note in report.notes)


def test_an_interrupted_video_goes_on_where_it_was(tmp_path, halve, monkeypatch):
    monkeypatch.setattr(video_module, 'SEGMENT', 4)
    monkeypatch.setattr(video_module, 'READ_AHEAD', 2)
    source = make(tmp_path / 'a.mp4', frames=14)
    restorer = Restorer(halve)
    whole = probe(restore_files(source, tmp_path / 'whole', restorer).written[0])
    real, count = restorer.restore_many, [0]

    def stop(images):
        for image in real(images):
            count[0] += 1
            if count[0] == 8:
                raise KeyboardInterrupt
            yield image

    monkeypatch.setattr(restorer, 'restore_many', stop)
    with pytest.raises(KeyboardInterrupt):
        restore_files(source, tmp_path / 'out', restorer)
    assert not tree(tmp_path / 'out')
    monkeypatch.setattr(restorer, 'restore_many', real)
    halve.shapes.clear()
    report = restore_files(source, tmp_path / 'out', restorer)
    assert any('went on after 4 frames' in note for _, note in report.notes)
    assert sum(shape[0] for shape in halve.shapes) == 10
    after = probe(tmp_path / 'out/a.mp4')
    assert after['times'] == whole['times']
    assert after['sound'] == whole['sound']
    np.testing.assert_allclose(after['reds'], whole['reds'], atol=2)
    assert not list((tmp_path / 'out' / records.FOLDER).glob('*.parts'))
    assert restore_files(source, tmp_path / 'out', restorer).skipped == [tmp_path / 'out/a.mp4']


def test_segments_of_another_network_are_not_gone_on_with(tmp_path, halve, halve_x2, monkeypatch):
    monkeypatch.setattr(video_module, 'SEGMENT', 2)
    source = make(tmp_path / 'a.mp4')
    restorer = Restorer(halve)
    monkeypatch.setattr(video_module, '_join', lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        restore_files(source, tmp_path / 'out', restorer)
    monkeypatch.undo()
    restore_files(source, tmp_path / 'out', Restorer(halve_x2))
    assert probe(tmp_path / 'out/a.mp4')['size'] == (96, 128)


def test_several_frames_go_through_the_network_together(tmp_path, halve):
    restore_files(make(tmp_path / 'a.mp4', frames=8, size=(16, 16)), tmp_path / 'out', Restorer(halve))
    assert max(shape[0] for shape in halve.shapes) > 1


def test_frames_a_second_are_said(tmp_path, halve):
    seen = []
    source = make(tmp_path / 'a.mp4')
    video_module.restore_video(source, tmp_path / 'b.mp4', Restorer(halve), progress=lambda *args: seen.append(args))
    assert seen[-1][:2] == (6, 6)
    assert seen[-1][2].endswith(' frames/s')


@pytest.mark.parametrize('size', [(32, 40), (48, 200)])
def test_h265_of_small_pictures(tmp_path, halve, size):
    """x265's look-ahead damages memory below 64 pixels."""
    source = make(tmp_path / 'small.mkv', frames=4, size=size, sound=False)
    assert restore_files(source, tmp_path / 'out.mkv', Restorer(halve), codec='h265').failed == []
    assert len(probe(tmp_path / 'out.mkv')['frames']) == 4


@pytest.mark.parametrize(
    ('codec', 'size', 'suffix', 'message'),
    [
        ('h265', (8, 40), '.mkv', '40x8 is too small for h265; use h264'),
        ('av1', (2, 64), '.mp4', '64x2 is too small for av1; use h264'),
        ('av1', (48, 2), '.webm', '2x48 is too small for av1; use vp9'),
        ('av1', (4, 4), '.webm', ''),
        ('vp9', (2, 2), '.webm', ''),
        ('h264', (2, 2), '.mp4', ''),
    ],
)
def test_what_an_encoder_does_not_take_is_refused_before_the_work(tmp_path, halve, codec, size, suffix, message):
    source = make(tmp_path / 'small.mkv', frames=2, size=size, sound=False)
    restorer, target = Restorer(halve), tmp_path / f'out{suffix}'
    if not message:
        assert restore_files(source, target, restorer, codec=codec).failed == []
        assert probe(target)['size'] == size
        return
    with pytest.raises(UserError, match=rf'small\.mkv: {message}'):
        restore_files(source, target, restorer, codec=codec)
    assert not halve.shapes
    assert tree(tmp_path) == ['small.mkv']


def interlaced(path, frames=8, size=(64, 64)):
    """A bright bar that moves by 8 pixels a half picture; each frame holds two of them in its odd and even rows."""
    with av.open(str(path), 'w') as output:
        video = output.add_stream('libx264', rate=25, options={'x264-params': 'tff=1:bframes=0', 'crf': '1'})
        video.height, video.width, video.pix_fmt = *size, 'yuv420p'
        video.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced pictures, motion too
        for number in range(frames):
            picture = np.full((*size, 3), 40, np.uint8)
            for half in (0, 1):
                left = 4 + 3 * (2 * number + half)
                picture[half::2, left : left + 8] = 200
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        output.mux(video.encode(None))
    return path


def combed(picture):
    """How much neighbouring rows differ where every other row does not."""
    rows = picture[8:-8, :, 1].astype(int)
    return np.abs(rows[1:-1] * 2 - rows[:-2] - rows[2:]).mean()


def test_interlaced_video_becomes_whole_pictures(tmp_path, halve):
    source = interlaced(tmp_path / 'tv.mkv')
    before = probe(source)
    assert combed(before['frames'][3]) > 10
    report = restore_files(source, tmp_path / 'out.mkv', Restorer(halve))
    assert report.failed == []
    after = probe(tmp_path / 'out.mkv')
    assert len(after['frames']) == 8
    assert after['times'] == pytest.approx(before['times'], abs=1e-3)
    assert combed(after['frames'][3]) * 2 < combed(before['frames'][3]) / 4
    assert any('interlaced' in str(note) for note in vars(report).values())


def test_an_interrupted_interlaced_video_goes_on(tmp_path, halve, monkeypatch):
    source = interlaced(tmp_path / 'tv.mkv')
    monkeypatch.setattr(video_module, 'SEGMENT', 3)
    monkeypatch.setattr(video_module, 'READ_AHEAD', 1)
    restore_files(source, tmp_path / 'whole.mkv', Restorer(halve))
    encode, count = video_module._encode, 0

    def interrupted(batch, *args):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return encode(batch, *args)

    monkeypatch.setattr(video_module, '_encode', interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_files(source, tmp_path / 'out.mkv', Restorer(halve))
    monkeypatch.setattr(video_module, '_encode', encode)
    restore_files(source, tmp_path / 'out.mkv', Restorer(halve))
    whole, out = probe(tmp_path / 'whole.mkv'), probe(tmp_path / 'out.mkv')
    assert out['times'] == whole['times']
    assert all((a == b).all() for a, b in zip(out['frames'], whole['frames'], strict=True))


def test_a_full_disk_is_not_the_source_s_doing(tmp_path, halve, monkeypatch):
    source = make(tmp_path / 'a.mp4')

    def full(*_args, **_options):
        raise av.error.FFmpegError(28, 'No space left on device')

    class Full:
        def __init__(self, output):
            self.output = output

        def __getattr__(self, name):
            return getattr(self.output, name)

        mux_one = full

    opened = video_module._opened

    @contextmanager
    def sealed(*args):
        with opened(*args) as output:
            yield Full(output)

    for place, name, fault in ((video_module._Encoder, 'add_stream', full), (video_module, '_opened', sealed)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fault)
            with pytest.raises(UserError, match=r'out.a\.mp4: cannot be written \(No space left on device\)'):
                restore_files(source, tmp_path / 'out/a.mp4', Restorer(halve))
    restore_files(source, tmp_path / 'out/a.mp4', Restorer(halve))


def test_two_processes_do_not_make_one_video(tmp_path, halve, monkeypatch):
    source = make(tmp_path / 'a.mp4')
    monkeypatch.setattr(video_module, 'lock', lambda path: 'process 7 on here')
    with pytest.raises(UserError, match='is being made by process 7 on here'):
        restore_files(source, tmp_path / 'out/a.mp4', Restorer(halve))
    monkeypatch.undo()
    for _ in range(2):  # it is given back
        restore_files(source, tmp_path / 'out/a.mp4', Restorer(halve), overwrite=True)
    assert not files._held


def test_sound_that_is_damaged_is_the_source_s(tmp_path, halve, monkeypatch):
    source = make(tmp_path / 'a.mp4')

    def broken(*_args):
        raise av.error.InvalidDataError(1094995529, 'Invalid data found when processing input')
        yield

    monkeypatch.setattr(video_module, '_other_packets', broken)
    with pytest.raises(UserError, match=r'a\.mp4: is not a video that can be decoded, or is damaged'):
        restore_files(source, tmp_path / 'out/b.mp4', Restorer(halve))
    assert not (tmp_path / 'out/b.mp4').exists()
    assert not files._held


def paint(path, pixels, codec='ffv1', colour=(20, 0, 101), frames=2, matrix=None):
    """A clip of one colour, in RGB; with `matrix`, the numbers are Y, U and V and the stream says that matrix."""
    with av.open(str(path), 'w') as output:
        video = output.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, pixels
        if matrix is not None:
            video.codec_context.colorspace = matrix
        for number in range(frames):
            if matrix is None:
                picture = np.full((48, 64, 3), colour, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format='rgb24').reformat(format=pixels)
            else:
                planes = np.empty((3, 48, 64), np.uint8)
                planes[:] = np.reshape(colour, (3, 1, 1))
                frame = av.VideoFrame.from_ndarray(planes, format='yuv444p')
                frame.colorspace = matrix
            frame.pts = number
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return path


class Same(torch.nn.Module):
    """Changes nothing."""

    def forward(self, x):
        return x.clone()


def unchanged(source, target, **options):
    """The notes of a run that changes nothing."""
    report = restore_files(source, target, Restorer(Same()), **options)
    assert report.failed == []
    return [note for _, note in report.notes]


@pytest.mark.parametrize(
    ('name', 'pixels', 'encoder', 'target', 'codec'),
    [
        ('a.mkv', 'rgb24', 'libx264rgb', 'b.mp4', None),
        ('a.mkv', 'rgb24', 'libx264rgb', 'b.mkv', 'h265'),
        ('a.mkv', 'rgb24', 'libx264rgb', 'b.webm', None),
        ('a.mkv', 'rgb24', 'libx264rgb', 'b.mp4', 'av1'),
        ('a.mov', 'rgb24', 'png', 'b.mov', None),
        ('a.mkv', 'bgr0', 'ffv1', 'b.mkv', None),
        ('a.avi', 'gbrp', 'utvideo', 'b.mkv', 'av1'),
        ('a.mkv', 'gbrp10le', 'ffv1', 'b.mkv', None),
        ('a.webm', 'gbrp', 'libvpx-vp9', 'b.webm', None),
        ('a.avi', 'bgr24', 'rawvideo', 'b.mkv', None),
    ],
)
def test_rgb_keeps_its_colours(tmp_path, name, pixels, encoder, target, codec):
    source = paint(tmp_path / name, pixels, encoder)
    notes = unchanged(source, tmp_path / target, codec=codec)
    before, after = probe(source), probe(tmp_path / target)
    np.testing.assert_allclose(before['frames'][0][5, 5].astype(int), (20, 0, 101), atol=2)
    np.testing.assert_allclose(after['frames'][0][5, 5].astype(int), (20, 0, 101), atol=4)
    assert any('RGB became YUV' in note for note in notes)


@pytest.mark.parametrize('matrix', [1, 2, 4, 5, 6, 7, 8, 9, 10, 14])
def test_the_colours_of_any_matrix_come_back(tmp_path, matrix):
    source = paint(tmp_path / 'a.mkv', 'yuv444p', 'libx264', (90, 150, 110), matrix=matrix)
    notes = unchanged(source, tmp_path / 'b.mkv')
    with av.open(str(source)) as one, av.open(str(tmp_path / 'b.mkv')) as other:
        was, now = next(one.decode(video=0)), next(other.decode(video=0))
    assert was.colorspace == matrix
    # What says nothing is guessed, by the size; a result may be large where the source was small, so it says it.
    assert now.colorspace == (5 if matrix == 2 else matrix)
    np.testing.assert_allclose(now.to_ndarray()[:, 5, 5].astype(int), was.to_ndarray()[:, 5, 5].astype(int), atol=2)
    assert any(f'matrix {matrix} ' in note for note in notes) == (matrix in (8, 10, 14))


@pytest.mark.parametrize(
    ('pixels', 'name', 'encoder', 'said'),
    [
        ('yuva420p', 'a.mkv', 'ffv1', ['without its transparency']),
        ('yuva420p', 'a.webm', 'libvpx-vp9', ['without its transparency']),
        ('rgba', 'a.mov', 'png', ['RGB became YUV', 'without its transparency']),
        ('yuv420p12le', 'a.mkv', 'ffv1', ['12 bits became 10']),
        ('yuv411p', 'a.mkv', 'ffv1', ['chroma 4:1:1 became 4:2:0']),
        ('yuv440p', 'a.mkv', 'ffv1', ['chroma 4:4:0 became 4:2:0']),
        ('yuv410p', 'a.mkv', 'ffv1', ['chroma 4:1:0 became 4:2:0']),
        ('gray16le', 'a.mkv', 'ffv1', ['16 bits became 10']),
        ('gray', 'a.mkv', 'ffv1', []),
        ('yuv420p', 'a.mkv', 'ffv1', []),
        ('yuv422p', 'a.mkv', 'ffv1', []),
        ('yuv444p10le', 'a.mkv', 'ffv1', []),
    ],
)
def test_what_is_written_otherwise_is_said_once(tmp_path, pixels, name, encoder, said):
    source = paint(tmp_path / name, pixels, encoder)
    target = tmp_path / f'b{source.suffix}'
    notes = unchanged(source, target)
    assert len(notes) == len(said), notes
    assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))
    with av.open(str(target)) as container:
        assert 'alpha_mode' not in {key.lower() for key in container.streams.video[0].metadata}


@pytest.mark.parametrize(
    ('pixels', 'chroma'), [('nv12', '420'), ('nv16', '422'), ('nv24', '444'), ('yuyv422', '422'), ('yuvj422p', '422')]
)
def test_chroma_is_that_of_the_format_not_of_its_name(pixels, chroma):
    notes = []
    assert video_module._chroma(av.VideoFrame(16, 16, pixels), notes) == chroma
    assert not notes


@pytest.mark.parametrize('suffix', ['.mp4', '.mkv', '.mov', '.webm', '.avi'])
@pytest.mark.parametrize('options', [{}, {'sound': False}, {'rotation': 90}, {'times': [0, 40, 50, 190, 200, 3000]}])
def test_a_whole_clip_is_not_called_damaged(tmp_path, suffix, options):
    if suffix in ('.webm', '.avi', '.mkv') and 'rotation' in options or suffix == '.avi' and 'times' in options:
        pytest.skip('that container has no such')
    source = make(tmp_path / f'a{suffix}', **options)
    notes = unchanged(source, tmp_path / 'b.mkv')
    assert not [note for note in notes if 'ended' in note or 'damaged' in note]


@pytest.mark.parametrize(('suffix', 'sound'), [('.mkv', True), ('.mkv', False), ('.mp4', True), ('.avi', False)])
def test_a_clip_that_is_cut_off_says_so(tmp_path, suffix, sound):
    source = make(tmp_path / f'a{suffix}', frames=60, sound=sound)
    if suffix == '.mp4':  # its index is to come first
        with (
            av.open(str(source)) as clip,
            av.open(str(tmp_path / 'c.mp4'), 'w', options={'movflags': 'faststart'}) as output,
        ):
            streams = [*clip.streams.video, *clip.streams.audio]
            copies = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in streams}
            for packet in clip.demux(streams):
                if packet.size:
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)
        source = tmp_path / 'c.mp4'
    data = source.read_bytes()
    begin = data.index(b'mdat') if suffix == '.mp4' else 0
    source.write_bytes(data[: begin + (len(data) - begin) * 3 // 5])
    notes = unchanged(source, tmp_path / 'b.mkv')
    assert sum(note.startswith(('ended at', 'ended early')) for note in notes) == 1
    assert len(probe(tmp_path / 'b.mkv')['times']) < 60


def test_damaged_frames_are_counted(tmp_path, monkeypatch):
    source = make(tmp_path / 'a.mp4')
    whole = video_module._whole_pictures

    class Damaged:
        def __init__(self, frame):
            self.__dict__['frame'] = frame

        is_corrupt = True

        def __getattr__(self, name):
            return getattr(self.frame, name)

        def __setattr__(self, name, value):
            setattr(self.frame, name, value)

    monkeypatch.setattr(video_module, '_whole_pictures', lambda *args: map(Damaged, whole(*args)))
    assert any(note.startswith('6 frames of a.mp4 are damaged') for note in unchanged(source, tmp_path / 'b.mkv'))


def test_a_network_that_hands_its_pictures_on(tmp_path):
    """There is nothing to measure of it, and frames are many enough that it is measured."""
    source = make(tmp_path / 'a.mp4', size=(96, 160))
    report = restore_files(source, tmp_path / 'b.mp4', Restorer(torch.nn.Identity()))
    assert report.failed == []
    assert len(probe(tmp_path / 'b.mp4')['times']) == 6


@pytest.mark.parametrize('cover', ['a frame', 'attached', 'after', 'alone'])
def test_a_cover_is_not_the_film(tmp_path, cover):
    """It is a stream of pictures as well, and may be the first."""
    source = tmp_path / ('a.mp4' if cover in ('attached', 'alone') else 'a.mkv')
    with av.open(str(source), 'w') as output:
        kinds = {'film': ('libx264', 64, 48, 'yuv420p', 12), 'cover': ('mjpeg', 32, 32, 'yuvj420p', 1)}
        order = {'after': ['film', 'cover'], 'alone': ['cover']}.get(cover, ['cover', 'film'])
        streams = {}
        for name in order:
            encoder, width, height, pixels, _ = kinds[name]
            streams[name] = output.add_stream(encoder, rate=25)
            streams[name].width, streams[name].height, streams[name].pix_fmt = width, height, pixels
        if cover in ('attached', 'alone'):
            streams['cover'].disposition = av.stream.Disposition.attached_pic
        for name in order:
            _, width, height, pixels, frames = kinds[name]
            for number in range(frames):
                picture = np.full((height, width, 3), 40 + number * 10, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format='rgb24').reformat(format=pixels)
                frame.pts = number
                output.mux(streams[name].encode(frame))
            output.mux(streams[name].encode(None))
    if cover == 'alone':
        with pytest.raises(UserError, match='has no pictures in it'):
            restore_files(source, tmp_path / 'b.mkv', Restorer(Same()))
        return
    notes = unchanged(source, tmp_path / 'b.mkv')
    after = probe(tmp_path / 'b.mkv')
    assert after['size'] == (48, 64)
    assert len(after['times']) == 12
    assert 'without a stream of type video, which is not copied' in notes
