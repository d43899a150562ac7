"""Curves and pictures of a training, from what it left behind."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from experiment import write_image

from vmambair_arch.cli import main
from vmambair_arch.commands import compare
from vmambair_arch.commands.plot import plot, read_logs, validation_rows, watch
from vmambair_arch.errors import UserError
from vmambair_arch.files import append_record
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


def test_images_of_one_name_in_two_data_sets(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (('one', 1), ('two', 2)):
        write_image(finished / 'visualization' / name / 'a' / 'a_100.png', seed=seed)
        write_image(tmp_path / name / 'a.png', seed=seed + 10)
    (finished / 'derain.yml').write_text(
        'datasets: {val: {name: one, dataroot_gt: one}, val_2: {name: two, dataroot_gt: two}}'
    )
    rows = validation_rows(finished)
    assert len(rows) == 2
    for (restored, target), name in zip(rows, ('one', 'two'), strict=True):
        assert np.array_equal(restored.image, read_image(finished / f'visualization/{name}/a/a_100.png').rgb)
        assert np.array_equal(target.image, read_image(tmp_path / name / 'a.png').rgb)


def test_the_command_says_what_it_wrote(finished, capsys):
    assert main(['plot', str(finished)]) == 0
    assert capsys.readouterr().out.strip().endswith('curves.png')


def test_a_folder_without_logs_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r'no metrics.jsonl and no train_\*\.log; name the folder of an experiment'):
        plot(tmp_path)
    (tmp_path / 'train_x.log').write_text('nothing yet')
    assert main(['plot', str(tmp_path)]) == 2
    assert 'no iteration in its 1 train_*.log' in capsys.readouterr().err


def test_records_are_read_before_the_text_of_logs(finished):
    path = finished / 'metrics.jsonl'
    append_record(path, {'iter': 2000, 'epoch': 0, 'lrs': [1e-4], 'time': 0.5, 'data_time': 0.1, 'l_pix': 0.02})
    append_record(path, {'iter': 2000, 'dataset': 'rain', 'metrics': {'psnr': 27.5}})
    append_record(path, {'iter': 3000, 'epoch': 1, 'lrs': [1e-5], 'l_pix': 0.01})
    with path.open('a') as file:
        file.write('{"iter": 4000, "l_pi')  # a kill in the middle of a line
    curves = read_logs(finished)
    assert curves.training[1000]['l_pix'] == 0.05
    assert curves.training[2000] == {'time': 0.5, 'data_time': 0.1, 'l_pix': 0.02, 'lr': 1e-4}
    assert max(curves.training) == 3000
    assert curves.validation['rain', 'psnr'] == {1000: 25.1, 2000: 27.5}


def test_the_page_follows_the_training(finished):
    server = watch(finished, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f'http://127.0.0.1:{server.server_port}'
        with urllib.request.urlopen(f'{address}/') as page:
            assert 'derain' in page.read().decode()
        with urllib.request.urlopen(f'{address}/curves.png?1') as picture:
            before = picture.read()
        append_record(finished / 'metrics.jsonl', {'iter': 9000, 'epoch': 1, 'lrs': [1e-5], 'l_pix': 0.001})
        with urllib.request.urlopen(f'{address}/curves.png?2') as picture:
            assert picture.read() != before
        for place in ('/validation.png', '/../derain.yml'):
            with pytest.raises(urllib.error.HTTPError, match='404'):
                urllib.request.urlopen(f'{address}{place}')
    finally:
        server.shutdown()
        server.server_close()


def test_a_training_may_be_watched_before_its_first_figures(tmp_path):
    folder = tmp_path / 'soon'
    folder.mkdir()
    with pytest.raises(UserError, match='name the folder of an experiment'):
        watch(folder, port=0)
    (folder / 'models').mkdir()
    server = watch(folder, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        curves = f'http://127.0.0.1:{server.server_port}/curves.png'
        with pytest.raises(urllib.error.HTTPError, match='404'):
            urllib.request.urlopen(curves)
        append_record(folder / 'metrics.jsonl', {'iter': 1, 'epoch': 0, 'lrs': [1e-5], 'l_pix': 0.001})
        with urllib.request.urlopen(curves) as picture:
            assert picture.read(4) == b'\x89PNG'
    finally:
        server.shutdown()
        server.server_close()


def test_trainings_are_compared_in_a_table_and_a_picture(finished, tmp_path, capsys):
    other = tmp_path / 'muon'
    other.mkdir()
    append_record(other / 'metrics.jsonl', {'iter': 500, 'epoch': 0, 'lrs': [1e-4], 'time': 0.25, 'l_pix': 0.03})
    append_record(other / 'metrics.jsonl', {'iter': 500, 'dataset': 'rain', 'metrics': {'psnr': 28.0, 'lpips': 0.1}})
    picture = tmp_path / 'both.png'
    assert main(['compare', str(finished), str(other), '-o', str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        '| experiment | iterations | loss | s / iteration | rain psnr | rain ssim | rain lpips |'
    )
    assert lines[2].startswith('| derain | 2,000 | 1.03 | – | 26.2000 (best 26.2000 at 2,000) |')
    assert lines[3] == '| muon | 500 | 0.03 | 0.250 | 28.0000 (best 28.0000 at 500) | – | 0.1000 (best 0.1000 at 500) |'
    assert read_image(picture).rgb.std() > 0.01
    assert main(['compare', str(finished), str(finished)]) == 2
    assert 'two experiments of the name derain' in capsys.readouterr().err
    assert main(['compare', str(finished), '-o', 'both.pgn']) == 2


def test_an_idle_connection_keeps_nobody_waiting(tmp_path):
    (tmp_path / 'models').mkdir()
    append_record(tmp_path / 'metrics.jsonl', {'iter': 1, 'epoch': 0, 'lrs': [1e-5], 'l_pix': 0.001})
    server = watch(tmp_path, port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = f'127.0.0.1:{server.server_port}'
        idle = socket.create_connection(('127.0.0.1', server.server_port))
        with idle, urllib.request.urlopen(f'http://{here}/', timeout=30) as page:
            assert page.status == 200
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_that_is_none(tmp_path):
    (tmp_path / 'models').mkdir()
    for port in (99_999, -1):
        with pytest.raises(UserError, match=f'--port {port}: must be 0 to 65535'):
            watch(tmp_path, port=port)


def test_a_training_of_a_single_curve(tmp_path):
    append_record(tmp_path / 'metrics.jsonl', {'iter': 1, 'epoch': 0, 'lrs': [1e-5]})
    assert plot(tmp_path) == [tmp_path / 'curves.png']


def test_the_best_is_what_the_option_file_says(tmp_path):
    experiment = tmp_path / 'one'
    experiment.mkdir()
    append_record(experiment / 'metrics.jsonl', {'iter': 1, 'epoch': 0, 'lrs': [1e-5], 'l_pix': 0.001})
    for number, value in ((1, 3.0), (2, 5.0)):
        record = {'iter': number, 'dataset': 'v', 'metrics': {'pi': value, 'psnr': value}}
        append_record(experiment / 'metrics.jsonl', record)
    (experiment / 'run.yml').write_text('val: {metrics: {pi: {type: calculate_pi, better: lower}, psnr: {type: x}}}')
    (experiment / 'notes.yml').write_text('- a list, of something else')
    (table,) = compare.rows([experiment])[1][2:]
    assert '5.0000 (best 3.0000 at 1)' in table
    assert '5.0000 (best 5.0000 at 2)' in table


CUT = """\
2026-01-03 00:00:01,000 INFO: [derai..][epoch:  0, iter:   3,000, lr:(3.000e-04,)] [eta: 1:00:00, time (data): 0.10 \
(0.001)] l_pix: 2.0000e-02 patch: 1.2800e+02\x20
2026-01-03 00:00:01,000 INFO: Validation rain at 3000
\t # psnr: 27.1000\tBest: 27.1000 @ 3000 iter
"""


@pytest.mark.parametrize('end', range(1, len(CUT) + 1, 3))
def test_a_log_may_be_cut_anywhere(finished, end):
    (finished / 'train_derain_20260103_000000.log').write_text(CUT[:end])
    curves = read_logs(finished)
    assert curves.training[2000]['l_pix'] == 0.03
    assert curves.validation['rain', 'psnr'][2000] == 26.2


@pytest.mark.parametrize(
    ('line', 'rest'),
    [
        ('[epoch:  0, iter:   3,000, lr:()] l_pix: 2.0e-02', {'l_pix': 0.02}),
        ('[epoch:  0, iter:   3,000, lr:(1e-4,)] l_pix: 1.0e l_percep: 1.0', {'l_percep': 1, 'lr': 1e-4}),
        ('[epoch:  0, iter:   3,000, lr:(-,)] l_pix: nope', {}),
        ('[epoch:  0, iter:   ,, lr:(1e-4,)] l_pix: 1.0', None),
        ('\t # psnr: 20.1x', None),
    ],
)
def test_what_is_no_number_in_a_log_is_passed_over(finished, line, rest):
    (finished / 'train_derain_20260103_000000.log').write_text(f'{line}\n')
    curves = read_logs(finished)
    assert curves.training.get(3000) == rest
    assert curves.validation['rain', 'psnr'] == {1000: 25.1, 2000: 26.2}
    assert plot(finished)


@pytest.mark.parametrize(
    ('record', 'training', 'psnr'),
    [
        ({'dataset': 'rain', 'metrics': {'psnr': None, 'ssim': 0.5}}, {'l_pix': 0.02}, None),
        ({'dataset': 'rain', 'metrics': {'psnr': [1]}}, {'l_pix': 0.02}, None),
        ({'dataset': 'rain', 'metrics': None}, {'l_pix': 0.02}, None),
        ({'dataset': 'rain', 'metrics': {'psnr': 28.0}}, {'l_pix': 0.02}, 28.0),
        ({'lrs': [None], 'l_pix': 0.01}, {'l_pix': 0.01}, None),
        ({'lrs': 0.1, 'l_pix': 0.01}, {'l_pix': 0.01, 'lr': 0.1}, None),
        ({'lrs': [], 'l_pix': 10**400}, {}, None),
        ({'lrs': {}, 'l_pix': {'a': 1}}, {}, None),
    ],
)
def test_what_is_no_number_in_the_records_is_passed_over(finished, record, training, psnr):
    append_record(finished / 'metrics.jsonl', {'iter': 3000, 'l_pix': 0.02})
    append_record(finished / 'metrics.jsonl', {'iter': 3000, **record})
    curves = read_logs(finished)
    assert curves.training[3000] == training
    assert curves.validation['rain', 'psnr'].get(3000) == psnr
    assert plot(finished)


def test_a_folder_of_the_name_of_a_log_is_one_line(finished, capsys):
    (finished / 'train_z.log').mkdir()
    assert main(['plot', str(finished)]) == 2
    assert 'train_z.log: cannot be read' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text',
    [
        'datasets: {val: ~}',
        'datasets: {val: [1]}',
        'datasets: [1]',
        'datasets: {1: {dataroot_gt: here}}',
        'datasets: {val: {dataroot_gt: [a, b]}}',
        'datasets: {val: {dataroot_gt: 5}}',
        'datasets: {val: {dataroot_gt: ~nobody-of-that-name/x}}',
        'datasets: {val: {dataroot_gt: "a\\0b"}}',
        'datasets: {val',
        '- a list',
        'val: {metrics: [1]}',
        'val: {metrics: {psnr: 1}}',
        'val: [1]',
    ],
)
def test_any_option_file_may_lie_beside_the_logs(finished, text):
    write_image(finished / 'visualization' / 'a' / 'a_100.png')
    (finished / 'a.yml').write_text(text)
    assert len(plot(finished)) == 2
    assert '26.2000 (best 26.2000 at 2,000)' in compare.rows([finished])[1][2]


def of_metrics(folder, values, options=None):
    """An experiment with a metric's values at iterations 1, 2, …"""
    folder.mkdir()
    append_record(folder / 'metrics.jsonl', {'iter': 1, 'epoch': 0, 'lrs': [1e-5], 'l_pix': 0.001})
    for name, numbers in values.items():
        for number, value in enumerate(numbers, 1):
            append_record(folder / 'metrics.jsonl', {'iter': number, 'dataset': 'v', 'metrics': {name: value}})
    if options:
        (folder / 'run.yml').write_text(options)
    return folder


