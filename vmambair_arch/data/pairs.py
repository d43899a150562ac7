"""Image pairs on disk or in LMDB: which belong together, and their pixels.

A section of an option file names them as BasicSR does: `dataroot_gt`, `dataroot_lq`, `filename_tmpl`, `io_backend`
(`type: disk` or `lmdb`) and `meta_info_file`; `dataroot_label` beside them names what a teacher network makes of the
inputs, and `pairs_file` which belong together where names do not say it. Order is sorted by name, so that it is the
same on every machine. `sources` holds several such folders.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realesrgan_pipeline import database, imresize
from realesrgan_pipeline.name_list import read_lines, read_names, read_pairs
from realesrgan_pipeline.sources import TEMPLATE, files_below, is_template, read_sources, read_weights

from ..errors import UserError, as_user_error, no_folder
from ..files import read_patiently
from ..images.fast import decode_pixels
from ..images.image_io import FORMATS
from ..images.pixels import packed
from .rain import RainConfig

# Reduced pixels that the bicubic kernel reaches beyond a patch.
_REACH = 2

SOURCE_KEYS = (
    'dataroot_gt', 'dataroot_label', 'dataroot_lq', 'filename_tmpl', 'io_backend', 'meta_info_file',
    'pairs_file', 'recursive',
)  # fmt: skip
"""What an entry of `sources` may say beside its `weight`."""


@dataclass(frozen=True)
class Pair:
    """Target and input that belong together, each a path, or a key where they lie in LMDB.

    Attributes:
        gt: the clean target.
        lq: the degraded input; None where it is made from the target.
        label: what a teacher network makes of the input; None without `dataroot_label`.
    """

    gt: str
    lq: str | None
    label: str | None = None


def sources_of(section: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A section for each folder of a data section: for each entry of `sources`, or the section itself.

    Raises:
        UserError: entries that are no sections, unknown keys, inputs or labels in some of the folders only.
    """
    if section.get('sources') is None:
        return [dict(section)]
    with as_user_error():
        found = read_sources(section, SOURCE_KEYS, str(section.get('name') or '?'))
    for key in ('dataroot_lq', 'dataroot_label'):
        having = [bool(source.get(key)) for source in found]
        if any(having) and not all(having):
            raise UserError(
                f'{_name(section)}: sources: entry {having.index(False) + 1}: {key} is missing; give it in all or none'
            )
    return found


def list_pairs(section: Mapping[str, Any], every_file: bool = False) -> list[Pair]:
    """The pairs that a data section names, sorted by the target's name, the folders of `sources` one after the other.

    Args:
        section: the section; without `dataroot_lq` the pairs have targets only. Inputs have the name of their target,
            put through `filename_tmpl` ('{}' by default), with any image suffix. Labels (`dataroot_label`) have the
            name of their target. With `recursive` names are paths below the folders: a/001 and b/001 are two pairs.
            `pairs_file` is a list of pairs instead, see `read_pairs`, of which many may share a target.
        every_file: see `folder_images`.

    Raises:
        UserError: for a missing or empty folder, an image without partner (all of them are named), a foreign backend,
            labels without inputs.
    """
    return [pair for pairs in _listed(section, every_file) for pair in pairs]


def _listed(section: Mapping[str, Any], every_file: bool = False) -> list[list[Pair]]:
    """The pairs of each folder."""
    if section.get('sources') is None:
        return [_pairs_of(section, every_file)]
    return [_pairs_of(source) for source in sources_of(section)]


def _pairs_of(section: Mapping[str, Any], every_file: bool = False) -> list[Pair]:
    """The pairs of one folder."""
    pairs = _inputs_and_targets(section, every_file)
    root = section.get('dataroot_label')
    if not root:
        return pairs
    if not section.get('dataroot_lq'):
        raise UserError(f'{_name(section)}: dataroot_label needs dataroot_lq, the inputs that the labels are made from')
    if is_lmdb(section):
        labels = {key: key for key in lmdb_keys(root)}
        names = [pair.gt for pair in pairs]
    else:
        # A list may reach into subfolders.
        names = [str(Path(pair.gt).relative_to(section['dataroot_gt']).with_suffix('')) for pair in pairs]
        folders = sorted({Path(name).parent for name in names})
        paths = [path for folder in folders for path in folder_images(Path(root) / folder)]
        labels = {str(path.relative_to(root).with_suffix('')): str(path) for path in paths}
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(f'{root}: no label for {_some(missing)} of {section["dataroot_gt"]}')
    return [replace(pair, label=labels[name]) for pair, name in zip(pairs, names, strict=True)]


