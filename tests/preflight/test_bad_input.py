"""What bad input says, and the code that `vmambair train` exits with: nothing is started, one line names the thing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from experiment import options, write_image, write_options, write_pairs

from vmambair_arch.cli import main


@pytest.fixture
def refused(workplace: Path, capsys: pytest.CaptureFixture):
    """Train with changed options, which must be refused; what it says."""

    def train(*arguments: str, **changes: Any) -> str:
        write_options(workplace / 'train.yml', options(**changes))
        code = main(['train', '-opt', 'train.yml', *arguments])
        said = capsys.readouterr().err
        assert code == 2, said
        assert 'Traceback' not in said
        assert not (workplace / 'experiments').exists()
        return said

    return train


def one_fault(said: str) -> str:
    """The message of a refusal for one reason: one line."""
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith('vmambair: error: ')
    return lines[0].removeprefix('vmambair: error: ')


def test_a_pair_with_a_file_missing(workplace, refused):
    (workplace / 'train/lq/001.png').unlink()
    assert '001.png' in one_fault(refused())


def test_a_target_without_input_is_named_as_well(workplace, refused):
    (workplace / 'train/gt/002.png').unlink()
    assert '002.png' in one_fault(refused())


@pytest.mark.parametrize('folder', ['train', 'val'])
def test_a_png_that_is_cut_off(workplace, refused, folder):
    path = workplace / folder / 'lq/001.png'
    path.write_bytes(path.read_bytes()[:-20])
    said = one_fault(refused())
    assert f'{folder}/lq/001.png' in said
    assert 'it is cut off' in said


def test_a_png_with_a_damaged_header(workplace, refused):
    path = workplace / 'train/gt/001.png'
    data = bytearray(path.read_bytes())
    data[18] ^= 0xFF
    path.write_bytes(data)
    said = one_fault(refused())
    assert 'train/gt/001.png is a damaged or truncated image' in said
    assert "checksum of its part 'IHDR'" in said


def test_a_text_file_among_the_images(workplace, refused):
    (workplace / 'train/gt/notes.txt').write_text('taken in June')
    said = one_fault(refused())
    assert 'train/gt' in said
    assert 'notes.txt' in said


def test_a_text_file_named_png(workplace, refused):
    (workplace / 'train/gt/001.png').write_text('taken in June')
    assert 'train/gt/001.png is no PNG, JPEG' in one_fault(refused())


def test_a_file_of_zero_bytes(workplace, refused):
    (workplace / 'val/gt/001.png').write_bytes(b'')
    assert 'val/gt/001.png is empty' in one_fault(refused())


@pytest.mark.parametrize('folder', ['train', 'val'])
def test_an_empty_folder(workplace, refused, folder):
    shutil.rmtree(workplace / folder / 'gt')
    (workplace / folder / 'gt').mkdir()
    assert f'datasets: {folder}: {folder}/gt: no images' in one_fault(refused())


def test_a_missing_folder(workplace, refused):
    shutil.rmtree(workplace / 'train' / 'lq')
    assert 'datasets: train: train/lq: no such folder' in one_fault(refused())


def test_an_image_smaller_than_the_patch(workplace, refused):
    write_image(workplace / 'train/gt/001.png', 12, 24)
    write_image(workplace / 'train/lq/001.png', 12, 24)
    said = one_fault(refused())
    assert 'gt_size 16' in said
    assert '001.png (24x12)' in said


@pytest.mark.parametrize(('folder', 'size'), [('train', 23), ('val', 20)])
def test_a_pair_of_the_wrong_scale(workplace, refused, folder, size):
    write_image(workplace / folder / 'lq/001.png', 24, size)
    said = one_fault(refused())
    assert f'{folder}/gt/001.png is 24x24, 001.png {size}x24' in said
    assert '1 times' in said


def test_labels_of_the_wrong_size(workplace, refused):
    write_pairs(workplace / 'train', 3)
    for path in (workplace / 'train/gt').iterdir():
        write_image(workplace / 'train/label' / path.name, 24, 24)
    write_image(workplace / 'train/label/001.png', 20, 24)
    changes = {
        'model_type': 'VmambaIRModel',
        'datasets__train__type': 'PairedProgressiveDataset',
        'datasets__train__dataroot_label': 'train/label',
        'train__label_pixel_opt': {'type': 'L1Loss'},
    }
    said = one_fault(refused(**changes))
    assert 'labels are not 1 times the inputs, the scale: train/label/001.png is 24x20, not 24x24' in said


def test_an_unknown_arch(refused):
    said = one_fault(refused(network_g__type='VmambIR'))
    assert "network_g: type: there is no 'VmambIR' (did you mean 'VmambaIR'?)" in said


@pytest.mark.parametrize('section', ['path', 'datasets', 'train', 'logger', 'network_g'])
def test_a_missing_section(refused, section):
    assert f"section '{section}' is missing" in refused(**{section: ...})


def test_a_learning_rate_that_yaml_reads_as_text(workplace, refused):
    said = one_fault(refused(train__optim_g__lr='1e-3'))
    assert "train: optim_g: lr: '1e-3' is text to YAML; write 1.0e-3" in said


def test_an_experiment_that_is_there_already_is_moved_with_a_word(workplace, check):
    """BasicSR renames it without asking; how to go on with it instead is said first."""
    states = workplace / 'experiments/tiny/training_states'
    states.mkdir(parents=True)
    (states / '2.state').write_bytes(b'')
    report = check()
    assert report.faults == []
    (warning,) = (warning for warning in report.warnings if 'experiments/tiny' in warning)
    assert 'at iteration 2' in warning
    assert 'archived' in warning
    assert '--auto_resume' in warning


OURS = {'model_type': 'VmambaIRModel', 'datasets__train__type': 'PairedProgressiveDataset'}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({**OURS, 'train__ema_dcay': 0.9}, "train: nothing reads 'ema_dcay' (did you mean 'ema_decay'?)"),
        ({**OURS, 'loger': {}}, "nothing reads 'loger' (did you mean 'logger'?)"),
        ({**OURS, 'val__val_frq': 3}, "val: nothing reads 'val_frq' (did you mean 'val_freq'?)"),
        ({**OURS, 'path__pretrain_networks_g': None}, "path: nothing reads 'pretrain_networks_g'"),
        ({**OURS, 'datasets__train__gtsize': 9}, "datasets: train: nothing reads 'gtsize' (did you mean 'gt_size'?)"),
        ({'network_g__num_block': [1]}, "network_g: VmambaIR has no 'num_block' (did you mean 'num_blocks'?)"),
        ({'network_g__num_blocks': [1, 1]}, 'network_g: VmambaIR: num_blocks must name 4 levels'),
        ({'model_type': 'SRModle'}, "model_type: there is no 'SRModle' (did you mean 'SRModel'?)"),
        ({'datasets__train__type': 'PairedDataset'}, "datasets: train: type: there is no 'PairedDataset'"),
        ({'train__optim_g__type': 'Adamw'}, "train: optim_g: there is no 'Adamw'"),
        ({'train__optim_g__beta': 1}, "train: optim_g: Adam has no 'beta' (did you mean 'betas'?)"),
        ({'train__optim_g__lr': -1}, 'train: optim_g: '),
        ({'train__scheduler__type': 'Cosine'}, "train: scheduler: there is no 'Cosine'"),
        ({'train__scheduler__gama': 1}, "(did you mean 'gamma'?)"),
        ({'train__pixel_opt__type': 'L1Los'}, "train: pixel_opt: type: there is no 'L1Los' (did you mean 'L1Loss'?)"),
        ({'train__pixel_opt__weight': 1}, "train: pixel_opt: L1Loss has no 'weight' (did you mean 'loss_weight'?)"),
        ({'val__metrics__psnr__type': 'psnr'}, "val: metrics: psnr: type: there is no 'psnr'"),
        ({'val__metrics__psnr__crop_boarder': 0}, "(did you mean 'crop_border'?)"),
        ({'val__metrics__psnr__crop_border': ...}, "val: metrics: psnr: 'crop_border' is missing"),
        ({'train__total_iter': 'many'}, "train: total_iter must be a whole number from 1 up, not 'many'"),
        ({'val__val_freq': 0}, 'val: val_freq must be a whole number from 1 up, not 0'),
        ({'num_gpu': 64}, 'num_gpu: 64, but torch sees'),
        ({'scale': 2}, 'scale: 2, but network_g enlarges 1 times'),
        ({'datasets__train__batch_size_per_gpu': 4}, 'do not fill one batch of 4: no iteration would run'),
        ({'datasets__train__prefetch_mode': 'gpu'}, "prefetch_mode must be ~, cpu or cuda, not 'gpu'"),
        ({'datasets__train__prefetch_mode': 'cuda'}, 'prefetch_mode cuda needs'),
        ({'datasets__train__num_worker_per_gpu': ...}, 'datasets: train: num_worker_per_gpu is missing'),
        ({'datasets__valid': {'name': 'a'}}, "datasets: 'valid' must begin with train or val"),
        ({'path__pretrain_network_g': 'none.pth'}, 'path: pretrain_network_g: none.pth: no such checkpoint file'),
        ({'path__resume_state': 'none.state'}, 'path: resume_state: none.state does not exist'),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_options_that_cannot_be(refused, changes, message):
    assert message in refused(**changes)


def test_a_model_with_a_typing_error_is_the_only_fault(check):
    """What other models want, as StyleGAN2Model's `r1_reg_weight`, and which optimisers they know, does not matter."""
    report = check(model_type='VmambaIRModle', train__optim_g__type='AdamW')
    (fault,) = report.faults
    assert fault.startswith("model_type: there is no 'VmambaIRModle' (did you mean 'VmambaIRModel'?)")


