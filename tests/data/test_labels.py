"""Labels of a teacher: the third image of a pair goes through every draw with the other two."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from test_paired_progressive_dataset import section, stream

from vmambair_arch.data.paired_progressive_dataset import PairedProgressiveDataset
from vmambair_arch.data.pairs import PairSource, list_pairs
from vmambair_arch.errors import UserError


@pytest.fixture
def labelled(pairs_folder):
    """The seven pairs, and labels that are their targets inverted."""
    (pairs_folder / 'label').mkdir()
    for path in (pairs_folder / 'target').iterdir():
        cv2.imwrite(str(pairs_folder / 'label' / path.name), 255 - cv2.imread(str(path)))
    return pairs_folder


def with_labels(folder, **more):
    return section(folder, dataroot_label=str(folder / 'label'), **more)


@pytest.mark.parametrize('extra', [{}, {'mixup': {'probability': 0.5}}, {'cache': True}, {'num_worker_per_gpu': 1}])
def test_a_label_shows_what_its_target_shows(labelled, extra):
    for batch in stream(with_labels(labelled, **extra)):
        torch.testing.assert_close(batch['label'], 1 - batch['gt'])


def test_labels_change_nothing_in_the_pairs(labelled):
    for batch, plain in zip(stream(with_labels(labelled)), stream(section(labelled)), strict=True):
        assert torch.equal(batch['lq'], plain['lq'])
        assert torch.equal(batch['gt'], plain['gt'])
        assert 'label' not in plain


def test_a_resume_continues_the_labels(labelled):
    opt = with_labels(labelled)
    for batch, resumed in zip(stream(opt)[4:], stream(opt | {'start_iter': 4}), strict=True):
        assert torch.equal(batch['label'], resumed['label'])


def test_a_label_may_have_another_suffix_and_lie_in_a_subfolder(labelled, tmp_path):
    for name in ('target', 'input', 'label'):
        (labelled / name / 'some').mkdir()
        (labelled / name / '0.png').rename(labelled / name / 'some' / '0.png')
    label = labelled / 'label' / 'some' / '0.png'
    label.rename(label.with_suffix('.webp'))
    meta = tmp_path / 'meta.txt'
    meta.write_text('some/0.png\n1.png\n')
    pairs = list_pairs(with_labels(labelled, meta_info_file=str(meta)))
    labels = {pair.gt: pair.label for pair in pairs}
    target = labelled / 'target'
    assert labels[str(target / 'some' / '0.png')] == str(label.with_suffix('.webp'))
    assert labels[str(target / '1.png')] == str(labelled / 'label' / '1.png')


def test_a_missing_label_is_named(labelled):
    (labelled / 'label' / '3.png').unlink()
    with pytest.raises(UserError, match=r'label: no label for .*3 of .*target'):
        list_pairs(with_labels(labelled))


def test_a_label_of_another_size_is_named(labelled):
    cv2.imwrite(str(labelled / 'label' / '2.png'), np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(UserError, match=r'2\.png: the label is 12x10, not 48x40'):
        PairSource(with_labels(labelled)).read_label(2)


def test_labels_need_the_inputs_they_were_made_from(labelled):
    opt = with_labels(labelled)
    del opt['dataroot_lq']
    with pytest.raises(UserError, match='dataroot_label needs dataroot_lq'):
        list_pairs(opt)
    with pytest.raises(UserError, match='no label for inputs that rain makes'):
        PairedProgressiveDataset(with_labels(labelled, rain={}, rain_probability=0.5))
