"""Small images on several cores: one image a core takes less time than one image on all of them after the other.

Most of a network's steps on a small image are too short to be cut, and every cut waits for the slower half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch


def side_by_side(work: Callable[[int], None], numbers: Sequence[int], workers: int) -> Iterator[int]:
    """Do `work(number)` for every number, `workers` at a time with one of torch's threads each.

    Yields:
        The numbers, as they are done.

    Raises:
        Whatever `work` raises; what has not begun by then is left.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, 'restore', initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = {pool.submit(work, number): number for number in numbers}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
