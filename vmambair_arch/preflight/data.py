"""The data sections: folders, pairs, and the header of every image, against what the data set will do with them."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from realesrgan_pipeline.name_list import Listed, read_names
from realesrgan_pipeline.realesrgan_dataset import SOURCE_KEYS as SINGLE_KEYS
from realesrgan_pipeline.sources import is_template, read_sources

from ..data.pairs import SOURCE_KEYS as PAIRED_KEYS
from ..data.pairs import Pair, folder_images, is_lmdb, list_pairs, pairs_as_basicsr_lists_them, sources_of
from ..images.headers import Header, read_headers
from ..images.image_io import FORMATS
from .decoding import Decoder, Image
from .keys import KeysRead, keys_read_by
from .report import SHOWN, Report, some
from .sections import READ_BY_NOBODY, Options, check_keys, errors_of, is_ours, typed_section
from .values import is_number

SET_BY_BASICSR = {'phase', 'scale'}
TRAINING_ONLY = {'gt_size', 'use_hflip', 'use_rot'}
"""Keys that BasicSR's data sets read in training only."""

BASICSR_PAIRED = 'PairedImageDataset'
OURS_PAIRED = ('PairedProgressiveDataset', 'PairedValidationDataset')
PAIRED = (BASICSR_PAIRED, *OURS_PAIRED)
SINGLE = ('SingleImageDataset',)
ROOTS = ('dataroot_gt', 'dataroot_lq', 'dataroot_label')
CROPPING = (BASICSR_PAIRED, 'RealESRGANPairedDataset')
"""Data sets of BasicSR whose patches do not fit their inputs where `gt_size` is no multiple of the scale."""
EVERY_FILE = (BASICSR_PAIRED, *SINGLE)
"""Data sets of BasicSR that take every file of a folder for an image."""
COLOUR_ONLY = ('RealESRGANPipelineDataset',)
"""Data sets that refuse grey images, alpha and palettes while they train."""

Sizes = dict[tuple[int, int], str]
"""A name by height and width."""


@dataclass
class Data:
    """A data section that can be read.

    Attributes:
        dataset: as BasicSR will build it.
        images: how many pairs or images there are.
        decoded: bytes of all images, decoded to 8-bit colour.
        targets: the smallest targets, a name by height and width; none where headers do not tell.
        inputs: the smallest inputs and those that few numbers divide, likewise.
    """

    dataset: Any
    images: int
    decoded: int
    targets: Sizes = field(default_factory=dict)
    inputs: Sizes = field(default_factory=dict)

    @cached_property
    def sample(self) -> tuple[Any, str]:
        """What the data set has at its beginning, and ''; None and a complaint where that cannot be had."""
        return errors_of(lambda: self.dataset[0])

    def smallest_targets(self) -> Sizes | None:
        """The smallest targets by height and width: of headers, or else of the first sample, which is all that is known
        of data sets of others; {} where it has no target, None where it cannot be told."""
        if self.targets:
            return self.targets
        sample, complaint = self.sample
        if complaint or not isinstance(sample, Mapping):
            return None
        gt = sample.get('gt')
        if gt is None:
            return {}
        shape = tuple(getattr(gt, 'shape', ()))
        return {(int(shape[-2]), int(shape[-1])): 'its first image'} if len(shape) >= 3 else None


def check_data(
    options: Options, training: bool, known: KeysRead, strict: bool, report: Report, decoder: Decoder | None = None
) -> dict[str, Data]:
    """Every section of `datasets`; those without a fault, by phase.

    Args:
        known, strict: what pipeline and model read, and whether these are all keys that they read.
        decoder: decodes every image; None reads headers alone.
    """
    sections = options.get('datasets')
    if not isinstance(sections, Mapping):
        return {}
    kinds = ('train', 'val') if training else ('val', 'test')
    found = {}
    if training and 'train' not in sections:
        report.faults.append("datasets: section 'train' is missing")
    for phase, section in sections.items():
        kind = str(phase).partition('_')[0]
        if kind not in kinds:
            report.faults.append(f"datasets: '{phase}' must begin with {' or '.join(kinds)}")
        elif kind == 'train' and phase != 'train':
            report.faults.append(
                f"datasets: '{phase}': there is one section to train on, train; name its sources there"
            )
        elif not isinstance(section, Mapping):
            report.faults.append(f'datasets: {phase} is empty')
        else:
            data = _check_section(options, str(phase), section, known, strict, report, decoder)
            if data:
                found[str(phase)] = data
    return found


