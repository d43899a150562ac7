"""The paper's tables: the page is what the data says, and the ablations are what their option files say."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.paper import ablation, tables
from vmambair_arch.archs import VmambaIR
from vmambair_arch.complexity import count
from vmambair_arch.evaluation.published import ABLATIONS
from vmambair_arch.options import load_options, option_file


def test_page_is_up_to_date() -> None:
    assert tables.README.read_text(encoding='utf-8') == tables.readme()


def test_option_files_are_there_and_agree() -> None:
    for experiment in tables.EXPERIMENTS:
        networks = [load_options(option_file(name))['network_g'] for name in (*experiment.trainings, experiment.test)]
        assert all(network == networks[0] for network in networks), experiment.title


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
