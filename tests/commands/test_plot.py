"""Curves and pictures of a training, from what it left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from experiment import write_image

from vmambair_arch.cli import main
from vmambair_arch.commands.plot import plot, read_logs
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import read_image

FIRST = """\
2026-01-01 00:00:00,000 INFO: Start training from epoch: 0, iter: 0
2026-01-01 00:00:01,000 INFO: [derai..][epoch:  0, iter:   1,000, lr:(3.000e-04,)] [eta: 1:00:00, time (data): 0.10 \
(0.001)] l_pix: 5.0000e-02 patch: 1.2800e+02\x20
2026-01-01 00:00:01,000 INFO: Validation rain at 1000
\t # psnr: 25.1000\tBest: 25.1000 @ 1000 iter
\t # ssim: 0.8100\tBest: 0.8100 @ 1000 iter
2026-01-01 00:00:02,000 INFO: [derai..][epoch:  0, iter:   2,000, lr:(3.000e-04,)] [eta: 1:00:00, time (data): 0.10 \
(0.001)] l_pix: 4.0000e-02 patch: 1.2800e+02\x20
"""
RESUMED = """\
2026-01-02 00:00:02,000 INFO: [derai..][epoch:  0, iter:   2,000, lr:(2.000e-04,1.000e-04,)] [eta: 1 day, 1:00:00, \
time (data): 0.10 (0.001)] l_pix: 3.0000e-02 l_percep: 1.0000e+00 patch: 1.6000e+02\x20
2026-01-02 00:00:02,000 INFO: Validation rain
\t # psnr: 26.2000\tBest: 26.2000 @ 2000 iter
"""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / 'derain'
    folder.mkdir()
    (folder / 'train_derain_20260101_000000.log').write_text(FIRST)
    (folder / 'train_derain_20260102_000000.log').write_text(RESUMED)
    return folder


def test_logs_of_a_resumed_run_are_joined(finished):
    curves = read_logs(finished)
    assert curves.training == {
        1000: {'l_pix': 0.05, 'patch': 128, 'lr': 3e-4},
        2000: {'l_pix': 0.03, 'l_percep': 1, 'patch': 160, 'lr': 2e-4},
    }
    # BasicSR's own line, the second, does not say the iteration.
    assert curves.validation == {('rain', 'psnr'): {1000: 25.1, 2000: 26.2}, ('rain', 'ssim'): {1000: 0.81}}


def test_one_picture_of_the_curves(finished):
    assert plot(finished) == [finished / 'curves.png']
    picture = read_image(finished / 'curves.png').rgb
    assert picture.shape[0] > 5 * 200  # a panel each for loss, rate, patch, psnr and ssim
    assert picture.std() > 0.01


def test_validation_images_beside_input_and_target(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, iteration in enumerate([100, 200, 300, 400, 500, 1000]):
        write_image(finished / 'visualization' / 'a' / f'a_{iteration}.png', seed=i)
    write_image(tmp_path / 'val' / 'gt' / 'a.png', seed=10)
    (finished / 'derain.yml').write_text(
        'datasets: {val: {dataroot_gt: val/gt, dataroot_lq: val/none}, train: {dataroot_gt: val/gt}}'
    )
    without = plot(finished)
    assert without[1] == finished / 'validation.png'
    sheet = read_image(without[1]).rgb
    write_image(tmp_path / 'val' / 'none' / 'a.png', seed=11)
    plot(finished)
    wider = read_image(without[1]).rgb
    # Four iterations and the target; then the input as well.
    assert wider.shape[1] / sheet.shape[1] == pytest.approx(6 / 5, rel=0.01)
    assert not np.array_equal(wider[:240, :240], sheet[:240, :240])


def test_the_command_says_what_it_wrote(finished, capsys):
    assert main(['plot', str(finished)]) == 0
    assert capsys.readouterr().out.strip().endswith('curves.png')


def test_a_folder_without_logs_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r'no train_\*\.log; name the folder of an experiment'):
        plot(tmp_path)
    (tmp_path / 'train_x.log').write_text('nothing yet')
    assert main(['plot', str(tmp_path)]) == 2
    assert 'no iteration in its 1 train_*.log' in capsys.readouterr().err