def _check_section(
    options: Options,
    phase: str,
    section: Options,
    known: KeysRead,
    strict: bool,
    report: Report,
    decoder: Decoder | None,
) -> Data | None:
    from basicsr.utils.registry import DATASET_REGISTRY

    where = f'datasets: {phase}'
    named = typed_section(section, DATASET_REGISTRY, where, report)
    if not named:
        return None
    kind, name = named[0], named[0].__name__
    _check_section_keys(options, kind, phase, section, known, strict, report)
    if phase == 'train':
        _check_prefetch(section, where, report)
    workers = section.get('num_worker_per_gpu') if phase == 'train' else 0
    if section.get('persistent_workers') is True and workers == 0:
        needs = 'num_worker_per_gpu from 1 up' if phase == 'train' else 'workers, which only datasets: train has'
        report.faults.append(f'{where}: persistent_workers: true needs {needs}; remove it')
    section = {'name': phase, **copy.deepcopy(dict(section))}
    section['phase'] = phase.partition('_')[0]
    if 'scale' in options:  # a run without it leaves it out too, and data sets of BasicSR have no default
        section['scale'] = options['scale']
    if not _has_form(section):
        return None
    for key in (*ROOTS, 'dataroot_clean'):
        if isinstance(section.get(key), str):
            section[key] = str(Path(section[key]).expanduser())

    theirs, by_opencv = kind.__module__.startswith('basicsr.'), not is_ours(kind)
    pairs, files = _files(name, section, where, report)
    dataset = None
    if not report.has(where):
        run = {'total_iter': int(options['train']['total_iter'])} if _total(options) else {'total_iter': 1}
        dataset, complaint = errors_of(lambda: kind(copy.deepcopy(section) | run))
        if complaint:
            report.faults.append(f'{where}: {complaint}')
        elif not files:
            files = _files_of(dataset, theirs)
        files += [str(path) for path in getattr(getattr(dataset, 'source', None), 'photographs', ())]
    started = time.perf_counter()
    headers = dict(zip(files, read_headers(files, by_opencv=by_opencv), strict=True))
    images: list[Image] = [file for file in files if not headers[file].fault]
    for source in _folders(section):
        if _in_lmdb(source):
            headers |= _listed_headers(source)
            images += _listed_images(source)
    seconds = time.perf_counter() - started
    _check_headers(name, headers, where, report)
    if decoder is not None:
        decoder.check(images, where, report, by_opencv=by_opencv)
    _check_sizes(name, section, pairs, headers, where, report)
    if dataset is None or report.has(where):
        return None
    count = len(pairs) or len(getattr(dataset, 'photographs', ())) or len(files) or len(dataset)
    what = ('pairs' if any(pair.lq for pair in pairs) else 'images') + _of_folders(dataset)
    report.facts.append(f'{phase}: {count} {what}; {len(headers)} headers read in {seconds:.1f} s')
    decoded = sum(header.width * header.height * 3 for header in headers.values())
    alone, scale = files if name in SINGLE else [], section.get('scale', 1)
    return Data(dataset, count, decoded, *_extremes(pairs, alone, headers, scale))


def _extremes(
    pairs: Iterable[Pair], alone: Iterable[str], headers: Mapping[str, Header], scale: int
) -> tuple[Sizes, Sizes]:
    """Of the targets, cut to multiples of the scale, and of the inputs: the lowest, the narrowest and the smallest.

    Of the inputs also those whose sides can be halved the fewest times: networks that halve their maps take others.

    Args:
        pairs: files of the headers.
        alone: inputs without a target.
        headers: by file.
        scale: of the targets over the inputs.
    """
    targets: Sizes = {}
    inputs: Sizes = {}
    for pair in pairs:
        header = headers.get(pair.gt)
        if header is not None and not header.fault:
            h, w = header.height // scale, header.width // scale
            targets.setdefault((h * scale, w * scale), Path(pair.gt).name)
            inputs.setdefault((h, w), Path(pair.lq or pair.gt).name)
    for file in alone:
        if not headers[file].fault:
            inputs.setdefault((headers[file].height, headers[file].width), Path(file).name)
    small: list[Callable[[tuple[int, int]], Any]] = [
        lambda size: size[0] * size[1], lambda size: size[0], lambda size: size[1],
    ]  # fmt: skip
    odd: list[Callable[[tuple[int, int]], Any]] = [
        lambda size: (size[0] & -size[0], size[0] * size[1]), lambda size: (size[1] & -size[1], size[0] * size[1]),
    ]  # fmt: skip
    return _first(targets, small), _first(inputs, small + odd)


