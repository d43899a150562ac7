"""One reader for each thing: whatever is put in, every door gives one answer: the same pixels, or the same refusal.

The doors are `check`, `train` (two iterations), `test` (BasicSR's validation), `evaluate`, `restore` and `info`. They
are run in this process on images of a few pixels. Of an image the answer is what reaches the network; of a checkpoint
it is the restored image.
"""

from __future__ import annotations

import io
import zlib
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from experiment import change, options, write_image, write_options
from numpy.typing import NDArray
from safetensors.torch import save_file

from vmambair_arch import VmambaIR, load_model, preflight
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.describe import describe
from vmambair_arch.cli import main
from vmambair_arch.errors import UserError
from vmambair_arch.evaluation.evaluate import evaluate
from vmambair_arch.images.headers import read_header
from vmambair_arch.images.image_io import Image, decode_image, read_image
from vmambair_arch.images.jpeg import jpeg_fault
from vmambair_arch.inference.restore_files import restore_files
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.plugin import compat, launch

compat.apply()

NETWORK: dict[str, Any] = {'dim': 8, 'num_blocks': [1, 0, 0, 0], 'num_refinement_blocks': 0, 'd_state': 2}
SIDE = 16
Answer = NDArray[np.uint8] | str
"""Pixels, or the line of a refusal."""


