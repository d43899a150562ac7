"""The networks in the package: there, small, honest about themselves, as good as their cards say on every backend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import deraining, shipped
from vmambair_arch import Restorer
from vmambair_arch.checkpoints.describe import describe, info, meanings
from vmambair_arch.checkpoints.find import bundled
from vmambair_arch.checkpoints.load import load_model
from vmambair_arch.cli import main
from vmambair_arch.commands import demo
from vmambair_arch.data.photographs import photographs
from vmambair_arch.data.rain import add_rain
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.inference.restorer import Precision
from vmambair_arch.metrics.psnr_ssim import psnr
from vmambair_arch.ops.selective_scan import BACKENDS, ENV

pytest.importorskip('skimage')
TASKS = ('derain', 'realsr', 'sr')


def _backends() -> list[tuple[str, str]]:
    devices = ['cpu'] + ['cuda'] * torch.cuda.is_available()
    return [
        (backend.name, device)
        for device in devices
        for backend in BACKENDS
        if backend.unavailable(torch.device(device), torch.float32) is None
    ]


def test_each_task_has_a_network_and_a_card() -> None:
    assert tuple(bundled()) == TASKS
    for task, path in bundled().items():
        about = describe(path)
        assert about['task'] == task
        assert about['scale'] == {'derain': 1, 'realsr': 4, 'sr': 4}[task]
        assert about['verified']
        assert about['stored_as'] == 'float16'
        assert about['bytes'] <= 8 * 2**20
        card = path.with_suffix('.md').read_text(encoding='utf-8')
        for key in ('training_data', 'recipe', 'compute', 'limits', 'sha256'):
            assert about[key]
            assert about[key] in card
        assert (Path(__file__).parents[2] / about['recipe']).is_file()


def test_no_name_of_a_figure_means_two_things() -> None:
    """Cards and `info` say what the data sets of their figures are; no two tasks share one."""
    said: dict[str, str] = {}
    for task, path in bundled().items():
        metrics = describe(path)['metrics']
        assert shipped.PHOTOGRAPHS[task] in metrics
        assert list(meanings(metrics)) == list(dict.fromkeys(name.partition('/')[2] for name in metrics))
        for name in meanings(metrics):
            assert said.setdefault(name, task) == task
    shown = '\n'.join(info('sr'))
    for name, text in meanings(describe('sr')['metrics']).items():
        assert f'  {name}: {text}' in shown
        assert f'- `{name}`: {text}' in bundled()['sr'].with_suffix('.md').read_text(encoding='utf-8')


def test_the_teacher_and_its_licence_are_named() -> None:
    path = bundled()['realsr']
    card = path.with_suffix('.md').read_text(encoding='utf-8')
    assert 'Real-ESRGAN' in card
    assert 'BSD-3-Clause' in card
    assert 'Copyright (c) 2021, Xintao Wang' in path.with_name('LICENSE-Real-ESRGAN.txt').read_text(encoding='utf-8')


@pytest.mark.parametrize(('backend', 'device'), _backends())
@pytest.mark.parametrize('task', TASKS)
def test_figures_hold_on_every_backend(task: str, backend: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, backend)
    restorer = Restorer.from_pretrained(task=task, device=device)
    found = shipped.mean_psnr(task, restorer, shipped.photograph_pairs(task))
    assert found == pytest.approx(describe(task)['metrics'][shipped.PHOTOGRAPHS[task]], abs=0.05)


@pytest.mark.parametrize(('precision', 'limit'), [('fp16', 1.5), ('bf16', 12)])
@pytest.mark.parametrize('task', TASKS)
def test_half_precision_is_the_same_picture(task: str, precision: Precision, limit: float) -> None:
    """float16 has the finer steps, and its range must do for what these networks hold."""
    picture = next(shipped.photograph_pairs(task))[0][:64, :80]
    wanted = Restorer.from_pretrained(task=task)(picture).astype(int)
    found = Restorer.from_pretrained(task=task, precision=precision)(picture)
    assert np.abs(found - wanted).max() <= limit


@pytest.mark.parametrize('task', TASKS)
def test_networks_of_float16_weights(task: str) -> None:
    """As ComfyUI and other programs of spandrel run them on a GPU."""
    picture = torch.from_numpy(next(shipped.photograph_pairs(task))[0][:64, :80].copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        found, wanted = load_model(task).half()(picture.half()), load_model(task)(picture)
    assert (found.float() - wanted).abs().max() < 1.5 / 255


def test_deraining_leaves_alone_what_is_no_rain() -> None:
    figures = shipped.figures('derain', Restorer.from_pretrained(task='derain'), [])
    said = describe('derain')['metrics']
    for name in ('psnr_y/photographs-without-rain', 'psnr_y/drawn-lines-without-rain'):
        assert figures[name] == pytest.approx(said[name], abs=0.1)
    assert figures['psnr_y/photographs-without-rain'] > 40
    assert figures['psnr_y/drawn-lines-without-rain'] > 28


@pytest.mark.parametrize('factor', [2, 4])
def test_rain_in_a_larger_picture_is_removed_as_well(factor: int) -> None:
    restorer = Restorer.from_pretrained(task='derain')
    gains = []
    for number, photograph in enumerate(photographs('unseen')):
        clean = shipped.middle(photograph.image)[:96, :96]
        rainy = np.rint(add_rain(clean.astype(np.float32) / 255, np.random.default_rng(number)) * 255).astype(np.uint8)
        large, truth = deraining.enlarged(rainy, factor), deraining.enlarged(clean, factor)
        gains.append(psnr(restorer(large), truth, y_channel=True) - psnr(large, truth, y_channel=True))
    assert np.mean(gains) > 6


def test_lines_across_are_no_rain_and_turned_pictures_are_never_shown() -> None:
    restorer = Restorer.from_pretrained(task='derain', self_ensemble=True)
    assert restorer.model.upright
    road = np.full((96, 160, 3), 110, np.uint8)
    road[44:48] = 240
    assert np.abs(restorer(road).astype(int) - road).max() < 40


def test_restores_without_naming_a_checkpoint(tmp_path: Path) -> None:
    for task in TASKS:
        degraded, target = next(shipped.photograph_pairs(task))
        source, result = tmp_path / f'{task}.png', tmp_path / 'out' / f'{task}.png'
        write_image(source, Image(degraded.astype(np.float32) / 255))
        arguments = [] if task == 'derain' else ['--task', task]
        assert main(['restore', str(source), '-o', str(result), *arguments]) == 0
        restored = read_image(result).rgb
        assert restored.shape == target.shape
        if task == 'derain':
            truth = target / np.float32(255)
            assert psnr(restored, truth, y_channel=True) > psnr(degraded / np.float32(255), truth, y_channel=True)


def test_unknown_task_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'derian' .did you mean 'derain'"):
        Restorer.from_pretrained(task='derian')


def test_demo_of_the_shipped_networks(tmp_path: Path) -> None:
    lines: list[str] = []
    results = demo.show_shipped(tmp_path, say=lines.append)
    figures = json.loads((tmp_path / 'demo.json').read_text(encoding='utf-8'))
    assert set(results) == set(figures) == set(TASKS)
    for task, result in results.items():
        assert figures[task]['psnr_restored'] == pytest.approx(result.mean('psnr_restored'), abs=1e-4)
        # `realsr` is trained for what LPIPS sees as well, for which it gives up PSNR on the fur of one of the two.
        slack = 0.1 if task == 'realsr' else 0.0
        assert result.mean('psnr_restored') > result.mean('psnr_input') - slack
        assert max(score.psnr_restored - score.psnr_input for score in result.scores) > 0.4
        for path in result.written:
            assert path.exists()
            assert str(path) in '\n'.join(lines)


def test_realsr_is_nearer_to_the_truth_than_bicubic_as_lpips_sees_it(shared: Path) -> None:
    pytest.importorskip('lpips')
    from realesrgan_pipeline import imresize
    from vmambair_arch.metrics.perceptual import lpips

    weights = shared / 'weights' / 'alexnet_features.pth'
    restorer = Restorer.from_pretrained(task='realsr', device='cpu')
    for lq, gt in shipped.photograph_pairs('realsr'):
        ours, theirs = (lpips(image, gt, weights=weights) for image in (restorer(lq), imresize(lq, 4)))
        assert ours < 0.8 * theirs