def test_a_scan_that_is_asked_for_and_not_there(refused, monkeypatch):
    monkeypatch.setenv('VMAMBAIR_SCAN', 'mamba')
    assert 'VMAMBAIR_SCAN=mamba cannot be used' in refused(num_gpu=0)


def test_a_checkpoint_of_another_network(workplace, refused):
    import torch

    from vmambair_arch import VmambaIR

    wider = VmambaIR(dim=16, num_blocks=(1, 1, 1, 2), num_refinement_blocks=1)
    torch.save({'params': wider.state_dict()}, workplace / 'wider.pth')
    said = one_fault(refused(path__pretrain_network_g='wider.pth'))
    assert 'wider.pth is of another network' in said
    assert 'unknown (latent.1.' in said


def test_ten_faults_are_ten_lines(workplace, capsys):
    (workplace / 'val/lq/001.png').write_bytes(b'')
    write_image(workplace / 'train/gt/003.png')  # without a partner
    opt = options(
        model_type='VmambaIRModel',
        train__ema_dcay=0.9,
        train__optim_g__lr='1e-3',
        train__total_iter=0,
        network_g__num_block=[1],
        logger=...,
        datasets__train__prefetch_mode='gpu',
        val__metrics__psnr__type='psnr',
    )
    path = write_options(workplace / 'train.yml', opt)
    path.write_text(path.read_text() + 'name: again\n')
    for command in 'check', 'train':
        assert main([command, '-opt', 'train.yml']) == 2
        captured = capsys.readouterr()
        said = captured.out if command == 'check' else captured.err
        numbered = [line for line in said.splitlines() if line.lstrip()[:1].isdigit()]
        assert len(numbered) == 10, said
        for words in (
            "key 'name' is there twice", "'ema_dcay' (did you mean 'ema_decay'?)", "'1e-3' is text",
            'total_iter must be',
            "no 'num_block'", "section 'logger' is missing", 'prefetch_mode must', "there is no 'psnr'",
            'val/lq/001.png is empty', '003.png',
        ):  # fmt: skip
            assert sum(words in line for line in numbered) == 1, (words, said)
    assert not (workplace / 'experiments').exists()


