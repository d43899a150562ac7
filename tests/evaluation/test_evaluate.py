"""`vmambair evaluate`: averages, resuming, sharing among processes, tables beside the paper, pictures, bad input."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vmambair_arch.archs import OSSNet
from vmambair_arch.cli import main
from vmambair_arch.errors import UserError
from vmambair_arch.evaluation import figures
from vmambair_arch.evaluation.datasets import find_dataset, find_methods, partners
from vmambair_arch.evaluation.evaluate import evaluate
from vmambair_arch.evaluation.published import ABLATIONS, FIGURES, published
from vmambair_arch.evaluation.scores import Evaluation, collect, run
from vmambair_arch.images.image_io import Image, read_image, write_image
from vmambair_arch.inference.restorer import Restorer
from vmambair_arch.metrics.catalogue import METRICS, get_metrics
from vmambair_arch.metrics.psnr_ssim import psnr, ssim

NAMES = [f'scene{i:02d}' for i in range(12)]
H, W = 32, 40


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truth, input (noisy), and the results of two methods, the second with BasicSR's suffix."""
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        truth = cv2.resize(rng.random((4, 5, 3)).astype(np.float32), (W, H), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        for folder, noise, suffix in (('truth', 0, ''), ('input', 0.1, ''), ('good', 0.02, ''), ('poor', 0.06, '_x')):
            noisy = truth + rng.normal(0, noise * (1 + i / 8), truth.shape) if noise else truth
            write_image(root / folder / f'{name}{suffix}.png', Image(noisy.astype(np.float32)))
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('checkpoint') / 'tiny.pth'
    torch.manual_seed(0)
    torch.save({'params': OSSNet(dim=8, num_blocks=1, d_state=4).state_dict()}, path)
    return path


def _folders(data: Path, output: Path, *extra: str, metrics: tuple[str, ...] = ('psnr_y', 'ssim')) -> int:
    methods = [f'good={data / "good"}', f'poor={data / "poor"}']
    folders = ['--truth', str(data / 'truth'), '--lq', str(data / 'input')]
    return main(['evaluate', *methods, *folders, '--metrics', *metrics, '-o', str(output), *extra])


def _mean(data: Path, folder: str, suffix: str, metric: object, **options: object) -> float:
    pairs = [(data / folder / f'{name}{suffix}.png', data / 'truth' / f'{name}.png') for name in NAMES]
    return float(np.mean([metric(read_image(a).rgb, read_image(b).rgb, **options) for a, b in pairs]))


def test_averages_table_and_csv(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _folders(data, tmp_path, '--crop-border', '2') == 0
    table = capsys.readouterr().out
    good = _mean(data, 'good', '', psnr, y_channel=True, crop_border=2)
    poor = _mean(data, 'poor', '_x', ssim, crop_border=2)
    lines = {line.split(' | ')[0].strip('| '): line for line in table.splitlines() if line.startswith('|')}
    assert f'**{good:.2f}**' in lines['good']
    assert f'| {poor:.4f} |' in lines['poor']
    assert 'PSNR (Y) ↑' in lines['method']
    assert 'leave 2 pixels out' in table
    assert 'not rounded' in table
    assert (tmp_path / 'table.md').read_text() == table
    with (tmp_path / 'scores.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(NAMES)
    values = [float(row['psnr_y']) for row in rows if row['method'] == 'good']
    assert np.mean(values) == pytest.approx(good, abs=1e-12)


def test_pictures_can_be_seen(data: Path, tmp_path: Path) -> None:
    assert _folders(data, tmp_path, '--crops', 'scene03:8,4,16,12') == 0
    sheet = read_image(tmp_path / 'ends/poor/data.png').rgb
    assert sheet.shape[0] > 2 * figures.ENDS * 200  # ten rows of 200 pixels and captions
    crops = read_image(tmp_path / 'crops.png').rgb
    truth = read_image(data / 'truth/scene03.png').rgb[4:16, 8:24]
    # The last panel is the truth, enlarged twentyfold: 320 x 240 pixels at the right.
    panel = crops[:240, -326:-6]
    assert np.abs(cv2.resize(panel, (16, 12), interpolation=cv2.INTER_AREA) - truth).max() < 0.02
    assert read_image(tmp_path / 'box.png').rgb.std() > 0.05


def test_contact_sheet_shows_worst_first(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(figures, 'side_by_side', lambda rows, height: shown.append(rows) or np.zeros((4, 4, 3)))
    _folders(data, tmp_path)
    captions = [[panel.caption for panel in row] for row in shown[0]]
    assert len(captions) == 2 * figures.ENDS
    assert captions[0][0].startswith('worst: ')
    assert captions[-1][0].startswith('best: ')
    values = [float(row[1].split()[-1]) for row in captions]
    assert values == sorted(values)
    assert [row[2] for row in captions] == ['truth'] * len(captions)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    """What is restored and what is measured; pictures, which read images too, are left out."""
    seen: dict[str, list] = {'restored': [], 'measured': []}
    restore, pair = Restorer.__call__, Evaluation.pair

    def watch_restore(self: Restorer, *args: object) -> object:
        seen['restored'].append(args)
        return restore(self, *args)

    def watch_pair(self: Evaluation, *args: object) -> object:
        seen['measured'].append(args)
        return pair(self, *args)

    monkeypatch.setattr(Restorer, '__call__', watch_restore)
    monkeypatch.setattr(Evaluation, 'pair', watch_pair)
    for name in ('box_plots', 'contact_sheet', 'cost_plot'):
        monkeypatch.setattr(figures, name, lambda *args: None)
    return seen


def test_checkpoint_is_run_and_a_second_run_only_adds(
    data: Path, checkpoint: Path, tmp_path: Path, watched: dict[str, list]
) -> None:
    def again(*metrics: str) -> str:
        for calls in watched.values():
            calls.clear()
        sets = [['rain', str(data / 'truth'), str(data / 'input')]]
        return evaluate([f'net={checkpoint}'], sets, metrics, tmp_path, device='cpu')

    def counts() -> tuple[int, int]:
        return len(watched['restored']), len(watched['measured'])

    first = again('psnr')
    assert counts() == (12, 12)
    restored = tmp_path / 'restored/net/rain/scene00.png'
    expected = Restorer.from_pretrained(checkpoint, device='cpu').restore(read_image(data / 'input/scene00.png')).rgb
    assert np.abs(read_image(restored).rgb - expected).max() < 0.51 / 255
    assert again('psnr') == first
    assert counts() == (0, 0)
    restored.unlink()
    assert again('psnr') == first
    assert counts() == (1, 1)
    again('psnr', 'ssim')
    assert counts() == (0, 12)


def test_another_input_is_restored_again(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    def table(lq: str, output: str) -> str:
        return evaluate([f'net={checkpoint}'], [['rain', f'{data}/truth', f'{data}/{lq}']], ['psnr'], tmp_path / output)

    first, second = table('input', 'out'), table('poor', 'out')
    assert first != second
    assert second == table('poor', 'new')
    assert first == table('input', 'out')


def test_other_weights_are_other_figures(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(image: np.ndarray, truth: np.ndarray, weights: Path | None) -> float:
        return float(len(str(weights)))

    monkeypatch.setitem(METRICS, 'dists', dataclasses.replace(METRICS['dists'], function=distance))
    monkeypatch.setattr('vmambair_arch.metrics.catalogue.dists', distance)
    monkeypatch.setattr('vmambair_arch.metrics.catalogue.dists_network', lambda weights: None)
    sets = [['rain', f'{data}/truth']]
    tables = [evaluate([f'{data}/good'], sets, ['dists'], tmp_path, weights=weights) for weights in ('a', 'longer')]
    assert '| 1.0000 |' in tables[0]
    assert '| 6.0000 |' in tables[1]


def test_a_failed_start_leaves_the_folder_free(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    sets = [['rain', f'{data}/truth', f'{data}/input']]
    with pytest.raises(UserError):
        evaluate([f'net={checkpoint}'], sets, ['psnr'], tmp_path / 'out', device='cpu', tile=3)
    assert not (tmp_path / 'out').exists()
    assert evaluate([f'net={checkpoint}'], sets, ['psnr'], tmp_path / 'out', device='cpu')


def test_what_cannot_work_is_said_before_anything_is_restored(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    sets, out = [['rain', f'{data}/truth', f'{data}/input']], tmp_path / 'out'
    for message, metrics, options in (
        ('does not lie inside scene03, 40x32', ['psnr'], {'crops': ['scene03:30,0,20,4']}),
        ("no image 'scene3' to crop", ['psnr'], {'crops': ['scene3:0,0,4,4']}),
        ('--crop-border -1: must be 0 or more', ['niqe'], {'crop_border': -1}),
        (r'--crop-border 16: leaves 8x0 pixels of .*truth/scene\d\d.png, 40x32 pixels', ['psnr'], {'crop_border': 16}),
        ('--crop-border 400: leaves 0x0 pixels', ['psnr_y'], {'crop_border': 400}),
        ('leaves 18x10 pixels .* and ssim needs 11x11', ['psnr', 'ssim'], {'crop_border': 11}),
        (r'truth/scene\d\d.png: 40x32 pixels are too few: niqe needs 96x192', ['psnr', 'niqe'], {}),
        ('pt_inception', ['psnr', 'fid'], {}),
        ('alexnet', ['psnr', 'lpips'], {}),
    ):
        with pytest.raises(UserError, match=message):
            evaluate([f'net={checkpoint}'], sets, metrics, out, device='cpu', **options)
        assert not out.exists()
    torch.manual_seed(0)
    torch.save({'params': OSSNet(dim=8, num_blocks=1, d_state=4, scale=2).state_dict()}, tmp_path / 'x2.pth')
    with pytest.raises(UserError, match=r'x2.pth makes images 2 times as large.*has 40x32 pixels, its truth .* 40x32'):
        evaluate([f'{tmp_path}/x2.pth'], sets, ['psnr'], out, device='cpu')
    assert not out.exists()
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file.*cannot be written'):
        evaluate([f'{data}/good'], [['rain', f'{data}/truth']], ['psnr'], tmp_path / 'file')


def test_names_that_matplotlib_would_take_for_formulas(data: Path, tmp_path: Path) -> None:
    evaluate([f'a$_$b={data}/good'], [['$^_$', f'{data}/truth']], ['psnr'], tmp_path)
    assert read_image(tmp_path / 'box.png').rgb.std() > 0.02


def test_a_path_may_have_an_equals_sign(data: Path, tmp_path: Path) -> None:
    (tmp_path / 'lr=1e-4').symlink_to(data / 'good')
    (method,) = find_methods([f'{tmp_path}/lr=1e-4'])
    assert method.path == tmp_path / 'lr=1e-4'


def test_a_contact_sheet_without_inputs_names_its_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(figures, 'side_by_side', lambda rows, height: shown.append(rows) or np.zeros((4, 4, 3)))
    evaluate([f'{data}/good'], [['rain', f'{data}/truth']], ['psnr'], tmp_path)
    assert re.fullmatch(r'worst: scene\d\d  PSNR \(RGB\) [\d.]+', shown[0][0][0].caption)


def test_images_of_another_checkpoint_are_refused(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other.pth'
    torch.save({'params': OSSNet(dim=8, num_blocks=2, d_state=4).state_dict()}, other)
    sets = [['rain', str(data / 'truth'), str(data / 'input')]]
    evaluate([f'net={checkpoint}'], sets, ['psnr'], tmp_path / 'out', device='cpu')
    with pytest.raises(UserError, match='images of another checkpoint'):
        evaluate([f'net={other}'], sets, ['psnr'], tmp_path / 'out', device='cpu')
    with pytest.raises(UserError, match='or other settings'):
        evaluate([f'net={checkpoint}'], sets, ['psnr'], tmp_path / 'out', device='cpu', self_ensemble=True)


def test_cost_plot_of_a_checkpoint(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    evaluate([f'net={checkpoint}'], [['rain', str(data / 'truth'), str(data / 'input')]], ['psnr'], tmp_path)
    assert read_image(tmp_path / 'cost.png').rgb.std() > 0.02


def test_cost_of_folders_is_what_the_user_says(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(figures, 'cost_plot', lambda evaluation, costs, path: seen.append(costs))
    sets = [['rain', f'{data}/truth']]
    evaluate([f'{data}/good'], sets, ['psnr'], tmp_path)
    assert not seen
    evaluate([f'{data}/good'], sets, ['psnr'], tmp_path, cost=['good=78.6'])
    assert seen == [{'good': pytest.approx(78.6e9)}]
    for entry, message in (('god=1', "no method 'god' .did you mean 'good'"), ('good=much', "'much' is not a number")):
        with pytest.raises(UserError, match=message):
            evaluate([f'{data}/good'], sets, ['psnr'], tmp_path, cost=[entry])


def _evaluation(data: Path, output: Path) -> Evaluation:
    dataset = find_dataset('rain', data / 'truth', None)
    return Evaluation(find_methods([f'{data}/good']), [dataset], get_metrics(['psnr']), 0, output)


@pytest.mark.parametrize('ranks', [2, 3])
def test_processes_share_the_images_and_agree_to_the_last_bit(data: Path, tmp_path: Path, ranks: int) -> None:
    alone, shared = _evaluation(data, tmp_path / 'alone'), _evaluation(data, tmp_path / 'shared')
    run(alone, {})
    collect(alone)
    for rank in reversed(range(ranks)):
        with pytest.raises(UserError, match='run the same command again'):
            collect(shared)
        run(shared, {}, rank, ranks)
        lines = (tmp_path / f'shared/scores-{rank}.jsonl').read_text().splitlines()
        assert sum(map(bool, lines)) == len(NAMES) // ranks
    collect(shared)
    assert shared.mean('good', 'rain', METRICS['psnr']) == alone.mean('good', 'rain', METRICS['psnr'])


@pytest.mark.slow
def test_torchrun(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    def table(output: Path, *launcher: str) -> str:
        command = [sys.executable, '-m', *launcher, 'vmambair_arch', 'evaluate', f'net={checkpoint}', '-o', str(output)]
        command += ['--truth', str(data / 'truth'), '--lq', str(data / 'input'), '--device', 'cpu']
        subprocess.run(command, check=True, timeout=300)
        return (output / 'table.md').read_text()

    together = table(tmp_path / 'two', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m')
    assert together == table(tmp_path / 'one')
    assert (tmp_path / 'two/scores.csv').read_bytes() == (tmp_path / 'one/scores.csv').read_bytes()


def test_a_line_that_was_cut_off_is_measured_again(data: Path, tmp_path: Path, watched: dict[str, list]) -> None:
    run(_evaluation(data, tmp_path), {})
    file = tmp_path / 'scores-0.jsonl'
    file.write_text(file.read_text()[:-20])
    watched['measured'].clear()
    run(_evaluation(data, tmp_path), {})
    assert [item.name for _, _, item in watched['measured']] == [NAMES[-1]]
    collect(_evaluation(data, tmp_path))


@pytest.mark.parametrize(
    'change',
    [
        lambda line: line.pop('stamp'),
        lambda line: line.pop('key'),
        lambda line: line.pop('scores'),
        lambda line: line.update(key=[['a']]),
        lambda line: line.update(key='good'),
        lambda line: line.update(stamp=None),
        lambda line: line.update(scores=[1]),
        lambda line: line['scores'].update(psnr=None),
        lambda line: line['scores'].update(psnr='20'),
    ],
)
def test_a_line_that_is_no_score_is_measured_again(
    data: Path, tmp_path: Path, watched: dict[str, list], change
) -> None:
    run(_evaluation(data, tmp_path), {})
    file = tmp_path / 'scores-0.jsonl'
    lines = [json.loads(line) for line in file.read_text().splitlines() if line]
    change(lines[0])
    file.write_bytes(b'\xff\xfe\n[1]\n5\n' + '\n'.join(map(json.dumps, lines)).encode())
    watched['measured'].clear()
    run(_evaluation(data, tmp_path), {})
    assert [item.name for _, _, item in watched['measured']] == [NAMES[0]]
    collect(_evaluation(data, tmp_path))


def test_a_changed_result_is_measured_again(data: Path, tmp_path: Path) -> None:
    results = tmp_path / 'good'
    for name in NAMES:
        write_image(results / f'{name}.png', read_image(data / f'good/{name}.png'))
    sets = [['rain', str(data / 'truth')]]
    before = evaluate([str(results)], sets, ['psnr'], tmp_path / 'out')
    write_image(results / 'scene00.png', read_image(data / 'truth/scene00.png'))
    after = evaluate([str(results)], sets, ['psnr'], tmp_path / 'out')
    assert before != after
    assert 'inf' in after  # one image is now perfect


def test_metrics_of_folders(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(images: Iterator, references: Iterator, weights: object) -> float:
        return abs(np.mean([x.std() for x in images]) - np.mean([x.std() for x in references]))

    monkeypatch.setitem(METRICS, 'fid', dataclasses.replace(METRICS['fid'], function=distance, digits=6))
    monkeypatch.setattr('vmambair_arch.metrics.catalogue.fid', distance)
    monkeypatch.setattr('vmambair_arch.metrics.catalogue.inception', lambda weights: None)
    table = evaluate([f'{data}/good'], [['rain', f'{data}/truth']], ['fid'], tmp_path)
    stds = [
        np.mean([read_image(data / f'{folder}/{name}.png').rgb.std() for name in NAMES]) for folder in ('good', 'truth')
    ]
    assert f'| good | {abs(stds[0] - stds[1]):.6f} |' in table
    assert not (tmp_path / 'box.png').exists()


def test_without_truth(data: Path, tmp_path: Path) -> None:
    results = tmp_path / 'large'
    rng = np.random.default_rng(0)
    for name in ('a', 'b'):
        write_image(results / f'{name}.png', Image(rng.random((100, 200, 3)).astype(np.float32)))
    sets = [['real', '-', str(results)]]
    assert 'NIQE ↓' in evaluate([f'mine={results}'], sets, ['niqe'], tmp_path / 'out')
    with pytest.raises(UserError, match='data set real: psnr need the true images'):
        evaluate([f'mine={results}'], sets, ['psnr', 'niqe'], tmp_path / 'out')
    with pytest.raises(UserError, match=r'scene00.png: 40x32 pixels are too few: niqe needs 96x192'):
        evaluate([f'{data}/good'], [['small', '-', f'{data}/input']], ['niqe'], tmp_path / 'out')


def test_sizes_of_images_without_a_truth(checkpoint: Path, tmp_path: Path) -> None:
    """What a checkpoint makes of them is known once its scale is."""
    write_image(tmp_path / 'wide/a.png', Image(np.random.default_rng(0).random((32, 48, 3)).astype(np.float32)))
    sets, out = [['wide', '-', f'{tmp_path}/wide']], tmp_path / 'out'
    with pytest.raises(UserError, match=r'wide/a.png: 48x32 pixels are too few: niqe needs 96x192'):
        evaluate([f'net={checkpoint}'], sets, ['niqe'], out, device='cpu')
    assert not list(out.rglob('*.png'))
    torch.save({'params': OSSNet(dim=8, num_blocks=1, d_state=4, scale=4).state_dict()}, tmp_path / 'x4.pth')
    assert evaluate([f'{tmp_path}/x4.pth'], sets, ['niqe'], out, device='cpu')


def test_images_of_one_colour_have_no_niqe(tmp_path: Path) -> None:
    for name, value in (('a', 0.0), ('b', 0.5)):
        write_image(tmp_path / f'flat/{name}.png', Image(np.full((128, 200, 3), value, np.float32)))
    flat = str(tmp_path / 'flat')
    table = evaluate([f'mine={flat}'], [['flat', '-', flat]], ['niqe'], tmp_path / 'out')
    assert table
    assert '| mine | nan |' in table


def test_paper_row_has_its_own_column_where_the_definition_differs(data: Path, tmp_path: Path) -> None:
    table = evaluate([f'{data}/good'], [['rain-100l', f'{data}/truth']], ['psnr_y', 'psnr_y_matlab'], tmp_path)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines() if line[:1] == '|']
    assert rows[0] == ['method', 'PSNR (Y) ↑', 'PSNR (Y rounded) ↑', 'SSIM (Y rounded) ↑']
    assert rows[3:] == [
        ['VmambaIR (paper), published', '', '39.09', '0.979'],
        ['Restormer, published', '', '38.99', '0.978'],
        ['Restormer (its weights, mmagic), published', '39.1023', '', ''],
        ['MPRNet, published', '', '36.40', '0.965'],
        ['PReNet (own pairs), published', '', '37.48', '0.979'],
        ['BRN (own pairs), published', '', '38.16', '0.982'],
        ['RCDNet (own pairs), published', '', '40.00', '0.986'],
    ]
    assert rows[2][3] == ''  # not measured here
    assert 'arXiv 2403.11423, Table 3' in table
    table = evaluate([f'{data}/good'], [['rain100l', f'{data}/truth']], ['ssim_y_matlab'], tmp_path, crop_border=4)
    assert '| 0.979 (border 0) | 39.09 (border 0) |' in table


def test_published_figures_are_consistent() -> None:
    assert {figure.metric for figure in FIGURES} <= set(METRICS)
    ours = [figure for figure in published('Urban100') if figure.method == 'VmambaIR (paper)']
    assert {figure.value for figure in ours} == {0.1037, 25.71}
    assert all(figure.source for figure in FIGURES)
    seen = [(figure.method, figure.dataset, figure.metric) for figure in FIGURES]
    assert len(set(seen)) == len(seen)
    assert [row.name for row in ABLATIONS] == ['V1', 'V2', 'V3', 'V4', 'full']
    assert not published('mine')


def test_partners() -> None:
    names = ['babyx4', 'img_1_net', 'img_10_net', 'img_net', '0801x4_net', 'plain', 'plain_net', 'boxer']
    found = partners(
        ['baby', 'img', 'img_1', 'img_10', '0801', 'plain'], {name: Path(name) for name in names}, 'folder'
    )
    assert {stem: path.name for stem, path in found.items()} == {
        'baby': 'babyx4', 'img': 'img_net', 'img_1': 'img_1_net', 'img_10': 'img_10_net', '0801': '0801x4_net',
        'plain': 'plain',
    }  # fmt: skip
    with pytest.raises(UserError, match=r"folder: no image for 'two'; these could be it: two_a, two_b"):
        partners(['two'], {'two_a': Path('a'), 'two_b': Path('b')}, 'folder')
    with pytest.raises(UserError, match="no image for 'img'$"):  # the only one is another's result
        partners(['img', 'img_2'], {'img_2': Path('b')}, 'folder')
    with pytest.raises(UserError, match="no image for 'box'$"):
        partners(['box'], {'boxer': Path('b')}, 'folder')


def test_bad_input(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def error(*arguments: str) -> str:
        assert main(['evaluate', *arguments, '-o', str(tmp_path / 'out')]) == 2
        message = capsys.readouterr().err.strip().splitlines()
        return message[-1]

    good, truth = str(data / 'good'), str(data / 'truth')
    assert 'no such checkpoint file' in error('nothing', '--truth', truth)
    assert 'name the folder of the true images' in error(good)
    assert "two methods are called 'good'" in error(good, f'{data}/../{data.name}/good', '--truth', truth)
    assert "did you mean 'psnr'" in error(good, '--truth', truth, '--metrics', 'psnrr')
    assert "two data sets are called 'a'" in error(good, '--data', 'a', truth, '--data', 'a', truth)
    assert 'no subfolder b' in error(good, '--data', 'b', truth, '--data', 'c', truth)
    assert 'write NAME TRUTH [LQ]' in error(good, '--data', 'b')
    assert "no image 'scene3' to crop (did you mean 'scene03'?)" in error(
        good, '--truth', truth, '--crops', 'scene3:0,0,4,4'
    )
    assert 'does not lie inside scene03, 40x32 pixels' in error(good, '--truth', truth, '--crops', 'scene03:30,0,20,4')
    assert 'is not a crop' in error(good, '--truth', truth, '--crops', 'scene03:30,0,20')
    write_image(tmp_path / 'few/scene00.png', read_image(data / 'good/scene00.png'))
    assert "no image for 'scene01'" in error(f'{tmp_path}/few', '--truth', truth)
    for name in NAMES:
        write_image(tmp_path / f'small/{name}.png', Image(np.zeros((H - 3, W, 3), np.float32)))
    assert 'has 40x29 pixels, its truth' in error(f'{tmp_path}/small', '--truth', truth)
    for name in ('..', 'a|b', 'a/b', ''):
        assert f"'{name}' cannot name a data set" in error(good, '--data', name, truth)
        assert f"'{name}' cannot name a method" in error(f'{name}={good}', '--truth', truth)


def test_truth_that_downsampling_does_not_divide(data: Path, tmp_path: Path) -> None:
    for name in NAMES:
        image = read_image(data / f'good/{name}.png')
        write_image(tmp_path / f'cut/{name}.png', Image(image.rgb[: H // 3 * 3, : W // 3 * 3]))
    evaluate([f'{tmp_path}/cut'], [['rain', f'{data}/truth']], ['psnr'], tmp_path / 'out')
    line = json.loads((tmp_path / 'out/scores-0.jsonl').read_text().splitlines()[1])
    image, truth = read_image(data / 'good/scene00.png').rgb, read_image(data / 'truth/scene00.png').rgb
    assert line['scores']['psnr'] == pytest.approx(psnr(image[:30, :39], truth[:30, :39]), abs=1e-9)
    for name in NAMES:  # no downsampling drops this: the result is of another place
        write_image(tmp_path / f'off/{name}.png', Image(read_image(data / f'truth/{name}.png').rgb[3:, 3:]))
    with pytest.raises(UserError, match='has 37x29 pixels, its truth'):
        evaluate([f'{tmp_path}/off'], [['rain', f'{data}/truth']], ['psnr'], tmp_path / 'out')
