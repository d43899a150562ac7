"""Every image of the data, decoded: damage that only the decoder notices, found before a run meets it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ..data.pairs import read_file, read_lmdb
from .report import Report

Image = str | tuple[str, str]
"""The path of a file, or the folder of an LMDB and a key in it."""


class Decoder:
    """Decodes images as training does, each once, however many data sets name it."""

    def __init__(self) -> None:
        self._complaints: dict[Image, str] = {}

    def check(self, images: Iterable[Image], where: str, report: Report) -> None:
        """A fault for each image that cannot be decoded, with a bar on stderr where that is a terminal.

        Args:
            images: what a data section names.
            where: its place, for messages.
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
        bad = [self._complaints[image] for image in images if self._complaints[image]]
        report.faults.extend(f'{where}: {complaint}' for complaint in bad)
        if not bad:
            seconds = time.perf_counter() - started
            report.facts.append(f'{where}: {len(images)} images decoded in {seconds:.1f} s, all of them whole')


def _complaint(image: Image) -> str:
    """Why an image cannot be decoded, with its name; '' where it can."""
    name = image if isinstance(image, str) else ':'.join(image)
    try:
        read_file(image) if isinstance(image, str) else read_lmdb(*image)
    except Exception as error:  # it is what the run would meet, whatever it is
        text = ' '.join(str(error).split()) or type(error).__name__
        return text if name in text else f'{name}: {text}'
    return ''