def _first(sizes: Sizes, orders: Iterable[Callable[[tuple[int, int]], Any]]) -> Sizes:
    """What comes first in each of some orders."""
    return {size: sizes[size] for size in dict.fromkeys(min(sizes, key=order) for order in orders if sizes)}


def _folders(section: Options) -> list[dict[str, Any]]:
    """A section for each folder of a data set of ours; what is wrong with `sources` has been said."""
    if section.get('sources') is None:
        return [dict(section)]
    return errors_of(read_sources, section, {*PAIRED_KEYS, *SINGLE_KEYS}, '')[0] or []


def _of_folders(dataset: Any) -> str:
    """How the draws are shared among several folders, for a person; '' for one."""
    source = getattr(dataset, 'source', None) or getattr(dataset, 'photographs', None)
    sizes = getattr(source, 'sizes', None) or []
    if len(sizes) < 2:
        return ''
    weights = getattr(source, 'weights', None) or [size / sum(sizes) for size in sizes]
    return f' in {len(sizes)} folders ({", ".join(f"{weight:.0%}" for weight in weights)} of the draws)'


def _has_form(section: Options) -> bool:
    """Whether files can be looked for; what is wrong otherwise has been said."""
    roots = [section.get(key) for key in (*ROOTS, 'dataroot_clean')]
    scale = section.get('scale', 1)
    return (
        isinstance(section.get('io_backend') or {}, Mapping)
        and all(root is None or isinstance(root, str) for root in roots)
        and type(scale) is int
        and scale >= 1
        and is_template(section.get('filename_tmpl') or '{}')
    )


def _total(options: Options) -> bool:
    train = options.get('train')
    return isinstance(train, Mapping) and is_number(train.get('total_iter')) and 1 <= train['total_iter'] <= 1e12


def _check_section_keys(
    options: Options, kind: type, phase: str, section: Options, known: KeysRead, strict: bool, report: Report
) -> None:
    import basicsr.data

    path = ('datasets', phase)
    reads = keys_read_by(kind, opt=path) | keys_read_by(basicsr.data.build_dataloader, dataset_opt=path) | known
    reads.open.discard(('datasets',))
    reads.optional |= {(*path, key) for key in READ_BY_NOBODY['datasets', '*']}
    if phase == 'train':
        reads.optional.add((*path, 'manual_seed'))  # draws by place do, whatever the data set
    check_keys(section, path, reads, strict and is_ours(kind), report)
    demanded = keys_read_by(kind, opt=path).demands(path) | {'name', 'type'}
    if phase == 'train':
        demanded |= {'batch_size_per_gpu', 'num_worker_per_gpu'}
    else:
        demanded -= TRAINING_ONLY
    missing = f"key 'scale' is missing, which {kind.__name__} needs"
    if 'scale' in demanded and 'scale' not in {*options, *section} and missing not in report.faults:
        report.faults.append(missing)
    for key in sorted(demanded - SET_BY_BASICSR):
        if section.get(key) is None:
            report.faults.append(f'datasets: {phase}: {key} is missing')


def _check_prefetch(section: Options, where: str, report: Report) -> None:
    import torch

    mode = section.get('prefetch_mode')
    if mode == 'cpu' and section.get('num_worker_per_gpu') == 0:
        report.warnings.append(
            f'{where}: prefetch_mode cpu reads nothing ahead without workers; set num_worker_per_gpu from 1 up'
        )
    elif mode == 'cuda' and not torch.cuda.is_available():
        report.faults.append(f'{where}: prefetch_mode cuda needs a GPU, and torch sees none; write ~')
    elif mode == 'cuda' and section.get('pin_memory') is not True:
        report.faults.append(f'{where}: prefetch_mode cuda needs pin_memory: true')


# ---------------------------------------------------------------- files


