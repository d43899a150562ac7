"""The data set of `realesrgan_pipeline`, as BasicSR finds it."""

from __future__ import annotations

from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY

from realesrgan_pipeline.realesrgan_dataset import RealESRGANDataset

from ..errors import as_user_error


@DATASET_REGISTRY.register()
class RealESRGANPipelineDataset(RealESRGANDataset):
    """Photographs for models that degrade them themselves; BasicSR has a `RealESRGANDataset` of its own.

    Raises:
        UserError: for what the data set of the pipeline raises ValueError.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        with as_user_error():
            super().__init__(opt)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with as_user_error():
            return super().__getitem__(index)
