"""The data sets that `vmambair prepare` knows: where they come from, what their archives look like, where images go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Part:
    """Images of one kind.

    Attributes:
        folder: where they go, below the data set's folder.
        patterns: regular expressions, searched for (case ignored) in `archive/inner/path/image.png`, of which the first
            one counts that finds anything in an archive.
        count: how many there are; 0 where the authors do not say.
        name: what a file is called, made from the groups of the pattern (`number` is a whole number) and `stem`.
        numbers: the first and last `number` that belongs here; None for all.
    """

    folder: str
    patterns: tuple[str, ...]
    count: int
    name: str = '{stem}'
    numbers: tuple[int, int] | None = None

    def pick(self, members: list[str]) -> dict[str, str]:
        """The members that belong here, in their order, and the file name that each gets."""
        for pattern in self.patterns:
            picked = {}
            for member in members:
                found = re.search(pattern, member, re.IGNORECASE)
                if found and (name := self._file_name(member, found)):
                    picked[member] = name
            if picked:
                return picked
        return {}

    def _file_name(self, member: str, found: re.Match[str]) -> str | None:
        path = PurePosixPath(member)
        groups: dict[str, str | int] = {'stem': path.stem, **found.groupdict()}
        if 'number' in groups:
            groups['number'] = number = int(groups['number'])
            if self.numbers and not self.numbers[0] <= number <= self.numbers[1]:
                return None
        return self.name.format(**groups) + path.suffix.lower()


@dataclass(frozen=True)
class Source:
    """A data set as it is downloaded.

    Attributes:
        name: on the command line.
        folder: below the folder of all data sets.
        page: the official page.
        archives: patterns of file names, without suffix: archives, or the folders that they were unpacked to.
        layout: what is in them, for a person.
        parts: its images.
        pairs: folders of inputs and targets that belong together, name by name.
        scale: how many times as large as its input a target is.
        bicubic: scales of the low-resolution images that are made unless others are asked for.
    """

    name: str
    folder: str
    page: str
    archives: tuple[str, ...]
    layout: str
    parts: tuple[Part, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    scale: int = 1
    bicubic: tuple[int, ...] = ()

    @property
    def images(self) -> int:
        return sum(part.count for part in self.parts)


RESTORMER = 'Restormer, github.com/swz30/Restormer, Deraining/README.md'
JORDER = 'JORDER (W. Yang et al.), Joint Rain Detection and Removal, project page'
EDSR = 'EDSR, github.com/sanghyun-son/EDSR-PyTorch, or SelfExSR, github.com/jbhuang0604/SelfExSR'


def _folder(folder: str) -> str:
    """Images that lie directly in a folder of this name."""
    return rf'(^|/){folder}/[^/]+$'


def _rain13k() -> Source:
    parts = [Part(f'train/Rain13K/{kind}', (_folder(f'Rain13K/{kind}'), _folder(f'train/{kind}')), 13_711)
             for kind in ('input', 'target')]  # fmt: skip
    return Source(
        'rain13k', 'Rain13K', RESTORMER, ('Rain13K*', 'train'), 'train/Rain13K/{input,target}/*.jpg',
        tuple(parts), ((parts[0].folder, parts[1].folder),),
    )  # fmt: skip


DERAIN_TEST = {'Rain100L': 100, 'Rain100H': 100, 'Test100': 98, 'Test1200': 1200, 'Test2800': 2800}
"""Pairs in each test set of the deraining papers."""


def _derain_test() -> Source:
    parts = []
    for name, count in DERAIN_TEST.items():
        # As Restormer packs them; Rain100L and Rain100H also as their authors do.
        original = {'input': rf'(^|/){name}/(rainy/)?rain-(?P<stem>\d+)\.png$',
                    'target': rf'(^|/){name}/norain-(?P<stem>\d+)\.png$'}  # fmt: skip
        for kind in ('input', 'target'):
            patterns = (_folder(f'{name}/{kind}'), *((original[kind],) if name.startswith('Rain') else ()))
            parts.append(Part(f'test/{name}/{kind}', patterns, count))
    pairs = tuple((f'test/{name}/input', f'test/{name}/target') for name in DERAIN_TEST)
    return Source(
        'derain-test', 'Rain13K', RESTORMER, ('test', *DERAIN_TEST),
        '{Rain100L,Rain100H,Test100,Test1200,Test2800}/{input,target}/*', tuple(parts), pairs,
    )  # fmt: skip


def _rain100l() -> Source:
    patterns = {
        'input': (
            r'rain100l_?train/input/(?P<number>\d+)\.',
            r'RainTrainL/rain-(?P<number>\d+)\.',
            r'train_?light/rain/norain-(?P<number>\d+)x2\.',
        ),
        'target': (
            r'rain100l_?train/target/(?P<number>\d+)\.',
            r'RainTrainL/norain-(?P<number>\d+)\.',
            r'train_?light/norain/norain-(?P<number>\d+)\.',
        ),
    }
    splits = {'train': (1, 180), 'val': (181, 200)}
    parts = [
        Part(f'{split}/{kind}', patterns[kind], numbers[1] - numbers[0] + 1, '{number:03d}', numbers)
        for split, numbers in splits.items()
        for kind in ('input', 'target')
    ]
    return Source(
        'rain100l', 'Rain100L', JORDER, ('*rain100l*train*', 'RainTrainL*', '*train*light*'),
        'RainTrainL/{rain,norain}-1.png to 200, of which 181 to 200 are held out for validation',
        tuple(parts), tuple((f'{split}/input', f'{split}/target') for split in splits),
    )  # fmt: skip


def _rain200(name: str) -> Source:
    """1800 and 200 pairs; not the Rain100 sets of the same authors, from which they differ in pictures and rain."""
    parts = [
        Part(
            f'{split}/{kind}',
            (
                rf'(^|/){name}/{split}\w*/{kind}/(norain-|rain-)?(?P<number>\d+)(x2)?\.',
                rf'(^|/){name}/(.*/)?[^/]*{split}[^/]*/{original}/norain-(?P<number>\d+)(x2)?\.',
            ),
            count,
            '{number:04d}',
        )
        for split, count in (('train', 1800), ('test', 200))
        for kind, original in (('input', 'rain(/X2)?'), ('target', 'norain'))
    ]
    return Source(
        name.lower(), name, JORDER, (f'{name}*',),
        f'{name}/{{train,test}}/{{input,target}}/*, or as packed by its authors: {{rain/X2,norain}}/norain-*.png',
        tuple(parts), tuple((f'{split}/input', f'{split}/target') for split in ('train', 'test')),
    )  # fmt: skip


def _realsr(split: str, count: int) -> Source:
    """The pairs of both cameras at x4, of which papers on real-world super-resolution use the 100 of the test."""
    patterns = {
        kind: (rf'(^|/)(?P<camera>Canon|Nikon)/{split}/4/(\w+_)?(?P<number>\d+)_{ending}\.png$',)
        for kind, ending in (('LR', 'LR4'), ('HR', 'HR'))
    }
    folder = split.lower()
    return Source(
        'realsr-test' if split == 'Test' else 'realsr',
        'RealSR', 'RealSR version 3 (J. Cai et al.), github.com/csjcai/RealSR',
        ('RealSR*', 'Canon', 'Nikon'), f'{{Canon,Nikon}}/{split}/4/*_{{HR,LR4}}.png',
        tuple(Part(f'{folder}/{kind}', pattern, count, '{camera}_{number:03d}') for kind, pattern in patterns.items()),
        ((f'{folder}/LR', f'{folder}/HR'),), scale=4,
    )  # fmt: skip


def _drealsr(split: str, count: int) -> Source:
    """Five cameras at x4; the endings _x4 and _x1 go: folders say which are targets, as endings differ in copies."""
    folder = split.lower()
    parts = [
        Part(
            f'{folder}/{kind}',
            (rf'(^|/){split}_x4/(.*/)?{folder}_{kind}/(?P<front>[^/]+)_x[14](?P<back>[^/]*)\.png$',),
            count,
            '{front}{back}',
        )
        for kind in ('LR', 'HR')
    ]
    return Source(
        'drealsr-test' if split == 'Test' else 'drealsr',
        'DRealSR', 'DRealSR (P. Wei et al.), github.com/xiezw5/'
        'Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution',
        ('DRealSR*', f'{split}_x4', 'x4'), f'{split}_x4/{{{folder}_HR/*_x4.png,{folder}_LR/*_x1.png}}',
        tuple(parts), ((f'{folder}/LR', f'{folder}/HR'),), scale=4,
    )  # fmt: skip


def _crops(name: str, archive: str, count: int) -> Source:
    """Middles of 128 pixels and their targets of 512, on which StableSR and papers after it compare."""
    return Source(
        name, f'SR/{archive}', 'StableSR test sets, github.com/IceClear/StableSR',
        (f'{archive}*', 'StableSR*'), f'{archive}/{{test_LR,test_HR}}/*.png',
        (Part('LR', (_folder(f'{archive}/test_LR'),), count), Part('truth', (_folder(f'{archive}/test_HR'),), count)),
        (('LR', 'truth'),), scale=4,
    )  # fmt: skip


def _spa_test() -> Source:
    """The 1000 test pairs. Those for training need no laying out: `pairs_file` reads the list they come with."""
    return Source(
        'spa-test', 'SPA', 'SPA-Data (T. Wang et al.), stevewongv.github.io/derain-project.html',
        ('real_test_1000*', 'Testing', '*SPA*', 'Real_Rain_Streaks*'),
        'real_test_1000/{rain/000.png,gt/000gt.png} to 999',
        (
            Part('test/input', (r'(^|/)real_test_1000/rain/(?P<number>\d+)\.png$',), 1000, '{number:03d}'),
            Part('test/target', (r'(^|/)real_test_1000/gt/(?P<number>\d+)gt\.png$',), 1000, '{number:03d}'),
        ),
        (('test/input', 'test/target'),),
    )  # fmt: skip


def _lsdir() -> Source:
    return Source(
        'lsdir', 'LSDIR', 'LSDIR (Y. Li et al.), ofsoundof.github.io/lsdir-data',
        ('shard-[0-9][0-9]', 'LSDIR*', 'val1', '00[0-9][0-9]000'),
        'shard-00 to shard-16, with 0001000/0000001.png and so on, and val1/HR/val/*.png',
        (
            Part('HR', (r'(^|/)00\d\d000/(?P<stem>\d{7})\.png$',), 84_991),
            Part('val/HR', (_folder('val1/HR/val'),), 250),
        ),
    )  # fmt: skip


_DIV2K = Part('HR', (_folder('DIV2K_train_HR'),), 800)
_FLICKR2K = Part('HR', (_folder('Flickr2K_HR'), _folder('Flickr2K/HR'), _folder('Flickr2K')), 2650)


def _gopro() -> Source:
    parts = [
        Part(
            f'{split}/{kind}',
            (rf'(^|/){split}/(?P<scene>GOPR\w+)/{original}/[^/]+$',),
            count,
            '{scene}_{stem}',
        )
        for split, count in (('train', 2103), ('test', 1111))
        for kind, original in (('input', 'blur'), ('target', 'sharp'))
    ]
    return Source(
        'gopro', 'GoPro', 'GoPro (S. Nah et al.), seungjunnah.github.io/Datasets/gopro', ('GOPRO*',),
        '{train,test}/GOPR*/{blur,sharp}/*.png', tuple(parts),
        tuple((f'{split}/input', f'{split}/target') for split in ('train', 'test')),
    )  # fmt: skip


_OST = Part('HR', (r'(OST|OutdoorSceneTrain)[^/]*/(.*/)?(?P<category>[a-z]+)/[^/]+$',), 10_324, '{category}_{stem}')
_OST_PAGE = 'OutdoorScene, SFTGAN (X. Wang et al.), mmlab.ie.cuhk.edu.hk/projects/SFTGAN'
_DIV2K_PAGE = 'DIV2K, data.vision.ee.ethz.ch/cvl/DIV2K'
_FLICKR2K_PAGE = 'Flickr2K, github.com/limbee/NTIRE2017'


def _benchmark(name: str, count: int, page: str, *archives: str, inner: str = '') -> Source:
    inner = inner or name
    patterns = (
        _folder(f'{inner}/HR'),
        rf'(^|/){inner}/image_SRF_4/(?P<stem>img_\d+)_SRF_4_HR\.png$',
        _folder(f'{inner}/original'),
        _folder(inner),
    )
    layout = f'{name}/HR/* or {name}/*'
    return Source(
        name.lower(),
        f'SR/{name}',
        page,
        (*archives, *(() if '(' in inner else (f'{inner}*',)), f'{name}*'),
        layout,
        (Part('HR', patterns, count),),
        bicubic=(4,),
    )


def _real_world(folder: str, page: str, lq: tuple[str, ...], gt: tuple[str, ...]) -> Source:
    return Source(
        folder.lower(), folder, page, (f'*{folder}*', *lq, *gt),
        f'{lq[0]}/*.png (inputs) and {gt[0]}/*.png (targets)',
        (Part(lq[0], tuple(map(_folder, lq)), 100), Part(gt[0], tuple(map(_folder, gt)), 100)),
        ((lq[0], gt[0]),), scale=4,
    )  # fmt: skip


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _rain13k(),
        _derain_test(),
        _rain100l(),
        _rain200('Rain200L'),
        _rain200('Rain200H'),
        _spa_test(),
        _gopro(),
        Source('div2k', 'DIV2K', _DIV2K_PAGE, ('DIV2K_train_HR', 'DIV2K'), 'DIV2K_train_HR/*.png', (_DIV2K,)),
        Source(
            'flickr2k', 'Flickr2K', _FLICKR2K_PAGE, ('Flickr2K*',), 'Flickr2K/Flickr2K_HR/*.png', (_FLICKR2K,)
        ),
        Source(
            'df2k', 'DF2K', f'{_DIV2K_PAGE}, and {_FLICKR2K_PAGE}', ('DIV2K_train_HR', 'DIV2K', 'Flickr2K*'),
            'DIV2K_train_HR/*.png and Flickr2K/Flickr2K_HR/*.png',
            (_DIV2K, _FLICKR2K),
        ),
        Source(
            'ost', 'OST', _OST_PAGE, ('OST*', 'OutdoorSceneTrain*'), 'OutdoorSceneTrain_v2/{animal,...}/*.png', (_OST,),
        ),
        Source(
            'df2k-ost', 'DF2K_OST', f'{_DIV2K_PAGE}, {_FLICKR2K_PAGE}, and {_OST_PAGE}',
            ('DIV2K_train_HR', 'DIV2K', 'Flickr2K*', 'OST*', 'OutdoorSceneTrain*'),
            'DIV2K_train_HR/*.png, Flickr2K/Flickr2K_HR/*.png and OutdoorSceneTrain_v2/{animal,...}/*.png',
            (_DIV2K, _FLICKR2K, _OST),
        ),
        Source(
            'div2k100', 'SR/DIV2K100', _DIV2K_PAGE, ('DIV2K_valid_HR', 'DIV2K'), 'DIV2K_valid_HR/*.png',
            (Part('HR', (_folder('DIV2K_valid_HR'),), 100),), bicubic=(4,),
        ),
        _benchmark('Set5', 5, EDSR, 'benchmark'),
        _benchmark('Set14', 14, EDSR, 'benchmark'),
        _benchmark('BSD100', 100, EDSR, 'benchmark', 'B100*', inner='(?:BSD100|B100)'),
        _benchmark('Urban100', 100, EDSR, 'benchmark'),
        _benchmark(
            'General100', 100, 'FSRCNN (C. Dong et al.), mmlab.ie.cuhk.edu.hk/projects/FSRCNN.html',
            inner='General-100',
        ),
        _benchmark('Manga109', 109, 'Manga109, www.manga109.org (on request)', 'benchmark'),
        _realsr('Train', 0),
        _realsr('Test', 100),
        _drealsr('Train', 0),
        _drealsr('Test', 93),
        _crops('realsr-crops', 'RealSRVal_crop128', 100),
        _crops('drealsr-crops', 'DrealSRVal_crop128', 93),
        Source(
            'reallq250', 'SR/RealLQ250', 'RealLQ250 (DreamClear, Y. Ai et al.), github.com/shallowdream204/DreamClear',
            ('RealLQ250*',), 'RealLQ250/lq/*.png, which have no targets',
            (Part('LR', (_folder('RealLQ250/lq'), _folder('RealLQ250')), 250),),
        ),
        _lsdir(),
        _real_world(
            'NTIRE2020', 'NTIRE 2020 Real World Super-Resolution challenge, track 1, on CodaLab',
            ('track1-valid-input', 'Corrupted-va-x'), ('track1-valid-gt', 'DIV2K_valid_HR'),
        ),
        _real_world(
            'AIM2019', 'AIM 2019 Real World Super-Resolution challenge, on CodaLab',
            ('valid-input-noisy',), ('valid-gt-clean',),
        ),
    )
}  # fmt: skip
"""By name."""
