"""OSSNet: OSS blocks in a plain stack, no U-Net; the block as a drop-in body for restoration and super-resolution."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Network
from .layers import LayerNorm, conv, to_channels_first, to_channels_last
from .oss_block import BlockOptions, OSSBlock
from .tail import UpsamplingTail


class OSSNet(Network):
    """3x3 convolution, `num_blocks` OSS blocks at full resolution, 3x3 convolution with a skip around the body, tail.

    Args:
        inp_channels, out_channels: channels of the images; equal, since the input is added to the output.
        dim: width of the body.
        num_blocks: OSS blocks.
        scale: 1 ends in one 3x3 convolution, 2, 3 and 4 in PixelShuffle stages.
        Others: as in `VmambaIR`.

    Raises:
        ValueError: an argument outside its range, named.
    """

    arch = 'OSSNet'

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: int = 8,
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal['WithBias', 'BiasFree'] = 'WithBias',
        scale: int = 1,
        d_state: int = 16,
        plane_directions: int = 4,
        channel_directions: int = 2,
        channel_width: int = 1,
        channel_fusion: Literal['mul', 'add'] = 'mul',
        channel_pool: bool = True,
        effn: bool = True,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        options = BlockOptions(
            ffn_expansion_factor, bias, LayerNorm_type, d_state, plane_directions, channel_directions, channel_width,
            channel_fusion, channel_pool, effn,
        )  # fmt: skip
        self._describe(
            OSSNet, options, inp_channels=inp_channels, out_channels=out_channels, dim=dim, num_blocks=num_blocks,
            scale=scale, checkpoint=checkpoint,
        )  # fmt: skip
        if not isinstance(num_blocks, int):
            raise ValueError(f'OSSNet: num_blocks must be one whole number, got {num_blocks!r}')
        if inp_channels != out_channels:
            raise ValueError(f'OSSNet: inp_channels {inp_channels} and out_channels {out_channels} must be equal')
        self.scale = scale
        self.use_checkpoint = checkpoint
        self.conv_first = nn.Conv2d(inp_channels, dim, 3, padding=1)
        self.body = nn.ModuleList(OSSBlock(dim, options) for _ in range(num_blocks))
        self.norm = LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        if scale == 1:
            self.output = nn.Conv2d(dim, out_channels, 3, padding=1)
        else:
            self.tail = UpsamplingTail(dim, out_channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inp_channels, h, w) -> (b, out_channels, h * scale, w * scale)."""
        self.check_input(x)
        shallow = to_channels_last(self.conv_first(x))
        y = shallow + conv(self.norm(self.run_blocks(self.body, shallow)), self.conv_after_body)
        if self.scale == 1:
            return self.output(to_channels_first(y)) + x
        return self.tail(to_channels_first(y)) + F.interpolate(x, scale_factor=self.scale, mode='nearest')