def _inputs_and_targets(section: Mapping[str, Any], every_file: bool) -> list[Pair]:
    gt_root, lq_root = section.get('dataroot_gt'), section.get('dataroot_lq')
    if not gt_root:
        raise UserError(f'{_name(section)}: dataroot_gt is missing: name the folder of the clean images')
    template = _template(section)
    if section.get('pairs_file'):
        return _listed_pairs(section)
    if is_lmdb(section):
        return _pairs_of_keys(gt_root, lq_root, template)
    if section.get('meta_info_file'):
        targets = _listed_images(Path(gt_root), Path(section['meta_info_file']))
    else:
        targets = folder_images(gt_root, bool(section.get('recursive')), every_file)
    if not lq_root:
        return [Pair(str(path), None) for path in targets]

    if section.get('meta_info_file'):  # names a choice of the folder, and may reach into subfolders
        folders = sorted({path.parent.relative_to(gt_root) for path in targets})
        found = [path for folder in folders for path in folder_images(Path(lq_root) / folder)]
    else:
        found = folder_images(lq_root, bool(section.get('recursive')), every_file)
    inputs = {str(path.relative_to(lq_root).with_suffix('')): path for path in found}
    wanted = {path: str(path.relative_to(gt_root).parent / template.format(path.stem)) for path in targets}
    missing = [str(path.relative_to(gt_root)) for path, name in wanted.items() if name not in inputs]
    if missing:
        raise UserError(f'{lq_root}: no input for {_some(missing)} of {gt_root}')
    if not section.get('meta_info_file') and (extra := set(inputs) - set(wanted.values())):
        names = sorted(str(inputs[name].relative_to(lq_root)) for name in extra)
        raise UserError(f'{gt_root}: no target for {_some(names)} of {lq_root}')
    return [Pair(str(path), str(inputs[name])) for path, name in wanted.items()]


