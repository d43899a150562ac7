"""The paper's tables: the page is what the data says, and the ablations are what their option files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.paper import ablation, tables
from vmambair_arch.archs import VmambaIR
from vmambair_arch.cli import main
from vmambair_arch.data.prepare import SOURCES
from vmambair_arch.evaluation.complexity import count
from vmambair_arch.evaluation.published import ABLATIONS, OURS, published
from vmambair_arch.options import load_options, option_file


def test_page_is_up_to_date() -> None:
    assert tables.README.read_text(encoding='utf-8') == tables.readme()


def test_option_files_are_there_and_agree() -> None:
    for experiment in tables.EXPERIMENTS:
        networks = [load_options(option_file(name))['network_g'] for name in (*experiment.trainings, experiment.test)]
        assert all(network == networks[0] for network in networks), experiment.title


@pytest.mark.parametrize('experiment', tables.EXPERIMENTS, ids=lambda experiment: experiment.test)
def test_every_test_set_of_the_option_files_has_its_published_figures(experiment: tables.Experiment) -> None:
    """`vmambair evaluate` finds the paper's row by the name that the option file gives a set."""
    names = [section['name'] for section in load_options(option_file(experiment.test))['datasets'].values()]
    assert sorted(names) == sorted(experiment.datasets)
    for name in names:
        assert any(figure.method == OURS for figure in published(name)), name


@pytest.mark.parametrize('path', sorted(option_file('test_sr.yml').parent.glob('*.yml')), ids=lambda path: path.stem)
def test_a_data_set_has_one_name_in_all_option_files(path: Path) -> None:
    names = {
        section['dataroot_gt']: section['name']
        for experiment in tables.EXPERIMENTS
        for section in load_options(option_file(experiment.test))['datasets'].values()
    }
    for section in load_options(path)['datasets'].values():
        assert section['name'] == names.get(section.get('dataroot_gt'), section['name'])


