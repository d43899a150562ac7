"""`Restorer`: whatever kind of picture goes in comes out, restored."""

from __future__ import annotations

import copy
import io
import re
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from vmambair_arch import OSSNet, Restorer
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.checkpoints.interpolate import interpolate
from vmambair_arch.errors import UserError
from vmambair_arch.images import pixels
from vmambair_arch.images.image_io import Image, from_array, read_image, to_array, write_image
from vmambair_arch.inference import restorer as restorer_module
from vmambair_arch.inference import tiles
from vmambair_arch.inference.restore_files import restore_bytes, restore_files
from vmambair_arch.ops import choose


def random(*shape):
    return np.random.default_rng(0).uniform(0.1, 0.9, shape).astype(np.float32)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize('shape', [(9, 12), (9, 12, 1), (9, 12, 2), (9, 12, 3), (9, 12, 4), (1, 1, 3), (1, 50, 3)])
def test_arrays(halve, dtype, shape):
    source = random(*shape)
    if np.issubdtype(dtype, np.integer):
        source = source * np.iinfo(dtype).max
    source = source.astype(dtype)
    before = source.copy()
    out = Restorer(halve)(source)
    assert out.dtype == dtype
    assert out.shape == source.shape
    np.testing.assert_array_equal(source, before)
    expected = source.astype(np.float64) / 2
    if shape[2:] in [(2,), (4,)]:
        expected[..., -1] = source[..., -1]  # alpha is not the network's business
    np.testing.assert_allclose(out, expected, atol=0.51 if np.issubdtype(dtype, np.integer) else 1e-6)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('shape', [(3, 8, 9), (2, 3, 8, 9), (1, 8, 9), (2, 4, 8, 9)])
def test_tensors(halve_x2, dtype, shape):
    source = torch.from_numpy(random(*shape))
    source = (source * 255).round().to(dtype) if dtype == torch.uint8 else source.to(dtype)
    out = Restorer(halve_x2)(source)
    assert out.dtype == dtype
    assert out.shape == (*shape[:-2], 16, 18)
    colours = slice(None, 3)
    expected = source.double()[..., colours, :, :].repeat_interleave(2, -1).repeat_interleave(2, -2) / 2
    error = (out.double()[..., colours, :, :] - expected).abs().max()
    assert error <= {torch.uint8: 0.51, torch.bfloat16: 0.01}.get(dtype, 1e-6)


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA', 'P'])
def test_pillow_images(halve, mode):
    source = PIL.Image.fromarray((random(8, 9, 3) * 255).astype(np.uint8)).convert(mode)
    out = Restorer(halve)(source)
    assert isinstance(out, PIL.Image.Image)
    assert out.mode == {'P': 'RGB'}.get(mode, mode)
    expected = np.asarray(source.convert('RGB')).astype(float) / 2
    assert np.abs(np.asarray(out.convert('RGB')) - expected).max() <= 0.51


def test_paths(halve, tmp_path):
    write_image(tmp_path / 'a.png', Image(random(8, 9, 3)))
    out = Restorer(halve)(str(tmp_path / 'a.png'), tmp_path / 'new' / 'b.png')
    assert out == tmp_path / 'new' / 'b.png'
    np.testing.assert_allclose(read_image(out).rgb, read_image(tmp_path / 'a.png').rgb / 2, atol=0.003)
    with pytest.raises(UserError, match='say where the result goes'):
        Restorer(halve)(tmp_path / 'a.png')


@pytest.mark.parametrize(
    'picture', [np.zeros((3, 20, 20)), np.zeros((0, 4, 3)), np.zeros((4, 4), bool), torch.zeros(5), 'x', None, [1]]
)
def test_what_is_no_picture(halve, picture):
    with pytest.raises(UserError):
        Restorer(halve)(picture, 'out.png') if isinstance(picture, str) else Restorer(halve)(picture)


def test_a_real_network_any_size(tiny):
    for size in [(1, 1), (1, 40), (17, 23)]:
        source = random(*size, 3)
        with torch.no_grad():
            expected = tiny(torch.from_numpy(source).permute(2, 0, 1)[None])[0].clamp(0, 1).permute(1, 2, 0)
        np.testing.assert_allclose(Restorer(tiny)(source), expected, atol=1e-6)


def test_alpha_is_resized_or_restored(halve_x2):
    source = np.concatenate([random(8, 8, 3), np.full((8, 8, 1), 0.8, np.float32)], axis=2)
    resized = Restorer(halve_x2)(source)
    assert resized.shape == (16, 16, 4)
    np.testing.assert_allclose(resized[..., 3], 0.8, atol=1e-5)
    np.testing.assert_allclose(Restorer(halve_x2, alpha='restore')(source)[..., 3], 0.4, atol=1e-5)


@pytest.mark.parametrize(('outscale', 'size'), [(None, (20, 28)), (1, (10, 14)), (3.5, (35, 49)), (0.01, (1, 1))])
def test_outscale(halve_x2, outscale, size):
    out = Restorer(halve_x2, outscale=outscale)(np.full((10, 14, 3), 0.5, np.float32))
    assert out.shape == (*size, 3)
    np.testing.assert_allclose(out, 0.25, atol=1e-5)


