"""What neosr and traiNNer-redux have under other names is answered with ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vmambair_arch.models.lr_schedulers import SCHEDULERS
from vmambair_arch.models.optimizers import OPTIMIZERS, PACKAGES
from vmambair_arch.plugin import compat
from vmambair_arch.preflight import elsewhere
from vmambair_arch.preflight.schema import Knowledge

compat.apply()

OURS = {'model_type': 'VmambaIRModel', 'datasets__train__type': 'PairedProgressiveDataset'}


@pytest.mark.parametrize(
    ('changes', 'line'),
    [
        ({'train__optim_g__type': 'adan_sf'}, "train: optim_g: there is no 'adan_sf' (here: AdamWScheduleFree; Adan"),
        ({'train__optim_g__type': 'SOAP_SF'}, "there is no 'SOAP_SF' (here: SOAP, with a scheduler"),
        ({'train__optim_g__type': 'adamw'}, "there is no 'adamw' (here it is 'AdamW')"),
        ({'train__optim_g__schedule_free': True}, "Adam has no 'schedule_free' (here: type: AdamWScheduleFree)"),
        ({'train__pixel_opt__type': 'mssim_loss'}, "train: pixel_opt: type: there is no 'mssim_loss' (here it is 'MSS"),
        ({'train__pixel_opt__type': 'charbonnierloss'}, "(here it is 'CharbonnierLoss')"),
        ({'train__pixel_opt__type': 'chc_loss'}, "there is no 'chc_loss' (here: CharbonnierLoss"),
        ({'train__pixel_opt__type': 'ncc_loss'}, "there is no 'ncc_loss'; there is nothing like it here, but Char"),
        ({'train__scheduler__type': 'CosineAnnealing'}, '(here: CosineAnnealingRestartLR with periods'),
        ({'model_type': 'otf'}, "model_type: there is no 'otf' (here: VmambaIRRealSRModel"),
        ({'datasets__train__type': 'paired'}, "datasets: train: type: there is no 'paired' (here: PairedProgress"),
        ({'network_g__type': 'compact'}, "network_g: type: there is no 'compact' (here: SRVGGNetCompact)"),
        ({'use_amp': True}, "nothing reads 'use_amp' (here: train: amp: fp16)"),
        ({'train__ema': 0.999}, "train: nothing reads 'ema' (here: train: ema_decay)"),
        ({'train__moa_augs': ['mixup']}, "train: nothing reads 'moa_augs' (here: mixup, cutmix and cutblur"),
        ({'datasets__train__batch_size': 4}, "nothing reads 'batch_size' (here: batch_size_per_gpu)"),
        ({'logger__total_iter': 4}, "logger: nothing reads 'total_iter' (here: train: total_iter)"),
        ({'train__grad_clip': True}, 'train: grad_clip must be a number above 0, the largest norm (use_grad'),
    ],
)  # fmt: skip
def test_names_of_others_are_answered_with_ours(check: Any, changes: dict[str, Any], line: str) -> None:
    faults = check(**(OURS | changes)).faults
    assert any(line in fault for fault in faults), faults


def test_an_optimiser_whose_package_is_missing_is_named_with_it(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPTIMIZERS, 'AdamWScheduleFree', raising=False)
    faults = check(**OURS, train__optim_g__type='AdamWScheduleFree').faults
    assert faults == ["train: optim_g: there is no 'AdamWScheduleFree': pip install schedulefree"]


def test_what_the_tables_name_is_there_and_what_they_translate_is_not() -> None:
    from basicsr.utils import registry

    known = {
        'optimizer': {*OPTIMIZERS, *PACKAGES},
        'scheduler': set(SCHEDULERS),
        **{
            kind: {name.removesuffix('_basicsr') for name, _ in getattr(registry, f'{kind.upper()}_REGISTRY')}
            for kind in ('loss', 'model', 'dataset', 'arch')
        },
    }
    for kind, table in elsewhere.TYPES.items():
        for theirs, ours in table.items():
            first = re.match(r'\w+', ours)
            assert not ours or first and first[0] in known[kind], (kind, theirs)
            assert theirs not in known[kind]
    keys = Knowledge()
    for path in elsewhere.KEYS:
        section, key = path[:-1], path[-1]
        if len(section) < 2 and '*' not in section:
            assert '*' in key or key not in keys.all_keys(section), path
    assert not {path[-1] for path in elsewhere.KEYS if path[:1] == ('datasets',)} & {
        key for kind in keys.datasets for key in keys.dataset_keys(kind)
    }
