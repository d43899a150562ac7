"""What fits together, or not: periods, batches, pools, disk, memory, states; and that no file makes the check fail."""

from __future__ import annotations

import copy
import inspect
import re
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment import options, write_image, write_options, write_pairs

from vmambair_arch import VmambaIR, ops, preflight
from vmambair_arch.data.prepare.derive import make_lmdb
from vmambair_arch.models.checkpointing import write_checkpoint
from vmambair_arch.models.optimizers import OPTIMIZERS
from vmambair_arch.ops import depthwise
from vmambair_arch.preflight import resources, start
from vmambair_arch.preflight.building import check_optimizers, model_class
from vmambair_arch.preflight.report import Report
from vmambair_arch.preflight.values import values_at

COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [2], 'restart_weights': [1], 'eta_min': 0.0001}
PROGRESSIVE = {
    'model_type': 'VmambaIRModel',
    'datasets__train__type': 'PairedProgressiveDataset',
    'datasets__train__gt_size': None,
    'datasets__train__gt_sizes': [16, 24],
    'datasets__train__mini_batch_sizes': [2, 1],
    'datasets__train__iters': [2, 2],
}


def words(lines: list[str], *expected: str) -> bool:
    return any(all(word in line for word in expected) for line in lines)


# ---------------------------------------------------------------- what costs time on a CPU


@pytest.mark.parametrize(
    ('keys', 'has_bf16', 'said'),
    [
        ({'amp': 'fp16'}, True, 'amp: fp16 makes a step on a CPU ten times as long'),
        ({'amp': 'bf16'}, False, 'amp: bf16: this processor has no instructions for bf16'),
        ({'amp': 'bf16'}, True, ''),
        ({'amp': None}, False, ''),
        ({'compile': True}, True, 'compile: true: on a CPU it compiles for minutes'),
        ({'compile': False}, True, ''),
    ],
)
def test_keys_that_cost_time_on_a_processor(check, monkeypatch, keys, has_bf16, said):
    monkeypatch.setattr(resources, 'computes_in_bf16', lambda: has_bf16)
    changes = {f'train__{key}': value for key, value in keys.items()}
    report = check(model_type='VmambaIRModel', num_gpu=0, **changes)
    found = [line for line in report.warnings if line.startswith(('train: amp', 'train: compile'))]
    assert report.faults == []
    assert len(found) == bool(said)
    assert not said or said in found[0]


# ---------------------------------------------------------------- schedules


def test_periods_that_end_before_the_run(check):
    """BasicSR's scheduler stops with an error there; ours holds the rate, which is a warning."""
    (fault,) = check(train__scheduler=COSINE).faults
    assert 'BasicSR stops with an error at 4' in fault
    report = check(train__scheduler=COSINE, model_type='VmambaIRModel')
    assert report.faults == []
    assert words(report.warnings, 'periods add up to 2, total_iter is 4: the rate stays at 0.0001 from 2 on')


@pytest.mark.parametrize('total', [1, 2, 3, 4])
@pytest.mark.parametrize('periods', [[1], [2], [1, 1], [3]])
def test_periods_end_before_the_run_where_an_iteration_comes_after_their_end(check, periods, total):
    """Iteration i is trained with the rate of i - 1: BasicSR's scheduler has one for all up to the sum of periods."""
    cosine = COSINE | {'periods': periods, 'restart_weights': [1] * len(periods)}
    changes = {'train__scheduler': cosine, 'train__total_iter': total}
    short = total - 1 > sum(periods)
    assert words(check(**changes).faults, 'BasicSR stops with an error at') == short
    assert bool(check(**changes).faults) == short
    report = check(model_type='VmambaIRModel', **changes)
    assert report.faults == []
    assert words(report.warnings, 'the rate stays at') == short


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({}, "train: optim_g: Adam has no 'decay_state_space'"),
        ({'model_type': 'VmambaIRModel'}, None),
        ({'model_type': 'VmambaIRSRGANModel'}, None),
        ({'model_type': 'SRGANModel'}, "train: optim_g: Adam has no 'decay_state_space'"),
    ],
)
def test_arguments_of_optimisers_that_only_our_models_take_out(check, changes, said):
    optimizer = {'type': 'Adam', 'lr': 0.001, 'weight_decay': 0.1, 'decay_state_space': True}
    faults = [fault for fault in check(train__optim_g=optimizer, **changes).faults if 'optim_g' in fault]
    assert (faults == []) if said is None else words(faults, said)


@pytest.mark.parametrize('key', ['train__grad_clip', 'train__accumulate', 'train__max_bad_steps', 'val__tile_overlap'])
def test_an_empty_key_that_nothing_reads_is_no_more_than_that(check, key):
    *_, name = key.split('__')
    report = check(**{key: None})
    assert report.faults == []
    assert words(report.warnings, f"nothing reads '{name}'")
    assert words(check(model_type='VmambaIRModel', **{key: None}).faults, f'{name} must be')
    assert words(check(train__warmup_iter=None).faults, 'warmup_iter must be')  # which BasicSR reads


def test_periods_that_end_after_the_run(check):
    """As in a released recipe: 432 000 of periods in 396 000 iterations end at 1.24e-5, never at 1e-6."""
    cyclic = {
        'type': 'CosineAnnealingRestartCyclicLR',
        'periods': [144000, 288000],
        'restart_weights': [1, 1],
        'eta_mins': [3e-4, 1e-6],
    }
    report = check(
        train__scheduler=cyclic, train__total_iter=396000, train__optim_g__lr=3e-4, model_type='VmambaIRModel'
    )
    assert words(report.warnings, 'add up to 432000', 'ends at a rate of 1.24e-05', 'reaches 1e-06')