def test_self_ensemble_is_equivariant(tiny):
    source = random(16, 24, 3)
    turned = np.ascontiguousarray(np.rot90(source))
    difference = {
        ensemble: np.abs(np.rot90(restorer(turned), -1) - restorer(source)).max()
        for ensemble in (False, True)
        for restorer in [Restorer(tiny, self_ensemble=ensemble)]
    }
    assert difference[True] < 1e-5 < difference[False]


def test_self_ensemble_of_a_network_for_upright_pictures_mirrors_and_never_turns(tiny, monkeypatch):
    monkeypatch.setattr(tiny, 'upright', True, raising=False)
    source = random(16, 24, 3)
    restorer = Restorer(tiny, self_ensemble=True)
    mirrored = restorer(np.ascontiguousarray(source[:, ::-1]))[:, ::-1]
    np.testing.assert_allclose(mirrored, restorer(source), atol=1e-5)
    sizes = []
    monkeypatch.setattr(tiny, 'forward', lambda x: sizes.append(tuple(x.shape[-2:])) or x)
    restorer(source)
    assert sizes == [(16, 24)] * 2


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_reduced_precision_stays_close(tiny, precision):
    source = random(16, 16, 3)
    out = Restorer(tiny, precision=precision)(source)
    assert out.dtype == np.float32
    assert 0 < np.abs(out - Restorer(tiny)(source)).max() < 0.02


def test_tiles_on_request_and_by_memory(halve, monkeypatch):
    source = random(100, 120, 3)
    Restorer(halve, tile=48, overlap=8)(source)
    assert max(max(shape[2:]) for shape in halve.shapes) <= 48
    halve.shapes.clear()
    Restorer(halve)(source)
    assert halve.shapes[-1] == (1, 3, 100, 120)
    halve.shapes.clear()
    cost = restorer_module.tiles.memory_per_pixel(halve, torch.device('cpu'))
    monkeypatch.setattr(restorer_module.tiles, 'free_memory', lambda device: 64 * 64 * cost)
    out = Restorer(halve, device='cpu')(source)
    assert max(halve.shapes[-1][2:]) <= 64
    np.testing.assert_allclose(out, source / 2, atol=1e-6)
    halve.shapes.clear()
    Restorer(halve, tile=0)(source)
    assert halve.shapes == [(1, 3, 100, 120)]


def test_tiles_keep_every_tensor_of_a_gpu_below_what_32_bits_count(halve, monkeypatch):
    """Whatever memory there is: 3 numbers a pixel here, and a limit of 3 * 64 * 64."""
    monkeypatch.setattr(restorer_module.tiles, 'MOST_ELEMENTS', 3 * 64 * 64)
    monkeypatch.setattr(restorer_module.tiles, 'free_memory', lambda device: 1e12)
    restorer = Restorer(halve, device='cpu')
    assert restorer.tile_for(100, 120) is None
    restorer.device = SimpleNamespace(type='cuda')
    monkeypatch.setattr(restorer_module.tiles, 'memory_per_pixel', lambda network, device: 1.0)
    monkeypatch.setattr(
        restorer_module.tiles, 'elements_per_pixel',
        lambda network, device, real=restorer_module.tiles.elements_per_pixel: real(halve, torch.device('cpu')),
    )  # fmt: skip
    assert restorer.tile_for(100, 120) == 64


def test_the_cost_of_a_pixel_is_measured_once_and_free_memory_for_every_picture(halve, monkeypatch):
    cost = restorer_module.tiles.memory_per_pixel(halve, torch.device('cpu'))
    free = iter([100 * 120 * cost, 64 * 64 * cost])
    monkeypatch.setattr(restorer_module.tiles, 'free_memory', lambda device: next(free))
    restorer = Restorer(halve, overlap=8, device='cpu')
    restorer(random(100, 120, 3))
    halve.shapes.clear()
    restorer(random(100, 120, 3))
    assert max(max(shape[2:]) for shape in halve.shapes) <= 64
    assert (1, 3, restorer_module.tiles.PROBE, restorer_module.tiles.PROBE) not in halve.shapes[:2]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'fp8'}, "precision 'fp8'"),
        ({'tile': 7}, 'tile of 7 pixels is too small'),
        ({'tile': -1}, 'too small'),
        ({'overlap': -1}, 'overlap must be 0 or more'),
        ({'outscale': 0}, 'output scale'),
        ({'outscale': float('nan')}, 'output scale'),
        *(
            ({'outscale': value}, 'output scale must be a number .* got ' + re.escape(repr(value)) + '$')
            for value in ('2', True, [2], 1j)
        ),
        *(
            ({name: value}, f'the {name} must be a whole number of pixels, got {re.escape(repr(value))}$')
            for name in ('tile', 'overlap')
            for value in ('64', True, 64.0, [64])
        ),
        ({'overlap': None}, 'the overlap must be a whole number of pixels, got None'),
        ({'alpha': 'drop'}, "alpha 'drop'"),
        ({'device': 'cuda:77'}, "device 'cuda:77' is not there"),
        *(
            ({'device': name}, f"device '{name}' is not there")
            for name in ('toaster', 'meta', 'hpu', 'privateuseone', 'vulkan', 'xla', 'cpu:x', '')
        ),
    ],
)
def test_bad_arguments(halve, options, message):
    with pytest.raises(UserError, match=message):
        Restorer(halve, **options)


