"""Ground truth for real-world super-resolution: a patch of a photograph for every place in every batch of a run.

What a patch is (which photograph, where, which flip) depends on the seed, the iteration and the place in the global
batch alone. So the data is the same for any number of workers, after a resume, and for one process as for several.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from .database import keys, value
from .name_list import read_names
from .sources import Order, files_below, read_sources, read_weights

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
PAUSES = (0.5, 1.0)
"""Seconds to wait before each further attempt at a file that a busy server does not hand out."""

CROP_PAD_SIZE = 400
"""Side of the patches that are degraded, unless a section says otherwise; Real-ESRGAN's."""

SOURCE_KEYS = ('dataroot_gt', 'io_backend', 'meta_info')
"""What an entry of `sources` may say beside its `weight`."""

_PATCH = 1
"""Tag that keeps the random numbers of patches apart from those of the order."""
logger = logging.getLogger('basicsr')


class RealESRGANDataset(Dataset):
    """Item i is the patch at place `i % n` of iteration `i // n`, n images a global batch: `gt` and `gt_path`.

    Args:
        opt: the section of an option file, with
            dataroot_gt: folder of the photographs, or an LMDB folder of BasicSR's form.
            meta_info: a list of names relative to `dataroot_gt`, one a line, in BasicSR's form `name.png (h,w,c)`;
                without it all images below the folder.
            io_backend: `type` disk (default) or lmdb.
            sources: instead, a list of several folders, each with `dataroot_gt` and any `meta_info`, `io_backend` and
                `weight`: the folder's share of the draws. Without weights all photographs come equally often.
            crop_pad_size: side of the patch in pixels, 400 by default as in Real-ESRGAN; VmambaIR's release has 600.
                Photographs are cropped at random, and smaller ones mirrored at the right and bottom.
            use_hflip: flip left and right with probability 1/2, default true.
            use_rot: flip top and bottom, and transpose, each with probability 1/2, default false.
            cache: keep decoded photographs in memory, in each worker: for sets that fit.
            manual_seed, total_iter, start_iter, num_replicas, batch_size_per_gpu: of the run, whose iterations the
                items are.

    Every photograph comes once before any comes again (with weights: any of its folder).

    Raises:
        ValueError: one line that names the file or option: folders and lists that cannot work, at once; a photograph
            that cannot be read (after some attempts) or is not 8-bit RGB, when it is asked for.
    """

    numbered_by_iteration = True

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.name = opt.get('name', type(self).__name__)
        self.size = CROP_PAD_SIZE if opt.get('crop_pad_size') is None else opt['crop_pad_size']
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f'data set {self.name}: crop_pad_size must be a whole number from 1 up, not {self.size!r}')
        self.use_hflip = opt.get('use_hflip', True)
        self.use_rot = opt.get('use_rot', False)
        self.seed = opt.get('manual_seed') or 0
        self.items_per_iteration = opt.get('batch_size_per_gpu', 1) * opt.get('num_replicas', 1)
        self.total_iter = opt.get('total_iter', 1)
        self.start_index = opt.get('start_iter', 0) * self.items_per_iteration
        self.photographs = _Photographs(self.name, opt)
        self._order = Order(self.seed, self.photographs.sizes, self.photographs.weights)

    def __len__(self) -> int:
        """Patches of the whole run."""
        return self.total_iter * self.items_per_iteration

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """gt (3, size, size) RGB float32 in 0..1, and gt_path, of a database with the key behind a colon."""
        rng = np.random.default_rng((self.seed, _PATCH, *divmod(index, self.items_per_iteration)))
        number = self._order(index)
        patch = self._patch(self.photographs.read(number), rng)
        gt = torch.from_numpy(patch.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
        return {'gt': gt, 'gt_path': self.photographs.place(number)}

    def _patch(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        size = self.size
        top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in image.shape[:2])
        flip_x, flip_y, transpose = rng.random(3) < 0.5
        patch = image[top : top + size, left : left + size]
        missing = [(0, size - n) for n in patch.shape[:2]]
        if any(after for _, after in missing):
            patch = np.pad(patch, [*missing, (0, 0)], mode='reflect')
        if self.use_hflip and flip_x:
            patch = patch[:, ::-1]
        if self.use_rot and flip_y:
            patch = patch[::-1]
        if self.use_rot and transpose:
            patch = patch.transpose(1, 0, 2)
        return patch


class _Folder:
    """One folder or database; order is sorted by name, the same on every machine.

    Attributes:
        root: of the names.
        lmdb: whether they are keys of a database.
        names: of the photographs.
    """

    def __init__(self, name: str, opt: Mapping[str, Any]) -> None:
        if not opt.get('dataroot_gt'):
            raise ValueError(f'data set {name}: dataroot_gt is missing: name the folder of the photographs')
        self.root = Path(opt['dataroot_gt'])
        kind = (opt.get('io_backend') or {}).get('type', 'disk')
        if kind not in ('disk', 'lmdb'):
            raise ValueError(f"data set {name}: io_backend type must be 'disk' or 'lmdb', not {kind!r}")
        self.lmdb = kind == 'lmdb'
        if not self.root.is_dir():
            raise ValueError(f'{self.root}: no such folder')
        if self.lmdb:
            self.names = sorted(keys(str(self.root)))
        elif opt.get('meta_info'):
            self.names = self._checked(Path(opt['meta_info']))
        else:
            below = (path for path in files_below(self.root) if path.suffix.lower() in SUFFIXES)
            self.names = sorted(p.relative_to(self.root).as_posix() for p in below if not p.name.startswith('.'))
            if not self.names:
                raise ValueError(f'{self.root}: no images in this folder (looked for {", ".join(SUFFIXES)})')

    def _checked(self, meta_info: Path) -> list[str]:
        names = [entry.name for entry in read_names(meta_info)]
        # As Python writes them, so that a comma or a blank that does not belong there shows.
        missing = [repr(name) for name in names if not (self.root / name).is_file()]
        if missing:
            more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
            raise ValueError(f'{meta_info}: names {", ".join(missing[:3])}{more}, which {self.root} does not have')
        return names

    def place(self, name: str) -> str:
        """Where a photograph is, for messages."""
        return f'{self.root}:{name}' if self.lmdb else str(self.root / name)

    def bytes(self, name: str) -> bytes:
        if not self.lmdb:
            return (self.root / name).read_bytes()
        data = value(str(self.root), name)
        if data is None:
            raise ValueError(f"{self.root}: its meta_info.txt names '{name}', but the database has no such key")
        return data


class _Photographs:
    """The photographs of a section by number, folder after folder.

    Attributes:
        decode: makes RGB (h, w, 3) of the bytes of a photograph and of its place, or raises a ValueError that names it.
    """

    decode: Callable[[bytes, str], NDArray[np.uint8]]

    def __init__(self, name: str, opt: Mapping[str, Any]) -> None:
        self.decode = decode
        self.weights: list[float] | None = None
        if opt.get('sources') is None:
            self.folders = [_Folder(name, opt)]
        else:
            sections = read_sources(opt, SOURCE_KEYS, name)
            self.weights = read_weights(sections, name)
            self.folders = [_Folder(name, section) for section in sections]
        self.sizes = [len(folder.names) for folder in self.folders]
        self.names = [name for folder in self.folders for name in folder.names]
        self._folder = [folder for folder in self.folders for _ in folder.names]
        self._cache: dict[int, NDArray[np.uint8]] | None = {} if opt.get('cache') else None

    def __len__(self) -> int:
        return len(self.names)

    def place(self, number: int) -> str:
        """Where a photograph is, for messages."""
        return self._folder[number].place(self.names[number])

    def read(self, number: int) -> NDArray[np.uint8]:
        """Photograph (h, w, 3), RGB."""
        if self._cache is not None and number in self._cache:
            return self._cache[number]
        folder, name = self._folder[number], self.names[number]
        where = self.place(number)
        for pause in (*PAUSES, None):
            try:
                data = folder.bytes(name)
                break
            except OSError as error:
                if pause is None:
                    reason = getattr(error, 'strerror', None) or error
                    raise ValueError(f'{where}: cannot be read, tried {len(PAUSES) + 1} times ({reason})') from error
                logger.warning(f'{where}: {error}; trying again in {pause} s')
                time.sleep(pause)
        image = self.decode(data, where)
        if self._cache is not None:
            self._cache[number] = image
        return image


def decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The pixels of an RGB photograph by Pillow.

    Raises:
        ValueError: no image, a damaged one, too large, or not RGB; names `where`.
    """
    try:
        image = Image.open(io.BytesIO(data))
        mode, pixels = image.mode, np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError(f'{where}: is not an image ({len(data)} bytes)') from None
    except Image.DecompressionBombError as error:
        raise ValueError(f'{where}: is too large ({error}); cut it up, or take it out') from error
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise ValueError(f'{where}: is damaged ({error})') from error
    if mode != 'RGB':
        kind = 'a grey image' if mode in ('1', 'L', 'LA', 'I', 'I;16', 'F') else f'an image of mode {mode}'
        raise ValueError(f'{where}: {kind} among RGB images; convert it, or take it out')
    return pixels
