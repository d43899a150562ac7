"""`vmambair explain`: fields and maps of networks whose reach is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vmambair_arch.archs import OSSNet
from vmambair_arch.checkpoints.convert import save_checkpoint
from vmambair_arch.cli import main
from vmambair_arch.evaluation import explain
from vmambair_arch.evaluation.explain import (
    area,
    diffusion_index,
    effective_receptive_field,
    gaussian_blur,
    local_attribution,
    texture,
)
from vmambair_arch.images.image_io import Image, read_image, write_image


def _convolutions(depth: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 3, 3, padding=1, dtype=torch.float64) for _ in range(depth)]
    return nn.Sequential(*layers)


def _image(size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 3, size, size, generator=generator, dtype=torch.float64)


def test_receptive_field_of_two_convolutions_is_five_pixels() -> None:
    field = effective_receptive_field(_convolutions(2), [_image(21), _image(21)])
    seen = field > 0
    assert seen[8:13, 8:13].all()
    assert seen.sum() == 25
    assert field.sum() == pytest.approx(1)
    assert area(field, 0.999999) == pytest.approx(5 / 21)


def test_receptive_field_of_a_scan_is_the_image() -> None:
    torch.manual_seed(0)
    network = OSSNet(dim=8, num_blocks=1, d_state=4)
    field = effective_receptive_field(network, [_image(20).float()])
    assert (field > 0).all()


def test_area_of_known_fields() -> None:
    flat = torch.ones(11, 11)
    assert area(flat, 0.99) == 1
    assert area(flat, 25 / 121) == pytest.approx(5 / 11)
    point = torch.zeros(11, 11)
    point[5, 5] = 1
    assert area(point, 0.99) == pytest.approx(1 / 11)


def test_attribution_sums_to_the_texture_that_sharpening_brings() -> None:
    """Completeness of integrated gradients."""
    network, image, window = _convolutions(2), _image(), (8, 8, 6, 6)
    attribution = local_attribution(network, image, window, steps=200)
    with torch.no_grad():
        gained = texture(network(image), window) - texture(network(gaussian_blur(image, 9.0)), window)
    assert attribution.sum().item() == pytest.approx(gained.item(), rel=0.02)


def test_attribution_stays_within_reach() -> None:
    attribution = local_attribution(_convolutions(2), _image(), (8, 10, 6, 4), steps=4).abs().sum(0)
    reached = torch.zeros(24, 24, dtype=torch.bool)
    reached[10 - 2 : 14 + 2, 8 - 2 : 14 + 2] = True
    assert (attribution[~reached] == 0).all()
    assert (attribution[reached] > 0).all()


def test_diffusion_index_of_known_maps() -> None:
    assert diffusion_index(torch.ones(3, 8, 8)) == pytest.approx(100)
    point = torch.zeros(1, 10, 10)
    point[0, 3, 3] = -5
    assert diffusion_index(point) == pytest.approx(1)  # one pixel of a hundred
    half = torch.zeros(1, 10, 10)
    half[0, :5] = 1
    assert diffusion_index(half) == pytest.approx(50)


def test_blur_keeps_flat_images_and_sums_of_kernels() -> None:
    flat = torch.full((1, 3, 9, 9), 0.3, dtype=torch.float64)
    assert torch.allclose(gaussian_blur(flat, 4.0), flat)
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    blurred = gaussian_blur(point, 2.0)
    x = torch.arange(41, dtype=torch.float64) - 20
    assert (blurred.sum((0, 1, 2)) * x**2).sum().item() == pytest.approx(4, rel=0.03)


def test_texture_by_hand() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 1] = 1
    assert texture(image, (0, 0, 4, 4)) == 4
    assert texture(image, (1, 1, 3, 3)) == 2
    assert texture(image, (2, 2, 2, 2)) == 0


@pytest.mark.parametrize('scale', [1, 2])
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture, scale: int) -> None:
    torch.manual_seed(0)
    network = OSSNet(dim=8, num_blocks=1, d_state=4, scale=scale)
    torch.save({'params': network.state_dict()}, tmp_path / 'net.pth')
    rng = np.random.default_rng(0)
    write_image(tmp_path / 'photo.png', Image(rng.random((40, 50, 3)).astype(np.float32)))
    arguments = ['explain', str(tmp_path / 'photo.png'), '-m', str(tmp_path / 'net.pth'), '-o', str(tmp_path / 'e.png')]
    assert main([*arguments, '--at', '3', '38', '--size', '32', '--window', '8']) == 0
    said = capsys.readouterr().out
    assert '99% within' in said
    assert said.endswith(f'\nwrote {tmp_path / "e.png"}\n')
    assert read_image(tmp_path / 'e.png').rgb.shape[1] > 4 * 360
    assert main([*arguments, '--at', '50', '2']) == 2
    assert 'the point 50,2 does not lie in its 50x40 pixels' in capsys.readouterr().err
    assert main([*arguments, '--window', '41']) == 2
    assert 'does not fit into the 40' in capsys.readouterr().err


def test_without_a_checkpoint_the_bundled_network_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / 'photo.png', Image(np.random.default_rng(0).random((24, 24, 3)).astype(np.float32)))
    assert main(['explain', 'photo.png', '--window', '8']) == 0
    assert capsys.readouterr().out.endswith('\nwrote explain.png\n')
    assert read_image(tmp_path / 'explain.png').rgb.shape[1] > 4 * 360


def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_checkpoint(tmp_path / 'net.pth', OSSNet(dim=8, num_blocks=1, d_state=4))
    content = torch.load(tmp_path / 'net.pth', weights_only=True)
    content['params']['norm.body.weight'] += 1
    torch.save(content, tmp_path / 'net.pth')
    write_image(tmp_path / 'photo.png', Image(np.zeros((40, 50, 3), np.float32)))
    arguments = [str(tmp_path / 'photo.png'), '-m', str(tmp_path / 'net.pth'), '-o', str(tmp_path / 'e.png')]
    assert main(['explain', *arguments]) == 2
    assert 'not those that its sha256 was taken of' in capsys.readouterr().err
    assert not (tmp_path / 'e.png').exists()


def _small_network(folder: Path) -> str:
    torch.manual_seed(0)
    path = folder / 'net.pth'
    torch.save({'params': OSSNet(dim=8, num_blocks=1, d_state=4).state_dict()}, path)
    return str(path)


def test_the_photograph_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / 'photo.png'
    write_image(photo, Image(np.random.default_rng(0).random((24, 24, 3)).astype(np.float32)))
    (tmp_path / 'link.png').symlink_to(photo)
    before = photo.read_bytes()
    network = _small_network(tmp_path)
    monkeypatch.chdir(tmp_path)
    for output in ('photo.png', str(photo), 'link.png'):
        assert main(['explain', 'photo.png', '-m', network, '-o', output, '--window', '8']) == 2
        assert 'photo.png: would be overwritten' in capsys.readouterr().err
        assert photo.read_bytes() == before


def test_a_suffix_that_cannot_be_written_is_refused_before_the_computation(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, 'local_attribution', lambda *_: pytest.fail('was computed'))
    photo = tmp_path / 'photo.png'
    write_image(photo, Image(np.random.default_rng(0).random((24, 24, 3)).astype(np.float32)))
    arguments = ['explain', str(photo), '-m', _small_network(tmp_path), '--window', '8']
    assert main([*arguments, '-o', str(tmp_path / 'e.txt')]) == 2
    assert "e.txt: no image format has the suffix '.txt'" in capsys.readouterr().err


@pytest.mark.parametrize('level', [0, 77 / 255, 1])  # the blur of the second is not that level to the last bit
def test_a_flat_image_has_nothing_to_explain(tmp_path: Path, capsys: pytest.CaptureFixture, level: float) -> None:
    flat = tmp_path / 'flat.png'
    write_image(flat, Image(np.full((24, 24, 3), level, np.float32)))
    arguments = [str(flat), '-m', _small_network(tmp_path), '-o', str(tmp_path / 'e.png'), '--window', '8']
    assert main(['explain', *arguments]) == 2
    said = capsys.readouterr()
    assert 'flat.png: no texture in the window at 12,12 to explain; choose another place with --at' in said.err
    assert said.out == ''
    assert not (tmp_path / 'e.png').exists()


def test_one_level_of_16_bits_is_texture(tmp_path: Path) -> None:
    image = np.full((24, 24, 3), 0.25, np.float32)
    image[12, 12] += 1 / 65535
    write_image(tmp_path / 'photo.png', Image(image, bits=16))
    found = explain.explain(tmp_path / 'photo.png', _small_network(tmp_path), tmp_path / 'e.png', window=8)
    assert 0 < found.diffusion_index < 100