def test_a_scan_that_is_asked_for_and_not_there_is_one_line(halve, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_SCAN', 'fast')
    with pytest.raises(UserError, match="VMAMBAIR_SCAN=fast is not a backend; use 'auto' or one of triton"):
        Restorer(halve, device='cpu')


def test_networks_for_other_channels_are_refused(halve):
    halve.config['inp_channels'] = 1
    with pytest.raises(UserError, match='for 1 channels'):
        Restorer(halve)


def test_from_pretrained(checkpoint, tiny):
    source = random(8, 8, 3)
    np.testing.assert_allclose(Restorer.from_pretrained(checkpoint)(source), Restorer(tiny)(source), atol=1e-6)
    with pytest.raises(UserError, match='nowhere.pth: no such checkpoint'):
        Restorer.from_pretrained('nowhere.pth')


# files, lists, batches


def test_any_picture_may_be_written(halve, tmp_path):
    source = random(8, 9, 3)
    restorer = Restorer(halve)
    for number, picture in enumerate(
        (source, torch.from_numpy(source).permute(2, 0, 1), PIL.Image.fromarray((source * 255).astype(np.uint8)))
    ):
        assert restorer(picture, tmp_path / f'{number}.png') == tmp_path / f'{number}.png'
        np.testing.assert_allclose(read_image(tmp_path / f'{number}.png').rgb, source / 2, atol=0.005)


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.jpg'])
def test_bytes_and_files_stay_what_they_are(halve, tmp_path, suffix):
    write_image(tmp_path / f'a{suffix}', Image(np.full((16, 16, 3), 0.4, np.float32)))
    data = (tmp_path / f'a{suffix}').read_bytes()
    restorer = Restorer(halve)
    result = restorer(data)
    assert isinstance(result, bytes)
    assert result[:2] == data[:2]
    buffered = restorer(io.BytesIO(data))
    assert isinstance(buffered, io.BytesIO)
    assert buffered.read() == result
    with (tmp_path / f'a{suffix}').open('rb') as file, (tmp_path / 'copy').open('wb') as target:
        assert restorer(file, target) is target
    assert (tmp_path / 'copy').read_bytes() == result
    with pytest.raises(UserError, match='binary mode'):
        restorer(io.StringIO('text'))
    with pytest.raises(UserError, match='BytesIO: is no PNG'):
        restorer(io.BytesIO(b'no picture'))


def test_lists(halve, tmp_path):
    pictures = [random(8, 9, 3), random(8, 9), random(5, 6, 3)]
    results = Restorer(halve)(pictures)
    for picture, result in zip(pictures, results, strict=True):
        np.testing.assert_allclose(result, picture / 2, atol=1e-6)
    mixed = Restorer(halve)([pictures[0], PIL.Image.new('L', (4, 4), 100)], [tmp_path / 'a.png', tmp_path / 'b.png'])
    assert mixed == [tmp_path / 'a.png', tmp_path / 'b.png']
    assert Restorer(halve)([]) == []
    with pytest.raises(UserError, match='as many outputs'):
        Restorer(halve)(pictures, [tmp_path / 'a.png'])


def test_pictures_of_one_size_go_through_the_network_together_and_in_order(halve):
    images = [Image(np.full((8, 8, 3), value / 10, np.float32)) for value in range(1, 6)]
    images.insert(3, Image(random(5, 7, 3)))
    results = list(Restorer(halve).restore_many(iter(images)))
    assert [shape[0] for shape in halve.shapes] == [3, 1, 2]
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result.rgb, image.rgb / 2, atol=1e-6)


def test_a_batch_of_tensors_is_one_batch_and_the_same_as_one_by_one(tiny):
    batch = torch.from_numpy(random(3, 3, 16, 24))
    shapes = []
    handle = tiny.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    together = Restorer(tiny)(batch)
    handle.remove()
    assert shapes[-1] == (3, 3, 16, 24)
    assert sum(shape[-2:] == (16, 24) for shape in shapes) == 1
    for one, result in zip(batch, together, strict=True):
        torch.testing.assert_close(Restorer(tiny)(one), result, atol=1e-5, rtol=0)


def test_a_batch_that_does_not_fit_is_done_one_by_one(halve, monkeypatch):
    real = type(halve).forward

    def small(self, x):
        if len(x) > 1:
            raise RuntimeError('CUDA out of memory')
        return real(self, x)

    monkeypatch.setattr(type(halve), 'forward', small)
    out = Restorer(halve)([random(8, 8, 3)] * 3)
    assert len(out) == 3
    np.testing.assert_allclose(out[2], random(8, 8, 3) / 2, atol=1e-6)


def test_threads_share_one_restorer(tiny):
    restorer = Restorer(tiny)
    pictures = [random(12 + 4 * n, 16, 3) for n in range(6)]
    expected = [restorer(picture) for picture in pictures]
    counts = [[] for _ in pictures]
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(restorer, picture, progress=lambda *args, seen=seen: seen.append(args))
            for picture, seen in zip(pictures, counts, strict=True)
        ]
        for job, wanted in zip(jobs, expected, strict=True):
            np.testing.assert_allclose(job.result(), wanted, atol=1e-6)
    for seen in counts:  # nobody's progress counts another's blocks
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1][0] == seen[-1][1]