def test_basicsr_stops_where_the_check_says():
    """The iteration that the fault names is the one at which BasicSR's own scheduler fails."""
    from basicsr.models.lr_scheduler import CosineAnnealingRestartLR

    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    scheduler = CosineAnnealingRestartLR(optimizer, [2], [1], 0.0001)
    optimizer.step()
    for _ in (2, 3):  # BasicSR steps at the start of every iteration but the first
        scheduler.step()
    with pytest.raises(TypeError):
        scheduler.step()


@pytest.mark.parametrize(
    ('iters', 'does'), [([2, 1], 'the last stage goes on to 4'), ([2, 9], 'ends before its stages')]
)
def test_stages_that_do_not_add_up(check, iters, does):
    report = check(**(PROGRESSIVE | {'datasets__train__iters': iters}))
    assert report.faults == []
    assert words(report.warnings, f'iters add up to {sum(iters)}, total_iter is 4', does)


def test_stages_of_different_number(check):
    (fault,) = check(**(PROGRESSIVE | {'datasets__train__iters': [4]})).faults
    assert fault.startswith('datasets: train: ')
    assert 'one value per stage' in fault


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(('batch', 'ratio', 'fits'), [(3, 1, True), (4, 1, False), (4, 2, True), (7, 2, False)])
def test_batch_against_data(check, batch, ratio, fits):
    report = check(datasets__train__batch_size_per_gpu=batch, datasets__train__dataset_enlarge_ratio=ratio)
    assert (report.faults == []) == fits
    assert fits or 'no iteration would run' in report.faults[0]


def test_batch_against_data_on_two_ranks(check, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert check(datasets__train__batch_size_per_gpu=2, LAUNCHER='pytorch').faults == []
    assert words(check(datasets__train__batch_size_per_gpu=3, LAUNCHER='pytorch').faults, '3 images on 2 ranks')


def test_the_pool_of_pairs_against_the_batch(check):
    pool = {
        'model_type': 'VmambaIRRealSRModel',
        'gt_size': 16,
        'datasets__train': {
            'name': 'Train', 'type': 'RealESRGANPipelineDataset', 'dataroot_gt': 'train/gt', 'crop_pad_size': 32,
            'batch_size_per_gpu': 8, 'num_worker_per_gpu': 0,
        },
    }  # fmt: skip
    assert words(check(queue_size=180, **pool).faults, 'queue_size: 180 is not a multiple of the batch 8; take 184')
    assert check(queue_size=16, **pool).faults == []


def test_grey_photographs_that_a_data_set_refuses(check, workplace):
    write_image(workplace / 'train/gt/001.png', channels=1)
    photographs = {
        'name': 'Train', 'type': 'RealESRGANPipelineDataset', 'dataroot_gt': 'train/gt', 'crop_pad_size': 32,
        'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0,
    }  # fmt: skip
    report = check(model_type='VmambaIRRealSRModel', gt_size=16, queue_size=4, datasets__train=photographs)
    assert words(report.faults, '1 of 3 images are grey, which RealESRGANPipelineDataset refuses: 001.png')


# ---------------------------------------------------------------- disk and memory


def test_checkpoints_that_do_not_fit_on_the_disk(check, monkeypatch):
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=9_000_000))
    many = {'train__total_iter': 100, 'logger__save_checkpoint_freq': 10, 'model_type': 'VmambaIRModel'}
    (fault,) = check(**many).faults
    assert '10 checkpoints of 0.0029 GB need 0.029' in fault
    assert 'keep_last' in fault
    assert check(**many, logger__keep_last=1).faults == []


@pytest.mark.parametrize('linked', ['experiments', 'experiments/tiny', None])
@pytest.mark.parametrize('resumed', [False, True])
def test_the_disk_that_counts_is_the_one_that_checkpoints_are_written_to(
    check, workplace, monkeypatch, linked, resumed
):
    """`experiments`, or the folder of a run, may be a link to another disk; a new run moves the latter away."""
    (workplace / 'other').mkdir()
    (workplace / 'experiments').mkdir() if linked != 'experiments' else None
    if linked:
        (workplace / linked).symlink_to(workplace / 'other')
    usage, asked = shutil.disk_usage('.'), []
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: asked.append(Path(path)) or usage)
    monkeypatch.setattr(start, 'check_start', lambda *given: 2 if resumed else 0)
    check(model_type='VmambaIRModel')
    elsewhere = linked == 'experiments' or (linked and resumed)
    assert asked == [workplace / ('other' if elsewhere else 'experiments')]


def test_the_disk_of_a_first_run_is_that_of_the_current_folder(check, workplace, monkeypatch):
    usage, asked = shutil.disk_usage('.'), []
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: asked.append(Path(path)) or usage)
    check(model_type='VmambaIRModel')
    assert asked == [workplace]


def test_images_that_do_not_fit_into_memory(check, monkeypatch):
    monkeypatch.setattr(resources, 'free_system_memory', lambda: 100_000)
    (fault,) = check(**PROGRESSIVE, datasets__train__cache=True).faults
    assert fault.startswith('memory: about ')
    assert "leave 'cache' out" in fault


def test_the_estimate_of_memory_counts_what_autograd_keeps(check):
    """Activations grow with the batch and with the area of the patch; parts of a batch run one after the other."""
    from vmambair_arch.options import load_options

    check()
    opt = load_options('train.yml')
    section = opt['datasets']['train']
    one = resources._activations(opt, section)
    assert resources._activations(opt, {**section, 'batch_size_per_gpu': 4}) == pytest.approx(4 * one, rel=0.1)
    assert resources._activations(opt, {**section, 'gt_size': 32}) == pytest.approx(4 * one, rel=0.2)
    opt['train']['accumulate'] = 4
    assert resources._activations(opt, {**section, 'batch_size_per_gpu': 4}) == one