def _files(name: str, section: Options, where: str, report: Report) -> tuple[list[Pair], list[str]]:
    """The pairs of a section, as far as they can be told, and all files that it means."""
    if name not in PAIRED + SINGLE:
        return [], []
    sources, complaint = errors_of(sources_of, section) if name in OURS_PAIRED else ([section], '')
    if complaint:
        report.faults.append(f'{where}: {complaint}')
        return [], []
    pairs: list[Pair] = []
    files: list[str] = []
    for source in sources or ():
        more_pairs, more_files = _files_of_source(name, source, where, report)
        pairs += more_pairs
        files += more_files
    return pairs, list(dict.fromkeys(files))


def _files_of_source(name: str, section: Options, where: str, report: Report) -> tuple[list[Pair], list[str]]:
    lmdb, complaint = errors_of(is_lmdb, section)
    if complaint:
        report.faults.append(f'{where}: {complaint}')
        return [], []
    roots = [section[key] for key in ROOTS if section.get(key)]
    files: list[str] = []
    if not lmdb and not section.get('meta_info_file') and not section.get('pairs_file'):
        before = len(report.faults)
        for root in roots:
            recursive = name in OURS_PAIRED and bool(section.get('recursive'))
            images, complaint = errors_of(folder_images, root, recursive, name in EVERY_FILE)
            if complaint:
                report.faults.append(f'{where}: {complaint}')
            strays = _strays(images or ()) if name in EVERY_FILE else []
            if strays:
                names = some([path.name for path in strays])
                report.faults.append(
                    f'{where}: {root}: {names} is no image, or a damaged one; {name} would read it; move it away'
                )
            files += [str(path) for path in images or () if path not in strays]
        if len(report.faults) > before:
            return [], files
    if name in SINGLE:
        return [], files
    listed = name == BASICSR_PAIRED and not lmdb and section.get('meta_info_file')
    pairs, complaint = (
        errors_of(pairs_as_basicsr_lists_them, section)
        if listed
        else errors_of(list_pairs, section, name in EVERY_FILE)
    )
    if complaint:
        report.faults.append(f'{where}: {complaint}')
        return [], files
    if lmdb:
        gt, lq, labels = (section.get(key) for key in ROOTS)
        return [
            Pair(
                f'{gt}/{pair.gt}',
                f'{lq}/{pair.lq}' if pair.lq else None,
                f'{labels}/{pair.label}' if pair.label else None,
            )
            for pair in pairs
        ], []
    if name == BASICSR_PAIRED:
        other = [Path(p.lq).name for p in pairs if p.lq and Path(p.lq).suffix != Path(p.gt).suffix]
        if other:
            report.faults.append(f'{where}: {name} wants inputs with the suffix of their targets, unlike {some(other)}')
    return pairs, [file for pair in pairs for file in (pair.gt, pair.lq, pair.label) if file]


def _strays(files: Iterable[Path]) -> list[Path]:
    """The files that are no images, of those whose suffix does not say that they are."""
    odd = [path for path in files if path.suffix.lower() not in FORMATS]
    return [path for path, header in zip(odd, read_headers(odd, by_opencv=True), strict=True) if header.fault]


def _files_of(dataset: Any, theirs: bool) -> list[str]:
    """The files that a data set has listed, where it says so as BasicSR's do: `paths` of texts or of dicts.

    Of data sets that are not `theirs` those that are images by their names: others may read anything.
    """
    photographs = getattr(dataset, 'photographs', None)
    if photographs is not None:
        return [str(folder.root / name) for folder in photographs.folders if not folder.lmdb for name in folder.names]
    files = []
    for entry in getattr(dataset, 'paths', None) or ():
        paths = [value for key, value in entry.items() if key.endswith('_path')] if isinstance(entry, dict) else [entry]
        files += [path for path in paths if isinstance(path, str) and (theirs or Path(path).suffix.lower() in FORMATS)]
    return [file for file in files if Path(file).is_file()]


# ---------------------------------------------------------------- headers


def _in_lmdb(section: Options) -> bool:
    return errors_of(is_lmdb, section)[0] is True


def _listed_headers(section: Options) -> dict[str, Header]:
    """What the `meta_info.txt` of LMDB folders says of their images, by folder and key: `name.png (h,w,c) 1`."""
    headers = {}
    for root, entry in _listed(section):
        if entry.shape:
            height, width, channels = entry.shape
            headers[f'{root}/{entry.key}'] = Header(width, height, channels, bits=8)
    return headers


