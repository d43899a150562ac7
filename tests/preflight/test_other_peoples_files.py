"""Option files of BasicSR's and Real-ESRGAN's shape: the keys that nothing reads are named, and the run starts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment import run, write_pairs

from vmambair_arch.cli import main
from vmambair_arch.preflight import theirs

# Shapes of BasicSR's options/train and of Real-ESRGAN's options, with networks and patches that a test can afford.
COMMON = """
manual_seed: 0
num_gpu: auto
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
val: {val_freq: !!float 2, save_img: false, suffix: ~, pbar: false,
      metrics: {psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false, better: higher}}}
logger: {print_freq: 1, save_checkpoint_freq: !!float 2, use_tb_logger: false, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""

MSRRESNET = (
    """
name: 001_MSRResNet_x4_f64b16_DIV2K_1000k_B16G1_wandb
model_type: SRModel
scale: 4
interval_list: [1]
datasets:
  train:
    {name: DIV2K, type: PairedImageDataset, dataroot_gt: train/gt, dataroot_lq: train/lq,
     filename_tmpl: '{}', io_backend: {type: disk}, gt_size: 16, use_flip: true, use_hflip: true, use_rot: true,
     interval_list: [1], random_reverse: false, use_shuffle: true, num_worker_per_gpu: 0, batch_size_per_gpu: 2,
     dataset_enlarge_ratio: 100, prefetch_mode: ~}
  val: {name: Set5, type: PairedImageDataset, dataroot_gt: val/gt, dataroot_lq: val/lq, io_backend: {type: disk}}
network_g: {type: MSRResNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, upscale: 4}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 2e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: CosineAnnealingRestartLR, periods: [4], restart_weights: [1], eta_min: !!float 1e-7}
  total_iter: 2
  warmup_iter: -1
  tsa_iter: 50000
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
"""
    + COMMON
)

ESRGAN = (
    """
name: 011_ESRGAN_x4_f64b23_DIV2K_400k_B16G1
model_type: ESRGANModel
scale: 4
datasets:
  train:
    {name: DIV2K, type: PairedImageDataset, dataroot_gt: train/gt, dataroot_lq: train/lq, io_backend: {type: disk},
     gt_size: 128, use_hflip: true, use_rot: true, use_shuffle: true, num_worker_per_gpu: 0, batch_size_per_gpu: 1,
     dataset_enlarge_ratio: 100, prefetch_mode: ~, queue_size: 180}
  val: {name: Set14, type: PairedImageDataset, dataroot_gt: val/gt, dataroot_lq: val/lq, io_backend: {type: disk}}
network_g: {type: RRDBNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, num_grow_ch: 2}
network_d: {type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 2}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  optim_d: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [1, 2], gamma: 0.5}
  total_iter: 2
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: !!float 1e-2, reduction: mean}
  gan_opt: {type: GANLoss, gan_type: vanilla, real_label_val: 1.0, fake_label_val: 0.0, loss_weight: !!float 5e-3}
  net_d_iters: 1
  net_d_init_iters: 0
  gan_type: vanilla
"""
    + COMMON
)

REALESRGAN = (
    """
name: train_RealESRGANx4plus_400k_B12G4
model_type: RealESRGANModel
scale: 4
l1_gt_usm: True
percep_gt_usm: True
gan_gt_usm: False
resize_prob: [0.2, 0.7, 0.1]
resize_range: [0.15, 1.5]
gaussian_noise_prob: 0.5
noise_range: [1, 30]
poisson_scale_range: [0.05, 3]
gray_noise_prob: 0.4
jpeg_range: [30, 95]
second_blur_prob: 0.8
resize_prob2: [0.3, 0.4, 0.3]
resize_range2: [0.3, 1.2]
gaussian_noise_prob2: 0.5
noise_range2: [1, 25]
poisson_scale_range2: [0.05, 2.5]
gray_noise_prob2: 0.4
jpeg_range2: [30, 95]
gt_size: 256
queue_size: 180
datasets:
  train:
    {name: DF2K+OST, type: RealESRGANDataset, dataroot_gt: train/gt, meta_info: train/list.txt,
     io_backend: {type: disk}, blur_kernel_size: 21,
     kernel_list: [iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso],
     kernel_prob: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], sinc_prob: 0.1, blur_sigma: [0.2, 3], betag_range: [0.5, 4],
     betap_range: [1, 2], blur_kernel_size2: 21,
     kernel_list2: [iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso],
     kernel_prob2: [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], sinc_prob2: 0.1, blur_sigma2: [0.2, 1.5],
     betag_range2: [0.5, 4], betap_range2: [1, 2], final_sinc_prob: 0.8, gt_size: 256, use_hflip: True, use_rot: False,
     use_shuffle: true, num_worker_per_gpu: 0, batch_size_per_gpu: 12, dataset_enlarge_ratio: 4, prefetch_mode: ~}
network_g: {type: RRDBNet, num_in_ch: 3, num_out_ch: 3, num_feat: 4, num_block: 1, num_grow_ch: 2}
network_d: {type: UNetDiscriminatorSN, num_in_ch: 3, num_feat: 4, skip_connection: True}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  optim_d: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [400000], gamma: 0.5}
  total_iter: 2
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
  gan_opt: {type: GANLoss, gan_type: vanilla, real_label_val: 1.0, fake_label_val: 0.0, loss_weight: !!float 1e-1}
  net_d_iters: 1
  net_d_init_iters: 0
"""
    + COMMON
)

FILES = {
    'SRModel': (MSRRESNET, {
        "nothing reads 'interval_list'", "train: nothing reads 'tsa_iter'",
        *(f"datasets: train: nothing reads '{key}'" for key in ('use_flip', 'interval_list', 'random_reverse')),
    }),
    'ESRGANModel': (ESRGAN, {"train: nothing reads 'gan_type'", "datasets: train: nothing reads 'queue_size'"}),
    'RealESRGANModel': (REALESRGAN, {"datasets: train: nothing reads 'gt_size'"}),
}  # fmt: skip
"""A file for each model, and what is to be said of it."""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / 'train', 3, size=128, scale=4)
    write_pairs(tmp_path / 'val', 1, size=32, scale=4)
    (tmp_path / 'train/list.txt').write_text('\n'.join(f'{i:03d}.png' for i in range(3)))
    return tmp_path


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, workplace: Path) -> tuple[Path, set[str]]:
    text, warnings = FILES[request.param]
    path = workplace / f'{request.param}.yml'
    path.write_text(text)
    return path, warnings


