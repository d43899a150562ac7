"""`VmambaIRRealSRModel`: stage 1 of real-world super-resolution."""

from __future__ import annotations

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from realesrgan_pipeline.sharpen import usm_sharpen

from .real_world import RealWorldData
from .vmambair_model import Batch, VmambaIRModel


@MODEL_REGISTRY.register()
class VmambaIRRealSRModel(RealWorldData, VmambaIRModel):
    """Pixel losses on photographs that are degraded while training, as Real-ESRNet (arXiv 2107.10833, section 4.1).

    Options beyond those of `RealWorldData` and `VmambaIRModel`, at the top of the file:
        `gt_usm`: sharpen what the loss sees and what is degraded, default false as in VmambaIR's release (Real-ESRGAN:
            true).
    """

    def target(self, criterion: str, batch: Batch) -> Tensor:
        return usm_sharpen(batch['gt']) if self.opt.get('gt_usm') else batch['gt']
