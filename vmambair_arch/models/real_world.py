"""Low-quality images made while training: what stage 1 and stage 2 of real-world super-resolution share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from realesrgan_pipeline import Degradation, DegradationConfig, image_generator
from realesrgan_pipeline.config import OPTION_NAMES
from realesrgan_pipeline.extras import missing_codecs
from realesrgan_pipeline.realesrgan_dataset import CROP_PAD_SIZE
from realesrgan_pipeline.sharpen import usm_sharpen

from ..errors import UserError, as_user_error
from .pair_pool import PairPool
from .vmambair_model import VmambaIRModel

CUT_TO_400 = ('RealESRGANDataset', 'RealESRGANPipelineDataset')
"""Data sets whose images are `CROP_PAD_SIZE` wide and high where their section does not say otherwise."""

# Tags that keep the streams of random numbers apart.
_DEGRADE, _POOL = 2, 3


def read_degradation(opt: dict[str, Any], section: dict[str, Any]) -> DegradationConfig:
    """The degradation that an option file and its section `datasets: train` name."""
    given = {name: source[name] for source in (section, opt) for name in OPTION_NAMES if name in source}
    with as_user_error():
        return DegradationConfig.from_options(given)


def read_gt_size(opt: dict[str, Any], section: dict[str, Any]) -> int:
    """The patch, which Real-ESRGAN's files name in both places."""
    gt_size = opt.get('gt_size') or section.get('gt_size')
    if 'scale' not in opt:
        raise UserError("key 'scale' is missing: how many times smaller than its targets an input is")
    if not gt_size or gt_size % opt['scale']:
        raise UserError(f'gt_size must be a multiple of the scale {opt["scale"]}, not {gt_size}')
    return gt_size


class RealWorldData(VmambaIRModel):
    """For a subclass of `VmambaIRModel`: batches without `lq` are degraded, cropped and put through the pair pool.

    Options, where Real-ESRGAN's files have them: those of `DegradationConfig.from_options` at the top of the file or in
    its section `datasets: train`; `gt_size`, the patch after the degradation; `queue_size`, pairs in the pool.

    Every draw depends on the seed, the iteration and the place in the global batch alone.

    Raises:
        UserError: options out of range; data smaller than the patch.
    """

    takes_labels = False
    reads = ('gt',)
    usm_option = 'gt_usm'
    """The option that sharpens the images before they are degraded."""

    @classmethod
    def check_options(cls, opt: dict[str, Any]) -> None:
        super().check_options(opt)
        section = opt['datasets']['train']
        extra = read_degradation(opt, section).extra
        if (extra.codec_prob or extra.codec_prob2) and (fault := missing_codecs(extra.codec_list)):
            raise UserError(fault)
        gt_size, crop = read_gt_size(opt, section), section.get('crop_pad_size')
        if crop is None and section.get('type') in CUT_TO_400:
            crop = CROP_PAD_SIZE
        if crop and gt_size > crop:
            raise UserError(f'gt_size {gt_size} is larger than crop_pad_size {crop} of datasets: train; raise that')

    @classmethod
    def left_of_state(cls, opt: dict[str, Any], state: Mapping[str, Any]) -> str:
        gt_size = read_gt_size(opt, opt['datasets']['train'])
        for rank in state.get('ranks') or []:
            kept = rank.get('pool', {}).get('gt')
            if kept is not None and kept.shape[-1] != gt_size:
                return f'the pool of pairs begins empty: those of the state have {kept.shape[-1]} pixels, not {gt_size}'
        return super().left_of_state(opt, state)

    def init_training_settings(self) -> None:
        super().init_training_settings()
        opt, section = self.opt, self.opt['datasets']['train']
        self.degrade = Degradation(read_degradation(opt, section))
        self.gt_size = read_gt_size(opt, section)
        self._pooled_at = -1
        self.seed = opt['manual_seed'] if section.get('manual_seed') is None else section['manual_seed']
        replicas = 1 if opt['dist'] else max(1, opt['num_gpu'])
        self.pool = PairPool(opt.get('queue_size', 180), section['batch_size_per_gpu'] * replicas)

    @torch.no_grad()
    def feed_data(self, data: dict[str, Any]) -> None:
        """Data with `lq`, as in validation, is taken as it is."""
        if 'lq' in data:
            super().feed_data(data)
            return
        gt = data['gt'].to(self.device)
        h, w = (n // self.opt['scale'] * self.opt['scale'] for n in gt.shape[-2:])
        gt = gt[..., :h, :w]  # with a rest, pixels of both images would lie ever farther apart
        rank, ranks = self.opt['rank'], self.opt['world_size']
        key = self.seed, _DEGRADE, self.current_iter
        generators = [image_generator(*key, i * ranks + rank) for i in range(len(gt))]
        with as_user_error():
            lq, _ = self.degrade(usm_sharpen(gt) if self.opt.get(self.usm_option) else gt, generators)
        lq, gt = self._crop(lq, gt, generators)
        mixed = self.pool.full
        self._pooled_at = self.current_iter
        self.lq, self.gt = self.pool.exchange(lq, gt, image_generator(self.seed, _POOL, self.current_iter, rank))
        self.paths = None if mixed else data.get('gt_path')

    def _crop(self, lq: Tensor, gt: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """A random patch of each pair, the same place in both."""
        scale = self.opt['scale']
        size = self.gt_size // scale
        if min(lq.shape[-2:]) < size:
            h, w = gt.shape[-2:]
            raise UserError(f"gt_size {self.gt_size} is larger than the data set's {w}x{h}; raise its crop_pad_size")
        patches = []
        for i, generator in enumerate(generators):
            top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in lq.shape[-2:])
            gt_patch = gt[i, :, top * scale :, left * scale :][:, : self.gt_size, : self.gt_size]
            patches.append((lq[i, :, top : top + size, left : left + size], gt_patch))
        lq_patches, gt_patches = zip(*patches, strict=True)
        return torch.stack(lq_patches), torch.stack(gt_patches)

    def _step_back(self) -> bool:
        if self._pooled_at == self.current_iter:
            self.pool.take_back()
        return super()._step_back()

    def rank_state(self) -> dict[str, Any]:
        return super().rank_state() | {'pool': self.pool.state_dict()}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        super().load_rank_state(state)
        pool = {} if self.left_of_state(self.opt, {'ranks': [state]}) else state.get('pool', {})
        self.pool.load_state_dict(pool, self.device)