@pytest.fixture
def a_gpu(monkeypatch):
    """Estimates as for a GPU whose kernels are right; there is none."""
    triton = next(backend for backend in ops.BACKENDS if backend.name == 'triton')
    right = ops.Choice(triton, 'the first that is right here')
    for module in (resources, ops.selective_scan):
        monkeypatch.setattr(module, 'choose', lambda device, dtype, **rest: right)
    way = ops.Choice(depthwise.WAYS[0], 'the first that is right here')
    for module in (resources, depthwise):
        monkeypatch.setattr(module, 'choose_depthwise', lambda device, dtype, **rest: way)
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *_: True)


def test_the_estimate_of_memory_for_a_gpu_is_of_its_own_kernels(check, a_gpu, monkeypatch):
    from vmambair_arch.options import load_options

    check()
    opt = load_options('train.yml')
    section = opt['datasets']['train']
    seen = set()
    real = resources._Workspace.__torch_dispatch__

    def note(self, func, types, args=(), kwargs=None):
        if func.name().startswith('vmambair::'):
            seen.add((func.name(), args[0].device.type, args[0].dtype))
        return real(self, func, types, args, kwargs)

    monkeypatch.setattr(resources._Workspace, '__torch_dispatch__', note)
    one = resources._activations(opt, section, True)
    assert seen == {(f'vmambair::triton_{name}', 'cuda', torch.float32) for name in ('scan', 'depthwise')}
    assert resources._activations(opt, {**section, 'batch_size_per_gpu': 4}, True) == pytest.approx(4 * one, rel=0.3)
    with monkeypatch.context() as without:
        without.setattr(ops.triton_scan, 'backward_bytes', lambda *_: 0)
        assert resources._activations(opt, section, True) < 0.9 * one, 'the borders of chunks are not counted'
    seen.clear()
    opt['train']['amp'] = 'bf16'
    half = resources._activations(opt, section, True)
    assert {dtype for name, _, dtype in seen if name.endswith('depthwise')} == {torch.bfloat16}
    assert 0 < half < 0.95 * one


# ---------------------------------------------------------------- databases


@pytest.mark.parametrize('kind', ['PairedImageDataset', 'PairedProgressiveDataset'])
@pytest.mark.parametrize('phase', ['train', 'val'])
def test_a_database_that_is_not_whole_is_found(check, workplace, kind, phase):
    kind = kind if phase == 'train' or kind == 'PairedImageDataset' else 'PairedValidationDataset'
    section = f'datasets__{phase}'
    changes = dict(PROGRESSIVE) if kind == 'PairedProgressiveDataset' else {}
    changes |= {f'{section}__type': kind, f'{section}__io_backend': {'type': 'lmdb'}}
    for part in ('gt', 'lq'):
        changes[f'{section}__dataroot_{part}'] = str(make_lmdb(workplace / phase / part))
    assert check(**changes).faults == []
    meta_info, data = (workplace / phase / 'lq.lmdb' / name for name in ('meta_info.txt', 'data.mdb'))
    listed = meta_info.read_text()
    for part in ('gt', 'lq'):
        (workplace / phase / f'{part}.lmdb/meta_info.txt').write_text(f'{listed}7.png (24,24,3) 1\n')
    (fault,) = check(**changes).faults
    assert re.search(r"\.lmdb: its meta_info\.txt names '7', but the database has no such key", fault)
    for part in ('gt', 'lq'):
        (workplace / phase / f'{part}.lmdb/meta_info.txt').write_text(listed)
    data.write_bytes(data.read_bytes()[:-5000])
    (fault,) = check(**changes).faults
    assert re.search(rf'datasets: {phase}: .*lq\.lmdb: cannot be opened as LMDB \(data\.mdb is cut off', fault)


# ---------------------------------------------------------------- states and folders


def saved(workplace, iteration):
    """What a run of `options` has saved at an iteration, without a step."""
    opt, folder = options(), workplace / 'experiments/tiny'
    network = VmambaIR(**{key: value for key, value in opt['network_g'].items() if key != 'type'})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    state = {'iter': iteration, 'epoch': 0, 'optimizers': [optimizer.state_dict()]}
    state['schedulers'] = [scheduler.state_dict()]
    write_checkpoint(folder / f'training_states/{iteration}.state', state)
    write_checkpoint(folder / f'models/net_g_{iteration}.pth', {'params': network.state_dict()})


def test_a_resume_beyond_the_run(check, workplace):
    saved(workplace, 6)
    (fault,) = check(AUTO_RESUME=True).faults
    assert 'is at iteration 6, beyond train: total_iter 4' in fault


def test_a_resume_of_a_complete_run(check, workplace):
    saved(workplace, 4)
    report = check(AUTO_RESUME=True)
    assert report.faults == []
    assert words(report.warnings, 'complete: iteration 4 of 4')


def test_an_option_file_that_would_be_moved_away(check, workplace):
    folder = workplace / 'experiments/tiny'
    folder.mkdir(parents=True)
    write_options(folder / 'train.yml', options())
    arguments = Namespace(
        opt='experiments/tiny/train.yml', launcher='none', auto_resume=False, debug=False, force_yml=None
    )
    (fault,) = preflight.check(arguments).faults
    assert 'lies in experiments/tiny, which a new run moves away' in fault


