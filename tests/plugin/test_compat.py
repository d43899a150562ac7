"""Each fix of BasicSR 1.4.2, where a training run does not show it already."""

from __future__ import annotations

import math
import signal
import sys

import cv2
import numpy as np
import pytest
import torch
from experiment import run

from vmambair_arch.errors import UserError
from vmambair_arch.plugin import compat
from vmambair_arch.ranks.start import slurm_environment

compat.apply()


def test_twice_is_as_good_as_once():
    import basicsr.train

    before = basicsr.train.create_train_val_dataloader
    compat.apply()
    assert basicsr.train.create_train_val_dataloader is before


def test_jpeg_with_the_fractional_quality_that_basicsr_draws():
    from basicsr.data.degradations import random_add_jpg_compression

    image = np.full((16, 16, 3), 0.5, np.float32)
    np.testing.assert_allclose(random_add_jpg_compression(image, (90.2, 90.7)), image, atol=0.02)


@pytest.mark.parametrize('size', [(95, 400), (96, 96)])
def test_niqe_names_the_size_that_it_needs(size):
    from basicsr.metrics import calculate_niqe

    with pytest.raises(UserError, match=f'{size[0]} x {size[1]}'):
        calculate_niqe(np.zeros((*size, 3), np.uint8), crop_border=0)


def test_niqe_is_itself_on_images_of_two_blocks():
    from basicsr.metrics import calculate_niqe

    image = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)
    assert calculate_niqe(image, crop_border=0) > 5


def test_vgg_weights_that_are_nowhere(monkeypatch, tmp_path):
    from basicsr.archs.vgg_arch import VGGFeatureExtractor

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    monkeypatch.setattr('urllib.request.urlopen', _offline)
    with pytest.raises(UserError, match=r'vgg19-dcbb9e9d\.pth is neither in experiments.pretrained_models nor in'):
        VGGFeatureExtractor(['relu1_1'])


def _offline(*args: object, **kwargs: object) -> None:
    raise OSError('offline')


@pytest.mark.parametrize('folder', ['experiments/pretrained_models', 'home/hub/checkpoints'])
def test_vgg_weights_are_found_in_both_places(monkeypatch, tmp_path, folder):
    from basicsr.archs.vgg_arch import VGGFeatureExtractor
    from torchvision.models import vgg11

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr('urllib.request.urlopen', _offline)
    place = tmp_path / folder
    place.mkdir(parents=True)
    state = vgg11(weights=None).state_dict()
    torch.save(state, place / 'vgg11-8a719046.pth')
    extractor = VGGFeatureExtractor(['conv1_1'], vgg_type='vgg11')
    assert torch.equal(extractor.vgg_net.conv1_1.weight, state['features.0.weight'])


