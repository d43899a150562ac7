"""Keys without effect are named: their partner is missing, or switches them off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmambair_arch.models.vmambair_model import VmambaIRModel
from vmambair_arch.options import load_options
from vmambair_arch.plugin import compat
from vmambair_arch.preflight.partners import check_partners
from vmambair_arch.preflight.report import Report

compat.apply()

FILES = sorted((Path(__file__).resolve().parents[2] / 'options').glob('*.yml'))
OURS = {'model_type': 'VmambaIRModel', 'datasets__train__type': 'PairedProgressiveDataset'}


@pytest.mark.parametrize(
    ('changes', 'key', 'partner'),
    [
        ({'train__ema_power': 0.75}, 'train: ema_power', {'train__ema_decay': 0.9}),
        ({'train__ema_power': 0.75, 'train__ema_decay': 0}, 'train: ema_power', {'train__ema_decay': [0.9, 0.5]}),
        ({'train__ema_update_after_step': 9}, 'train: ema_update_after_step', {'train__ema_decay': 0.9}),
        ({'train__ema_gamma': 2, 'train__ema_decay': 0.9}, 'train: ema_gamma', {'train__ema_power': 0.75}),
        ({'train__use_grad_clip': False, 'train__grad_clip': 1}, 'train: grad_clip', {'train__use_grad_clip': True}),
        (
            {'train__optim_g__type': 'AdamW', 'train__optim_g__weight_decay': 0,
             'train__optim_g__decay_state_space': True},
            'train: optim_g: decay_state_space', {'train__optim_g__weight_decay': 0.1},
        ),
        ({'val__tile_overlap': 16}, 'val: tile_overlap', {'val__tile': 128}),
        ({'datasets__train__enlarge': 2}, 'datasets: train: enlarge', {'datasets__train__enlarge_probability': 0.5}),
        ({'datasets__train__cutmix': {'beta': 2, 'probability': 0}}, 'datasets: train: cutmix: beta',
         {'datasets__train__cutmix__probability': 0.1}),
        ({'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 8}}, 'network_d', None),
        ({'train__optim_d': {'type': 'Adam', 'lr': 0.001}}, 'train: optim_d', None),
        ({'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1}}, 'train: gan_opt', None),
    ],
)  # fmt: skip
def test_a_key_without_its_partner_is_named_and_with_it_is_not(
    check: Any, changes: dict[str, Any], key: str, partner: dict[str, Any] | None
) -> None:
    report = check(**(OURS | changes))
    assert report.faults == []
    assert [line for line in report.warnings if line.startswith(f'{key} does nothing')]
    if partner is not None:
        assert not [line for line in check(**(OURS | changes | partner)).warnings if 'does nothing' in line]


def test_settings_of_degradations_that_never_come() -> None:
    settings: dict[str, Any] = {'halo_range': [1, 2], 'codec_list': ['webp'], 'codec_weights': [1]}
    options: dict[str, Any] = {'model_type': 'VmambaIRRealSRModel', **settings}
    report = Report('')
    check_partners(options, ('g',), report)
    assert report.warnings == [
        'halo_range does nothing without halo_prob above 0',
        'codec_list does nothing without codec_prob or codec_prob2 above 0',
        'codec_weights does nothing without codec_prob or codec_prob2 above 0',
    ]
    report = Report('')
    check_partners(options | {'halo_prob': 0.1, 'codec_prob2': 0.1}, ('g',), report)
    assert report.warnings == []


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_no_option_file_of_ours_has_a_key_without_effect(file: Path) -> None:
    from basicsr.utils.registry import MODEL_REGISTRY

    options = load_options(file)
    model = MODEL_REGISTRY.get(options['model_type'])
    if issubclass(model, VmambaIRModel) and 'train' in options:
        report = Report(file.name)
        check_partners(options, model.labels, report)
        assert report.warnings == []