def test_what_nothing_reads_is_a_warning(
    file: tuple[Path, set[str]], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = file
    monkeypatch.setattr(theirs, 'DEGRADING_MODELS', {})  # which need a GPU
    assert main(['check', '-opt', path.name]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    unread = {line.removeprefix('warning: ').partition(' (did')[0] for line in said if 'nothing reads' in line}
    assert unread == expected


def test_the_same_key_under_a_model_and_a_data_set_of_ours_is_a_fault(
    workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    opt = yaml.safe_load(MSRRESNET)
    opt['model_type'] = 'VmambaIRModel'
    del opt['train']['tsa_iter'], opt['val']['suffix']
    mixed = copy.deepcopy(opt)
    mixed['datasets']['train']['type'] = 'PairedProgressiveDataset'
    for file, options in (('theirs.yml', opt), ('ours.yml', mixed)):
        (workplace / file).write_text(yaml.safe_dump(options))
    main(['check', '-opt', 'theirs.yml'])
    theirs = capsys.readouterr().out
    main(['check', '-opt', 'ours.yml'])
    ours = capsys.readouterr().out
    assert "warning: datasets: train: nothing reads 'interval_list'" in theirs
    assert "warning: nothing reads 'interval_list'" not in theirs  # at the top of a file the model reads
    assert "datasets: train: nothing reads 'interval_list'" in ours
    assert "warning: datasets: train: nothing reads 'interval_list'" not in ours


def test_such_a_run_trains(workplace: Path) -> None:
    (workplace / 'train.yml').write_text(ESRGAN)
    done = run('-m', 'vmambair_arch.train', '-opt', 'train.yml', cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "warning: datasets: train: nothing reads 'queue_size'" in done.stderr
    assert (workplace / 'experiments/011_ESRGAN_x4_f64b23_DIV2K_400k_B16G1/models/net_g_latest.pth').is_file()


@pytest.mark.parametrize(('model', 'refused'), [('SRGANModel', False), ('VmambaIRModel', True)])
def test_losses_that_others_call_in_their_own_way_are_built_and_not_called(
    check: Callable[..., Any], model: str, refused: bool
) -> None:
    """GFPGAN's `gan_component_opt` gets a label where ours get a target."""
    loss = {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 1.0}
    faults = check(model_type=model, train__gan_component_opt=loss).faults
    assert any('gan_component_opt' in fault for fault in faults) == refused


# ---------------------------------------------------------------- what a resume cannot repeat

SWINIR = {
    'type': 'SwinIR', 'img_size': 16, 'window_size': 4, 'depths': [2], 'num_heads': [1], 'embed_dim': 4,
    'drop_path_rate': 0.1, 'upsampler': '',
}  # fmt: skip


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({}, None),
        ({'manual_seed': None}, 'manual_seed is not set'),
        ({'model_type': 'RealESRNetModel'}, 'its pool of pairs (queue_size) begins empty'),
        ({'network_g': SWINIR}, 'network_g may draw from'),
    ],
)
def test_a_resume_says_what_is_not_as_it_would_have_been(
    check: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    said: str | None,
) -> None:
    from vmambair_arch.models import states

    begun = states.Start(tmp_path / '2.state', {'iter': 2, 'epoch': 0}, {}, {}, inside=True)
    monkeypatch.setattr(states, 'find_start', lambda opt, folder, auto, say: begun if auto else None)
    monkeypatch.setattr(states, 'misfit', lambda *args: '')
    warnings = check(AUTO_RESUME=True, **changes).warnings
    told = [warning for warning in warnings if 'resume' in warning]
    assert (told == []) if said is None else any(said in warning for warning in told)
    assert [warning for warning in check(**changes).warnings if 'a resume' in warning] == []