class Doors:
    """A folder with a training and a test set of one pair each, and every way into it.

    Attributes:
        folder: the current one.
        network: the checkpoint that all doors are given.
        seen: what reached a network, (h, w, 3) uint8 each.
    """

    def __init__(self, folder: Path, network: Path) -> None:
        self.folder = folder
        self.network: str | Path = network
        self.changes: dict[str, Any] = {}
        self.seen: list[NDArray[np.uint8]] = []
        for kind in ('gt', 'lq'):
            write_image(folder / kind / 'a.png', SIDE, SIDE)

    def options(self) -> dict[str, Any]:
        opt = options(
            model_type='VmambaIRModel',
            network_g={'type': 'VmambaIR', **NETWORK},
            path__pretrain_network_g=str(self.network),
            datasets__train__type='PairedProgressiveDataset',
            datasets__train__gt_sizes=[SIDE],
            datasets__train__mini_batch_sizes=[1],
            datasets__train__iters=[2],
            datasets__train__use_hflip=False,
            datasets__train__use_rot=False,
            datasets__val__type='PairedValidationDataset',
            train__total_iter=2,
            train__optim_g__lr=1e-12,  # the weights stay as they were read
            val__save_img=True,
            logger__save_checkpoint_freq=100,
        )
        for section in ('train', 'val'):
            opt['datasets'][section] |= {'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
        return change(opt, datasets__train__gt_size=..., **self.changes)

    def arguments(self, opt: dict[str, Any]) -> Namespace:
        file = write_options(self.folder / 'tiny.yml', opt)
        return Namespace(opt=str(file), launcher='none', auto_resume=False, debug=False, force_yml=None)

    def check(self) -> str:
        """The first fault, or ''."""
        return next(iter(preflight.check(self.arguments(self.options())).faults), '')

    def train(self) -> NDArray[np.uint8]:
        launch.train(self.arguments(self.options()))
        return _pixels(self.folder / 'experiments/tiny/visualization/a/a_2.png')

    def validate(self) -> NDArray[np.uint8]:
        opt = self.options()
        del opt['train'], opt['logger'], opt['datasets']['train']
        opt['datasets'] = {'test': opt['datasets']['val']}
        launch.test(self.arguments(opt))
        return _pixels(self.folder / 'results/tiny/visualization/Val/a_tiny.png')

    def evaluate(self) -> NDArray[np.uint8]:
        evaluate([f'net={self.network}'], [['set', 'gt', 'lq']], ['psnr'], 'evaluated', device='cpu')
        return _pixels(self.folder / 'evaluated/restored/net/set/a.png')

    def restore(self) -> NDArray[np.uint8]:
        (source,) = (self.folder / 'lq').iterdir()
        restore_files(source, 'restored/a.png', Restorer.from_pretrained(str(self.network), device='cpu'))
        return _pixels(self.folder / 'restored/a.png')

    def info(self) -> str:
        describe(self.network)
        return ''

    def answer(self, door: str) -> Answer:
        self.seen.clear()
        try:
            return getattr(self, door)()
        except UserError as error:
            return str(error)

    def shown(self, door: str) -> Answer:
        """What reaches the network through a door, or the refusal."""
        answer = self.answer(door)
        return answer if isinstance(answer, str) else self.seen[0]


@pytest.fixture
def watched(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> Doors:
    """Doors that note what is shown to their networks."""
    from vmambair_arch.models.vmambair_model import VmambaIRModel

    feed, run = VmambaIRModel.feed_data, Restorer.restore

    def feed_data(self: VmambaIRModel, data: dict[str, Any]) -> None:
        doors.seen.append(np.rint(data['lq'][0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
        feed(self, data)

    def restored(self: Restorer, image: Image, **options: Any) -> Image:
        doors.seen.append(np.rint(image.rgb * 255).astype(np.uint8))
        return run(self, image, **options)

    monkeypatch.setattr(VmambaIRModel, 'feed_data', feed_data)
    monkeypatch.setattr(Restorer, 'restore', restored)
    return doors


WITH_PIXELS = ('train', 'validate', 'evaluate', 'restore')


def _pixels(path: Path) -> NDArray[np.uint8]:
    return np.rint(read_image(path).rgb * 255).astype(np.uint8)


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Doors:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    save_checkpoint(tmp_path / 'net.safetensors', network(0))
    return Doors(tmp_path, tmp_path / 'net.safetensors')


def network(seed: int) -> VmambaIR:
    """A network that changes what it is shown, differently for every seed."""
    torch.manual_seed(seed)
    built = VmambaIR(**NETWORK)
    with torch.no_grad():
        built.output.weight.mul_(20)
    return built.eval()


# ---------------------------------------------------------------- checkpoints


def _prefixed(*prefixes: str) -> Callable[[], dict[str, Any]]:
    return lambda: {'params': {''.join(prefixes) + k: v for k, v in network(1).state_dict().items()}}


SAME = {
    'bare': lambda: network(1).state_dict(),
    'state_dict': lambda: {'state_dict': network(1).state_dict(), 'epoch': 3},
    'params': lambda: {'params': network(1).state_dict()},
    'params_ema alone': lambda: {'params_ema': network(1).state_dict()},
    'params_ema None': lambda: {'params': network(1).state_dict(), 'params_ema': None},
    'params and params_ema': lambda: {'params': network(2).state_dict(), 'params_ema': network(1).state_dict()},
    'module.': _prefixed('module.'),
    '_orig_mod.': _prefixed('_orig_mod.'),
    'module._orig_mod.': _prefixed('module.', '_orig_mod.'),
    '_orig_mod.module.': _prefixed('_orig_mod.', 'module.'),
}
"""Files that hold the parameters of network(1)."""


@pytest.mark.parametrize('form', [*SAME, 'safetensors'])
def test_every_door_reads_a_checkpoint_alike(doors: Doors, form: str) -> None:
    save_checkpoint(doors.folder / 'plain.safetensors', network(1))
    doors.network = doors.folder / 'plain.safetensors'
    expected = doors.restore()
    if form == 'safetensors':
        save_file(network(1).state_dict(), doors.folder / 'net.safetensors')
        doors.network = doors.folder / 'net.safetensors'
    else:
        torch.save(SAME[form](), doors.folder / 'net.pth')
        doors.network = doors.folder / 'net.pth'
    assert doors.check() == ''
    assert doors.info() == ''
    for door in WITH_PIXELS:
        np.testing.assert_array_equal(doors.answer(door), expected, err_msg=f'{form}: {door}')


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flipped(path: Path) -> None:
    """One bit of the parameters."""
    data = bytearray(path.read_bytes())
    weight = network(1).state_dict()['output.weight'].numpy().tobytes()
    data[data.index(weight) + len(weight) // 2] ^= 16
    path.write_bytes(data)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    'truncated': (_truncated, 'net.pth: not a checkpoint, or a damaged one'),
    'a bit flipped': (_flipped, 'net.pth: not a checkpoint, or a damaged one'),
    'empty': (lambda path: path.write_bytes(b''), 'net.pth: not a checkpoint, or a damaged one'),
    'text': (lambda path: path.write_text('hello'), 'net.pth: not a checkpoint, or a damaged one'),
    'gone': (lambda path: path.unlink(), 'net.pth: no such checkpoint file'),
    'no parameters': (lambda path: torch.save({'params': {}}, path), 'net.pth: holds no state dict'),
    'an optimiser': (lambda path: torch.save({'iter': 3, 'optimizers': []}, path), 'net.pth: holds no state dict'),
}
"""What is done to a good file, and what every door says then."""


@pytest.mark.parametrize('fault', REFUSED)
def test_every_door_refuses_a_checkpoint_alike(doors: Doors, fault: str) -> None:
    doors.network = doors.folder / 'net.pth'
    torch.save({'params': network(1).state_dict()}, doors.network)
    harm, expected = REFUSED[fault]
    harm(doors.network)
    answers = {door: doors.answer(door) for door in ('check', 'train', 'validate', 'restore', 'info')}
    said = {str(answer).removeprefix('path: pretrain_network_g: ') for answer in answers.values()}
    assert len(said) == 1, answers
    assert expected in said.pop()


def test_an_altered_file_is_refused_by_its_own_checksum_at_every_door(doors: Doors) -> None:
    doors.network = doors.folder / 'net.safetensors'
    save_checkpoint(doors.network, network(1))
    _flipped(doors.network)
    for door in ('check', 'train', 'validate', 'evaluate', 'restore', 'info'):
        assert 'the parameters are not those that its sha256 was taken of' in doors.answer(door), door
    with pytest.raises(UserError, match='sha256'):
        load_model(doors.network)


def test_half_precision_is_the_same_network_at_every_door(doors: Doors) -> None:
    doors.network = doors.folder / 'half.safetensors'
    save_checkpoint(doors.network, network(1), half=True)
    assert doors.check() == ''
    first, *others = [doors.answer(door) for door in WITH_PIXELS]
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_name_of_the_package_is_read_at_every_door(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('vmambair_arch.checkpoints.find.WEIGHTS', doors.folder)
    doors.network = 'net'
    assert doors.check() == ''
    first, *others = [doors.answer(door) for door in WITH_PIXELS]
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert load_model('net').config['dim'] == 8


@pytest.mark.parametrize(
    ('sets', 'said'),
    [
        (('params', 'params_ema'), 'params_ema (averaged); params is there too'),
        (('params_ema',), 'params_ema (averaged)'),
        (('params',), 'params'),
        (('state_dict',), 'state_dict'),
        ((), None),
    ],
)
def test_restore_and_evaluate_say_once_which_parameters_they_take(
    doors: Doors, capsys: pytest.CaptureFixture, sets: tuple[str, ...], said: str | None
) -> None:
    parameters = network(1).state_dict()
    torch.save({name: parameters for name in sets} or parameters, 'net.pth')
    (source,) = doors.folder.glob('lq/*')
    for command in (
        ['restore', str(source), str(source), '-m', 'net.pth', '-o', 'out', '--device', 'cpu'],
        ['evaluate', 'net=net.pth', '--truth', 'gt', '--lq', 'lq', '--metrics', 'psnr', '--device', 'cpu'],
    ):
        capsys.readouterr()
        assert main(command) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('vmambair: net.pth')]
        assert lines == ([] if said is None else [f'vmambair: net.pth: {said}'])


def test_a_file_of_two_sets_may_be_read_as_the_option_file_says(doors: Doors) -> None:
    doors.network = doors.folder / 'two.pth'
    torch.save({'params': network(2).state_dict(), 'params_ema': network(1).state_dict()}, doors.network)
    averaged = doors.validate()
    doors.changes = {'path__param_key_g': 'params'}
    as_trained = doors.validate()
    assert (averaged != as_trained).any()
    save_checkpoint(doors.folder / 'other.safetensors', network(2))
    doors.network, doors.changes = doors.folder / 'other.safetensors', {}
    np.testing.assert_array_equal(doors.validate(), as_trained)


def test_what_is_not_strict_must_still_load_something(doors: Doors) -> None:
    """And what was left out is one warning with counts."""
    doors.changes = {'path__strict_load_g': False}
    doors.network = doors.folder / 'other.pth'
    torch.save({'params': {f'other.{k}': v for k, v in network(1).state_dict().items()}}, doors.network)
    assert 'fills only 0.0% of this one' in doors.check()
    assert 'fills only 0.0% of this one' in doors.answer('validate')
    state = network(1).state_dict()
    state['unknown'] = state.pop('output.weight')
    torch.save({'params': state}, doors.network)
    report = preflight.check(doors.arguments(doors.options()))
    assert report.faults == []
    (warning,) = (line for line in report.warnings if 'left out' in line)
    assert '1 parameters are missing (output.weight' in warning
    assert '1 parameters are unknown (unknown' in warning
    assert isinstance(doors.answer('validate'), np.ndarray)


# ---------------------------------------------------------------- pixels

PICTURE = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def _encoded(mode: str, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(PICTURE).convert(mode)
    if isinstance(options.get('exif'), int):
        exif = PIL.Image.Exif()
        exif[0x0112] = options['exif']
        options['exif'] = exif
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def _png16() -> bytes:
    return cv2.imencode('.png', (PICTURE.astype(np.uint16) * 257)[..., ::-1])[1].tobytes()


def _late_exif(orientation: int) -> bytes:
    """A PNG whose EXIF stands behind its pixels."""
    png = _encoded('RGB', 'PNG')
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    body = b'eXIf' + exif.tobytes().removeprefix(b'Exif\0\0')
    chunk = (len(body) - 4).to_bytes(4, 'big') + body + zlib.crc32(body).to_bytes(4, 'big')
    return png[:-12] + chunk + png[-12:]


PICTURES: dict[str, Callable[[], bytes]] = {
    **{f'colour JPEG, EXIF {n}': partial(_encoded, 'RGB', 'JPEG', exif=n, quality=95) for n in (1, 2, 3, 6, 8)},
    'colour JPEG, EXIF 9': partial(_encoded, 'RGB', 'JPEG', exif=9),
    'grey JPEG, EXIF 3': partial(_encoded, 'L', 'JPEG', exif=3),
    'grey JPEG, EXIF 6': partial(_encoded, 'L', 'JPEG', exif=6),
    'PNG, EXIF 6': partial(_encoded, 'RGB', 'PNG', exif=6),
    'PNG, EXIF 3 behind the pixels': partial(_late_exif, 3),
    'WebP, EXIF 5': partial(_encoded, 'RGB', 'WEBP', exif=5, lossless=True),
    'TIFF, EXIF 8': partial(_encoded, 'RGB', 'TIFF', exif=8),
    'progressive JPEG': partial(_encoded, 'RGB', 'JPEG', progressive=True),
    'CMYK JPEG': partial(_encoded, 'CMYK', 'JPEG'),
    'grey PNG': partial(_encoded, 'L', 'PNG'),
    'palette PNG': partial(_encoded, 'P', 'PNG'),
    'RGBA PNG': partial(_encoded, 'RGBA', 'PNG'),
    'grey and alpha PNG': partial(_encoded, 'LA', 'PNG'),
    'one bit PNG': partial(_encoded, '1', 'PNG'),
    '16-bit PNG': _png16,
    'LZW TIFF': partial(_encoded, 'RGB', 'TIFF', compression='tiff_lzw'),
    'CMYK TIFF': partial(_encoded, 'CMYK', 'TIFF'),
    'BMP': partial(_encoded, 'RGB', 'BMP'),
    'BMP with alpha': partial(_encoded, 'RGBA', 'BMP'),
    'lossless WebP with alpha': partial(_encoded, 'RGBA', 'WEBP', lossless=True),
    'PNG with bytes after its end': lambda: _encoded('RGB', 'PNG') + b'appended' * 2000,
    'JPEG with bytes after its end': lambda: _encoded('RGB', 'JPEG') + bytes(200_000),
    'AVIF': partial(_encoded, 'RGB', 'AVIF'),
    'JPEG 2000': partial(_encoded, 'RGB', 'JPEG2000'),
}
"""Files of one picture, all of which are fine; they lie under the name a.png, since content decides."""


@pytest.mark.parametrize('kind', PICTURES)
def test_every_door_shows_a_picture_alike(watched: Doors, kind: str) -> None:
    doors = watched
    (doors.folder / 'lq/a.png').write_bytes(PICTURES[kind]())
    assert doors.check() == ''
    answers = {door: doors.shown(door) for door in WITH_PIXELS}
    for door, answer in answers.items():
        assert isinstance(answer, np.ndarray), (door, answer)
        np.testing.assert_array_equal(answer, answers['restore'], err_msg=door)
    header = read_header(doors.folder / 'lq/a.png')
    assert (header.height, header.width) == answers['restore'].shape[:2]
    assert (header.channels in (2, 4)) == (kind in ('RGBA PNG', 'grey and alpha PNG'))


@pytest.mark.parametrize('kind', PICTURES)
def test_basicsrs_own_data_sets_read_the_same_pixels(tmp_path: Path, kind: str) -> None:
    from basicsr.utils import imfrombytes

    data = PICTURES[kind]()
    expected = np.rint(decode_image(data).rgb * 255).astype(np.uint8)
    np.testing.assert_array_equal(imfrombytes(data)[..., ::-1], expected)


def test_an_oblong_picture_on_its_side_fits_its_upright_partner(watched: Doors) -> None:
    doors = watched
    upright = PICTURE[:, :12]
    PIL.Image.fromarray(upright).save(doors.folder / 'gt/a.png')
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (doors.folder / 'lq/a.png').unlink()
    lying = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    lying.save(doors.folder / 'lq/a.png', exif=exif)
    assert doors.check() == ''
    doors.changes = {'datasets__train__gt_sizes': [12]}
    for door in ('validate', 'evaluate', 'restore'):
        np.testing.assert_array_equal(doors.shown(door), upright, err_msg=door)


def _flip_pixel(data: bytes) -> bytes:
    at = data.index(b'IDAT') + 40
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _flip_scan(data: bytes) -> bytes:
    """A JPEG with one bit flipped of its scan, the first that OpenCV's libjpeg has something to say about."""
    start = data.rindex(b'\xff\xda') + 14
    for at in range(start, len(data) - 2):
        flipped = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        if jpeg_fault(flipped):
            return flipped
    raise AssertionError('nothing is noticed')


def _float_tiff() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(PICTURE[..., 0].astype(np.float32)).save(buffer, 'TIFF')
    return buffer.getvalue()


UNREADABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    'PNG with a flipped bit': (lambda: _flip_pixel(_encoded('RGB', 'PNG')), "checksum of its part 'IDAT'"),
    'grey PNG with a flipped bit': (lambda: _flip_pixel(_encoded('L', 'PNG')), "checksum of its part 'IDAT'"),
    '16-bit PNG with a flipped bit': (lambda: _flip_pixel(_png16()), "checksum of its part 'IDAT'"),
    'JPEG with a flipped bit': (lambda: _flip_scan(_encoded('RGB', 'JPEG')), 'Corrupt JPEG data'),
    'grey JPEG with a flipped bit': (lambda: _flip_scan(_encoded('L', 'JPEG')), 'Corrupt JPEG data'),
    'turned JPEG with a flipped bit': (lambda: _flip_scan(_encoded('RGB', 'JPEG', exif=6)), 'Corrupt JPEG data'),
    'CMYK JPEG with a flipped bit': (lambda: _flip_scan(_encoded('CMYK', 'JPEG')), 'Corrupt JPEG data'),
    'PNG cut off': (lambda: _encoded('RGB', 'PNG')[:-20], 'it is cut off'),
    'JPEG cut off': (lambda: _encoded('RGB', 'JPEG', quality=95)[:-100], 'damaged or truncated'),
    'WebP cut off': (lambda: _encoded('RGB', 'WEBP', lossless=True)[:-100], 'damaged or truncated'),
    'BMP cut off': (lambda: _encoded('RGB', 'BMP')[:-100], 'damaged or truncated'),
    'TIFF cut off': (lambda: _encoded('RGB', 'TIFF')[:-200], 'damaged'),
    'float TIFF': (_float_tiff, 'floating-point'),
    'animation': (
        lambda: _encoded('RGB', 'WEBP', save_all=True, append_images=[PIL.Image.new('RGB', (SIDE, SIDE))]),
        'has 2 frames',
    ),
    'JPEG XL': (lambda: b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(50), 'JPEG XL'),
    'OpenEXR': (lambda: b'v/1\x01' + bytes(50), 'OpenEXR'),
    'text': (lambda: b'hello', 'is no PNG'),
    'empty': (lambda: b'', 'empty'),
}
"""Files that no door takes, and what it says."""


@pytest.mark.parametrize('kind', UNREADABLE)
def test_every_door_refuses_a_picture_alike(watched: Doors, kind: str) -> None:
    doors = watched
    content, expected = UNREADABLE[kind]
    (doors.folder / 'lq/a.png').write_bytes(content())
    for door in ('check', *WITH_PIXELS):
        if door == 'check' and 'flipped' in kind:  # it reads headers
            continue
        doors.changes = {'datasets__val__dataroot_lq': 'gt'} if door == 'train' else {}
        answer = doors.shown(door) if door != 'check' else doors.check()
        assert isinstance(answer, str), (door, answer)
        assert expected in answer, (door, answer)
        assert 'a.png' in answer, (door, answer)


@pytest.mark.parametrize('kind', UNREADABLE)
def test_basicsrs_own_data_sets_refuse_it_by_name(tmp_path: Path, kind: str) -> None:
    from basicsr.utils import FileClient, imfrombytes

    (tmp_path / 'a.png').write_bytes(UNREADABLE[kind][0]())
    with pytest.raises(UserError, match=r'a\.png'):
        imfrombytes(FileClient('disk').get(str(tmp_path / 'a.png')))


def test_a_pillow_image_is_turned_as_its_file_would_be_and_saved_upright(doors: Doors) -> None:
    (doors.folder / 'a.jpg').write_bytes(PICTURES['colour JPEG, EXIF 6']())
    restorer = Restorer(network(0), device='cpu')
    from_file = restorer.restore(read_image(doors.folder / 'a.jpg'))
    result = restorer(PIL.Image.open(doors.folder / 'a.jpg'))
    np.testing.assert_array_equal(np.asarray(result), np.rint(from_file.rgb.clip(0, 1) * 255).astype(np.uint8))
    result.save(doors.folder / 'b.jpg', quality=95)
    assert PIL.Image.open(doors.folder / 'b.jpg').getexif().get(0x0112, 1) == 1
