"""A bar with the time left under BasicSR's log lines, where a person looks on."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

from basicsr.utils import get_root_logger
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


class ProgressBar:
    """Counts iterations on a terminal; silent in files, pipes and on all ranks but the first.

    Args:
        total: iterations of the run.
        rank: of this process.
    """

    def __init__(self, total: int, rank: int) -> None:
        self._total = total
        self._shown = rank == 0 and sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._cleanup = ExitStack()

    def advance(self, iteration: int, loss: float) -> None:
        """`iteration` is done."""
        if not self._shown:
            return
        if self._bar is None:
            # Log lines go above the bar instead of through it.
            logger: logging.Logger = get_root_logger()
            self._cleanup.enter_context(logging_redirect_tqdm([logger]))
            self._bar = tqdm(total=self._total, initial=iteration - 1, unit='it', dynamic_ncols=True)
            self._cleanup.callback(self._bar.close)
        self._bar.set_postfix_str(f'loss {loss:.4f}', refresh=False)
        self._bar.update(iteration - self._bar.n)

    def close(self) -> None:
        """The run is over."""
        self._cleanup.close()
