"""Files, folders, videos and the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from vmambair_arch import Restorer, cli
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.inference import restore as restore_module
from vmambair_arch.inference.restore import Report, restore


def make(path, value=0.8, size=(6, 7)):
    write_image(path, Image(np.full((*size, 3), value, np.float32)))
    return path


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if not path.is_dir())


@pytest.fixture
def restorer(halve):
    return Restorer(halve)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    for name in ('a.png', 'b.jpg', 'deep/er/c.webp', 'deep/d.tif', 'E.PNG'):
        make(folder / name)
    (folder / 'notes.txt').write_text('not an image, and not said to be one')
    (folder / '.hidden.png').write_bytes(b'')
    return folder


def test_a_folder_keeps_its_tree(photos, tmp_path, restorer):
    report = restore(photos, tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']
    assert len(report.written) == 5
    assert not report.failed
    for path in report.written:
        assert abs(read_image(path).rgb.mean() - 0.4) < 0.01


def test_suffix_format_and_quality(photos, tmp_path, restorer):
    restore(photos / 'deep', tmp_path / 'out', restorer, suffix='_clean', format='jpg', quality=30)
    assert tree(tmp_path / 'out') == ['d_clean.jpg', 'er/c_clean.jpg']
    assert cv2.imread(str(tmp_path / 'out/d_clean.jpg')) is not None


@pytest.mark.parametrize(
    ('output', 'written'), [('out.jpg', 'out.jpg'), ('folder', 'folder/a.png'), ('new/x.tif', 'new/x.tif')]
)
def test_a_single_file(photos, tmp_path, restorer, output, written):
    report = restore(photos / 'a.png', tmp_path / output, restorer)
    assert report.written == [tmp_path / written]
    assert (tmp_path / written).is_file()


def test_what_exists_is_skipped_unless_told(photos, tmp_path, restorer):
    make(tmp_path / 'out/a.png', 0)
    report = restore(photos, tmp_path / 'out', restorer)
    assert report.skipped == [tmp_path / 'out/a.png']
    assert len(report.written) == 4
    assert read_image(tmp_path / 'out/a.png').rgb.max() == 0
    report = restore(photos, tmp_path / 'out', restorer, overwrite=True)
    assert len(report.written) == 5
    assert read_image(tmp_path / 'out/a.png').rgb.mean() > 0.3


def test_the_rest_goes_on_after_a_bad_file(photos, tmp_path, restorer):
    (photos / 'aa.png').write_bytes(b'')
    (photos / 'ab.jpg').write_text('text')
    (photos / 'deep/cut.png').write_bytes((photos / 'a.png').read_bytes()[:-30])
    report = restore(photos, tmp_path / 'out', restorer)
    assert len(report.written) == 5
    assert [path.name for path, _ in report.failed] == ['aa.png', 'ab.jpg', 'cut.png']
    assert all(str(path) in message for path, message in report.failed)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']


def test_two_files_of_one_result(tmp_path, restorer):
    make(tmp_path / 'in/a.png', 0.2)
    make(tmp_path / 'in/a.jpg', 0.9)
    report = restore(tmp_path / 'in', tmp_path / 'out', restorer, format='png')
    assert [path.name for path, _ in report.failed] == ['a.png']
    assert 'would overwrite that of' in report.failed[0][1]
    assert abs(read_image(tmp_path / 'out/a.png').rgb.mean() - 0.45) < 0.01


def test_single_bad_inputs(tmp_path, restorer, photos):
    (tmp_path / 'bad.png').write_text('x')
    (tmp_path / 'empty').mkdir()
    for source, message in [
        ('bad.png', 'bad.png: is no PNG'),
        ('gone.png', 'gone.png: no such file or folder'),
        ('empty', 'empty: no images in this folder'),
    ]:
        with pytest.raises(UserError, match=message) as error:
            restore(tmp_path / source, tmp_path / 'out', restorer)
        assert error.value.exit_code == 2
    make(tmp_path / 'file.png')
    with pytest.raises(UserError, match='is a file, but'):
        restore(photos, tmp_path / 'file.png', restorer)
    for options, message in [
        ({'suffix': '/../x'}, 'path separator'),
        ({'format': 'gif'}, "format 'gif'"),
        ({'quality': 0}, 'quality'),
        ({'max_pixels': 41}, 'too large'),
    ]:
        with pytest.raises(UserError, match=message):
            restore(tmp_path / 'file.png', tmp_path / 'out', restorer, **options)
    with pytest.raises(UserError, match='cannot become that'):
        restore(tmp_path / 'file.png', tmp_path / 'out.mp4', restorer)
    assert not (tmp_path / 'out').exists()


# where results may go


def test_the_input_is_never_overwritten(photos, tmp_path, restorer):
    before = (photos / 'a.png').read_bytes()
    (tmp_path / 'link').symlink_to(photos)
    for source, output in [
        (photos, photos),
        (photos, tmp_path / 'link'),
        (photos / 'a.png', photos),
        (photos / 'a.png', photos / 'a.png'),
        (photos / 'a.png', tmp_path / 'link'),
    ]:
        with pytest.raises(UserError, match='overwritten|is the input folder'):
            restore(source, output, restorer, overwrite=True)
    assert (photos / 'a.png').read_bytes() == before


def test_an_output_inside_the_input_is_not_an_input(photos, restorer):
    for _ in range(2):
        restore(photos, photos / 'out', restorer, overwrite=True)
    assert tree(photos / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp']


def test_symlinks_of_the_input(photos, tmp_path, restorer):
    make(tmp_path / 'elsewhere/x.png')
    (photos / 'file.png').symlink_to(tmp_path / 'elsewhere/x.png')
    (photos / 'folder').symlink_to(tmp_path / 'elsewhere')
    (photos / 'deep/circle').symlink_to(photos)
    (photos / 'dangling.png').symlink_to(tmp_path / 'gone.png')
    report = restore(photos, tmp_path / 'out', restorer)
    assert tree(tmp_path / 'out') == ['E.PNG', 'a.png', 'b.jpg', 'deep/d.tif', 'deep/er/c.webp', 'file.png']
    assert [path.name for path, _ in report.failed] == ['dangling.png']


def test_symlinks_in_the_output_lead_nowhere(photos, tmp_path, restorer):
    (tmp_path / 'victim').mkdir()
    (tmp_path / 'secret.png').write_bytes(b'secret')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/deep').symlink_to(tmp_path / 'victim')
    (tmp_path / 'out/a.png').symlink_to(tmp_path / 'secret.png')
    report = restore(photos, tmp_path / 'out', restorer, overwrite=True)
    assert sorted(path.name for path, _ in report.failed) == ['c.webp', 'd.tif']
    assert all('leads out of the output folder' in message for _, message in report.failed)
    assert not tree(tmp_path / 'victim')
    assert (tmp_path / 'secret.png').read_bytes() == b'secret'  # the link was replaced, not followed
    assert not (tmp_path / 'out/a.png').is_symlink()


# ranks


def test_ranks_share_a_folder(photos, tmp_path, restorer, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    done = []
    for rank in '01':
        monkeypatch.setenv('RANK', rank)
        report = restore(photos, tmp_path / 'out', restorer)
        assert not report.skipped
        done.append(len(report.written))
    assert done == [3, 2]
    assert len(tree(tmp_path / 'out')) == 5


@pytest.mark.slow
def test_torchrun(photos, tmp_path, checkpoint):
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '-m', 'vmambair_arch', 'restore']
    command += [str(photos), '-o', str(tmp_path / 'out'), '-m', str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r'(\d) restored', done.stdout)) == ['2', '3']
    assert len(tree(tmp_path / 'out')) == 5


# stopping


def test_ctrl_c_leaves_no_half_file(photos, tmp_path, restorer, monkeypatch):
    real, calls = Restorer.restore, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Restorer, 'restore', stop)
    with pytest.raises(KeyboardInterrupt):
        restore(photos, tmp_path / 'out', restorer)
    assert len(tree(tmp_path / 'out')) == 2
    for path in (tmp_path / 'out').rglob('*.*'):
        read_image(path)


def test_a_signal_to_the_command(tmp_path, checkpoint):
    for number in range(200):
        make(tmp_path / f'in/{number:03}.png', size=(64, 64))
    command = [sys.executable, '-m', 'vmambair_arch', 'restore', str(tmp_path / 'in')]
    process = subprocess.Popen(
        [*command, '-o', str(tmp_path / 'out'), '-m', str(checkpoint)],
        stderr=subprocess.PIPE,
        text=True,
        # A test run that was itself started in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(list(tmp_path.glob('out/[!.]*'))) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'Traceback' not in stderr
    written = tree(tmp_path / 'out')
    assert 3 <= len(written) < 200
    for name in written:
        read_image(tmp_path / 'out' / name)


# video


def video(path, frames=5, size=(48, 64)):
    codec = cv2.VideoWriter.fourcc(*restore_module.VIDEOS[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, 12.5, size[::-1])
    for number in range(frames):
        writer.write(np.full((*size, 3), (40, 100, 120 + 20 * number), np.uint8))  # BGR
    writer.release()
    return path


def frames_of(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (got := capture.read())[0]:
        frames.append(got[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize('suffix', ['.mp4', '.avi', '.mkv'])
def test_video(tmp_path, halve_x2, suffix, monkeypatch):
    source = video(tmp_path / f'rain{suffix}')
    monkeypatch.chdir(tmp_path)
    restore(source, tmp_path / 'out', Restorer(halve_x2))
    frames, rate = frames_of(tmp_path / f'out/rain{suffix}')
    assert len(frames) == 5
    assert rate == pytest.approx(12.5, rel=0.01)
    assert frames[0].shape == (96, 128, 3)
    red = [frame[..., 2].mean() for frame in frames]
    np.testing.assert_allclose(red, [60, 70, 80, 90, 100], atol=8)
    assert red == sorted(red)
    assert all(abs(frame[..., 0].mean() - 20) < 8 for frame in frames)
    assert tree(tmp_path / 'out') == [f'rain{suffix}']


def test_bad_video(tmp_path, restorer):
    (tmp_path / 'bad.mp4').write_bytes(b'not a video')
    with pytest.raises(UserError, match='bad.mp4: is no video'):
        restore(tmp_path / 'bad.mp4', tmp_path / 'out', restorer)
    assert not tree(tmp_path / 'out')


def test_ctrl_c_in_a_video(tmp_path, restorer, halve, monkeypatch):
    video(tmp_path / 'a.mp4')
    monkeypatch.setattr(halve, 'forward', lambda x: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / 'a.mp4', tmp_path / 'out', restorer)
    assert not tree(tmp_path / 'out')


# the command


def test_where_results_went():
    assert list(Report([Path('out', 'a.png'), Path('out', 'sub', 'b.png')]).lines()) == ['2 restored into out, 0 bad']
    assert list(Report([Path('a.png'), Path('b.png')]).lines()) == ['2 restored into ., 0 bad']
    assert list(Report([Path('a.png')]).lines()) == ['1 restored into a.png, 0 bad']


def test_the_command(photos, tmp_path, checkpoint, capsys):
    (photos / 'bad.png').write_text('x')
    arguments = ['restore', str(photos), '-o', str(tmp_path / 'out'), '-m', str(checkpoint)]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert re.search(r'5 restored into .*out, 1 bad', out)
    assert re.search(r'bad: .*bad\.png: is no PNG', out)
    assert '100%' in err
    (photos / 'bad.png').unlink()
    assert cli.main(arguments) == 0
    assert '0 restored, 5 existed' in capsys.readouterr().out
    assert cli.main(['restore', str(tmp_path / 'gone'), '-m', str(checkpoint)]) == 2
    assert 'gone: no such file or folder' in capsys.readouterr().err


def test_short_flags_of_real_esrgan(photos, tmp_path, checkpoint):
    flags = ['-i', str(photos / 'a.png'), '-o', str(tmp_path / 'out'), '-n', str(checkpoint), '-s', '2', '-t', '32']
    assert cli.main(['restore', *flags, '--suffix', 'x']) == 0
    assert tree(tmp_path / 'out') == ['ax.png']
    assert read_image(tmp_path / 'out/ax.png').rgb.shape == (12, 14, 3)


def test_a_checkpoint_that_is_none(photos, tmp_path, capsys):
    (tmp_path / 'bad.pth').write_bytes(b'no checkpoint')
    for model in ('bad.pth', 'gone.pth'):
        assert cli.main(['restore', str(photos), '-o', str(tmp_path / 'out'), '-m', str(tmp_path / model)]) == 2
        assert model in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_an_output_that_cannot_be_written(photos, tmp_path, restorer):
    if os.geteuid() == 0:
        (tmp_path / 'out').write_text('a file where the folder should be')
    else:
        (tmp_path / 'out').mkdir(mode=0o500)
    with pytest.raises(UserError, match='out'):
        restore(photos / 'a.png', tmp_path / 'out', restorer)