def test_threads_measure_a_network_one_after_the_other_and_once(tiny, monkeypatch):
    busy, measured = threading.Lock(), []

    def cost(network, device):
        assert busy.acquire(blocking=False), 'two at one time'
        time.sleep(0.02)
        measured.append(network)
        busy.release()
        return 1000.0

    monkeypatch.setattr(tiles, 'memory_per_pixel', cost)
    restorer, together = Restorer(tiny), threading.Barrier(3)

    def ask():
        together.wait()
        return restorer._most_pixels()

    with ThreadPoolExecutor(3) as pool:
        for job in [pool.submit(ask) for _ in range(3)]:
            assert job.result() > 0
    assert len(measured) == 1


def test_floats_outside_of_0_to_1_are_refused_with_the_range(halve):
    with pytest.raises(UserError, match='got values from 0 to 255; divide it by 255'):
        Restorer(halve)(np.array([[0.0, 255.0]]))
    with pytest.raises(UserError, match=r'got values from -0\.5 to 1'):
        Restorer(halve)(torch.tensor([[[-0.5, 1.0]]]))


def test_a_restorer_says_what_it_is(tiny):
    text = repr(Restorer(tiny, tile=64))
    assert text.startswith('Restorer(VmambaIR x1, 0.11 M parameters')
    assert "device='cpu'" in text
    assert 'tile=64' in text


def test_fp16_on_a_cpu_is_said_to_be_slow(halve, caplog):
    Restorer(halve, device='cpu', precision='fp16')
    assert 'slower than fp32; use --precision fp32, or bf16' in caplog.text


def test_a_restorer_fixes_colours(halve):
    picture = torch.rand(3, 40, 40) * 0.5 + 0.25
    plain, fixed = Restorer(halve)(picture), Restorer(halve, colour_fix='wavelet')(picture)
    assert (plain.mean() - picture.mean()).abs() > 0.2
    assert (fixed.mean() - picture.mean()).abs() < 0.01
    with pytest.raises(UserError, match="colour_fix 'warm' is not one of none, adain, wavelet"):
        Restorer(halve, colour_fix='warm')


def test_denoise_strength_is_between_two_networks_of_the_package():
    picture = random(16, 16, 3)
    results = {
        name: Restorer.from_pretrained(task=task, denoise=denoise)(picture)
        for name, task, denoise in [
            ('sr', 'sr', None), (0, 'realsr', 0), (0.5, 'realsr', 0.5), (1, 'realsr', 1), ('realsr', 'realsr', None),
        ]
    }  # fmt: skip
    np.testing.assert_allclose(results[0], results['sr'], atol=1e-4)
    np.testing.assert_allclose(results[1], results['realsr'], atol=1e-4)
    between = (results[0] + results[1]) / 2
    away = np.abs(results[0] - results[1]).mean()
    assert np.abs(results[0.5] - between).mean() < away / 2
    for options, message in [
        ({'task': 'derain', 'denoise': 0.5}, "for the task 'realsr' alone"),
        ({'task': 'realsr', 'denoise': 2}, 'must be 0 to 1, got 2'),
    ]:
        with pytest.raises(UserError, match=message):
            Restorer.from_pretrained(**options)


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_a_network_that_returns_nan_is_named_and_nobody_is_told_to_use_what_is_in_use(halve, precision):
    halve.forward = lambda x: x * float('nan')
    with pytest.raises(UserError, match='the network returned NaN') as refused:
        Restorer(halve, precision=precision)(random(9, 12, 3))
    assert f'--precision {precision}' not in str(refused.value)
    assert refused.value.exit_code == 2


KINDS_OF_PICTURE = {
    'array': lambda: random(8, 9, 3),
    'grey array': lambda: random(8, 9),
    'one channel': lambda: random(8, 9, 1),
    'uint8': lambda: (random(8, 9, 4) * 255).astype(np.uint8),
    'uint16': lambda: (random(8, 9, 3) * 65535).astype(np.uint16),
    'tensor': lambda: torch.from_numpy(random(3, 8, 9)),
    'uint8 tensor': lambda: (torch.from_numpy(random(1, 8, 9)) * 255).to(torch.uint8),
    'Pillow': lambda: PIL.Image.new('RGBA', (9, 8), (10, 20, 30, 40)),
    'grey Pillow': lambda: PIL.Image.new('L', (9, 8), 100),
    'bytes': lambda: png(),
    'file': lambda: io.BytesIO(png()),
    'Image': lambda: Image(random(8, 9, 3)),
}