@pytest.mark.parametrize('workers', [0, 1])
def test_reading_ahead_needs_workers(check, workers):
    changes = {'datasets__train__prefetch_mode': 'cpu', 'datasets__train__num_prefetch_queue': 2}
    report = check(**changes, datasets__train__num_worker_per_gpu=workers)
    assert report.faults == []
    assert any('prefetch_mode cpu reads nothing ahead' in warning for warning in report.warnings) == (workers == 0)


def test_a_good_file_says_what_the_run_will_be(workplace, capsys):
    write_options(workplace / 'train.yml', options())
    assert main(['check', '-opt', 'train.yml']) == 0
    said = capsys.readouterr().out
    assert 'no fault' in said
    assert '3 iterations an epoch, 2 epochs' in said
    assert 'VmambaIR, 244,658 parameters' in said


@pytest.mark.parametrize(
    ('channels', 'dtype', 'kind'), [(1, np.uint8, 'grey'), (4, np.uint8, 'alpha'), (3, np.uint16, 'more than 8 bits')]
)
def test_images_of_another_kind_are_counted(workplace, capsys, channels, dtype, kind):
    cv2.imwrite(str(workplace / 'train/gt/001.png'), np.full((24, 24, channels), 9, dtype))
    write_options(workplace / 'train.yml', options())
    assert main(['check', '-opt', 'train.yml']) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if kind in line)
    assert '1 of 6 images' in line
    assert '001.png' in line
