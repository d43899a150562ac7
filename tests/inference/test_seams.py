"""What tiles cost in quality is measured, not supposed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch.nn.functional as F
from torch import nn

from vmambair_arch import Restorer, cli
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import Image, write_image
from vmambair_arch.inference.seams import measure_seams


class Mean(nn.Module):
    """Sees everything: takes the mean of what it is given off every pixel."""

    def forward(self, x):
        return (x - 0.1 * x.mean((-2, -1), keepdim=True)).clamp(0, 1)


class Blur(nn.Module):
    """Sees five pixels, past the border by reflection."""

    def forward(self, x):
        return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode='reflect'), 5, stride=1)


def image(*size):
    return Image(np.random.default_rng(0).uniform(0.2, 0.8, (*size, 3)).astype(np.float32))


def test_a_local_network_has_seams_only_where_the_overlap_is_too_small():
    assert measure_seams(Restorer(Blur(), overlap=0), image(200, 300)).psnr < 60
    assert measure_seams(Restorer(Blur(), overlap=64), image(200, 300)).psnr > 65
    assert measure_seams(Restorer(nn.Identity()), image(200, 300)).psnr > 120


def test_the_figures_are_right():
    """Left half dark, right half bright: the tiles' own means differ from the whole's by a known amount."""
    picture = np.zeros((64, 128, 3), np.float32)
    picture[:, :64], picture[:, 64:] = 0.2, 0.6
    seams = measure_seams(Restorer(Mean(), overlap=0), Image(picture))
    assert (seams.tile, seams.height, seams.width) == (64, 64, 128)
    assert seams.largest == pytest.approx(0.02, abs=1e-6)  # a tenth of 0.4 against 0.2 or 0.6
    assert seams.psnr == pytest.approx(-20 * math.log10(0.02), abs=0.01)


def test_only_the_middle_is_restored(halve):
    measure_seams(Restorer(halve), image(900, 700), crop=256)
    assert max(max(shape[2:]) for shape in halve.shapes) == 256


def test_a_picture_of_one_tile():
    with pytest.raises(UserError, match='no seams to measure'):
        measure_seams(Restorer(nn.Identity()), image(20, 20))


def test_the_command_reports(tmp_path, checkpoint, capsys):
    write_image(tmp_path / 'a.png', image(64, 96))
    write_image(tmp_path / 'b.png', image(8, 8))
    arguments = ['restore', str(tmp_path), '-o', str(tmp_path / 'out'), '-m', str(checkpoint), '--report-seams']
    arguments += ['-t', '64']
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'a.png: tiles of 64 with overlap 21 against the whole on a crop of 96x32: ' in lines[0]
    assert float(lines[0].split(': ')[-1].split(' dB')[0]) > 20
    assert 'b.png: the picture of 8x8 pixels is one tile' in lines[1]
