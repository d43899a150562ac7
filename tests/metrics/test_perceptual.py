"""LPIPS, DISTS, NIQE, FID and pyiqa: published values, closed forms, and what is said where something is missing."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import read_image
from vmambair_arch.metrics import fid as fid_module
from vmambair_arch.metrics import no_reference, perceptual
from vmambair_arch.metrics.catalogue import METRICS, get_metrics
from vmambair_arch.metrics.fid import fid, frechet_distance
from vmambair_arch.metrics.no_reference import niqe, pyiqa, pyiqa_metric
from vmambair_arch.metrics.perceptual import DISTS, SMALLEST, as_tensor, dists, lpips
from vmambair_arch.metrics.psnr_ssim import psnr, ssim


def _image(h: int = 64, w: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def _random_features(name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights' stand-in: right names and shapes."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    with torch.device('meta'):
        shapes = get_model(name, weights=None).features.state_dict()
    return {f'features.{key}': torch.randn(value.shape) * 0.05 for key, value in shapes.items()}


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('weights')
    for name in perceptual.BACKBONES.values():
        torch.save(_random_features(name), folder / f'{name}_features.pth')
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache of this machine and no network: a download fails at once."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError('no network')

    monkeypatch.setattr('torch.hub.download_url_to_file', no_network)


@pytest.mark.parametrize(
    ('net', 'expected'), [('alex', (0.722, 0.138)), ('vgg', (0.569, 0.422))]
)  # fmt: skip
def test_lpips_of_the_examples_of_its_repository(shared: Path, net: str, expected: tuple[float, float]) -> None:
    reference, *others = (read_image(shared / f'data/lpips_example/ex_{n}.png').rgb for n in ('ref', 'p0', 'p1'))
    for image, value in zip(others, expected, strict=True):
        assert lpips(image, reference, net=net, weights=shared / 'weights') == pytest.approx(value, abs=5e-4)


MEASURES = {
    'psnr': lambda a, b, weights: psnr(a, b),
    'ssim': lambda a, b, weights: ssim(a, b),
    'lpips': lambda a, b, weights: lpips(a, b, weights=weights),
    'dists': lambda a, b, weights: dists(a, b, weights=weights),
    'niqe': lambda a, b, weights: niqe(a),
    'fid': lambda a, b, weights: fid([a, b], [b, a]),
    'pyiqa': lambda a, b, weights: pyiqa('some', a, b),
}


@pytest.mark.parametrize('measure', MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    'dtype', ['uint16', 'int64', 'bool', 'int8', 'complex64', 'float16', 'float64', '>f4', 'longdouble']
)
def test_every_metric_reads_or_refuses_the_same_types(
    weights: Path, monkeypatch: pytest.MonkeyPatch, measure: Callable, dtype: str
) -> None:
    if measure is MEASURES['dists']:
        pytest.importorskip('DISTS_pytorch')
    if measure is MEASURES['lpips']:
        pytest.importorskip('lpips')
    mean = nn.AdaptiveAvgPool2d(8)
    monkeypatch.setattr(fid_module, 'inception', lambda weights: lambda x: [mean(x)])
    monkeypatch.setattr(no_reference, 'pyiqa_metric', lambda name: _Difference())
    pair = [_image(200, 200, seed).astype(np.float32) / 255 for seed in (0, 1)]
    if np.dtype(dtype).kind == 'f':
        given = [image.astype(dtype) for image in pair]
        assert measure(*given, weights) == pytest.approx(measure(*pair, weights), rel=2e-3, abs=1e-4)
        return
    given = [(image * 100).astype(dtype) for image in pair]
    with pytest.raises(UserError, match=f'^images must be uint8, or float in 0..1, got {dtype}$'):
        measure(*given, weights)
    with pytest.raises(UserError, match='^images must be uint8, or float'):
        measure(pair[0], given[1], weights) if measure is not MEASURES['niqe'] else measure(given[0], None, weights)


class _Difference(nn.Module):
    """A metric of pyiqa's."""

    metric_mode = 'FR'

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean()


