"""Where the images of each known layout go."""

from __future__ import annotations

import re

import pytest

from vmambair_arch.data.prepare.catalogue import SOURCES

LAYOUTS = [
    ('rain13k', 'train/train/Rain13K/input/1.jpg', 'train/Rain13K/input/1.jpg'),
    ('rain13k', 'Rain13K/target/1.jpg', 'train/Rain13K/target/1.jpg'),
    ('rain13k', 'train/test/Rain100L/input/1.png', None),
    ('derain-test', 'test/test/Rain100L/input/1.png', 'test/Rain100L/input/1.png'),
    ('derain-test', 'Rain100H/rainy/rain-001.png', 'test/Rain100H/input/001.png'),
    ('derain-test', 'Rain100H/norain-001.png', 'test/Rain100H/target/001.png'),
    ('derain-test', 'test/Test2800/target/9_1.jpg', 'test/Test2800/target/9_1.jpg'),
    ('rain100l', 'RainTrainL/rain-7.png', 'train/input/007.png'),
    ('rain100l', 'RainTrainL/norain-181.png', 'val/target/181.png'),
    ('rain100l', 'rain_data_train_Light/rain/norain-200x2.png', 'val/input/200.png'),
    ('rain100l', 'rain_data_train_Light/norain/norain-180.png', 'train/target/180.png'),
    ('rain100l', 'rain100l_train/input/012.webp', 'train/input/012.webp'),
    ('rain100l', 'RainTrainL/rainstreak-7.png', None),
    ('gopro', 'GOPRO_Large/train/GOPR0372_07_00/blur/000047.png', 'train/input/GOPR0372_07_00_000047.png'),
    ('gopro', 'GOPRO_Large/test/GOPR0384_11_00/sharp/000001.png', 'test/target/GOPR0384_11_00_000001.png'),
    ('gopro', 'GOPRO_Large/train/GOPR0372_07_00/blur_gamma/000047.png', None),
    ('div2k', 'DIV2K_train_HR/DIV2K_train_HR/0001.png', 'HR/0001.png'),
    ('div2k', 'DIV2K/DIV2K_train_HR_sub/0001_s001.png', None),
    ('div2k', 'DIV2K/DIV2K_valid_HR/0801.png', None),
    ('div2k100', 'DIV2K/DIV2K_valid_HR/0801.png', 'HR/0801.png'),
    ('flickr2k', 'Flickr2K/Flickr2K/Flickr2K_HR/000001.png', 'HR/000001.png'),
    ('flickr2k', 'Flickr2K/Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png', None),
    ('df2k', 'DIV2K_train_HR/0001.png', 'HR/0001.png'),
    ('df2k', 'Flickr2K/Flickr2K_HR/000001.png', 'HR/000001.png'),
    ('ost', 'OST_dataset/OutdoorSceneTrain_v2/animal/0001.png', 'HR/animal_0001.png'),
    ('df2k-ost', 'OutdoorSceneTrain_v2/plant/7.png', 'HR/plant_7.png'),
    ('set5', 'benchmark/benchmark/Set5/HR/baby.png', 'HR/baby.png'),
    ('set5', 'benchmark/benchmark/Set5/LR_bicubic/X4/babyx4.png', None),
    ('set5', 'Set5/baby.png', 'HR/baby.png'),
    ('bsd100', 'benchmark/benchmark/B100/HR/3096.png', 'HR/3096.png'),
    ('bsd100', 'BSD100_SR/BSD100/image_SRF_4/img_001_SRF_4_HR.png', 'HR/img_001.png'),
    ('rain200l', 'Rain200L/train/input/12.png', 'train/input/0012.png'),
    ('rain200l', 'Rain200L/rain_data_test_Light/rain/X2/norain-7x2.png', 'test/input/0007.png'),
    ('rain200h', 'Rain200H/rain_data_train_Heavy/norain/norain-1800.png', 'train/target/1800.png'),
    ('rain200h', 'Rain200L/train/input/12.png', None),
    ('realsr-test', 'RealSR(V3)/Canon/Test/4/Canon_003_HR.png', 'test/HR/Canon_003.png'),
    ('realsr-test', 'RealSR(V3)/Nikon/Test/4/Nikon_050_LR4.png', 'test/LR/Nikon_050.png'),
    ('realsr-test', 'RealSR(V3)/Nikon/Train/4/Nikon_050_LR4.png', None),
    ('realsr', 'RealSR(V3)/Nikon/Train/4/Nikon_050_LR4.png', 'train/LR/Nikon_050.png'),
    ('realsr', 'RealSR(V3)/Canon/Train/4/Canon_003_HR.png', 'train/HR/Canon_003.png'),
    ('realsr', 'RealSR(V3)/Canon/Train/2/Canon_003_HR.png', None),
    ('realsr', 'RealSR(V3)/Canon/Test/4/Canon_003_HR.png', None),
    ('drealsr-test', 'DRealSR/x4/Test_x4/test_HR/panasonic_103_x4.png', 'test/HR/panasonic_103.png'),
    ('drealsr-test', 'DRealSR/x4/Test_x4/Test_x4/test_LR/Canon_10_x1.png', 'test/LR/Canon_10.png'),
    ('drealsr-test', 'DRealSR/x2/Test_x2/test_HR/Canon_10_x2.png', None),
    ('drealsr', 'DRealSR/x4/Train_x4/train_HR/Canon_10_x4_007.png', 'train/HR/Canon_10_007.png'),
    ('drealsr', 'Train_x4/train_LR/Canon_10_x1_007.png', 'train/LR/Canon_10_007.png'),
    ('drealsr', 'DRealSR/x4/Test_x4/test_HR/Canon_10_x4.png', None),
    ('realsr-crops', 'StableSR_testsets/RealSRVal_crop128/test_LR/Canon_003_LR4.png', 'LR/Canon_003_LR4.png'),
    ('drealsr-crops', 'DrealSRVal_crop128/test_HR/x.png', 'truth/x.png'),
    ('reallq250', 'RealLQ250/lq/001.png', 'LR/001.png'),
    ('reallq250', 'RealLQ250/RealLQ250/lq/001.png', 'LR/001.png'),
    ('spa-test', 'real_test_1000/real_test_1000/rain/007.png', 'test/input/007.png'),
    ('spa-test', 'Testing/real_test_1000/gt/007gt.png', 'test/target/007.png'),
    ('spa-test', 'Training/real_world/000/000-1/000-1_3_4.png', None),
    ('lsdir', 'shard-00/0001000/0000001.png', 'HR/0000001.png'),
    ('lsdir', 'shard-16/shard-16/0085000/0084991.png', 'HR/0084991.png'),
    ('lsdir', '0085000/0084991.png', 'HR/0084991.png'),
    ('lsdir', 'val1/HR/val/0000250.png', 'val/HR/0000250.png'),
    ('lsdir', 'val1/X4/val/0000250x4.png', None),
    ('urban100', 'Urban100_SR/Urban100/image_SRF_4/img_001_SRF_4_HR.png', 'HR/img_001.png'),
    ('urban100', 'Urban100_SR/Urban100/image_SRF_4/img_001_SRF_4_LR.png', None),
    ('general100', 'General-100/im_1.bmp', 'HR/im_1.bmp'),
    ('manga109', 'Manga109/AisazuNihaIrarenai.PNG', 'HR/AisazuNihaIrarenai.png'),
    ('ntire2020', 'track1-valid-input/0801.png', 'track1-valid-input/0801.png'),
    ('ntire2020', 'track1-valid-gt/track1-valid-gt/0801.png', 'track1-valid-gt/0801.png'),
    ('aim2019', 'valid-input-noisy/0801.png', 'valid-input-noisy/0801.png'),
    ('aim2019', 'valid-gt-clean/0801.png', 'valid-gt-clean/0801.png'),
]