def test_debug_and_force_yml_are_seen(check, workplace):
    (workplace / 'experiments/debug_tiny').mkdir(parents=True)
    report = check(DEBUG=True, FORCE_YML=['train:total_iter=0'])
    assert words(report.faults, 'total_iter must be')
    report = check(DEBUG=True, FORCE_YML=['train:total_iter=1'])
    assert words(report.warnings, 'experiments/debug_tiny is there')


# ---------------------------------------------------------------- metrics and loggers


def test_a_metric_that_cannot_score(check, monkeypatch, tmp_path):
    """A weight or package that is missing shows before the run, not at its first validation."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'nothing'))
    lpips = {'type': 'calculate_lpips', 'better': 'lower', 'weights': 'nothing'}
    assert words(check(val__metrics__lpips=lpips).faults, 'val: metrics: lpips: ')
    assert words(check(val__metrics__psnr__crop_border=60).faults, 'val: metrics: psnr: scores a picture with nan')


def test_a_metric_whose_lower_values_are_better(check, workplace):
    for path in (workplace / 'val').glob('*/*.png'):
        write_image(path, 96, 192)
    report = check(val__metrics__niqe={'type': 'calculate_niqe', 'crop_border': 0})
    assert report.faults == []
    assert words(report.warnings, 'val: metrics: niqe: lower is better')


def test_wandb_needs_tensorboard(check):
    assert words(check(logger__wandb={'project': 'rain'}).faults, 'use_tb_logger: true')


# ---------------------------------------------------------------- somebody else's classes


@pytest.mark.parametrize(
    ('network', 'scale'),
    [
        ({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}, 'scale'),
        # asks its numbers while it is built, so that it cannot be built without memory
        ({'type': 'SwinIR', 'embed_dim': 12, 'depths': [1], 'num_heads': [2], 'window_size': 4}, 'upscale'),
    ],
    ids=['RRDBNet', 'SwinIR'],
)
def test_networks_of_basicsr(check, network, scale):
    network = {**network, scale: 1}
    report = check(network_g=network)
    assert report.faults == []
    assert words(report.facts, f'network_g: {network["type"]}, ', 'parameters')
    assert words(check(network_g={**network, scale[:-1]: 2}).faults, f"did you mean '{scale}'?")
    assert words(check(network_g={**network, scale: 4}).faults, 'network_g enlarges 4 times')


def test_a_network_that_fails_while_it_is_built(check):
    """Whatever a constructor raises is what the run would meet."""
    resnet = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1, 'upscale': 1}
    assert words(check(network_g=resnet).faults, 'network_g: ', "no attribute 'upconv1' (AttributeError)")


def test_keys_of_somebody_elses_data_set(check, monkeypatch):
    """Its keys are known from its source; a stranger's unknown key is a warning, for source may hide what it reads."""
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.utils.registry import DATASET_REGISTRY

    class HazeDataset(PairedImageDataset):
        def __init__(self, opt):
            super().__init__(opt)
            self.density = opt.get('density', 1)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'HazeDataset', HazeDataset)
    report = check(datasets__train__type='HazeDataset', datasets__train__density=2, datasets__train__densty=2)
    assert report.faults == []
    assert words(report.warnings, "datasets: train: nothing reads 'densty' (did you mean 'density'?)")
    assert not words(report.warnings, "'density',")


# ---------------------------------------------------------------- LMDB


def test_sizes_of_images_in_lmdb(check, workplace):
    import lmdb

    for kind, size in ('gt', 24), ('lq', 12):
        folder = workplace / f'train_{kind}.lmdb'
        with lmdb.open(str(folder)) as database, database.begin(write=True) as transaction:
            for i in range(3):
                transaction.put(f'{i:03d}'.encode(), (workplace / f'train/gt/{i:03d}.png').read_bytes())
        (folder / 'meta_info.txt').write_text(''.join(f'{i:03d}.png ({size},{size},3) 1\n' for i in range(3)))
    lmdb_options = {
        'datasets__train__dataroot_gt': 'train_gt.lmdb',
        'datasets__train__dataroot_lq': 'train_lq.lmdb',
        'datasets__train__io_backend': {'type': 'lmdb'},
    }
    (fault,) = check(**lmdb_options).faults
    assert 'targets are not 1 times their inputs' in fault
    assert '24x24' in fault
    assert '12x12' in fault


# ---------------------------------------------------------------- several folders


def several(check, *entries, **changes):
    roots = {'datasets__train__dataroot_gt': ..., 'datasets__train__dataroot_lq': ...}
    return check(**PROGRESSIVE | roots | {'datasets__train__sources': list(entries)} | changes)


TRAIN = {'dataroot_gt': 'train/gt', 'dataroot_lq': 'train/lq'}
VAL = {'dataroot_gt': 'val/gt', 'dataroot_lq': 'val/lq'}


def test_several_folders_and_their_shares(check, workplace):
    report = several(check, TRAIN | {'weight': 3}, VAL | {'weight': 1})
    assert report.faults == []
    assert words(report.facts, 'train: 5 pairs in 2 folders (75%, 25% of the draws); 10 headers read')
    assert words(several(check, TRAIN, VAL).facts, 'train: 5 pairs in 2 folders (60%, 40% of the draws)')
    (workplace / 'val/lq/001.png').write_bytes(b'no picture')
    assert words(several(check, TRAIN, VAL).faults, 'datasets: train: val/lq/001.png')