def _listed_images(section: Options) -> list[Image]:
    return [(root, entry.key) for root, entry in _listed(section)]


def _listed(section: Options) -> Iterator[tuple[str, Listed]]:
    """What stands in the lists of LMDB folders, with the folder; what is wrong with them has been said."""
    for root in map(section.get, ROOTS):
        meta_info = Path(str(root)) / 'meta_info.txt'
        listed = errors_of(read_names, meta_info)[0] if meta_info.is_file() else None
        yield from ((str(root), entry) for entry in listed or ())


def _check_headers(name: str, headers: Mapping[str, Header], where: str, report: Report) -> None:
    broken = {path: header.fault for path, header in headers.items() if header.fault}
    for path, fault in list(broken.items())[:SHOWN]:
        report.faults.append(f'{where}: {path} {fault}')
    if len(broken) > SHOWN:
        report.faults.append(f'{where}: {len(broken) - SHOWN} more images cannot be read')
    kinds: dict[str, list[str]] = defaultdict(list)
    for path, header in headers.items():
        if header.channels in (1, 2):
            kinds['grey'].append(path)
        if header.channels in (2, 4):
            kinds['with an alpha channel'].append(path)
        if header.bits > 8:
            kinds['of more than 8 bits a channel'].append(path)
    does = {
        'grey': 'read as colour',
        'with an alpha channel': 'which is dropped',
        'of more than 8 bits a channel': 'read with 8' if name == BASICSR_PAIRED else 'read with all of them',
    }
    for kind, paths in kinds.items():
        counted = f'{where}: {len(paths)} of {len(headers)} images are {kind}'
        names = some([Path(path).name for path in paths])
        if name in COLOUR_ONLY:
            report.faults.append(f'{counted}, which {name} refuses: {names}')
        else:
            report.warnings.append(f'{counted}, {does[kind]}: {names}')


def _check_sizes(
    name: str, section: Options, pairs: Iterable[Pair], headers: Mapping[str, Header], where: str, report: Report
) -> None:
    scale, patch = section.get('scale', 1), section.get('gt_size')
    says = 'the scale' if 'scale' in section else 'as scale is left out'
    exact = name == BASICSR_PAIRED and section['phase'] == 'train'
    if name in CROPPING and section['phase'] == 'train' and type(patch) is int and patch % scale:
        report.faults.append(f'{where}: gt_size {patch} is no multiple of the scale {scale}, which {name} needs')
    unfit, small, mislabelled, vanishing = [], [], [], []
    for pair in pairs:
        gt, lq = headers.get(pair.gt), headers.get(pair.lq or '')
        if gt is None or gt.fault or (lq is not None and lq.fault):
            continue
        if lq is not None and pair.lq:
            sides = [(gt.width, lq.width), (gt.height, lq.height)]
            if any((g != w * scale) if exact else (g // scale != w) for g, w in sides):
                unfit.append(f'{pair.gt} is {gt.width}x{gt.height}, {Path(pair.lq).name} {lq.width}x{lq.height}')
        label = headers.get(pair.label or '')
        if lq is not None and label is not None and not label.fault:
            wanted, found = (lq.width * scale, lq.height * scale), (label.width, label.height)
            if wanted != found:
                mislabelled.append(f'{pair.label} is {found[0]}x{found[1]}, not {wanted[0]}x{wanted[1]}')
        if section.get('bicubic') and min(gt.width, gt.height) < scale:
            vanishing.append(f'{pair.gt} is {gt.width}x{gt.height}')
        if exact and type(patch) is int and min(gt.width, gt.height) < patch:
            small.append(f'{Path(pair.gt).name} ({gt.width}x{gt.height})')
    if unfit:
        more = f' (and {len(unfit) - 1} more)' if len(unfit) > 1 else ''
        report.faults.append(f'{where}: targets are not {scale} times their inputs, {says}: {unfit[0]}{more}')
    if mislabelled:
        more = f' (and {len(mislabelled) - 1} more)' if len(mislabelled) > 1 else ''
        report.faults.append(f'{where}: labels are not {scale} times the inputs, {says}: {mislabelled[0]}{more}')
    if vanishing:
        report.faults.append(f'{where}: smaller than one pixel at scale {scale}: {some(vanishing)}')
    if small:
        report.faults.append(f'{where}: smaller than gt_size {patch}: {some(small)}; PairedProgressiveDataset pads')