class PairSource:
    """The pairs of a section, ready to be read; `cache: true` keeps what was decoded.

    Attributes:
        pairs: what `list_pairs` found.
        rain: the rain that makes inputs, where the section has `rain`; else None.
        rain_probability: how often it does: 1, or what the section says where it names inputs as well.
        bicubic: the inputs are the targets, reduced by `bicubic_patch`.
        photographs: files of `dataroot_clean`, clean images without partner.
        sizes: pairs of each folder, of which `pairs` has all.
        weights: of each folder, sum 1; None where none is given.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        sources = sources_of(section)
        self.rain, self.rain_probability = _rain(section, read=bool(sources[0].get('dataroot_lq')))
        self.bicubic = bool(section.get('bicubic'))
        listed = _listed(section)
        self.pairs = [pair for pairs in listed for pair in pairs]
        self.sizes = [len(pairs) for pairs in listed]
        with as_user_error():
            self.weights = read_weights(sources, str(section.get('name') or '?')) if section.get('sources') else None
        clean = section.get('dataroot_clean')
        self.photographs = folder_images(clean, recursive=bool(section.get('recursive'))) if clean else []
        self._scale = section.get('scale', 1)
        self._sources = sources
        self._lmdb = [is_lmdb(source) for source in sources]
        self._ends = list(accumulate(self.sizes))
        self._cache: dict[int, tuple[np.ndarray | None, np.ndarray]] | None = {} if section.get('cache') else None
        self._clean: dict[Path, np.ndarray] | None = {} if section.get('cache') else None
        self._labels: dict[int, np.ndarray] = {}  # decoded ones, where they are kept

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Input and target of pair `index`, RGB (h, w, 3) as from `decode_pixels`; the input is None where it is made.

        A target whose sides are no multiple of the scale loses its last rows and columns.

        Raises:
            UserError: for an image that cannot be decoded, or a target that is not `scale` times its input.
        """
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        pair, scale = self.pairs[index], self._scale
        lq = self._pixels(index, 'dataroot_lq', pair.lq) if pair.lq else None
        gt = self._pixels(index, 'dataroot_gt', pair.gt)
        if self.bicubic:
            h, w = (n // scale * scale for n in gt.shape[:2])
            if not h or not w:
                raise UserError(f'{pair.gt}: {gt.shape[1]}x{gt.shape[0]} is smaller than one pixel at scale {scale}')
            gt = gt[:h, :w]
        if lq is not None:
            h, w = lq.shape[:2]
            if (gt.shape[0] // scale, gt.shape[1] // scale) != (h, w):
                size = f'{gt.shape[1]}x{gt.shape[0]}'
                raise UserError(f'{pair.gt}: {size} is not {scale} times the {w}x{h} of its input {pair.lq}')
            gt = gt[: h * scale, : w * scale]
        if self._cache is not None:
            self._cache[index] = lq, gt
        return lq, gt

    def read_clean(self, index: int) -> np.ndarray:
        """A clean image, RGB (h, w, 3): the targets are numbered first, then `photographs`.

        Raises:
            UserError: for an image that cannot be decoded.
        """
        if index < len(self.pairs):
            return self.read(index)[1]
        path = self.photographs[index - len(self.pairs)]
        if self._clean is not None and path in self._clean:
            return self._clean[path]
        pixels = read_file(str(path))
        if self._clean is not None:
            self._clean[path] = pixels
        return pixels

    def clean_path(self, index: int) -> str:
        """Path of what `read_clean` reads, or its key in LMDB."""
        return self.pairs[index].gt if index < len(self) else str(self.photographs[index - len(self)])

    def read_label(self, index: int) -> np.ndarray:
        """The label of pair `index`, of the size of the target that `read` returns.

        Raises:
            UserError: for a label that cannot be decoded or has another size.
            ValueError: there are no labels.
        """
        name = self.pairs[index].label
        if name is None:
            raise ValueError('these pairs have no labels')
        if index in self._labels:
            return self._labels[index]
        label, target = self._pixels(index, 'dataroot_label', name), self.read(index)[1]
        if label.shape != target.shape:
            size, wanted = (f'{image.shape[1]}x{image.shape[0]}' for image in (label, target))
            raise UserError(f'{name}: the label is {size}, not {wanted} as its target {self.pairs[index].gt}')
        if self._cache is not None:
            self._labels[index] = label
        return label

    def place(self, index: int) -> str:
        """Path of the input of pair `index`, or of its target where the input is made; in LMDB folder and key."""
        pair, source = self.pairs[index], bisect_right(self._ends, index)
        root = self._sources[source]['dataroot_lq' if pair.lq else 'dataroot_gt']
        # A suffix, since keys may have points in them.
        return f'{root}/{pair.lq or pair.gt}.lmdb' if self._lmdb[source] else pair.lq or pair.gt

    def _pixels(self, index: int, root: str, name: str) -> np.ndarray:
        """An image of pair `index`, in the database or folder that the key `root` of its source names."""
        source = bisect_right(self._ends, index)
        return read_lmdb(self._sources[source][root], name) if self._lmdb[source] else read_file(name)


def folder_images(folder: str | Path, recursive: bool = False, every_file: bool = False) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files and files of other kinds are passed over.

    Args:
        folder: to look into.
        recursive: whether folders below it count as well, links to folders included.
        every_file: whether files of any suffix count, as BasicSR's data sets have it.

    Raises:
        UserError: for a missing folder, one without images, or two images that differ in their suffix only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(no_folder(folder))
    below = files_below(folder) if recursive else folder.iterdir()
    images = sorted(
        (
            p
            for p in below
            if (every_file or p.suffix.lower() in FORMATS) and not p.name.startswith('.') and p.is_file()
        ),
        key=lambda path: path.relative_to(folder).parts,
    )
    if not images and every_file:
        raise UserError(f'{folder}: no images in this folder')
    if not images:
        deeper = not recursive and any(p.suffix.lower() in FORMATS for p in files_below(folder))
        hint = '; folders below it have some: recursive: true' if deeper else ''
        raise UserError(f'{folder}: no images in this folder (looked for {", ".join(FORMATS)}){hint}')
    seen: dict[Path, Path] = {}
    for path in images:
        name = path.with_suffix('')
        if name in seen:
            raise UserError(f'{path.parent}: {seen[name].name} and {path.name} have one name; keep one of them')
        seen[name] = path
    return images


def is_lmdb(section: Mapping[str, Any]) -> bool:
    """Whether the section's images lie in LMDB; else they are files."""
    backend = (section.get('io_backend') or {}).get('type', 'disk')
    if backend not in ('disk', 'lmdb'):
        raise UserError(f"{_name(section)}: io_backend type must be 'disk' or 'lmdb', not {backend!r}")
    return backend == 'lmdb'


def read_file(path: str) -> np.ndarray:
    """Pixels of an image file, see `decode_pixels`."""
    return decode_pixels(read_patiently(path), path)


def read_lmdb(root: str, key: str) -> np.ndarray:
    """Pixels of an image in an LMDB folder, see `decode_pixels`."""
    with as_user_error():
        data = database.value(root, key)
    if data is None:
        raise UserError(f"{root}: its meta_info.txt names '{key}', but the database has no such key; make it anew")
    return decode_pixels(data, f'{root}:{key}')


def bicubic_patch(gt: np.ndarray, scale: int, top: int, left: int, size: int) -> np.ndarray:
    """A patch of an image reduced by MATLAB's bicubic `imresize`, from no more of the image than it takes.

    Args:
        gt: (h, w, 3) from `decode_pixels`, sides multiples of the scale.
        scale: the patch is this many times smaller than what it shows.
        top, left, size: of the patch, in pixels of the reduced image; cut off where that ends.

    Returns:
        RGB uint8, to the last bit what the reduced image as a whole has there.
    """
    first = [max(start - _REACH, 0) for start in (top, left)]
    around = gt[
        first[0] * scale : (top + size + _REACH) * scale,
        first[1] * scale : (left + size + _REACH) * scale,
    ]
    if around.dtype != np.uint8:  # a grey image, or one of 16 bits
        around = np.rint(around * 255).astype(np.uint8)
    top, left = top - first[0], left - first[1]
    return imresize(around, 1 / scale)[top : top + size, left : left + size]


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 or float pixels as float32 in 0..1."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Float RGB (h, w, 3) as a contiguous tensor (3, h, w)."""
    return torch.from_numpy(packed(image.transpose(2, 0, 1), np.float32))


# helpers


def _name(section: Mapping[str, Any]) -> str:
    return f'data set {section["name"]}' if section.get('name') else 'data set'


def _template(section: Mapping[str, Any]) -> str:
    template = section.get('filename_tmpl') or '{}'
    if not is_template(template):
        raise UserError(f'{_name(section)}: filename_tmpl must be {TEMPLATE}, not {template!r}')
    return str(template)


def _rain(section: Mapping[str, Any], read: bool) -> tuple[RainConfig | None, float]:
    """The rain of a section, and the share of samples that it makes the input of; `read`: there are inputs to read."""
    sources = ['dataroot_lq'] * read
    sources += [key for key in ('rain', 'bicubic') if section.get(key) or section.get(key) == {}]
    if not sources:
        raise UserError(
            f'{_name(section)}: dataroot_lq is missing: name the folder of inputs, or give rain, or bicubic: true'
        )
    probability = section.get('rain_probability')
    if probability is not None:
        if sources != ['dataroot_lq', 'rain']:
            raise UserError(f'{_name(section)}: rain_probability needs both dataroot_lq and rain')
        if not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
            raise UserError(f'{_name(section)}: rain_probability must be a number in 0..1, not {probability!r}')
    elif len(sources) > 1:
        made = sources[-1]
        both = ', or give rain_probability' if made == 'rain' else ''
        raise UserError(f'{_name(section)}: {made} makes the inputs itself; remove {sources[0]}, or {made}{both}')
    if 'rain' not in sources:
        return None, 0.0
    if section.get('scale', 1) != 1:
        raise UserError(f'{_name(section)}: rain needs scale 1, not {section["scale"]}')
    if not isinstance(section['rain'], Mapping):
        raise UserError(f'{_name(section)}: rain must be a section, as rain: {{}}, not {section["rain"]!r}')
    return RainConfig.from_options(dict(section['rain'])), 1.0 if probability is None else float(probability)


def _some(names: list[str]) -> str:
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(names[:5]) + more


def _listed_images(root: Path, meta_info: Path, in_order: bool = False) -> list[Path]:
    with as_user_error():
        paths = [root / entry.name for entry in read_names(meta_info, in_order)]
    paths = paths if in_order else sorted(paths)
    # As Python writes them, so that a comma, a backslash or a space that does not belong there shows.
    missing = [repr(str(path.relative_to(root))) for path in paths if not path.is_file()]
    if missing:
        raise UserError(f'{meta_info}: names {_some(missing)}, which {root} does not have')
    return paths


def _listed_pairs(section: Mapping[str, Any]) -> list[Pair]:
    file = Path(section['pairs_file'])
    for key in ('meta_info_file', 'filename_tmpl', 'recursive', 'dataroot_label'):
        if section.get(key):
            raise UserError(f'{_name(section)}: {key} has no sense beside pairs_file, the list of all pairs; remove it')
    if is_lmdb(section):
        raise UserError(f'{_name(section)}: pairs_file is for images in folders, not in LMDB; remove it')
    if not section.get('dataroot_lq'):
        raise UserError(f'{_name(section)}: pairs_file needs dataroot_lq: name the folder that its inputs lie in')
    with as_user_error():
        listed = read_pairs(file)
    gt_root, lq_root = Path(section['dataroot_gt']), Path(section['dataroot_lq'])
    for root, names in ((lq_root, [lq for lq, _ in listed]), (gt_root, sorted({gt for _, gt in listed}))):
        if missing := [repr(name) for name in names if not (root / name).is_file()]:
            raise UserError(f'{file}: names {_some(missing)}, which {root} does not have')
    return [Pair(str(gt_root / gt), str(lq_root / lq)) for lq, gt in listed]


def pairs_as_basicsr_lists_them(section: Mapping[str, Any]) -> list[Pair]:
    """The pairs of a `meta_info_file` as `PairedImageDataset` has them, in the order of the list.

    Inputs have the suffix of their targets, and lie in the same folder below `dataroot_lq`; or all in `dataroot_lq`
    itself, where BasicSR looks for them.

    Raises:
        UserError: as `list_pairs`; two targets of one input.
    """
    gt_root, lq_root = Path(section['dataroot_gt']), Path(section['dataroot_lq'])
    template = _template(section)
    targets = _listed_images(gt_root, Path(section['meta_info_file']), in_order=True)
    pairs, missing = [], []
    shown: dict[Path, Path] = {}
    for path in targets:
        name, folder = f'{template.format(path.stem)}{path.suffix}', path.parent.relative_to(gt_root)
        there = [place for place in (lq_root / folder / name, lq_root / name) if place.is_file()]
        if not there:
            missing.append(repr(str(folder / name)))
        elif there[0] in shown:
            other = shown[there[0]]
            raise UserError(f'{section["meta_info_file"]}: {path} and {other} have one input, {there[0]}')
        else:
            shown[there[0]] = path
            pairs.append(Pair(str(path), str(there[0])))
    if missing:
        raise UserError(f'{lq_root}: no input {_some(missing)} for a target of {section["meta_info_file"]}')
    return pairs


def listed_images(root: str | Path, meta_info: str | Path) -> list[str]:
    """The images that a list names, in its order, all of which are there.

    Raises:
        UserError: a list that cannot be read or names an image twice, an image that is not there.
    """
    return [str(path) for path in _listed_images(Path(root), Path(meta_info), in_order=True)]


def listed_real_pairs(section: Mapping[str, Any]) -> list[Pair]:
    """The pairs of a `meta_info` as `RealESRGANPairedDataset` has them: `target, input` a line, in its order.

    Raises:
        UserError: a list that cannot be read or names an input twice, a line that is no pair, an image that is not
            there.
    """
    file, roots = Path(section['meta_info']), (Path(section['dataroot_gt']), Path(section['dataroot_lq']))
    with as_user_error():
        lines = read_lines(file)
    pairs, missing = [], []
    for number, line in enumerate(lines, 1):
        names = line.strip().split(', ')
        if len(names) != 2 or not all(names):
            raise UserError(f"{file}, line {number}: {line!r} is no pair: 'target, input', with one comma and a blank")
        gt, lq = (root / name for root, name in zip(roots, names, strict=True))
        missing += [repr(str(path)) for path in (gt, lq) if not path.is_file()]
        pairs.append(Pair(str(gt), str(lq)))
    if missing:
        raise UserError(f'{file}: names {_some(missing)}, which are not there')
    times = Counter(pair.lq for pair in pairs)
    if twice := [repr(lq) for lq, count in times.items() if count > 1]:
        raise UserError(f'{file}: names {_some(twice)} twice; keep one line of each')
    return pairs


def _pairs_of_keys(gt_root: str, lq_root: str | None, template: str) -> list[Pair]:
    gt_keys = sorted(lmdb_keys(gt_root))
    if not lq_root:
        return [Pair(key, None) for key in gt_keys]
    lq_keys = set(lmdb_keys(lq_root))
    # The convention is one key for both; templates are for those who made their databases from other names.
    pairs = [Pair(key, template.format(key)) for key in gt_keys]
    missing = [pair.gt for pair in pairs if pair.lq not in lq_keys]
    if missing:
        raise UserError(f'{lq_root}: no input for the keys {_some(missing)} of {gt_root}')
    if extra := lq_keys - {pair.lq for pair in pairs}:
        raise UserError(f'{gt_root}: no target for the keys {_some(sorted(extra))} of {lq_root}')
    return pairs


def lmdb_keys(root: str | Path) -> list[str]:
    """What the images of an LMDB folder are called, in the order of its list; the database has them all.

    Raises:
        UserError: no such folder, a list that cannot be read or names an image twice, a database that is cut off or
            lacks an image.
    """
    if Path(root).suffix != '.lmdb' or not (Path(root) / 'meta_info.txt').is_file():
        raise UserError(f'{root}: not an LMDB folder of images: its name ends in .lmdb and it has a meta_info.txt')
    with as_user_error():
        return database.keys(str(root))