@pytest.mark.parametrize(
    ('entries', 'fault'),
    [
        ((TRAIN, {'dataroot_gt': 'val/gt'}), 'sources: entry 2: dataroot_lq is missing'),
        ((TRAIN, VAL | {'wheight': 2}), "entry 2: nothing reads 'wheight' (did you mean 'weight'?)"),
        ((TRAIN | {'weight': 1}, VAL), 'entry 2: weight is missing; give one to each folder, or to none'),
        ((TRAIN | {'weight': -1}, VAL | {'weight': 1}), 'entry 1: weight must be a number above 0, not -1'),
        ((TRAIN, VAL | {'dataroot_gt': 'nowhere'}), 'nowhere: no such folder'),
        ((TRAIN, VAL | {'dataroot_lq': 'train/lq'}), 'no target for 002.png of train/lq'),
        ((TRAIN | {'io_backend': {'type': 'lmdb'}},), 'train/gt: not an LMDB folder'),
    ],
)
def test_faults_of_several_folders(check, entries, fault):
    (line,) = several(check, *entries).faults
    assert line.startswith('datasets: train: ')
    assert fault in line


def test_sources_beside_a_root(check):
    report = several(check, TRAIN, datasets__train__dataroot_gt='train/gt')
    assert words(report.faults, 'dataroot_gt stands beside sources; move it into an entry of them')
    assert words(several(check, 'train').faults, "entry 1 must be a section, as {dataroot_gt: FOLDER}, not 'train'")
    assert words(several(check, TRAIN, datasets__train__gtsize=3).faults, "nothing reads 'gtsize'")


def test_sizes_are_checked_in_every_folder(check, workplace):
    write_pairs(workplace / 'other', 2, scale=2)
    other = {'dataroot_gt': 'other/gt', 'dataroot_lq': 'other/lq'}
    assert words(
        several(check, TRAIN, other).faults, 'targets are not 1 times their inputs, the scale: other/gt/000.png'
    )


def test_folders_below_folders(check, workplace):
    for name in ('a', 'b'):
        write_pairs(workplace / 'deep', 1)
        for kind in ('gt', 'lq'):
            (workplace / 'deep' / kind / name).mkdir()
            (workplace / 'deep' / kind / '000.png').rename(workplace / 'deep' / kind / name / '001.png')
    deep = {'dataroot_gt': 'deep/gt', 'dataroot_lq': 'deep/lq'}
    assert words(several(check, deep).faults, 'deep/gt: no images in this folder', 'recursive: true')
    report = several(check, deep | {'recursive': True})
    assert report.faults == []
    assert words(report.facts, 'train: 2 pairs; 4 headers')
    (workplace / 'deep/lq/b/001.png').unlink()
    assert words(several(check, deep, datasets__train__recursive=True).faults, 'deep/lq: no input for b/001.png')


def test_several_folders_of_photographs(check, workplace):
    photographs = {
        'name': 'Train', 'type': 'RealESRGANPipelineDataset', 'crop_pad_size': 32,
        'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0,
        'sources': [{'dataroot_gt': 'train/gt', 'weight': 1}, {'dataroot_gt': 'val/gt', 'weight': 1}],
    }  # fmt: skip
    pool = {'model_type': 'VmambaIRRealSRModel', 'gt_size': 16, 'queue_size': 4}
    report = check(datasets__train=photographs, **pool)
    assert report.faults == []
    assert words(report.facts, 'train: 5 images in 2 folders (50%, 50% of the draws); 5 headers read')
    write_image(workplace / 'val/gt/001.png', channels=1)
    assert words(check(datasets__train=photographs, **pool).faults, 'are grey, which RealESRGANPipelineDataset refuses')


# ---------------------------------------------------------------- the check itself


def test_a_test_file(check):
    changes = {'train': ..., 'logger': ..., 'datasets__train': ..., 'val__val_freq': ...}
    assert words(check(**changes, val__save_img=True).faults, 'val: suffix is missing')
    assert check(**changes).faults == []
    assert check(**changes, val__save_img=True, model_type='VmambaIRModel').faults == []
    assert words(check(**changes, val__tyle=64, model_type='VmambaIRModel').faults, "did you mean 'tile'?")


GAN = {
    'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 2, 'input_size': 128},
    'train__optim_d': {'type': 'Adam', 'lr': 0.001},
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
}
MODELS: dict[str, dict[str, Any]] = {
    'SRModel': {},
    'VmambaIRModel': {'model_type': 'VmambaIRModel'},
    'VmambaIRSRGANModel': {'model_type': 'VmambaIRSRGANModel', **GAN},
    'VmambaIRRealSRModel': {'model_type': 'VmambaIRRealSRModel', 'gt_size': 16, 'queue_size': 4},
}
SUBSCRIPTED = ['val__val_freq', 'val__save_img', 'logger__print_freq', 'logger__save_checkpoint_freq',
               'logger__use_tb_logger', 'train__total_iter', 'train__optim_g', 'num_gpu', 'network_g']  # fmt: skip
"""What BasicSR's pipeline reads without asking, in a run with validations, whoever asks for it besides."""


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('key', SUBSCRIPTED)
def test_what_one_reader_cannot_do_without_is_missing_whatever_the_others_do(check, model, key):
    *sections, name = key.split('__')
    faults = check(**MODELS[model], **{key: ...}).faults
    assert any(name in fault and 'missing' in fault for fault in faults), faults
    assert not sections or any(fault.startswith(f'{sections[0]}: {name}') for fault in faults)


@pytest.mark.parametrize('model', ['SRModel', 'VmambaIRModel'])
@pytest.mark.parametrize(
    'unread',
    [
        {'val': ...},
        {'val': ..., 'datasets__val': ...},
        {'datasets__val': ..., 'val__save_img': ...},
        {'name': 'debug_x', 'val__val_freq': ..., 'logger__print_freq': ..., 'logger__save_checkpoint_freq': ...},
        {'name': 'debug_x', 'val__val_freq': 'none', 'logger__print_freq': 0},
    ],
)
def test_what_a_run_does_not_read_is_not_missed(check, model, unread):
    assert check(**MODELS[model], **unread).faults == []


