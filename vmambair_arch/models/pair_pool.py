"""Real-ESRGAN's training pair pool: batches mixed of the pairs of many iterations (arXiv 2107.10833, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError


class PairPool:
    """Takes a batch of pairs in and, once it is full, hands a batch of older pairs out.

    Pairs are kept in 8 bits, which loses nothing of images in steps of 1/255.

    Args:
        size: number of pairs; 0 hands out what comes in.
        batch: images in a batch.

    Raises:
        UserError: a size that is not a multiple of the batch.
    """

    def __init__(self, size: int, batch: int) -> None:
        if size % batch:
            nearby = ' or '.join(str(n * batch) for n in (size // batch, size // batch + 1) if n)
            raise UserError(f'queue_size {size} is not a multiple of the batch of {batch} images; take {nearby}')
        self.size = size
        self._kept: dict[str, Tensor] = {}
        self._out: tuple[Tensor | int, dict[str, Tensor]] | None = None  # the last exchange: where, and what was there

    @property
    def full(self) -> bool:
        return bool(self._kept) and len(self._kept['gt']) >= self.size

    def exchange(self, lq: Tensor, gt: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Put a batch in, get the batch to train on.

        Args:
            lq, gt: (b, 3, h, w) and (b, 3, h * scale, w * scale), 0..1 in steps of 1/255.
            generator: on the CPU, chooses which pairs come out. What went in takes their places.

        Returns:
            lq and gt of the pairs that came out; those that went in while the pool is not full.
        """
        if not self.size:
            return lq, gt
        new = {'lq': (lq * 255).round().byte(), 'gt': (gt * 255).round().byte()}
        if not self.full:
            # A state of other batches may have left room for a part of one.
            room = self.size - (len(self._kept['gt']) if self._kept else 0)
            new = {k: v[:room] for k, v in new.items()}
            self._out = (len(new['gt']), {})
            self._kept = {k: torch.cat([self._kept[k], v]) if self._kept else v for k, v in new.items()}
            return lq, gt
        places = torch.randperm(self.size, generator=generator)[: len(lq)].to(lq.device)
        out = {k: kept[places] for k, kept in self._kept.items()}
        self._out = (places, out)
        old = {k: kept.float() / 255 for k, kept in out.items()}
        for k, kept in self._kept.items():
            kept[places] = new[k]
        return old['lq'], old['gt']

    def take_back(self) -> None:
        """Undo the last exchange, once."""
        if self._out is None:
            return
        (places, out), self._out = self._out, None
        for k, kept in self._kept.items():
            if isinstance(places, int):
                self._kept[k] = kept[:-places]
            else:
                kept[places] = out[k]
        if not len(next(iter(self._kept.values()))):
            self._kept = {}

    def state_dict(self) -> dict[str, Tensor]:
        """The pairs, on the CPU: `lq` and `gt` uint8; empty before the first batch."""
        return {k: kept.cpu() for k, kept in self._kept.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Continue with what `state_dict` returned; of a larger pool, with the pairs that this one has room for."""
        self._kept, self._out = {k: kept[: self.size].to(device) for k, kept in state.items() if self.size}, None
