"""The demo: data worth training on, and everything it promises to write, with a training of a few iterations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vmambair_arch.cli import main
from vmambair_arch.commands import demo
from vmambair_arch.errors import UserError
from vmambair_arch.images.image_io import read_image
from vmambair_arch.metrics.psnr_ssim import psnr

pytest.importorskip('basicsr')


def _unseen(data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    targets = sorted((data / 'unseen' / 'target').iterdir())
    return [(read_image(data / 'unseen' / 'input' / path.name).rgb, read_image(path).rgb) for path in targets]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the deraining demo."""
    folder = tmp_path_factory.mktemp('prepared')
    demo.TASKS['derain'].prepare(folder, True)
    return folder


def test_the_rain_is_worth_removing(prepared: Path) -> None:
    pairs = _unseen(prepared)
    assert len(pairs) >= 2
    assert 20 <= np.mean([psnr(rainy, clean, y_channel=True) for rainy, clean in pairs]) <= 25
    for rainy, clean in pairs:
        assert (np.abs(rainy - clean).max(2) > 5 / 255).mean() >= 0.1
    trained_on = {path.stem for path in (prepared / 'train').iterdir()}
    assert trained_on
    assert not trained_on & {path.stem for path in (prepared / 'unseen' / 'target').iterdir()}


def test_the_same_rain_every_time(prepared: Path, tmp_path: Path) -> None:
    demo.TASKS['derain'].prepare(tmp_path, True)
    for (first, _), (second, _) in zip(_unseen(prepared), _unseen(tmp_path), strict=True):
        assert np.array_equal(first, second)


def test_a_short_run_writes_all_it_names(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / 'options' / 'demo_derain.yml').read_text(encoding='utf-8')
    short = tmp_path / 'demo_derain.yml'
    short.write_text(
        text.replace(' 1300', ' 3').replace('[1300]', '[3]').replace('gt_size: 64', 'gt_size: 16'), encoding='utf-8'
    )
    monkeypatch.setattr(demo, 'option_file', lambda name: short)
    lines: list[str] = []
    result = demo.demonstrate('derain', tmp_path / 'out', say=lines.append)
    figures = json.loads((tmp_path / 'out' / 'demo.json').read_text())
    assert {'psnr_input', 'psnr_restored', 'ssim_input', 'ssim_restored', 'seconds'} <= set(figures)
    assert figures['psnr_input'] == pytest.approx(result.mean('psnr_input'), abs=1e-4)
    assert figures['seconds'] > 0
    report = '\n'.join(lines)
    for path in result.written:
        assert path.exists()
        assert str(path) in report
    for score in result.scores:
        target = read_image(tmp_path / 'out' / 'data' / 'unseen' / 'target' / f'{score.name}.png').rgb
        restored = read_image(tmp_path / 'out' / 'restored' / f'{score.name}.png').rgb
        assert score.psnr_restored == pytest.approx(psnr(restored, target, y_channel=True))
        assert score.name in report


def test_a_training_that_fails_is_not_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / 'demo_derain.yml'
    broken.write_text('name: demo_derain\nmodel_type: NoSuchModel\n', encoding='utf-8')
    monkeypatch.setattr(demo, 'option_file', lambda name: broken)
    monkeypatch.setitem(demo.TASKS, 'derain', replace(demo.TASKS['derain'], prepare=lambda folder, training: None))
    with pytest.raises(UserError, match='training ended with code 2'):
        demo.demonstrate('derain', tmp_path / 'out')
    assert not (tmp_path / 'out' / 'demo.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'line'), [(('derian',), "did you mean 'derain'"), (('derain', __file__), 'is a file')]
)
def test_bad_arguments(arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError, match=line):
        demo.demonstrate(*arguments)


@pytest.mark.parametrize('arguments', [(), ('--shipped',)])
@pytest.mark.parametrize('place', ['file', 'file/below', 'file/a/b', 'round/a', 'x' * 300])
def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path, capsys, place: str, arguments: tuple[str, ...]) -> None:
    (tmp_path / 'file').write_text('')
    (tmp_path / 'round').symlink_to(tmp_path / 'round')
    assert main(['demo', *arguments, '--out', str(tmp_path / place)]) == 2
    said = capsys.readouterr().err
    assert place in said
    assert said.rstrip().endswith('choose another folder with --out')
    assert said.count('\n') == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'round']


def test_super_resolution_starts_from_a_quarter(tmp_path: Path) -> None:
    baseline = {}
    for task in ('sr', 'realsr'):
        folders = [tmp_path / task, tmp_path / f'{task}_again']
        for folder in folders:
            demo.TASKS[task].prepare(folder, True)
        assert list((folders[0] / 'train').iterdir())
        figures = []
        for (small, target), (again, _) in zip(*map(_unseen, folders), strict=True):
            h, w = target.shape[:2]
            assert small.shape == (h // 4, w // 4, 3)
            assert np.array_equal(small, again)
            enlarged = demo.TASKS[task].baseline(small, target.shape[:2])
            assert enlarged.shape == target.shape
            figures.append(psnr(enlarged, target, y_channel=True))
        baseline[task] = np.mean(figures)
    # What bicubic loses, and what noise, blur and JPEG take besides.
    assert 25 < baseline['sr'] < 35
    assert baseline['realsr'] < baseline['sr'] - 2


@pytest.mark.slow
@pytest.mark.parametrize('task', ['sr', 'realsr'])
def test_super_resolution_in_a_short_run(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    text = (root / 'options' / f'demo_{task}.yml').read_text(encoding='utf-8')
    short = tmp_path / f'demo_{task}.yml'
    short.write_text(text.replace('1000', '3').replace('800', '3'), encoding='utf-8')
    monkeypatch.setattr(demo, 'option_file', lambda name: short)
    result = demo.demonstrate(task, tmp_path / 'out')
    assert all(path.exists() for path in result.written)
    before = read_image(tmp_path / 'out' / 'data' / 'unseen' / 'input' / f'{result.scores[0].name}.png').rgb
    after = read_image(tmp_path / 'out' / 'restored' / f'{result.scores[0].name}.png').rgb
    assert after.shape == (4 * before.shape[0], 4 * before.shape[1], 3)