@pytest.mark.parametrize('model', ['SRModel', 'VmambaIRModel'])
def test_a_test_file_without_what_its_pipeline_reads(check, model):
    changes = {'train': ..., 'logger': ..., 'datasets__train': ..., 'val__save_img': ...}
    assert check(model_type=model, **changes).faults == ['val: save_img is missing']


# A patch of 16 x 16 and its input come to 2 * 3 * 16 * 16 floats.
SAMPLE = 2 * 3 * 16 * 16 * 4


@pytest.mark.parametrize(
    ('changes', 'ranks', 'samples'),
    [
        ({'num_worker_per_gpu': 0}, 1, 0),
        ({'num_worker_per_gpu': 1}, 1, 2),
        ({'num_worker_per_gpu': 2}, 1, 4),
        ({'num_worker_per_gpu': 2, 'batch_size_per_gpu': 3}, 1, 12),
        ({'num_worker_per_gpu': 2, 'prefetch_mode': 'cpu', 'num_prefetch_queue': 5}, 1, 10),
        ({'num_worker_per_gpu': 50}, 1, 100),
        ({'num_worker_per_gpu': 50, 'prefetch_mode': None}, 2, 200),
    ],
)
def test_batches_of_workers_against_the_shared_memory(check, workplace, monkeypatch, changes, ranks, samples):
    """Docker's default of 64 MB ended runs in the traceback of a worker."""
    shm, usage = workplace / 'shm', shutil.disk_usage(workplace)
    shm.mkdir()
    monkeypatch.setattr(resources, 'SHM', shm)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    workers = changes['num_worker_per_gpu'] * ranks
    settings = {f'datasets__train__{key}': value for key, value in changes.items()}
    settings |= {'train__total_iter': 1000, 'datasets__train__dataset_enlarge_ratio': 100}
    need = samples * SAMPLE + workers * resources._LOCKS
    real = shutil.disk_usage
    for free, fits in ((need, True), (need - 1, need == 0)):
        there = usage._replace(free=max(0, free))
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, there=there: there if path == shm else real(path))
        faults = [fault for fault in check(**settings).faults if 'shared memory' in fault]
        assert (faults == []) == fits, faults
        assert fits or words(faults, '--shm-size', 'num_worker_per_gpu')


def test_the_largest_stage_counts_and_a_short_run_has_fewer_batches(check, workplace, monkeypatch):
    shm, real = workplace / 'shm', shutil.disk_usage
    shm.mkdir()
    monkeypatch.setattr(resources, 'SHM', shm)
    stages = {'gt_sizes': [16, 24, 32], 'mini_batch_sizes': [2, 2, 1], 'iters': [1, 1, 1], 'num_worker_per_gpu': 4}
    changes = (
        PROGRESSIVE | {f'datasets__train__{key}': value for key, value in stages.items()} | {'train__total_iter': 3}
    )
    need = 3 * 2 * 24 * 24 * (2 * 3 * 4) + 4 * resources._LOCKS  # three iterations of the second stage's batch
    for free, fits in ((need, True), (need - 1, False)):
        there = real(workplace)._replace(free=free)
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, there=there: there if path == shm else real(path))
        assert words(check(**changes).faults, 'shared memory') != fits


def test_where_there_is_no_shared_memory_nothing_is_said_of_it(check, workplace, monkeypatch):
    monkeypatch.setattr(resources, 'SHM', workplace / 'none')
    assert check(datasets__train__num_worker_per_gpu=2).faults == []


@pytest.mark.parametrize('place', ['', 'datasets__train__'])
@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('blur_kernel_size', 9999),
        ('blur_kernel_size2', 257),
        ('resize_range', [0.15, 400]),
        ('poisson_scale_range2', [1, 1e9]),
        ('kernel_prob', [1e300] * 6),
    ],
)
def test_degradations_that_nobody_waits_for(check, place, key, value):
    pool = {'model_type': 'VmambaIRRealSRModel', 'gt_size': 16, 'queue_size': 4}
    faults = check(**pool, **{f'{place}{key}': value}).faults
    assert words(faults, f'degradation option {key} must be'), faults


OUR_DATA = {'datasets__train__type': 'PairedProgressiveDataset', 'datasets__val__type': 'PairedValidationDataset'}
THEIRS_MISS = ["key 'scale' is missing, which PairedImageDataset needs"]


@pytest.mark.parametrize('model', ['SRModel', 'VmambaIRModel'])
@pytest.mark.parametrize(
    ('changes', 'faults'),
    [
        ({}, THEIRS_MISS),
        ({**OUR_DATA}, []),
        ({**OUR_DATA, 'datasets__val__type': 'PairedImageDataset'}, THEIRS_MISS),
        ({**OUR_DATA, 'datasets__train__type': 'PairedImageDataset'}, THEIRS_MISS),
        ({'datasets__train__scale': 1, 'datasets__val__scale': 1}, []),  # which the run reads, where it is left out
        ({'datasets__train__scale': 1}, THEIRS_MISS),
    ],
)
def test_a_scale_that_is_left_out(check, model, changes, faults):
    assert check(model_type=model, scale=..., **changes).faults == faults


