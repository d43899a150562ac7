from __future__ import annotations

import numpy as np
import pytest
import torch

from realesrgan_pipeline import Degradation, image_generator
from realesrgan_pipeline.contact_sheet import GAP, contact_sheet
from vmambair_arch import cli
from vmambair_arch.images.image_io import Image, read_image, write_image


def test_sheet_shows_the_photograph_and_what_a_batch_would_get(picture):
    photograph = picture[0].permute(1, 2, 0).numpy()
    h, w = photograph.shape[:2]
    sheet = contact_sheet(photograph, seed=5, cells=4)
    np.testing.assert_array_equal(sheet[GAP : GAP + h, GAP : GAP + w], np.rint(photograph * 255))

    lq, _ = Degradation()(picture, [image_generator(5, 0)])
    enlarged = (lq[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().repeat(4, 0).repeat(4, 1)
    right = sheet[GAP : GAP + h, sheet.shape[1] // 2 :]
    found = [x for x in range(right.shape[1] - w) if (right[:, x : x + w] == enlarged).all()]
    assert len(found) == 1
    below = sheet[GAP + h : GAP + h + 60, sheet.shape[1] // 2 :]
    assert (below < 128).any(), 'no caption'


def test_large_photographs_show_their_middle():
    photograph = np.zeros((700, 900, 3), np.float32)
    photograph[190:510, 290:610] = 1
    sheet = contact_sheet(photograph, seed=0, cells=2)
    assert (sheet[GAP : GAP + 320, GAP : GAP + 320] == 255).all()


def test_command_writes_the_same_sheet_for_the_same_seed(tmp_path, picture, capsys):
    write_image(tmp_path / 'photo.png', Image(picture[0].permute(1, 2, 0).numpy()))
    sheets = []
    for name, seed in (('a.png', '1'), ('b.png', '1'), ('c.png', '2')):
        command = ['degrade', str(tmp_path / 'photo.png'), '-o', str(tmp_path / name), '--seed', seed, '--grid', '4']
        assert cli.main(command) == 0
        sheets.append(read_image(tmp_path / name).rgb)
    assert capsys.readouterr().out.splitlines() == [f'wrote {tmp_path / name}' for name in ('a.png', 'b.png', 'c.png')]
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert sheets[0].shape != sheets[2].shape or (sheets[0] != sheets[2]).any()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.png'], 'missing.png: no such file'),
        (['photo.png', '--grid', '1'], 'photo.png: a sheet has at least 2 pictures, not 1'),
        (['photo.png', '--scale', '200'], 'photo.png: images must be (b, 3, h, w), sides of at least 200 pixels'),
        (['photo.png', '--set', 'halo_prob'], "--set: 'halo_prob' is not of the form option=value"),
        (['photo.png', '--set', 'halo_prob=2'], 'photo.png: degradation option halo_prob must be a probability, not 2'),
        (
            ['photo.png', '--scale', '0'],
            'photo.png: degradation option scale must be a whole number from 1 to 1000, not 0',
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, picture, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_image('photo.png', Image(picture[0].permute(1, 2, 0).numpy()))
    assert cli.main(['degrade', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'vmambair: error: {message}')
    assert error.count('\n') == 1
    assert not (tmp_path / 'degraded.png').exists()
