"""The data set of `realesrgan_pipeline`, as BasicSR finds it."""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.utils.registry import DATASET_REGISTRY
from numpy.typing import NDArray

from realesrgan_pipeline.realesrgan_dataset import RealESRGANDataset, decode

from ..errors import UserError, as_user_error
from ..images.fast import whole_pixels
from .iteration_sampler import refuse_unnumbered


@DATASET_REGISTRY.register()
class RealESRGANPipelineDataset(RealESRGANDataset):
    """Photographs for models that degrade them themselves; BasicSR has a `RealESRGANDataset` of its own.

    Raises:
        UserError: for what the data set of the pipeline raises ValueError.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        refuse_unnumbered(opt.get('name', type(self).__name__), opt)
        with as_user_error():
            super().__init__(opt)
        self.photographs.decode = _decode

    def __getitem__(self, index: int) -> dict[str, Any]:
        with as_user_error():
            return super().__getitem__(index)


def _decode(data: bytes, where: str) -> NDArray[np.uint8]:
    """The pixels as they lie in the file; what the decoder notices of damage is an error."""
    try:
        pixels = whole_pixels(data)
    except ValueError as error:
        raise UserError(f'{where}: is a damaged or truncated image ({error})') from None
    return decode(data, where) if pixels is None else pixels