def png():
    file = io.BytesIO()
    PIL.Image.new('RGB', (9, 8), (10, 20, 30)).save(file, 'PNG')
    return file.getvalue()


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, Image):
        one, other = one.rgb, other.rgb
    if isinstance(one, io.BytesIO):
        one, other = one.getvalue(), other.getvalue()
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, PIL.Image.Image):
        assert (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
    else:
        assert one == other


@pytest.mark.parametrize('kind', KINDS_OF_PICTURE)
def test_a_call_a_list_and_restore_many_give_the_same_for_every_kind_of_picture(halve, kind):
    picture, restorer = KINDS_OF_PICTURE[kind], Restorer(halve)
    expected = restorer(picture())
    assert type(expected) is type(picture())
    for results in (restorer([picture(), picture()]), list(restorer.restore_many(picture() for _ in range(2)))):
        assert len(results) == 2
        for result in results:
            same(result, expected)


def test_restore_many_takes_kinds_side_by_side_and_refuses_what_a_call_refuses(halve):
    restorer = Restorer(halve)
    results = list(restorer.restore_many(make() for make in KINDS_OF_PICTURE.values()))
    for make, result in zip(KINDS_OF_PICTURE.values(), results, strict=True):
        same(result, restorer(make()))
    for bad, why in (('a.png', 'where the result goes'), (torch.zeros(2, 3, 4, 4), 'for a batch'), (7, 'cannot')):
        with pytest.raises(UserError, match=why):
            list(restorer.restore_many([bad]))


def test_lists_of_batches_and_empty_batches(halve):
    batch = torch.from_numpy(random(2, 3, 8, 9))
    first, second = Restorer(halve)([batch, batch[:1]])
    assert first.shape == batch.shape
    assert second.shape == batch[:1].shape
    torch.testing.assert_close(first, batch / 2, atol=1e-6, rtol=0)
    for dtype in (torch.float32, torch.float16, torch.uint8):
        none = Restorer(halve, outscale=2)(batch[:0].to(dtype))
        assert none.shape == (0, 3, 16, 18)
        assert none.dtype == dtype
    assert Restorer(halve)(batch[:0], []) == []
    for bad in (batch[:0, :0], batch[:0, :, :0], batch[:0].int(), torch.zeros(0, 5, 8, 8)):
        with pytest.raises(UserError, match='a tensor must be'):
            Restorer(halve)(bad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('part', ['all', 'one layer'])
def test_a_network_in_another_type_is_refused_as_it_is(tiny, dtype, part):
    network = copy.deepcopy(tiny)
    (network if part == 'all' else network.output).to(dtype)
    with pytest.raises(UserError, match=rf'^the weights of the network are {str(dtype)[6:]}; give it as network.float'):
        Restorer(network, device='cpu')
    assert network.output.weight.dtype == dtype
    assert Restorer(network.float(), device='cpu')(np.zeros((9, 8, 3), np.uint8)).shape == (9, 8, 3)


WRAPPERS = {
    'nothing': lambda network: network,
    'DataParallel': torch.nn.DataParallel,
    'torch.compile': lambda network: torch.compile(network, backend='eager'),
    'both': lambda network: torch.nn.DataParallel(torch.compile(network, backend='eager')),
}


@pytest.mark.parametrize('wrapper', WRAPPERS.values(), ids=WRAPPERS)
def test_a_network_in_a_wrapper_is_the_network(wrapper):
    network = OSSNet(dim=8, num_blocks=1, d_state=4, scale=4).eval()
    network.upright, network.colour_fix = True, 'wavelet'
    plain, wrapped = (Restorer(one, device='cpu', self_ensemble=True) for one in (network, wrapper(network)))
    picture = random(9, 8, 3)
    assert wrapped.scale == 4
    assert wrapped.settings() == plain.settings()
    np.testing.assert_allclose(wrapped(picture), plain(picture), atol=1e-5)


def test_the_checksum_of_a_network_follows_its_weights(tiny):
    network = copy.deepcopy(tiny)
    restorer = Restorer(network, device='cpu')
    seen = [restorer.settings()['network']]
    weight = network.output.weight
    put_back = partial(network.load_state_dict, tiny.state_dict())
    for change in (lambda: weight.data.add_(1), lambda: weight.detach().mul_(2), put_back):
        change()
        seen.append(restorer.settings()['network'])
    assert seen[0] == seen[3]
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    'picture',
    [torch.zeros(3, 8, 8).to_sparse(), torch.zeros(3, 8, 8, device='meta'), torch.zeros(2, 3, 8, 8, device='meta')],
    ids=['sparse', 'meta', 'a batch on meta'],
)  # fmt: skip
def test_a_tensor_without_numbers_is_refused(halve, picture):
    with pytest.raises(UserError, match='a tensor must be a dense one that holds its numbers, got one that is'):
        Restorer(halve, device='cpu')(picture)


@pytest.mark.parametrize('kind', [np.asmatrix, np.ma.masked_array, lambda a: a.view(np.recarray)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_an_array_of_any_class_is_the_array(halve, kind, dtype):
    grey = np.arange(72).reshape(8, 9).astype(dtype)
    restored = Restorer(halve, device='cpu')(kind(grey))
    np.testing.assert_array_equal(restored, Restorer(halve, device='cpu')(grey))


def test_the_colour_fix_is_what_the_file_of_the_network_asks_for_unless_told(tiny, tmp_path):
    save_checkpoint(tmp_path / 'a.safetensors', tiny, colour_fix='wavelet')
    save_checkpoint(tmp_path / 'b.safetensors', tiny)
    save_checkpoint(tmp_path / 'c.safetensors', tiny, colour_fix='warm')
    assert Restorer.from_pretrained(tmp_path / 'a.safetensors').colour_fix == 'wavelet'
    assert Restorer.from_pretrained(tmp_path / 'a.safetensors', colour_fix='none').colour_fix == 'none'
    assert Restorer.from_pretrained(tmp_path / 'b.safetensors').colour_fix == 'none'
    with pytest.raises(UserError, match="colour_fix 'warm' is not one of"):
        Restorer.from_pretrained(tmp_path / 'c.safetensors')
    interpolated, about = interpolate(tmp_path / 'b.safetensors', tmp_path / 'a.safetensors', 0.25)
    assert about['colour_fix'] == 'wavelet'  # colours drift in part


def test_realsr_keeps_the_mean_colours_of_its_input():
    restorer = Restorer.from_pretrained(task='realsr', device='cpu')
    assert restorer.colour_fix == 'wavelet'
    picture = random(24, 32, 3)
    assert np.abs(restorer(picture).mean((0, 1)) - picture.mean((0, 1))).max() < 1 / 255


@pytest.mark.parametrize('device', ['mps', 'xpu', 'vulkan', 'cuda:97', 'toaster', 'cpu:x'])
def test_a_device_that_is_not_there_is_one_short_line(halve, device):
    with pytest.raises(UserError) as caught:
        Restorer(halve, device=device)
    said = str(caught.value)
    assert said.startswith(f"device '{device}' is not there (")
    assert said.endswith('); use cpu')
    assert '\n' not in said
    assert len(said) < 240


def test_apples_gpu_runs_by_torch_in_float32_and_nothing_else(halve, monkeypatch):
    real = torch.empty
    there = lambda *size, device=None, **rest: real(*size, device=None if str(device) == 'mps' else device, **rest)  # noqa: E731
    monkeypatch.setattr(torch, 'empty', there)
    monkeypatch.setattr(halve, 'to', lambda device: halve)
    restorer = Restorer(halve, device='mps')
    assert (restorer.device.type, restorer._graphs) == ('mps', None)
    assert choose(restorer.device, torch.float32).backend.name == 'torch'
    for precision in ('bf16', 'fp16'):
        with pytest.raises(UserError, match=f"precision '{precision}' is not for Apple's GPU.*use fp32"):
            Restorer(halve, device='mps', precision=precision)


class Blur(torch.nn.Module):
    """Every pixel from its neighbours, as networks do."""

    config: ClassVar = {'scale': 2}

    def forward(self, x):
        return F.interpolate(F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode='replicate'), 7, 1), scale_factor=2)


def disc(fill, hidden, soft):
    """A disc of one colour, uint8 RGBA, whose surroundings are hidden, with a soft edge or a hard one."""
    y, x = np.mgrid[:24, :24]
    alpha = np.clip((8 - np.hypot(y - 12, x - 12)) / (4 if soft else 1e-6), 0, 1)
    rgb = np.where(alpha[..., None] > 0, fill, hidden)
    return np.concatenate([rgb, np.rint(alpha[..., None] * 255)], axis=2).astype(np.uint8)


WAYS = {
    'call': lambda restorer, picture: restorer(picture),
    'list': lambda restorer, picture: restorer([picture, picture])[1],
    'many': lambda restorer, picture: list(restorer.restore_many([picture] * 3))[2],
    'tensor': lambda restorer, picture: restorer(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0).numpy(),
    'Pillow': lambda restorer, picture: np.asarray(restorer(PIL.Image.fromarray(picture))),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize(
    'options', [{}, {'outscale': 1.5}, {'outscale': 3}, {'colour_fix': 'wavelet'}, {'alpha': 'restore'}, {'tile': 32}]
)
def test_hidden_colours_do_not_reach_the_edge_of_what_is_seen(way, soft, options):
    restorer = Restorer(Blur(), device='cpu', **options)
    for fill, hidden in (((255, 255, 255), (0, 0, 0)), ((20, 30, 40), (255, 255, 255)), ((0, 200, 90), (200, 0, 200))):
        result = WAYS[way](restorer, disc(fill, hidden, soft))
        seen = result[result[..., 3] > 0][:, :3].astype(int)
        assert np.abs(seen - fill).max() <= 1


def test_a_picture_that_hides_nothing_keeps_its_bits(tiny):
    picture = random(16, 20, 4)
    np.testing.assert_array_equal(Restorer(tiny)(picture)[..., :3], Restorer(tiny)(picture[..., :3]))


@pytest.mark.parametrize('shape', [(3, 8, 9), (1, 8, 9), (2, 3, 8, 9)])
def test_results_are_tensors_to_go_on_with_and_the_iterable_runs_as_its_owner_wrote_it(halve, shape):
    restorer, source = Restorer(halve), torch.from_numpy(random(*shape))
    modes = []

    def given():
        for _ in range(3):
            modes.append(torch.is_inference_mode_enabled())
            yield source

    results = [restorer(source), *restorer([source, source])]
    results += list(restorer.restore_many(given())) if len(shape) == 3 else []
    for result in results:
        assert not result.is_inference()
        weight = torch.ones((), requires_grad=True)
        (result * weight).sum().backward()
        assert weight.grad is not None
    assert not any(modes)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize('good', range(5))
@pytest.mark.parametrize('bad', [np.zeros((3, 20, 20)), b'no picture', 'a.png', None])
def test_a_bad_picture_costs_none_of_those_before_it(halve, good, bad):
    pictures = [random(8, 9, 3) * n / 5 for n in range(good)]
    found = []
    with pytest.raises(UserError):
        found.extend(Restorer(halve).restore_many([*pictures, bad, *pictures]))
    assert len(found) == good
    for picture, result in zip(pictures, found, strict=True):
        np.testing.assert_allclose(result, picture / 2, atol=1e-6)


def test_an_iterable_that_fails_and_a_network_that_fails_are_raised_once(halve):
    def broken():
        yield random(8, 9, 3)
        raise RuntimeError('the camera is gone')

    found = []
    with pytest.raises(RuntimeError, match='the camera is gone'):
        found.extend(Restorer(halve).restore_many(broken()))
    assert len(found) == 1
    halve.forward = lambda x: x * float('nan')
    with pytest.raises(UserError, match='the network returned NaN'):
        list(Restorer(halve).restore_many([random(8, 9, 3), random(5, 6, 3)]))


def clear(*shape):
    """Half transparent RGBA."""
    return np.full((*shape, 4), 0.5, np.float32)


BAD_OUTPUTS = {
    'gif': (lambda folder: folder / 'x.gif', "x.gif: no image format has the suffix '.gif'"),
    'no suffix': (lambda folder: folder / 'x', "no image format has the suffix ''"),
    'folder by its name': (lambda folder: f'{folder}/there/', 'no image format has the suffix'),
    'folder': (lambda folder: folder / 'there.png', 'there.png: is there and is not a file'),
    'under a file': (lambda folder: folder / 'file/x.png', 'nothing can be written here'),
    'text': (lambda folder: (folder / 'x.png').open('w'), 'x.png: must be opened in binary mode'),
    'strings': (lambda folder: io.StringIO(), 'StringIO: must be opened in binary mode'),
    'temporary text': (lambda folder: tempfile.NamedTemporaryFile('w', dir=folder), 'must be opened in binary mode'),  # noqa: SIM115
    'number': (lambda folder: 7, 'the output must be a path or a file, got int'),
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / 'there.png').mkdir()
    (tmp_path / 'there').mkdir()
    (tmp_path / 'file').write_text('')
    return tmp_path


@pytest.mark.parametrize('bad', BAD_OUTPUTS)
@pytest.mark.parametrize('many', [False, True])
def test_an_output_that_cannot_be_is_found_before_the_network_runs(halve, place, bad, many):
    make, why = BAD_OUTPUTS[bad]
    output = make(place)
    one = random(8, 9, 3)
    with pytest.raises(UserError, match=why):
        Restorer(halve)([one, one] if many else one, [place / 'good.png', output] if many else output)
    assert halve.shapes == []
    assert not (place / 'good.png').exists()
    if hasattr(output, 'close'):
        output.close()


@pytest.mark.parametrize('suffix', ['.jpg', '.bmp'])
def test_transparency_is_looked_at_before_the_network_runs_and_an_alpha_that_hides_nothing_left_out(
    halve_x2, tmp_path, suffix
):
    restorer = Restorer(halve_x2, alpha='restore')
    with pytest.raises(UserError, match='cannot hold the transparency'):
        restorer(clear(8, 9), tmp_path / f'a{suffix}')
    assert halve_x2.shapes == []
    opaque = clear(8, 9)
    opaque[..., 3] = 1
    assert read_image(restorer(opaque, tmp_path / f'a{suffix}')).alpha is None


def test_the_side_that_a_format_holds_is_looked_at_before_the_network_runs(halve, tmp_path):
    restorer, wide = Restorer(halve, outscale=2), np.zeros((1, 9000, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(wide).save(buffer, 'WEBP')
    for run in (
        lambda: restorer(wide, tmp_path / 'a.webp'),
        lambda: restorer(buffer.getvalue()),
        lambda: restorer(io.BytesIO(buffer.getvalue()), io.BytesIO()),
    ):
        with pytest.raises(UserError, match='WEBP holds 16383 pixels a side, not 18000; use png'):
            run()
    assert halve.shapes == []


def test_an_input_is_not_replaced_and_an_output_not_twice(halve, tmp_path):
    for name in 'ab':
        write_image(tmp_path / f'{name}.png', Image(random(8, 9, 3)))
    (tmp_path / 'link.png').symlink_to('a.png')
    before = (tmp_path / 'a.png').read_bytes()
    a, b, c, link = (tmp_path / f'{name}.png' for name in ('a', 'b', 'c', 'link'))
    for pictures, outputs in (
        (a, str(a)), (str(a), link), (link, a), (a, tmp_path / 'x' / '..' / 'a.png'), ([a], [a]), ([a, b], [b, c]),
        ([a, b], [c, str(c)]), ([random(8, 9, 3), a], [a, c]),
    ):  # fmt: skip
        with pytest.raises(UserError, match='is an input, or the output of another picture'):
            Restorer(halve)(pictures, outputs)
    assert halve.shapes == []
    assert (tmp_path / 'a.png').read_bytes() == before
    Restorer(halve)(random(8, 9, 3), a)  # what is there and no input is replaced, as the manual says
    assert (tmp_path / 'a.png').read_bytes() != before


PICTURES = {
    'arrays of one size': lambda: [random(8, 9, 3)] * 3,
    'arrays': lambda: [random(8, 9, 3), random(5, 6, 3), random(5, 6)],
    'one': lambda: [random(8, 9, 3)],
    'batches': lambda: [torch.from_numpy(random(2, 3, 8, 9))] * 2,
    'a batch': lambda: torch.from_numpy(random(3, 3, 8, 9)),
    'nothing': list,
}


@pytest.mark.parametrize('kind', PICTURES)
@pytest.mark.parametrize('to_files', [False, True])
def test_the_progress_of_a_list_is_in_pictures(tiny, tmp_path, kind, to_files):
    pictures, said = PICTURES[kind](), []
    outputs = [tmp_path / f'{number}.png' for number in range(len(pictures))] if to_files else None
    if to_files and kind == 'batches':
        outputs = [[io.BytesIO(), io.BytesIO()] for _ in pictures]
    Restorer(tiny)(pictures, outputs, progress=lambda *args: said.append(args))
    assert said == [(number + 1, len(pictures)) for number in range(len(pictures))]


@pytest.mark.parametrize('output', ['b.png', ['b.png'], ['a.png', 'b.png', 'c.png'], io.BytesIO()])
def test_a_batch_needs_as_many_outputs(halve, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match='^2 pictures need a list of as many outputs$'):
        Restorer(halve)(torch.from_numpy(random(2, 3, 8, 9)), output)
    assert Restorer(halve)(torch.from_numpy(random(2, 3, 8, 9)), ['a.png', 'b.png']) == [Path('a.png'), Path('b.png')]


@pytest.mark.parametrize('order', '<>=')
@pytest.mark.parametrize('kind', ['u1', 'u2', 'f2', 'f4', 'f8'])
@pytest.mark.parametrize('shape', [(9, 12), (9, 12, 4)])
def test_arrays_of_either_order_of_bytes(halve, order, kind, shape):
    levels = np.iinfo(kind).max if kind[0] == 'u' else 1
    source = (random(*shape) * levels).astype(order + kind)
    out = Restorer(halve)(source)
    assert out.dtype == source.dtype
    np.testing.assert_array_equal(out, Restorer(halve)(source.astype(kind)))


@pytest.mark.parametrize('alpha', ['resize', 'restore'])
@pytest.mark.parametrize('channels', [None, 1, 2, 3, 4])
@pytest.mark.parametrize('size', [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_views_of_arrays_that_are_mirrored_or_turned(halve_x2, size, channels, alpha):
    restorer = Restorer(halve_x2, alpha=alpha)
    source = random(*size, *([channels] if channels else []))
    views = {
        'flipped': source[::-1], 'mirrored': source[:, ::-1], 'both': source[::-1, ::-1],
        'turned': np.rot90(source), 'turned back': np.rot90(source, 3), 'transposed': source.swapaxes(0, 1),
    }  # fmt: skip
    for name, view in views.items():
        expected = restorer(view.copy())
        np.testing.assert_array_equal(restorer(view), expected, name)
        np.testing.assert_array_equal(restorer([view, view])[1], expected, name)
        if channels == 4:  # an image as its owner made it
            image = Image(view[..., :3], view[..., 3])
            np.testing.assert_array_equal(to_array(restorer(image)), expected, name)


@pytest.mark.parametrize('colour_fix', ['none', 'wavelet', 'adain'])
def test_a_result_that_there_is_no_memory_for_is_refused_before_the_network_runs(
    halve_x2, tmp_path, monkeypatch, colour_fix
):
    need = 4 * 30 * 40 * restorer_module.ROOM[colour_fix]
    monkeypatch.setattr(restorer_module, 'freed_memory', lambda: 10)
    restorer = Restorer(halve_x2, colour_fix=colour_fix, tile=0)
    picture = random(30, 40, 3)
    write_image(tmp_path / 'a.png', Image(picture))
    ways = {
        'the picture': lambda: restorer(picture),
        'b.png': lambda: restorer(picture, tmp_path / 'b.png'),
        'image': lambda: restorer((tmp_path / 'a.png').read_bytes()),
        'a.png': lambda: restore_files(tmp_path / 'a.png', tmp_path / 'c.png', restorer),
        'stdin': lambda: restore_bytes((tmp_path / 'a.png').read_bytes(), restorer),
    }
    monkeypatch.setattr(tiles, 'free_system_memory', lambda: need - 11)
    for name, way in ways.items():
        with pytest.raises(UserError, match=rf'{name}: what the network makes of it \(80x60 pixels\) takes'):
            way()
    assert halve_x2.shapes == []
    for free in (need - 10, None):
        monkeypatch.setattr(tiles, 'free_system_memory', lambda free=free: free)
        assert restorer(picture).shape == (60, 80, 3)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize('band', [1, 7, 100, 10**6])
def test_pixels_are_converted_in_bands_to_the_same(monkeypatch, channels, dtype, band):
    image = from_array(random(13, 9, channels))
    image.rgb[0, 0], image.rgb[1, 1] = -0.1, 1.2
    monkeypatch.setattr(pixels, '_BAND', band)
    out = to_array(image, dtype)
    whole = image.rgb.mean(axis=2, keepdims=True) if image.grey else image.rgb
    whole = whole if image.alpha is None else np.concatenate([whole, image.alpha[..., None]], axis=2)
    whole = np.clip(whole, 0, 1)
    whole = np.rint(whole * np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else whole
    assert out.dtype == dtype
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, whole.astype(dtype)[..., 0] if channels == 1 else whole.astype(dtype))


@pytest.mark.parametrize('colour_fix', ['none', 'wavelet', 'adain'])
@pytest.mark.parametrize('outscale', [None, 0.6, 1.5, 2])
def test_results_are_whole_arrays_and_inputs_stay_as_they_are(tiny, colour_fix, outscale):
    picture = random(20, 30, 3)
    before = picture.copy()
    image = Restorer(tiny, colour_fix=colour_fix, outscale=outscale).restore(Image(picture))
    assert image.rgb.flags.c_contiguous
    assert image.rgb.min() >= 0
    assert image.rgb.max() <= 1
    np.testing.assert_array_equal(picture, before)
    result = Restorer(torch.nn.Identity(), colour_fix=colour_fix)(picture)
    assert not np.shares_memory(result, picture)