@pytest.mark.parametrize('dtype', [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize('size', [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_mirrored_views_are_measured_as_their_copies(size: tuple[int, int], dtype: type) -> None:
    image = (_image(*size) / (1 if dtype == np.uint8 else 255)).astype(dtype)
    for view in (image[::-1], image[:, ::-1], image[::-1, ::-1], image.swapaxes(0, 1)[::-1]):
        assert torch.equal(as_tensor(view), as_tensor(view.copy()))


@pytest.mark.parametrize('net', list(perceptual.BACKBONES))
def test_lpips_orders_and_says_what_is_too_small(weights: Path, net: str) -> None:
    image = _image()
    near = np.clip(image + np.random.default_rng(1).normal(0, 10, image.shape), 0, 255).astype(np.uint8)
    assert lpips(image, image, net=net, weights=weights) == 0
    close, far = (lpips(other, image, net=net, weights=weights) for other in (near, _image(seed=2)))
    assert 0 < close < far
    size = SMALLEST[net]
    lpips(_image(size, size), _image(size, size, 1), net=net, weights=weights)
    with pytest.raises(UserError, match=f'needs {size} pixels'):
        lpips(_image(size, size + 1), _image(size, size + 1, 1), net=net, weights=weights, crop_border=1)
    with pytest.raises(RuntimeError):  # the bound is tight
        perceptual.lpips_network(net, weights)(*[as_tensor(_image(size - 1, size - 1, i)) for i in range(2)])


def test_dists_equals_its_package(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    package = pytest.importorskip('DISTS_pytorch')
    from torchvision.models import vgg

    features = {k.removeprefix('features.'): v for k, v in _random_features('vgg16').items()}
    backbone = vgg.make_layers(vgg.cfgs['D'])
    backbone.load_state_dict(features)
    monkeypatch.setattr('torchvision.models.vgg16', lambda **_: types.SimpleNamespace(features=backbone))
    theirs = package.DISTS(load_weights=False)
    channels = torch.load(Path(package.__path__[0]) / 'weights.pt', weights_only=True)
    theirs.alpha.data, theirs.beta.data = channels['alpha'], channels['beta']
    image, reference = _image(50, 41), _image(50, 41, 1)
    expected = theirs(as_tensor(image).cpu(), as_tensor(reference).cpu()).item()
    assert 0.01 < expected < 1
    assert dists(image, reference, weights=weights) == pytest.approx(expected, abs=1e-6)
    assert dists(image, image, weights=weights) == pytest.approx(0, abs=1e-6)


def test_dists_sees_texture_not_pixels() -> None:
    """A shifted texture is nearly the same texture: what DISTS is for, and what PSNR denies."""
    torch.manual_seed(0)
    network = DISTS(torch.ones(1475), torch.zeros(1475))
    texture = _image(64, 64)
    shifted = np.roll(texture, 1, axis=1)
    with torch.no_grad():
        assert network(as_tensor(texture).cpu(), as_tensor(shifted).cpu()).item() < 1e-3
    assert psnr(texture, shifted) < 10


def test_weights_that_are_not_there_or_not_right(tmp_path: Path) -> None:
    image = _image()
    with pytest.raises(UserError, match='alexnet-owt-7be5be79.pth is neither in .* copy it there from https'):
        lpips(image, image)
    with pytest.raises(UserError, match=f'{tmp_path} holds no alexnet'):
        lpips(image, image, weights=tmp_path)
    with pytest.raises(UserError, match='missing.pth: no such checkpoint file'):
        lpips(image, image, weights=tmp_path / 'missing.pth')
    torch.save({'features.0.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='of another network'):
        lpips(image, image, weights=tmp_path / 'other.pth')
    (tmp_path / 'broken.pth').write_bytes(b'no weights')
    with pytest.raises(UserError, match='broken.pth'):
        lpips(image, image, weights=tmp_path / 'broken.pth')
    with pytest.raises(UserError, match="'alx'"):
        lpips(image, image, net='alx')


def test_weights_in_torch_hub_are_found(tmp_path: Path) -> None:
    folder = tmp_path / 'torch/hub/checkpoints'
    folder.mkdir(parents=True)
    torch.save(
        _random_features('alexnet') | {'classifier.1.weight': torch.zeros(1)}, folder / 'alexnet-owt-7be5be79.pth'
    )
    perceptual.lpips_network.cache_clear()
    assert lpips(_image(), _image(seed=1)) > 0
    perceptual.lpips_network.cache_clear()


def test_niqe_prefers_the_photograph_to_noise() -> None:
    data = pytest.importorskip('skimage.data')
    photograph = data.astronaut()[:200, :300]
    noisy = np.clip(photograph + np.random.default_rng(0).normal(0, 40, photograph.shape), 0, 255).astype(np.uint8)
    clean_score = niqe(photograph)
    assert clean_score < niqe(noisy)
    assert niqe(photograph / 255) == pytest.approx(clean_score, abs=1e-9)
    with pytest.raises(UserError, match='NIQE needs two blocks of 96 x 96 .* has 92 x 292'):
        niqe(photograph[:100], crop_border=4)


def test_frechet_distance_of_known_gaussians() -> None:
    """Samples whose moments are exactly known: scaled and shifted copies of one whitened sample."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((60, 5))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    scale_a, scale_b, shift = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 1, 0.5, 3.0]), np.arange(5.0)
    expected = np.sum(shift**2) + np.sum((scale_a - scale_b) ** 2)
    assert frechet_distance(white * scale_a, white * scale_b + shift) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(white, white) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_equals_basicsr() -> None:
    """Correlated features, where the root of a product of matrices is needed."""
    linalg = pytest.importorskip('scipy.linalg')
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((4, 4))
    a, b = rng.standard_normal((50, 4)) @ mix, rng.standard_normal((70, 4)) + 0.5
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_fid_over_folders_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    monkeypatch.setattr(fid_module, 'inception', lambda weights: lambda x: [network(x)])
    images = [_image(20, 30, seed) for seed in range(6)]
    darker = [image // 2 for image in images]
    assert fid(images, list(reversed(images))) == pytest.approx(0, abs=1e-9)
    assert fid(images, iter(darker)) > fid(images, [image - image // 8 for image in images]) > 0
    with pytest.raises(UserError, match='at least two images'):
        fid(images[:1], images)
    with pytest.raises(UserError, match='at least two images'):
        fid([], images)


def test_fid_without_weights_says_which_file() -> None:
    with pytest.raises(UserError, match='pt_inception-2015-12-05-6726825d.pth is neither in'):
        fid([_image()] * 2, [_image()] * 2)


def test_fid_builds_its_network_from_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.archs import inception

    # Random weights of the right shapes, drawn once by the network itself.
    monkeypatch.setattr(inception, 'load_url', lambda *args, **kwargs: {})
    monkeypatch.setattr(inception.models.Inception3, 'load_state_dict', lambda self, state: None)
    state = inception.fid_inception_v3().state_dict()
    monkeypatch.undo()
    path = tmp_path / 'pt_inception-2015-12-05-6726825d.pth'
    torch.save(state, path)
    images = [_image(40, 40, seed) for seed in range(3)]
    assert fid(images, images, weights=path) == pytest.approx(0, abs=1e-6)
    torch.save({'conv.weight': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='not the weights of its Inception'):
        fid(images, images, weights=path)


def test_registered_with_basicsr(weights: Path) -> None:
    from basicsr.metrics import calculate_metric

    image, reference = _image(), _image(seed=1)
    data = {'img': image[..., ::-1], 'img2': reference[..., ::-1]}
    options = {'type': 'calculate_lpips', 'net': 'squeeze', 'weights': weights, 'better': 'lower'}
    assert calculate_metric(data, options) == lpips(image, reference, net='squeeze', weights=weights)
    options = {'type': 'calculate_dists', 'crop_border': 4, 'weights': weights, 'better': 'lower'}
    pytest.importorskip('DISTS_pytorch')
    assert calculate_metric(data, options) == dists(image, reference, crop_border=4, weights=weights)


def test_pyiqa_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in package of pyiqa's interface: names, direction, mode, RGB 0..1 tensors."""
    from basicsr.metrics import calculate_metric

    class Brightness(nn.Module):
        metric_mode, lower_better = 'NR', True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0].mean()[None]

    stand_in = types.SimpleNamespace(list_models=lambda: ['musiq'], create_metric=lambda name, device: Brightness())
    monkeypatch.setitem(sys.modules, 'pyiqa', stand_in)
    pyiqa_metric.cache_clear()
    image = _image()
    red = image[..., 0].mean() / 255
    assert pyiqa('musiq', image) == pytest.approx(red, abs=1e-6)
    options = {'type': 'calculate_pyiqa', 'metric': 'musiq', 'better': 'lower'}
    assert calculate_metric({'img': image[..., ::-1]}, options) == pytest.approx(red, abs=1e-6)
    (metric,) = get_metrics(['pyiqa:musiq'])
    assert (metric.lower_is_better, metric.needs_truth, metric.heading) == (True, False, 'musiq ↓')
    assert metric(image / 255) == pytest.approx(red, abs=1e-6)
    with pytest.raises(UserError, match=r"no metric 'musik' \(did you mean 'musiq'"):
        get_metrics(['pyiqa:musik'])
    pyiqa_metric.cache_clear()


def test_pyiqa_itself() -> None:
    pytest.importorskip('pyiqa')
    image, reference = _image(), _image(seed=1)
    assert pyiqa('psnr', image, reference) == pytest.approx(psnr(image, reference), abs=1e-3)
    (metric,) = get_metrics(['pyiqa:psnr'])
    assert (metric.lower_is_better, metric.needs_truth) == (False, True)


def test_pyiqa_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    with pytest.raises(UserError, match='pip install pyiqa'):
        pyiqa('musiq', _image())


def test_catalogue_says_what_was_measured() -> None:
    image, truth = _image() / 255, _image(seed=1) / 255
    names = ['psnr', 'psnr_y', 'psnr_y_matlab', 'ssim_y']
    metrics = get_metrics([*names, 'psnr'], crop_border=4)
    assert [metric.name for metric in metrics] == names
    assert [metric.heading for metric in metrics[:3]] == ['PSNR (RGB) ↑', 'PSNR (Y) ↑', 'PSNR (Y rounded) ↑']
    assert metrics[2](image, truth) == psnr(image, truth, crop_border=4, y_channel=True, y_rounding='matlab')
    assert METRICS['lpips'].lower_is_better
    assert not METRICS['niqe'].needs_truth
    with pytest.raises(UserError, match=r"no metric 'psnr_yy' \(did you mean 'psnr_y'"):
        get_metrics(['psnr_yy'])