@pytest.mark.parametrize(
    ('name', 'values', 'expected'),
    [
        ('psnr', [20.0, float('nan'), 19.0], '19.0000 (best 20.0000 at 1)'),
        ('psnr', [float('nan'), 20.0, 21.0], '21.0000 (best 21.0000 at 3)'),
        ('lpips', [float('nan'), 0.2, 0.3], '0.3000 (best 0.2000 at 2)'),
        ('lpips', [0.2, 0.3, float('nan')], 'nan (best 0.2000 at 1)'),
        ('psnr', [float('nan'), float('nan')], '| nan |'),
        ('psnr', [20.0, float('inf'), 19.0], '19.0000 (best inf at 2)'),  # of equal pictures
    ],
)
def test_the_best_is_a_number(tmp_path, name, values, expected):
    (table,) = compare.rows([of_metrics(tmp_path / 'one', {name: values})])[1][2:]
    assert expected in table


@pytest.mark.parametrize(
    ('name', 'options', 'best'),
    [
        ('q', 'val: {metrics: {q: {type: calculate_niqe}}}', 'lower'),
        ('q', 'val: {metrics: {q: {type: calculate_lpips, net: vgg}}}', 'lower'),
        ('q', 'val: {metrics: {q: {type: calculate_pyiqa, metric: brisque}}}', 'lower'),
        ('q', 'val: {metrics: {q: {type: calculate_pyiqa, metric: musiq}}}', 'higher'),
        ('q', 'val: {metrics: {q: {type: calculate_niqe, better: higher}}}', 'higher'),
        ('niqe', 'val: {metrics: {niqe: {type: calculate_psnr}}}', 'higher'),
        ('fidelity_psnr', None, 'higher'),
        ('psnr_confident', None, 'higher'),
        ('lpips_vgg', None, 'lower'),
        ('FID', None, 'lower'),
        ('pi', None, 'lower'),
        ('pixels_right', None, 'higher'),
    ],
)
def test_which_way_is_up(tmp_path, name, options, best):
    (table,) = compare.rows([of_metrics(tmp_path / 'one', {name: [3.0, 5.0]}, options)])[1][2:]
    assert ('5.0000 (best 3.0000 at 1)' if best == 'lower' else '5.0000 (best 5.0000 at 2)') in table


