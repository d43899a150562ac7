"""Pairs for training with patches that grow: Restormer's progressive learning (arXiv 2111.09881, section 3.3), as the
VmambaIR paper trains deraining, without its waste.

Restormer loads every batch at the largest batch and patch size and cuts it down; here each iteration reads and
decodes what its stage needs. Every draw (which image, where, which flip, which rain) is a pure function of the seed,
the iteration and the place in the global batch. So the data is the same for any number of workers, after a resume, and
for one process as for several that share the same global batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import cv2
import numpy as np
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, default_collate

from realesrgan_pipeline.sources import Order

from ..errors import UserError
from .iteration_sampler import refuse_unnumbered
from .lines import draw_lines
from .mixing import cutblur, cutmix, mixup, permute_colours, read_mixing
from .pairs import PairSource, bicubic_patch, to_float, to_tensor
from .rain import add_8bit_rain

_Patch = tuple[dict[str, np.ndarray], dict[str, str]]
"""lq, gt and any label, float32 (h, w, 3) in 0..1; lq_path and gt_path of what was read."""

# Tag that keeps the random numbers of samples apart from those of the order.
_SAMPLE = 1


@DATASET_REGISTRY.register()
class PairedProgressiveDataset(Dataset):
    """Item i is the mini-batch that one loader delivers in one iteration: `lq` and `gt`, RGB float32 (b, 3, h, w) 0..1.

    With `dataroot_label` each sample has a `label` as well, as large as `gt`: what a teacher network makes of `lq`.

    Options, beside those of `pairs.list_pairs`:
        gt_sizes: patch size of the targets in each stage, pixels; multiples of `scale`.
        mini_batch_sizes: samples per GPU and iteration in each stage. `batch_size_per_gpu` is 1: an item is a batch.
        iters: iterations of each stage. After the last one the last stage goes on.
        gt_size: instead of these three, one stage; then `batch_size_per_gpu` is what it is anywhere in BasicSR.
        use_hflip: flip left and right with probability 1/2, default true.
        use_rot: flip top and bottom, and transpose, each with probability 1/2, default true.
        rain: let it rain on the targets instead of reading inputs. Keys are those of `RainConfig`, `{}` its defaults.
            Rain falls after flips and rotations, so that it always falls down.
        rain_probability: with `dataroot_lq` as well: the share of samples whose input is the target with rain.
        clean_probability: the share of samples without rain, input and target alike: what has nothing to remove must
            stay as it is.
        dataroot_clean: a folder of further clean images. Rain is drawn, and samples without rain are cut, from these
            and the targets; all images come equally often.
        lines_probability: the share of samples with hard negatives drawn into input and target alike, see `lines`:
            thin straight things that are not rain.
        enlarge: the highest factor by which samples are enlarged, input and target alike, at least 1: rain as cameras
            of more pixels see it. Factors are spread so that each doubling comes as often as the next.
        enlarge_probability: the share of samples that are, with `enlarge`.
        bicubic: true makes the inputs from the targets by MATLAB's bicubic, to the last bit as on disk, instead.
        mixup: `beta` (1.2) and `probability` (0.5). A sample becomes `w*a + (1-w)*b` of itself and another random
            sample of the data, w from Beta(beta, beta); a mixed sample costs a second pair of images.
        cutmix: `beta` (1) and `probability` (0.5). A rectangle of another sample takes the place of a sample's own; its
            share of the area is 1 - Beta(beta, beta).
        cutblur: `ratio` (0.7) and `probability` (0.5), for scale 1. A rectangle of the target lies in the input, or
            all but one, as wide and high as `ratio` of the patch.
        rgb_permutation_probability: the share of samples whose three channels come in another order.
        sources: instead of the folders above, a list of several, each with `dataroot_gt`, any `dataroot_lq` and
            `dataroot_label`, `filename_tmpl`, `io_backend`, `meta_info_file`, `pairs_file`, `recursive`, and a
            `weight`: the folder's share of the draws. Without weights all pairs come equally often.
        recursive: folders below the folders count as well; a/001.png belongs to a/001.png.
        cache: keep decoded images in memory, in each worker: for sets that fit.
        scale: from the top of the option file.

    Every image comes once before any comes again (with weights: any of its folder). Images smaller than the patch are
    padded by reflection at the right and bottom, as in Restormer (Rain13K has images 321 pixels high, and patches grow
    to 384).

    `total_iter`, `start_iter`, `manual_seed` and `num_replicas` come from `iteration_sampler.number_by_iteration`.

    Raises:
        UserError: for options and folders that cannot work, at once; for an image that cannot be decoded or does not
            fit its partner, when it is read. Names the key or file.
    """

    numbered_by_iteration = True

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self.name = opt.get('name', type(self).__name__)
        self.scale = opt.get('scale', 1)
        self.use_hflip = opt.get('use_hflip', True)
        self.use_rot = opt.get('use_rot', True)
        self.gt_sizes, self.mini_batch_sizes, iters = self._stages(opt)
        self.stage_starts = [0, *accumulate(iters)][:-1]

        refuse_unnumbered(self.name, opt)
        self.seed = opt.get('manual_seed') or 0
        world_size = get_dist_info()[1]
        self.items_per_iteration = opt.get('batch_size_per_gpu', 1) * opt.get('num_replicas', world_size)
        self.total_iter = opt.get('total_iter', sum(iters))
        self.start_index = opt.get('start_iter', 0) * self.items_per_iteration

        wanted = {'mixup': opt.get('mixup'), 'cutmix': opt.get('cutmix'), 'cutblur': opt.get('cutblur')}
        self.mixing = read_mixing(wanted, f'data set {self.name}', self.scale)
        self.permuted = opt.get('rgb_permutation_probability') or 0
        if type(self.permuted) not in (int, float) or not 0 <= self.permuted <= 1:
            raise UserError(
                f'data set {self.name}: rgb_permutation_probability must be a number in 0..1, not {self.permuted!r}'
            )
        self.enlarge = opt.get('enlarge') or 1
        self.shares = {
            'clean': opt.get('clean_probability') or 0,
            'lines': opt.get('lines_probability') or 0,
            'enlarge': opt.get('enlarge_probability') or 0,
        }
        self.source = PairSource(opt)
        self._check_shares(opt)
        self.labelled = self.source.pairs[0].label is not None
        if self.labelled and self.source.rain:
            raise UserError(f'data set {self.name}: dataroot_label has no label for inputs that rain makes; remove one')
        made = [f'{name}_probability' for name, share in self.shares.items() if share]
        made += ['dataroot_clean'] if self.source.photographs else []
        if self.labelled and made:
            raise UserError(f'data set {self.name}: dataroot_label has no label for what {made[0]} makes; remove one')
        self._order = Order(self.seed, self.source.sizes, self.source.weights)

    def __len__(self) -> int:
        """Items of the whole run: iterations times loaders' batches per iteration."""
        return self.total_iter * self.items_per_iteration

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The mini-batch of item `index`: lq (b, 3, h/scale, w/scale), gt (b, 3, h, w), any label (as gt),
        lq_path and gt_path (lists).
        """
        return default_collate(self.samples(index))

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """All samples of the items, for the loader's own collation, so that no further dimension comes up."""
        return [sample for index in indices for sample in self.samples(index)]

    def samples(self, index: int) -> list[dict[str, Any]]:
        """The samples of item `index`, one dict each."""
        iteration, item = divmod(index, self.items_per_iteration)
        batch = self.mini_batch_sizes[self.stage(iteration)]
        return [self.sample(iteration, item * batch + i) for i in range(batch)]

    def stage(self, iteration: int) -> int:
        """Number of the stage that `iteration` (from 0) lies in."""
        return int(np.searchsorted(self.stage_starts, iteration, side='right')) - 1

    def sample(self, iteration: int, place: int) -> dict[str, Any]:
        """The sample at one place in the global batch of one iteration, both counted from 0."""
        rng = np.random.default_rng((self.seed, _SAMPLE, iteration, place))
        gt_size = self.gt_sizes[self.stage(iteration)]
        index = self._order(self._samples_before(iteration) + place)
        images, paths = self._patch(rng, index, gt_size)
        for name, mix in (('mixup', mixup), ('cutmix', cutmix)):
            settings = self.mixing.get(name)
            if settings and rng.random() < settings['probability']:
                other, _ = self._patch(rng, self._order.any(rng), gt_size)
                images = mix(images, other, rng, settings['beta'])
        blurred = self.mixing.get('cutblur')
        if blurred and rng.random() < blurred['probability']:
            images = cutblur(images, rng, blurred['ratio'])
        if self.permuted and rng.random() < self.permuted:
            images = permute_colours(images, rng)
        tensors = {name: to_tensor(image) for name, image in images.items()}
        return tensors | paths

    # which image

    def _samples_before(self, iteration: int) -> int:
        ends = [*self.stage_starts[1:], iteration]
        iterations = (max(0, min(iteration, end) - start) for start, end in zip(self.stage_starts, ends, strict=True))
        return self.items_per_iteration * sum(n * b for n, b in zip(iterations, self.mini_batch_sizes, strict=True))

    # what of it

    def _patch(self, rng: np.random.Generator, index: int, gt_size: int) -> _Patch:
        """A random patch of pair `index`, flipped and rained on."""
        if any(self.shares.values()) or self.source.photographs:
            return self._varied_patch(rng, index, gt_size)
        lq, gt = self.source.read(index)
        pair = self.source.pairs[index]
        paths = {'lq_path': pair.lq or pair.gt, 'gt_path': pair.gt}
        cut = self._cut(rng, gt, gt_size)
        share = self.source.rain_probability
        if share == 1 or (share and rng.random() < share):
            gt = cut(gt, self.scale)
            return {'lq': add_8bit_rain(gt, rng, self.source.rain), 'gt': gt}, paths
        if self.source.bicubic:
            return {'lq': cut.bicubic(gt), 'gt': cut(gt, self.scale)}, paths
        assert lq is not None  # there is an input where none is made
        images = {'lq': cut(lq, 1), 'gt': cut(gt, self.scale)}
        if self.labelled:
            images['label'] = cut(self.source.read_label(index), self.scale)
        return images, paths

    def _varied_patch(self, rng: np.random.Generator, index: int, gt_size: int) -> _Patch:
        """As `_patch`, for scale 1, where samples without rain, enlarged ones or hard negatives are wanted as well."""
        kind, enlarged, lined = rng.random(3)
        clean = kind < self.shares['clean']
        drawn = not clean and rng.random() < self.source.rain_probability
        factor = self.enlarge ** rng.random() if enlarged < self.shares['enlarge'] else 1.0
        if (clean or drawn) and self.source.photographs:
            drawn_image = int(rng.integers(len(self.source) + len(self.source.photographs)))
            if drawn_image >= len(self.source) or self.source.weights is None:
                index = drawn_image
        if clean or drawn:
            lq, gt = None, self.source.read_clean(index)
            paths = dict.fromkeys(('lq_path', 'gt_path'), self.source.clean_path(index))
        else:
            lq, gt = self.source.read(index)
            pair = self.source.pairs[index]
            paths = {'lq_path': pair.lq or pair.gt, 'gt_path': pair.gt}
        cut = self._cut(rng, gt, math.ceil(gt_size / factor))
        gt = _enlarged(cut(gt, 1), gt_size)
        rain = None if lq is None else _enlarged(cut(lq, 1), gt_size) - gt
        if lined < self.shares['lines']:
            gt = draw_lines(gt, rng)
        if clean:
            return {'lq': gt, 'gt': gt}, paths
        if rain is None:
            return {'lq': add_8bit_rain(gt, rng, self.source.rain), 'gt': gt}, paths
        return {'lq': np.clip(gt + rain, 0, 1), 'gt': gt}, paths

    def _cut(self, rng: np.random.Generator, gt: np.ndarray, gt_size: int) -> _Cut:
        """A random place in a pair with this target, and a random flip."""
        h, w = gt.shape[0] // self.scale, gt.shape[1] // self.scale
        size = gt_size // self.scale
        top, left = rng.integers(max(h - size, 0) + 1), rng.integers(max(w - size, 0) + 1)
        flip_x, flip_y, transpose = rng.random(3) < 0.5
        return _Cut(
            int(top),
            int(left),
            size,
            self.scale,
            bool(self.use_hflip and flip_x),
            bool(self.use_rot and flip_y),
            bool(self.use_rot and transpose),
        )

    # options

    def _stages(self, opt: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
        keys = ('gt_sizes', 'mini_batch_sizes', 'iters')
        given = [key for key in keys if opt.get(key) is not None]
        if opt.get('gt_size') is not None:
            if given:
                raise UserError(f'data set {self.name}: give gt_size, or {", ".join(keys)}, not both')
            stages = [opt['gt_size']], [1], [opt.get('total_iter', 1)]
        elif len(given) < len(keys):
            missing = ', '.join(key for key in keys if key not in given)
            raise UserError(f'data set {self.name}: {missing} missing; give gt_size, or all of {", ".join(keys)}')
        else:
            stages = tuple(opt[key] for key in keys)
            if opt.get('batch_size_per_gpu', 1) != 1:
                raise UserError(
                    f'data set {self.name}: batch_size_per_gpu must be 1, not {opt["batch_size_per_gpu"]}, beside '
                    'mini_batch_sizes, the batch per GPU of each stage'
                )
        for key, values in zip(keys, stages, strict=True):
            if not isinstance(values, list) or not values or any(type(v) is not int or v < 1 for v in values):
                raise UserError(f'data set {self.name}: {key} must be a list of whole numbers >= 1, not {values!r}')
        if len({len(values) for values in stages}) > 1:
            lengths = ', '.join(f'{key} {len(values)}' for key, values in zip(keys, stages, strict=True))
            raise UserError(f'data set {self.name}: one value per stage is needed in each, these differ: {lengths}')
        for size in stages[0]:
            if size % self.scale:
                raise UserError(f'data set {self.name}: gt size {size} is not a multiple of scale {self.scale}')
        return stages

    def _check_shares(self, opt: dict[str, Any]) -> None:
        for name, share in self.shares.items():
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise UserError(f'data set {self.name}: {name}_probability must be a number in 0..1, not {share!r}')
        if isinstance(self.enlarge, bool) or not isinstance(self.enlarge, (int, float)) or not 1 <= self.enlarge <= 16:
            raise UserError(f'data set {self.name}: enlarge must be a number in 1..16, not {self.enlarge!r}')
        if self.shares['enlarge'] and self.enlarge == 1:
            raise UserError(f'data set {self.name}: enlarge_probability needs enlarge, the highest factor, above 1')
        wanted = [f'{name}_probability' for name, share in self.shares.items() if share]
        wanted += ['dataroot_clean'] if opt.get('dataroot_clean') else []
        if wanted and (self.scale != 1 or self.source.bicubic):
            raise UserError(f'data set {self.name}: {wanted[0]} is for deraining: scale 1, without bicubic')
        if self.source.photographs and not (self.shares['clean'] or self.source.rain_probability):
            raise UserError(
                f'data set {self.name}: dataroot_clean needs rain or clean_probability, or nothing reads it'
            )


@dataclass(frozen=True)
class _Cut:
    """Where a patch lies, in pixels of the input, and how it is turned."""

    top: int
    left: int
    size: int
    scale: int
    flip_x: bool
    flip_y: bool
    transpose: bool

    def __call__(self, image: np.ndarray, scale: int) -> np.ndarray:
        """The patch of an image that has `scale` times the input's size, float32."""
        top, left, size = self.top * scale, self.left * scale, self.size * scale
        return self._finish(image[top : top + size, left : left + size], size)

    def bicubic(self, gt: np.ndarray) -> np.ndarray:
        """The patch of the input that bicubic makes of a target."""
        return self._finish(bicubic_patch(gt, self.scale, self.top, self.left, self.size), self.size)

    def _finish(self, image: np.ndarray, size: int) -> np.ndarray:
        bottom, right = size - image.shape[0], size - image.shape[1]
        if bottom or right:
            # Mirrored about the edge itself, so that a block of the target stays under its pixel of the input.
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        if self.transpose:
            image = image.transpose(1, 0, 2)
        return to_float(image)


def _enlarged(patch: np.ndarray, size: int) -> np.ndarray:
    """A square patch at `size` x `size` pixels, 0..1."""
    if patch.shape[0] == size:
        return patch
    return np.clip(cv2.resize(patch, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