@pytest.mark.parametrize(('name', 'member', 'target'), LAYOUTS)
def test_layouts(name, member, target):
    found = [f'{part.folder}/{file}' for part in SOURCES[name].parts for file in part.pick([member]).values()]
    assert list(dict.fromkeys(found)) == ([target] if target else [])


def test_one_layout_counts_where_an_archive_has_two():
    part = SOURCES['set5'].parts[0]
    assert part.pick(['Set5/original/a.png', 'Set5/HR/a.png']) == {'Set5/HR/a.png': 'a.png'}


def test_every_source_says_where_it_is_from():
    for name, source in SOURCES.items():
        assert source.name == name
        assert len(source.page) > 10
        assert source.layout
        folders = {part.folder for part in source.parts}
        assert {folder for pair in source.pairs for folder in pair} <= folders
        for part in source.parts:
            for pattern in part.patterns:
                re.compile(pattern)


def test_validation_pairs_of_rain100l_are_apart_from_the_training_pairs():
    parts = {part.folder: part for part in SOURCES['rain100l'].parts}
    members = [f'RainTrainL/rain-{i}.png' for i in range(1, 201)]
    train, val = (set(parts[f'{split}/input'].pick(members).values()) for split in ('train', 'val'))
    assert (len(train), len(val)) == (180, 20)
    assert not train & val
