"""SIGTERM, SIGHUP and Ctrl-C in the middle of any command: the exit code of shells, one line, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from experiment import ROOT, listen, options, write_image, write_options, write_pairs

from vmambair_arch.files import METRICS_FILE, STALE, append_record, is_temporary

VIDEO = ('restore', 'clip.mkv', '-o', 'out', '-m', 'derain', '--device', 'cpu')
PREPARE = ('prepare', 'derain-test', '--downloads', 'downloads', '--out', 'out', '--lmdb', '--workers', '2')
COMMANDS = {
    'restore': ('restore', 'val/lq', '-o', 'out', '-m', 'derain'),
    'restore a video': VIDEO,
    'evaluate': ('evaluate', 'derain', '--truth', 'val/gt', '--lq', 'val/lq', '-o', 'out'),
    'export': ('export', 'derain', 'out.onnx'),
    'profile': ('profile', 'run.yml'),
    'prepare': PREPARE,
    'check --samples': ('check', '-opt', 'run.yml', '--samples', 'out'),
    'check --decode': ('check', '-opt', 'run.yml', '--decode'),
    'train': ('train', '-opt', 'run.yml'),
    'plot --watch': ('plot', 'experiments/tiny', '--watch', '--port', '0'),
    'web': ('web', '--port', '0'),
}
# Sends the signal to itself at the n-th call of something, after everything is imported: in the making of a network, in
# the middle of a video, before what was written is renamed, in a server that waits.
WRAPPER = """
import builtins, os, pathlib, signal, socketserver, sys, threading
number, event, left, *words = sys.argv[1:]
left = [int(left)]
from vmambair_arch import cli
if event == 'module':
    import torch, numpy, cv2
    owner, name = torch.nn.Module, '__init__'
elif event == 'frame':
    from vmambair_arch.inference import video
    owner, name = video._Encoder, 'write'
elif event == 'rename':
    owner, name = pathlib.Path, 'replace'
elif event == 'serve':
    owner, name = socketserver.BaseServer, 'service_actions'
elif event == 'decode':
    from vmambair_arch.preflight import decoding
    owner, name = decoding, '_complaint'
elif event == 'print':
    owner, name = builtins, 'print'
real = getattr(owner, name)
def now(*args, **more):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), int(number))
    return real(*args, **more)
setattr(owner, name, now)
sys.exit(cli.main(words))
"""
EVENTS = {
    **{name: [('module', 1), ('module', 60)] for name in COMMANDS},
    'restore a video': [('module', 60), ('frame', 1), ('frame', 5), ('rename', 1), ('rename', 2)],
    'prepare': [('rename', 1), ('rename', 3)],
    'check --decode': [('decode', 1), ('decode', 3)],
    'plot --watch': [('serve', 1)],
    'web': [('module', 60), ('print', 1)],
}
QUICK = [
    ('restore', 'SIGTERM', 'module', 40),
    ('train', 'SIGINT', 'module', 40),
    ('restore a video', 'SIGTERM', 'frame', 5),
    ('prepare', 'SIGTERM', 'rename', 3),
    ('plot --watch', 'SIGHUP', 'serve', 1),
    ('web', 'SIGTERM', 'print', 1),
]
ALL = [
    (name, number, *event)
    for name in COMMANDS
    for number in ('SIGTERM', 'SIGHUP', 'SIGINT')
    for event in EVENTS[name]
]  # fmt: skip


def stop(command: tuple[str, ...], number: int, event: str, at: int, cwd: Path) -> subprocess.CompletedProcess[str]:
    temporary = cwd / 'tmp'
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '',
        'TMPDIR': str(temporary), 'XDG_CACHE_HOME': str(cwd / 'cache'),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, '-c', WRAPPER, str(int(number)), event, str(at), *command],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False,
        preexec_fn=listen,
    )  # fmt: skip


def write_video(path: Path, frames: int = 24) -> None:
    av = pytest.importorskip('av')
    import numpy as np

    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = 'yuv420p'
        for i in range(frames):
            picture = np.full((16, 16, 3), i * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode())


def write_archive(path: Path) -> None:
    """Test100 of the deraining tests, in little."""
    path.parent.mkdir()
    write_image(path.parent / 'a.png')
    with zipfile.ZipFile(path, 'w') as archive:
        for part in ('input', 'target'):
            for i in range(3):
                archive.write(path.parent / 'a.png', f'test/Test100/{part}/{i}.png')
    (path.parent / 'a.png').unlink()


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    for part in ('train', 'val'):
        write_pairs(tmp_path / part, 3, 32)
    kinds = {'train': 'PairedProgressiveDataset', 'val': 'PairedValidationDataset'}
    sets = {f'datasets__{part}__type': kind for part, kind in kinds.items()}
    write_options(tmp_path / 'run.yml', options(model_type='VmambaIRModel', **sets))
    return tmp_path


def set_up(name: str, workplace: Path) -> None:
    """What one command needs beside the data."""
    if name == 'web':
        pytest.importorskip('gradio')
    elif name == 'restore a video':
        write_video(workplace / 'clip.mkv')
    elif name == 'prepare':
        write_archive(workplace / 'downloads' / 'test.zip')
    elif name == 'plot --watch':
        (workplace / 'experiments' / 'tiny').mkdir(parents=True)
        record = {'iter': 1, 'epoch': 0, 'lrs': [0.1], 'time': 1.0, 'data_time': 0.1, 'l_pix': 0.5}
        append_record(workplace / 'experiments' / 'tiny' / METRICS_FILE, record)


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob('.*') if is_temporary(path)]


@pytest.mark.parametrize(
    ('name', 'number', 'event', 'at'),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK)],
)
def test_a_signal_in_the_middle(workplace: Path, name: str, number: str, event: str, at: int) -> None:
    set_up(name, workplace)
    code = signal.Signals[number]
    done = stop(COMMANDS[name], code, event, at, workplace)
    assert done.returncode == 128 + code, done.stderr
    assert 'Traceback' not in done.stderr
    line = 'vmambair: interrupted' if number == 'SIGINT' else f'vmambair: ended by {number}'
    assert line in done.stderr.splitlines()
    assert temporary(workplace) == []
    assert not list(workplace.rglob('next-*'))  # of a video
    assert not list(workplace.glob('out*.*'))
    assert not (workplace / 'out' / 'clip.mkv').exists()
    assert not list((workplace / 'tmp').glob('*vmambair*'))
    for path in (workplace / 'out').rglob('*.png'):  # what is there is whole
        assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ('name', 'folder'), [('prepare', 'out/Rain13K/test/Test100/input'), ('restore a video', 'out')]
)
def test_what_a_crash_left_is_swept_at_the_next_start(workplace: Path, name: str, folder: str) -> None:
    """And what was written before it is taken up."""
    set_up(name, workplace)
    event = ('rename', 4) if name == 'prepare' else ('frame', 20)
    killed = stop(COMMANDS[name], signal.SIGKILL, *event, workplace)
    assert killed.returncode == -signal.SIGKILL
    place = workplace / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / f'.{0:012x}.part.png').write_bytes(b'half')
    left = temporary(workplace)
    young = place / f'.{1:012x}.part.png'
    young.write_bytes(b'of a process that lives')
    for path in left:
        os.utime(path, (time.time() - STALE - 1,) * 2)
    again = stop(COMMANDS[name], 0, 'rename', 10**9, workplace)
    assert again.returncode in (0, 1), again.stderr
    assert temporary(workplace) == [young]
    if name == 'restore a video':
        assert (workplace / 'out' / 'clip.mkv').stat().st_size > 0