def test_a_scale_that_is_left_out_of_a_file_that_enlarges(check):
    enlarging = {'scale': ..., 'network_g__scale': 2, **OUR_DATA, 'model_type': 'VmambaIRModel'}
    assert check(**enlarging).faults == ["key 'scale' is missing: network_g enlarges 2 times; write scale: 2"]
    pool = {'model_type': 'VmambaIRRealSRModel', 'gt_size': 16, 'queue_size': 4, **OUR_DATA}
    assert words(check(scale=..., **pool).faults, "key 'scale' is missing: how many times smaller")


class WithoutDefault(torch.utils.data.Dataset):
    """A data set of somebody else, whose source hides what it reads."""

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.sides = [24 // vars(self)['opt']['scale']]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.zeros(3, *self.sides, *self.sides)
        return {'lq': image, 'gt': image, 'lq_path': 'a.png'}


def test_a_data_set_is_built_with_the_scale_of_the_run_or_none(check, monkeypatch):
    from basicsr.utils.registry import DATASET_REGISTRY

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'WithoutDefault', WithoutDefault)
    hidden = {'datasets__train__type': 'WithoutDefault', 'datasets__val__type': 'PairedValidationDataset'}
    assert check(**hidden).faults == []
    assert words(check(scale=..., **hidden).faults, "datasets: train: 'scale' (KeyError)")


def places(options: dict[str, Any], above: tuple = ()) -> Iterator[tuple[str, ...]]:
    for key, value in options.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


ODD = (None, 'x', [], {}, -1, 1.5, True, [1, 'a'], {'a': {'b': 1}}, 0)
SKETCHES = (options(), options(**PROGRESSIVE, train__scheduler=COSINE))


def check_odd_values(workplace, cases) -> None:
    arguments = Namespace(opt='odd.yml', launcher='none', auto_resume=False, debug=False, force_yml=None)
    for sketch, place, value in cases:
        opt = copy.deepcopy(sketch)
        section = opt
        for key in place[:-1]:
            section = section[key]
        section[place[-1]] = value
        write_options(workplace / 'odd.yml', opt)
        preflight.check(arguments, training=True)  # whatever it is, it is reported and raises nothing


CASES = [(sketch, place, value) for sketch in SKETCHES for place in places(sketch) for value in ODD]


def test_no_value_anywhere_makes_the_check_fail(workplace):
    check_odd_values(workplace, CASES[::23])


def test_sections_that_are_none(workplace):
    """Each section in turn, for many a reader takes for granted that it is one."""
    sketch = SKETCHES[1]
    sections = [place for place in places(sketch) for _, value in values_at(sketch, place) if isinstance(value, dict)]
    assert len(sections) > 8
    check_odd_values(workplace, [(sketch, place, value) for place in sections for value in ('x', [1, 'a'])])


@pytest.mark.slow
def test_no_value_anywhere_makes_the_check_fail_in_full(workplace):
    check_odd_values(workplace, CASES)


@pytest.mark.slow
def test_thirteen_thousand_pairs(check, workplace, capsys):
    """Rain13K's number of pairs; what it took is in the report, twice: without and with the cache of headers."""
    write_pairs(workplace / 'one', 1)
    for kind in 'gt', 'lq':
        folder = workplace / 'many' / kind
        folder.mkdir(parents=True)
        data = (workplace / 'one' / kind / '000.png').read_bytes()
        for i in range(13_000):
            (folder / f'{i:05d}.png').write_bytes(data)
    for _ in range(2):
        report = check(datasets__train__dataroot_gt='many/gt', datasets__train__dataroot_lq='many/lq')
        assert report.faults == []
        (line,) = (fact for fact in report.facts if fact.startswith('train: 13000 pairs; 26000 headers read in '))
        with capsys.disabled():
            print(f'\n{line}')  # noqa: T201 the figure that this test is for


def test_clean_photographs_of_a_training_are_read_and_their_keys_known(check, tmp_path):
    varied = {
        **PROGRESSIVE,
        'datasets__train__dataroot_clean': 'photographs',
        'datasets__train__clean_probability': 0.2,
        'datasets__train__lines_probability': 0.2,
        'datasets__train__enlarge': 4,
        'datasets__train__enlarge_probability': 0.2,
    }
    assert words(check(**varied).faults, 'photographs: no such folder')
    write_image(tmp_path / 'photographs' / 'a.png')
    report = check(**varied)
    assert report.faults == []
    assert not words(report.warnings, 'clean_probability')
    (tmp_path / 'photographs' / 'b.png').write_bytes(b'no picture')
    assert words(check(**varied).faults, 'b.png')
    typo = varied | {'datasets__train__clean_probabilty': 0.2}
    assert words(check(**typo).faults, "'clean_probabilty'", "did you mean 'clean_probability'")


@pytest.mark.parametrize(
    ('train', 'fault'),
    [
        ({'ema_decay': [0.9, 0.99], 'ema_power': 0.75, 'loss_schedules': {'pixel': [[0, 1], [2, 0.5]]}}, ''),
        ({'ema_decay': [0.9, 0.9]}, 'train: ema_decay names an average twice'),
        ({'ema_power': -1}, 'train: ema_power must be a number from 0 to 1, not -1'),
        ({'loss_schedules': {'pixl': [[0, 1]]}}, "no loss 'pixl_opt' (did you mean 'pixel'?)"),
        ({'loss_schedules': {'pixel': [[0, -1]]}}, 'loss_schedules: pixel must be'),
        ({'optim_g': {'type': 'Adann', 'lr': 1e-3}}, "did you mean 'Adan'"),
        ({'optim_g': {'type': 'Muon', 'lr': 1e-3, 'ns_step': 5}}, 'ns_step'),
    ],
)
def test_averages_schedules_and_optimisers_are_checked(check, train, fault):
    report = check(model_type='VmambaIRModel', **{f'train__{key}': value for key, value in train.items()})
    assert [line for line in report.faults if not fault or fault not in line] == []
    assert bool(report.faults) == bool(fault)


