"""`vmambair degrade`: see what the real-world degradation does to a photograph of one's own."""

from __future__ import annotations

from pathlib import Path

from realesrgan_pipeline import DegradationConfig
from realesrgan_pipeline.contact_sheet import contact_sheet

from .errors import as_user_error
from .inference.image_io import Image, read_image, write_image


def degrade(photo: str | Path, out: str | Path, seed: int = 0, grid: int = 16, scale: int = 4) -> None:
    """Write a sheet of `grid` pictures: the photograph, and degradations with their draws below.

    Raises:
        UserError: no photograph, one too small, numbers out of range, a sheet that cannot be written.
    """
    photograph = read_image(photo).rgb
    with as_user_error(str(photo)):
        sheet = contact_sheet(photograph, seed, grid, DegradationConfig.from_options({'scale': scale}))
    write_image(out, Image(sheet.astype('float32') / 255))