def test_python_without_distutils(monkeypatch):
    """Python 3.12 without setuptools: `distutils` is nowhere."""
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    for name in ('distutils', 'distutils.version'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    compat.supply_distutils()
    from distutils.version import LooseVersion

    assert LooseVersion('0.29.2+cu132') >= LooseVersion('0.9.0')
    assert not LooseVersion('0.8.2') >= LooseVersion('0.9.0')
    for name in ('distutils', 'distutils.version'):
        monkeypatch.delitem(sys.modules, name)


def test_init_dist_reads_slurm(monkeypatch):
    for name, value in {'PROCID': '3', 'NTASKS': '4', 'LOCALID': '1', 'NODELIST': 'node[1-2]'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    seen = []

    def check_output(command: list[str], text: bool) -> str:
        seen.append(command)
        return 'node1\nnode2\n'

    monkeypatch.setattr('subprocess.check_output', check_output)
    slurm_environment(None)
    import os

    assert seen == [['scontrol', 'show', 'hostnames', 'node[1-2]']]
    wanted = {'RANK': '3', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'node1', 'MASTER_PORT': '29500'}
    assert {name: os.environ[name] for name in wanted} == wanted


def test_missing_opencv_libraries_are_named(tmp_path):
    """On a slim image cv2 is installed and cannot be loaded."""
    (tmp_path / 'cv2.py').write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    )
    code = (
        'import sys; sys.path.insert(0, "."); from vmambair_arch.cli import main\n'
        'for words in ["train", "-opt", "a.yml"], ["doctor"]:\n'
        '    code = main(words)\n'
        '    for stream in sys.stdout, sys.stderr: print("ended with", code, file=stream, flush=True)\n'
    )
    done = run('-c', code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [stream.split('ended with') for stream in (done.stdout, done.stderr)]
    for number, code in enumerate((2, 1)):  # of train, of doctor
        assert 'apt install libgl1 libglib2.0-0' in ''.join(parts[number] for parts in said), done.stderr
        assert said[0][number + 1].split()[0] == str(code), done.stderr
    assert 'Traceback' not in done.stderr


def flat(level, noisy=0):
    """A grey picture of four blocks, of which some have noise."""
    image = np.full((192, 192, 3), level, np.uint8)
    for block in range(noisy):
        top, left = 96 * (block // 2), 96 * (block % 2)
        image[top : top + 96, left : left + 96] = np.random.default_rng(block).integers(0, 256, (96, 96, 3))
    return image


@pytest.mark.parametrize('level', [0, 128, 255])
@pytest.mark.parametrize('noisy', [0, 3])
def test_niqe_has_no_figure_for_one_colour(level, noisy, recwarn):
    from basicsr.metrics import calculate_niqe

    from vmambair_arch.metrics.no_reference import niqe

    scores = calculate_niqe(flat(level, noisy), crop_border=0), niqe(flat(level, noisy))
    assert [math.isnan(score) for score in scores] == [noisy < 2] * 2
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


ALONE = ['.ppm', '.pgm', '.pbm', '.pnm', '.pam', '.sr', '.ras', '.hdr']
"""Suffixes of formats that OpenCV reads and the package does not."""


def picture(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels[..., 0] if suffix in ('.pgm', '.pbm') else pixels)[1].tobytes()


@pytest.mark.parametrize('float32', [False, True])
@pytest.mark.parametrize('flag', ['color', 'grayscale', 'unchanged'])
@pytest.mark.parametrize('suffix', [*ALONE, 'text'])
def test_what_opencv_alone_reads_is_read_as_without_the_plugin(suffix, flag, float32):
    from basicsr.utils import imfrombytes

    data = b'P3\n# a comment\n2 1\n255\n1 2 3\n40 50 60\n' if suffix == 'text' else picture(suffix)
    flags = {'color': cv2.IMREAD_COLOR, 'grayscale': cv2.IMREAD_GRAYSCALE, 'unchanged': cv2.IMREAD_UNCHANGED}
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), flags[flag])
    found = imfrombytes(data, flag, float32)
    assert found.dtype == (np.float32 if float32 else expected.dtype)
    np.testing.assert_array_equal(found, expected.astype(np.float32) / np.float32(255) if float32 else expected)


@pytest.mark.parametrize('suffix', ALONE)
def test_what_opencv_alone_reads_is_refused_by_name_where_it_is_cut_off(tmp_path, suffix):
    from basicsr.utils import FileClient, imfrombytes

    whole = picture(suffix)
    for length in (4, len(whole) // 2, len(whole) - 1):
        (tmp_path / f'a{suffix}').write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf'a\{suffix}'):
            imfrombytes(FileClient('disk').get(str(tmp_path / f'a{suffix}')), float32=True)


LOADER = """
import sys
from torch.utils.data import DataLoader, Dataset
from vmambair_arch.errors import UserError, guard
from vmambair_arch.plugin import compat, launch

class Pictures(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        if index == 9:
            raise UserError('9.png: is not an image')
        return index

if __name__ == '__main__':
    basicsr = launch.import_basicsr()
    from functools import partial
    from basicsr.data import worker_init_fn
    begin = partial(worker_init_fn, num_workers=int(sys.argv[1]), rank=0, seed=0)
    loader = DataLoader(Pictures(), num_workers=int(sys.argv[1]), worker_init_fn=begin, persistent_workers=True)
    batches = iter(loader)  # still there at the end, as an error keeps it
    sys.exit(guard(lambda: list(batches)))
"""


@pytest.mark.skipif(not hasattr(signal, 'SIGCHLD'), reason='this system does not tell when a process ends')
@pytest.mark.parametrize('workers', [1, 2, 3, 5])
def test_the_line_about_bad_data_is_the_last(tmp_path, workers):
    """Torch's complaint that workers are killed came after it, as a traceback."""
    (tmp_path / 'load.py').write_text(LOADER)
    done = run('load.py', str(workers), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == 'vmambair: error: 9.png: is not an image'
    assert 'Traceback' not in done.stderr