def capturable() -> list[str]:
    return [name for name, kind in sorted(OPTIMIZERS.items()) if 'capturable' in inspect.signature(kind).parameters]


@pytest.mark.parametrize('name', capturable())
def test_what_only_a_gpu_can_is_refused_without_one(check, name):
    """The first step died of it."""
    report = check(model_type='VmambaIRModel', num_gpu=0, train__optim_g={'type': name, 'lr': 1e-3, 'capturable': True})
    assert report.faults == ['train: optim_g: capturable is for a GPU, and this run uses none; leave it out']


@pytest.mark.parametrize('more', [{'capturable': False}, {'fused': True}, {'foreach': True}])
def test_what_a_processor_can_is_not(check, more):
    report = check(model_type='VmambaIRModel', num_gpu=0, train__optim_g={'type': 'Adam', 'lr': 1e-3, **more})
    assert report.faults == []


@pytest.mark.parametrize(('gpus', 'faults'), [(0, 1), (1, 0)])
@pytest.mark.parametrize('model', ['SRModel', 'VmambaIRModel'])
def test_capturable_is_for_runs_on_a_gpu(model, gpus, faults):
    section = {'optim_g': {'type': 'Adam', 'lr': 1e-3, 'capturable': True}, 'total_iter': 4}
    options, report = {'model_type': model, 'train': section}, Report('')
    check_optimizers(options, model_class(options), gpus, report)
    assert len(report.faults) == faults


# ---------------------------------------------------------------- what the first validation would find


def small_niqe(**more):
    return {'niqe': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower', **more}}


@pytest.mark.parametrize(
    ('sizes', 'metrics', 'fault'),
    [
        ([(24, 24)], small_niqe(), 'val: metrics: niqe: cannot score 000.png (24x24) of datasets: val: NIQE needs two'),
        (
            [(300, 300), (95, 400)],
            small_niqe(),
            'cannot score 001.png (400x95) of datasets: val: NIQE needs two blocks',
        ),
        ([(96, 192), (200, 200)], small_niqe(), ''),
        ([(96, 192)], small_niqe(crop_border=4), 'val: metrics: niqe'),
        ([(24, 24)], {'psnr': {'type': 'calculate_psnr', 'crop_border': 12}}, 'cannot score 000.png (24x24)'),
        ([(24, 24)], {'psnr': {'type': 'calculate_psnr', 'crop_border': 11}}, ''),
        ([(10, 30)], {'ssim': {'type': 'calculate_ssim', 'crop_border': 0}}, 'cannot score 000.png (30x10)'),
    ],
)
def test_metrics_on_images_too_small_for_them(check, workplace, sizes, metrics, fault):
    for folder in ('gt', 'lq'):
        for path in (workplace / 'val' / folder).iterdir():
            path.unlink()
        for i, size in enumerate(sizes):
            write_image(workplace / 'val' / folder / f'{i:03d}.png', *size)
    faults = check(val__metrics=metrics).faults
    if fault:
        assert len(faults) == 1
        assert fault in faults[0]
    else:
        assert faults == []


def test_a_metric_that_one_colour_breaks_is_a_warning(check, monkeypatch):
    from basicsr.utils.registry import METRIC_REGISTRY

    def contrast(img, img2):
        return 1 // int(img.std())

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'contrast', contrast)
    report = check(val__metrics={'contrast': {'type': 'contrast'}})
    assert report.faults == []
    assert words(report.warnings, 'val: metrics: contrast: cannot score a picture of one colour: ', 'ZeroDivisionError')


def test_a_metric_against_the_truth_where_there_is_none(check, workplace):
    val = {'name': 'V', 'type': 'SingleImageDataset', 'dataroot_lq': 'val/lq', 'io_backend': {'type': 'disk'}}
    [fault] = check(datasets__val=val).faults
    assert fault.startswith('val: metrics: psnr: calculate_psnr compares with the truth, which datasets: val does not')


def test_two_validation_sets_of_one_name(check):
    val = dict(options()['datasets']['val'])
    [fault] = check(datasets__val_2=val).faults
    assert fault.startswith("datasets: val, val_2 have one name, 'Val'")
    assert check(datasets__val_2=val | {'name': 'Other'}).faults == []


@pytest.mark.parametrize(('phase', 'workers'), [('train', 0), ('train', 1), ('val', 0)])
def test_workers_that_persist_and_are_none(check, phase, workers):
    faults = check(
        datasets__train__num_worker_per_gpu=workers, **{f'datasets__{phase}__persistent_workers': True}
    ).faults
    assert [fault.partition(' needs')[0] for fault in faults] == (
        [] if workers else [f'datasets: {phase}: persistent_workers: true']
    )


def test_a_folder_that_cannot_be_written(check, workplace, monkeypatch):
    (workplace / 'experiments').write_text('a file')
    [fault] = check().faults
    assert fault.startswith('experiments is there and is no folder, where experiments/tiny is to be written')
    (workplace / 'experiments').unlink()
    (workplace / 'experiments').symlink_to('nowhere')
    [fault] = check().faults
    assert fault.startswith('experiments is there and is no folder')
    (workplace / 'experiments').unlink()
    monkeypatch.setattr('os.access', lambda path, mode: False)
    [fault] = check().faults
    assert fault == f'experiments/tiny cannot be written: no permission in {workplace}'


def test_keep_last_may_be_left_empty(check):
    assert check(model_type='VmambaIRModel', logger__keep_last=None).faults == []
