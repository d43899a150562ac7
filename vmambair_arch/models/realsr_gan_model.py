"""`VmambaIRRealSRGANModel`: stage 2 of real-world super-resolution."""

from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from realesrgan_pipeline.sharpen import usm_sharpen

from .real_world import RealWorldData
from .sr_gan_model import VmambaIRSRGANModel
from .vmambair_model import Batch


@MODEL_REGISTRY.register()
class VmambaIRRealSRGANModel(RealWorldData, VmambaIRSRGANModel):
    """Pixel, perceptual and adversarial losses on photographs that are degraded while training, as Real-ESRGAN.

    Options beyond those of `RealWorldData` and `VmambaIRSRGANModel`, at the top of the file, each default false as in
    VmambaIR's release:
        `l1_gt_usm`: sharpen what the pixel loss sees, and what is degraded (Real-ESRGAN: true).
        `percep_gt_usm`: sharpen what the perceptual loss sees (Real-ESRGAN: true).
        `gan_gt_usm`: sharpen what the discriminator sees as real (Real-ESRGAN: false).
    """

    usm_option = 'l1_gt_usm'

    def target(self, criterion: str, batch: Batch) -> Tensor:
        option = {'pixel': 'l1_gt_usm', 'perceptual': 'percep_gt_usm', 'gan': 'gan_gt_usm'}.get(criterion)
        if not self.opt.get(option):
            return batch['gt']
        if 'gt_usm' not in batch:
            batch['gt_usm'] = usm_sharpen(batch['gt'])
        return batch['gt_usm']