@pytest.mark.parametrize('experiment', tables.EXPERIMENTS, ids=lambda experiment: experiment.test)
def test_the_command_on_the_page_can_be_run_as_it_stands(
    experiment: tables.Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed by the command line itself, it names the folders of the option file."""
    page = tables.readme().replace(' \\\n', ' ')
    (command,) = (
        line for line in page.splitlines() if line.startswith(f'vmambair evaluate results/{experiment.test[:-4]}/')
    )
    called = {}

    def evaluate(methods: list[str], data: list[list[str]], metrics: list[str], *_: object, **options: object) -> None:
        called.update(data=data, metrics=metrics, **options)

    monkeypatch.setattr('vmambair_arch.evaluation.evaluate.evaluate', evaluate)
    assert main(command.split()[1:]) == 0
    sections = load_options(option_file(experiment.test))['datasets'].values()
    keys = ('name', 'dataroot_gt', 'dataroot_lq')
    assert called['data'] == [[section[key] for key in keys if key in section] for section in sections]
    assert called['crop_border'] == experiment.crop_border


@pytest.mark.parametrize('experiment', tables.EXPERIMENTS, ids=lambda experiment: experiment.test)
def test_all_that_is_read_can_be_prepared(experiment: tables.Experiment) -> None:
    names = tables.prepared(experiment)
    assert set(names) <= set(SOURCES)
    laid_out = set().union(*(tables._folders(SOURCES[name]) for name in names))
    for name in (*experiment.trainings, experiment.test):
        for section in load_options(option_file(name))['datasets'].values():
            assert {section[key] for key in ('dataroot_gt', 'dataroot_lq') if key in section} <= laid_out


def test_reproduced_figures_come_with_their_command(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    entry = {'dataset': 'Rain100L', 'metric': 'psnr_y_matlab', 'value': 39.012, 'command': 'vmambair evaluate mine'}
    path = tmp_path / 'reproduced.json'
    path.write_text(json.dumps([entry]))
    monkeypatch.setattr(tables, 'REPRODUCED', path)
    assert '| Rain100L | PSNR (Y rounded) ↑ | 39.09 | 39.01 | `vmambair evaluate mine` |' in tables.readme()


@pytest.mark.parametrize('variant', ablation.VARIANTS)
def test_an_ablation_changes_the_network_alone(variant: str) -> None:
    base, ablated = (load_options(option_file(f'{n}.yml')) for n in ('train_realsr_stage1', f'ablation_{variant}'))
    assert ablated.pop('name') == f'ablation_{variant}'
    network = ablated.pop('network_g')
    changed = {key for key in network if network[key] != base['network_g'].get(key)}
    del base['name'], base['network_g']
    assert ablated == base
    assert (
        changed
        == {
            'full': set(),
            'v1': {'plane_directions', 'channel_directions'},
            'v2': {'channel_directions'},
            'v3': {'effn', 'num_blocks', 'num_refinement_blocks'},
            'v4': {'pointwise'},
            'one_way': {'channel_directions'},
            'no_pool': {'channel_pool'},
        }[variant]
    )


@pytest.mark.parametrize('variant', ablation.VARIANTS)
def test_small_ablations_can_be_built_and_run(variant: str) -> None:
    options = ablation.light_options(variant)
    network = VmambaIR(**{name: value for name, value in options['network_g'].items() if name != 'type'})
    with torch.no_grad():
        assert network(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    assert options['train']['total_iter'] == options['train']['scheduler']['periods'][0] == ablation.ITERATIONS
    assert sum(p.numel() for p in network.parameters()) < 2.5e6


def test_blocks_of_v3_are_the_nearest_in_cost() -> None:
    def cost(**changes: object) -> float:
        counted = count(VmambaIR(**{**ablation.arguments('v3'), **changes}))
        return (counted.total + counted.projection) / 1e9

    target = next(row.multiply_adds for row in ABLATIONS if row.name == 'V3') / 1e9
    chosen = abs(cost() - target)
    assert chosen < 0.01
    for blocks, refinement in (([9, 3, 2, 2], 9), ([10, 3, 3, 2], 9)):
        assert abs(cost(num_blocks=blocks, num_refinement_blocks=refinement) - target) > chosen


@pytest.mark.parametrize('variant', ablation.DERAINED)
def test_ablations_on_deraining_can_be_built_and_run(variant: str) -> None:
    network = ablation.derained(variant)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 16, 8)).shape == (1, 3, 16, 8)
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 2e6


def test_ablations_on_deraining_are_trained_once_by_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained = []

    def train(network: VmambaIR, data: Path, seed: int, *, steps: int) -> None:
        trained.append((sum(p.numel() for p in network.parameters()), seed, steps))

    monkeypatch.setattr(ablation.rivals, 'train', train)
    monkeypatch.setattr(ablation.rivals, 'score', lambda network, data: 27.0 + len(trained) / 100)
    first = ablation.derain(tmp_path, tmp_path, 7)
    assert [seed for _, seed, _ in trained] == [seed for seed in range(ablation.SEEDS) for _ in ablation.DERAINED]
    assert {steps for *_, steps in trained} == {7}
    assert ablation.derain(tmp_path, tmp_path, 7)['psnr_y'] == first['psnr_y']
    assert len(trained) == ablation.SEEDS * len(ablation.DERAINED)
    ablation.derain(tmp_path, tmp_path, 8)
    assert len(trained) == 2 * ablation.SEEDS * len(ablation.DERAINED)


def test_the_page_says_what_telling_ablations_apart_takes() -> None:
    scores = {'full': [28.0, 28.1, 28.2], 'v1': [27.9, 28.0, 28.1]}
    text = tables._derained({'steps': 400, 'input': 26.5, 'psnr_y': scores})
    assert 'VmambaIR | 28.10 | 28.00 to 28.20 |  |' in text
    assert '| 28.00 | 27.90 to 28.10 | -0.10 ± 0.00 |' in text
    assert 'differs from the next by 0.10 dB' in text
    # Two standard errors of the difference of two means of n seeds, 2 * 0.1 * (2 / n) ** 0.5, are 0.06 dB at n = 22.2.
    assert 'by 23 seeds of each' in text
