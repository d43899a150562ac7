"""Steps with a NaN or infinite value: named, counted, and too many of them end the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from ..errors import UserError
from ..ranks.distributed import gather


class BadSteps:
    """Counts them over the whole run, resumes included.

    Args:
        limit: number of bad steps that ends the run.

    Attributes:
        count: bad steps so far.
        culprit: what was NaN or infinite in the last of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.culprit = ''

    def add(self, iteration: int, suspects: Iterator[tuple[str, Tensor]]) -> None:
        """One more; all ranks call this together, since the culprit may be on any of them.

        Args:
            iteration: for the message.
            suspects: tensors by name, each before those that it makes bad.

        Raises:
            UserError: the limit is reached (exit code 3).
        """
        self.count += 1
        culprits = gather(next((name for name, tensor in suspects if not torch.isfinite(tensor).all()), None))
        self.culprit = next((name for name in culprits if name), 'the norm of the gradients')
        get_root_logger().warning(
            f'Iteration {iteration}: {self.culprit} is NaN or infinite. Step skipped, the weights stay as they were '
            f'(bad step {self.count}, train: max_bad_steps is {self.limit}).'
        )
        if self.count >= self.limit:
            raise UserError(
                f'stopped at iteration {iteration} after {self.count} steps with NaN or infinite values (train: '
                f'max_bad_steps), the last one in {self.culprit}',
                exit_code=3,
            )


def suspects(
    label: str,
    net: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    inputs: Collection[str],
    paths: Sequence[str] | None,
    losses: dict[str, Tensor],
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one step by name: inputs, weights, outputs, losses, gradients.

    Args:
        label, net: the network that was trained.
        batches: micro-batches after the step.
        inputs: which of their tensors came from the data.
        paths: files of the images, in the order of the batches.
        losses: by name.
    """
    first = 0
    for batch in batches:
        for key in inputs:
            for i, image in enumerate(batch[key]):
                yield f'{key} of {paths[first + i]}' if paths else key, image
        first += len(batch['lq'])
    for name, parameter in net.named_parameters():
        yield f'weight {name} of net_{label}', parameter.detach()
    for batch in batches:
        for key in batch.keys() - set(inputs):
            yield f'{key} of net_g', batch[key]
    yield from losses.items()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            yield f'gradient of {name} of net_{label}', parameter.grad
