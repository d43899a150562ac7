"""`VmambaIRSRGANModel`: super-resolution with pixel, perceptual and adversarial losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from ..errors import UserError
from .vmambair_model import Batch, VmambaIRModel


@MODEL_REGISTRY.register()
class VmambaIRSRGANModel(VmambaIRModel):
    """A generator `network_g` against a discriminator `network_d`, in steps that take turns (arXiv 1609.04802).

    Options of section `train` beyond those of `VmambaIRModel`, as BasicSR's SRGANModel has them:
        `gan_opt`: the adversarial loss; its weight is the generator's only.
        `optim_d`, `scheduler_d`: of the discriminator; without the latter it follows `scheduler`.
        `net_d_iters`: the generator takes a step in every so many iterations, default 1.
        `net_d_init_iters`: the discriminator trains alone for so many iterations, default 0.
    """

    labels = ('g', 'd')

    @classmethod
    def check_options(cls, opt: dict[str, Any]) -> None:
        super().check_options(opt)
        for option in ('gan_opt', 'optim_d'):
            if not opt['train'].get(option):
                raise UserError(f'train: {option} is missing, which {cls.__name__} needs')

    def build_criteria(self) -> dict[str, nn.Module]:
        self.cri_gan = build_loss(self.opt['train']['gan_opt']).to(self.device)
        return super().build_criteria()

    def optimize_parameters(self, current_iter: int) -> None:
        train = self.opt['train']
        batches = self.micro_batches()
        good = True
        self.net_d.requires_grad_(False)
        if current_iter % train.get('net_d_iters', 1) == 0 and current_iter > train.get('net_d_init_iters', 0):
            good = self.step('g', self.generator_losses, batches)
        else:
            with torch.no_grad():
                for batch in batches:
                    batch['output'] = self.run('g', batch['lq'])
        self.net_d.requires_grad_(True)
        # An output that is not finite would spoil the discriminator's step as well.
        good = good and self.step('d', self.discriminator_losses, batches)
        self.end_iteration(good)

    def generator_losses(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """The losses of the options, and the adversarial one; leaves the `output` in the batch."""
        output = self.run('g', batch['lq'])
        batch['output'] = output.detach()
        losses = self.restoration_losses(output, batch)
        terms = {name.replace('l_', 'l_g_', 1): value for name, value in losses.items()}
        terms['l_g_gan'] = self.cri_gan(self.run('d', output), True, is_disc=False)
        yield terms

    def discriminator_losses(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """Two passes, one for real and one for restored images; `out_d_*` are the mean logits."""
        real = self.run('d', self.target('gan', batch))
        yield {'l_d_real': self.cri_gan(real, True, is_disc=True), 'out_d_real': real.detach().mean()}
        fake = self.run('d', batch['output'])
        yield {'l_d_fake': self.cri_gan(fake, False, is_disc=True), 'out_d_fake': fake.detach().mean()}
