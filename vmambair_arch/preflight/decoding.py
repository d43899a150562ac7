"""Every image of the data, decoded: damage that only the decoder notices, found before a run meets it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ..data.pairs import read_file, read_lmdb
from ..errors import UserError
from ..files import read_patiently
from ..images.fast import opencv_pixels
from .report import Report

Image = str | tuple[str, str]
"""The path of a file, or the folder of an LMDB and a key in it."""


class Decoder:
    """Decodes images as training does, each once, however many data sets name it."""

    def __init__(self) -> None:
        self._complaints: dict[Image, str] = {}

    def check(self, images: Iterable[Image], where: str, report: Report, *, by_opencv: bool = False) -> None:
        """A fault for each image that cannot be decoded, with a bar on stderr where that is a terminal.

        Args:
            images: what a data section names.
            where: its place, for messages.
            by_opencv: whether it may be OpenCV alone that knows the format.
        """
        images = list(dict.fromkeys(images))
        left = [image for image in images if image not in self._complaints]
        started = time.perf_counter()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                bar = tqdm(pool.map(_complaint, left), where, len(left), unit='image', disable=None, leave=False)
                for image, complaint in zip(left, bar, strict=True):
                    self._complaints[image] = complaint
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        bad = [image for image in images if self._complaints[image]]
        bad = [image for image in bad if not (by_opencv and _opencv_reads(image))]
        report.faults.extend(f'{where}: {self._complaints[image]}' for image in bad)
        if not bad:
            seconds = time.perf_counter() - started
            report.facts.append(f'{where}: {len(images)} images decoded in {seconds:.1f} s, all of them whole')


def _opencv_reads(image: Image) -> bool:
    try:
        return isinstance(image, str) and opencv_pixels(read_patiently(image), image) is not None
    except UserError:
        return False


def _complaint(image: Image) -> str:
    """Why an image cannot be decoded, with its name; '' where it can."""
    name = image if isinstance(image, str) else ':'.join(image)
    try:
        read_file(image) if isinstance(image, str) else read_lmdb(*image)
    except Exception as error:  # it is what the run would meet, whatever it is
        text = ' '.join(str(error).split()) or type(error).__name__
        return text if name in text else f'{name}: {text}'
    return ''