@pytest.mark.parametrize('name', ['d$1_{$', '_und', 'a|b', '$x$', '$', 'a$b$c', 'a\nb', 'caf\udce9', '50%', '^_^'])
def test_any_name_is_a_plain_name(tmp_path, name, monkeypatch):
    from matplotlib.axes import Axes

    folders = [of_metrics(tmp_path / 'plain', {'psnr': [1.0]}), of_metrics(tmp_path / name, {name.strip('\n'): [1.0]})]
    legends = []
    legend = Axes.legend

    def seen(axis, *args, **options):
        made = legend(axis, *args, **options)
        legends.append([text.get_text() for text in made.get_texts()])
        return made

    monkeypatch.setattr(Axes, 'legend', seen)
    curves, lines = compare.rows(folders)
    compare.draw(curves, tmp_path / 'both.png')
    assert len(legends[0]) == 2  # the loss, of both
    assert {line.replace(r'\|', '').count('|') for line in lines} == {7}
    assert all('\n' not in line for line in lines)
    assert plot(folders[1])


@pytest.mark.parametrize('name', ['x.jpg', 'x', 'there.png', 'file/x.png'])
def test_a_picture_that_cannot_be_written_is_all_that_is_said(finished, tmp_path, capsys, name):
    (tmp_path / 'there.png').mkdir()
    (tmp_path / 'file').write_text('')
    assert main(['compare', str(finished), '-o', str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert name in said.err
    assert said.err.count('\n') == 1
