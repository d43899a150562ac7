"""Files from strangers, through the loader and through the command."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from vmambair_arch import cli
from vmambair_arch.images.image_io import read_image


def fuzz(root, count, seed):
    command = [sys.executable, '-m', 'tests.images.fuzz_images', str(count), str(seed)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f'{done.returncode}: {done.stderr[-3000:]}'
    found = json.loads(done.stdout)
    assert found['images'] == count
    assert found['read'] + found['refused'] == count
    # Mutations that break every file, or none, would test nothing.
    assert found['read'] > count / 20
    assert found['refused'] > count / 20


def test_500_mutated_images(root):
    fuzz(root, 500, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2, 12))
def test_20000_mutated_images(root, seed):
    fuzz(root, 2000, seed)


def png(width, height):
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 99)) + chunk(b'IEND', b'')


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(mode='RGB', size=(7, 6)):
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


BAD = {
    'bomb.png': (png(20000, 10000), 'too large'),
    'truncated.jpg': (encoded(picture(size=(64, 64)), 'JPEG')[:-200], 'damaged or truncated'),
    'truncated.png': (encoded(picture(), 'PNG')[:60], 'damaged or truncated'),
    'zero.webp': (b'', 'is empty'),
    'text.png': (b'just text', 'is no PNG'),
    'exr.png': (b'v/1\x01' + bytes(99), 'OpenEXR'),
    'pages.tif': (encoded(picture(), 'TIFF', save_all=True, append_images=[picture()]), 'has 2 frames or pages'),
}
GOOD = {
    'wrong_extension.jpg': encoded(picture(), 'PNG'),
    'cmyk.jpg': encoded(picture('CMYK'), 'JPEG'),
    'palette.png': encoded(picture('P'), 'PNG'),
    'one.png': encoded(picture(size=(1, 1)), 'PNG'),
    'line.png': encoded(picture(size=(5000, 1)), 'PNG'),
    'column.webp': encoded(picture(size=(1, 5000)), 'WEBP'),
    'name with spaces\n and a line break.png': encoded(picture(), 'PNG'),
}


def test_a_folder_of_horrors(tmp_path, checkpoint, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    for name, data in {**GOOD, **{name: data for name, (data, _) in BAD.items()}}.items():
        (folder / name).write_bytes(data)
    assert cli.main(['restore', str(folder), '-o', str(out), '-m', str(checkpoint)]) == 1
    stdout = capsys.readouterr().out
    assert f'{len(GOOD)} restored into {out}, {len(BAD)} bad' in stdout
    for name, (_, message) in BAD.items():
        assert any(f'{name}: ' in line and message in line for line in stdout.splitlines()), name
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(GOOD)
    for name in GOOD:
        assert read_image(out / name).rgb.shape == read_image(folder / name).rgb.shape


@pytest.mark.parametrize('name', BAD)
def test_each_alone_ends_with_2_and_one_line(tmp_path, checkpoint, capsys, name):
    (tmp_path / name).write_bytes(BAD[name][0])
    assert cli.main(['restore', str(tmp_path / name), '-o', str(tmp_path / 'out'), '-m', str(checkpoint)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('vmambair: error: ')
    assert f'{name}: ' in last
    assert BAD[name][1] in last
    assert not (tmp_path / 'out').exists()
