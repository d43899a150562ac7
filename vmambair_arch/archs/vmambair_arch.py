"""VmambaIR: a U-Net of OSS blocks (arXiv 2403.11423, section 3.1, on Restormer's skeleton).

Parameter names are those of the authors' release, so their checkpoints load unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import nearest
from .base import Network
from .layers import Downsample, Upsample, conv, pad_to_multiple, to_channels_first, to_channels_last
from .oss_block import BlockOptions, OSSBlock
from .tail import UpsamplingTail

LEVELS = 4
MULTIPLE = 2 ** (LEVELS - 1)

PRESETS: dict[str, dict[str, Any]] = {
    'derain': {'num_blocks': [4, 4, 6, 8], 'num_refinement_blocks': 2, 'channel_width': 2},
    'derain_released': {
        'num_blocks': [3, 5, 7, 9],
        'num_refinement_blocks': 2,
        'channel_width': 4,
        'channel_fusion': 'add',
    },
    'realsr_x4': {'num_blocks': [6, 2, 2, 1], 'num_refinement_blocks': 6, 'scale': 4, 'channel_width': 1},
    'sr_x4': {'num_blocks': [14, 1, 1, 1], 'num_refinement_blocks': 14, 'scale': 4, 'channel_width': 4},
    'sr_x4_released': {'num_blocks': [15, 1, 1, 1], 'num_refinement_blocks': 15, 'scale': 4, 'channel_width': 4},
    # The shape that learned most in the same time: benchmarks/results/shapes.md.
    'light': {
        'dim': 16,
        'num_blocks': [1, 2, 3, 4],
        'num_refinement_blocks': 1,
        'ffn_expansion_factor': 2,
        'd_state': 8,
        'channel_width': 1,
    },
}
"""Arguments by name: the paper's networks, the release's where they differ, and `light` (1.5 M parameters) for CPUs."""


class _PatchEmbed(nn.Module):
    """Shallow features: 3x3 convolution without bias."""

    def __init__(self, inp_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inp_channels, dim, 3, padding=1, bias=False)


class VmambaIR(Network):
    """Image restoration (scale 1) and super-resolution (scale 2, 3, 4) with omni selective scans.

    Example:
        >>> network = VmambaIR.from_preset('light', scale=4)
        >>> network(torch.zeros(1, 3, 20, 24)).shape
        torch.Size([1, 3, 80, 96])

    Args:
        inp_channels, out_channels: channels of the images.
        dim: width of level 1; levels 2, 3 and the latent are 2, 4 and 8 times as wide, decoder level 1 and the
            refinement twice.
        num_blocks: OSS blocks at levels 1, 2, 3 and the latent; the decoder mirrors levels 3 to 1.
        num_refinement_blocks: OSS blocks after the decoder.
        ffn_expansion_factor: hidden width of the EFFN over the width of the block.
        bias: biases in EFFN, skip convolutions and the restoration tail.
        LayerNorm_type: 'WithBias' or 'BiasFree'; norm1 and norm2 of the blocks.
        scale: 1 ends in one 3x3 convolution, 2, 3 and 4 in PixelShuffle stages.
        dual_pixel_task: add the shallow features before the tail and drop the image residual (the release's
            argument for inputs that are not plain images).
        d_state: state size N of the scans.
        plane_directions: K, 4 in the paper; 1 is its ablation V1.
        channel_directions: 2 in the paper, 1 scans forward only (section 4.3), 0 leaves the channel scan out (V2).
        channel_width: channels of the channel scan: 1 real-world SR, 2 deraining, 4 classical SR.
        channel_fusion: 'mul' for y * c + y, 'add' for y + c.
        channel_pool: False scans the channels of every pixel instead of their average (section 4.3).
        effn: False leaves the EFFN out (V3).
        pointwise: 'linear' stores the 1x1 convolutions of the blocks as linear layers (V4).
        checkpoint: recompute the activations of the blocks in the backward pass: less memory, about a third slower.

    Raises:
        ValueError: an argument outside its range, named.
    """

    arch = 'VmambaIR'

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 4, 6, 8),
        num_refinement_blocks: int = 2,
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal['WithBias', 'BiasFree'] = 'WithBias',
        scale: int = 1,
        dual_pixel_task: bool = False,
        d_state: int = 16,
        plane_directions: int = 4,
        channel_directions: int = 2,
        channel_width: int = 2,
        channel_fusion: Literal['mul', 'add'] = 'mul',
        channel_pool: bool = True,
        effn: bool = True,
        pointwise: Literal['conv', 'linear'] = 'conv',
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(num_blocks, Iterable):
            raise ValueError(f'VmambaIR: num_blocks must name {LEVELS} levels, got {num_blocks!r}')
        num_blocks = tuple(num_blocks)
        options = BlockOptions(
            ffn_expansion_factor, bias, LayerNorm_type, d_state, plane_directions, channel_directions, channel_width,
            channel_fusion, channel_pool, effn, pointwise,
        )  # fmt: skip
        self._describe(
            VmambaIR, options, inp_channels=inp_channels, out_channels=out_channels, dim=dim, num_blocks=num_blocks,
            num_refinement_blocks=num_refinement_blocks, scale=scale, dual_pixel_task=dual_pixel_task,
            checkpoint=checkpoint,
        )  # fmt: skip
        if len(num_blocks) != LEVELS:
            raise ValueError(f'VmambaIR: num_blocks must name {LEVELS} levels, got {list(num_blocks)}')
        if dim % 2:
            raise ValueError(f'VmambaIR: dim must be even (the first downsampling halves it), got {dim}')
        if inp_channels != out_channels and not dual_pixel_task:
            raise ValueError(
                f'VmambaIR: inp_channels {inp_channels} and out_channels {out_channels} differ, so the input cannot '
                'be added to the output; set dual_pixel_task: true to drop that residual'
            )
        self.scale = scale
        self.use_checkpoint = checkpoint

        def blocks(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(OSSBlock(width, options) for _ in range(count))

        self.patch_embed = _PatchEmbed(inp_channels, dim)
        self.encoder_level1 = blocks(dim, num_blocks[0])
        self.down1_2 = Downsample(dim)
        self.encoder_level2 = blocks(dim * 2, num_blocks[1])
        self.down2_3 = Downsample(dim * 2)
        self.encoder_level3 = blocks(dim * 4, num_blocks[2])
        self.down3_4 = Downsample(dim * 4)
        self.latent = blocks(dim * 8, num_blocks[3])

        self.up4_3 = Upsample(dim * 8)
        self.reduce_chan_level3 = nn.Conv2d(dim * 8, dim * 4, 1, bias=bias)
        self.decoder_level3 = blocks(dim * 4, num_blocks[2])
        self.up3_2 = Upsample(dim * 4)
        self.reduce_chan_level2 = nn.Conv2d(dim * 4, dim * 2, 1, bias=bias)
        self.decoder_level2 = blocks(dim * 2, num_blocks[1])
        self.up2_1 = Upsample(dim * 2)
        # No 1x1 convolution at level 1: decoder level 1 and the refinement keep the concatenated width.
        self.decoder_level1 = blocks(dim * 2, num_blocks[0])
        self.refinement = blocks(dim * 2, num_refinement_blocks)

        if dual_pixel_task:
            self.skip_conv = nn.Conv2d(dim, dim * 2, 1, bias=bias)
        if scale == 1:
            self.output = nn.Conv2d(dim * 2, out_channels, 3, padding=1, bias=bias)
        else:
            self.tail = UpsamplingTail(dim * 2, out_channels, scale)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> VmambaIR:
        """Build a network of `PRESETS`; keyword arguments replace those of the preset.

        Raises:
            ValueError: no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset '{name}'{nearest(name, list(PRESETS))}; presets: {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})

    def forward(self, x: Tensor) -> Tensor:
        """(b, inp_channels, h, w) -> (b, out_channels, h * scale, w * scale)."""
        self.check_input(x)
        h, w = x.shape[-2:]
        image = pad_to_multiple(x, MULTIPLE)
        run, scale = self.run_blocks, self.scale

        shallow = to_channels_last(self.patch_embed.proj(image))
        level1 = run(self.encoder_level1, shallow)
        level2 = run(self.encoder_level2, self.down1_2(level1))
        level3 = run(self.encoder_level3, self.down2_3(level2))
        latent = run(self.latent, self.down3_4(level3))

        y = torch.cat([self.up4_3(latent), level3], -1)
        y = run(self.decoder_level3, conv(y, self.reduce_chan_level3))
        y = torch.cat([self.up3_2(y), level2], -1)
        y = run(self.decoder_level2, conv(y, self.reduce_chan_level2))
        y = torch.cat([self.up2_1(y), level1], -1)
        y = run(self.refinement, run(self.decoder_level1, y))

        dual = hasattr(self, 'skip_conv')
        if dual:
            y = y + conv(shallow, self.skip_conv)
        out = (self.output if scale == 1 else self.tail)(to_channels_first(y))
        if not dual:
            out = out + (image if scale == 1 else F.interpolate(image, scale_factor=scale, mode='nearest'))
        return out[..., : h * scale, : w * scale]


class _Released(VmambaIR):
    """A class of the authors' release: their constructor arguments, `heads` ignored as there, and one form fixed."""

    form: dict[str, Any] = {}
    blocks: tuple[list[int], int] = ([], 0)

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] | None = None,
        num_refinement_blocks: int | None = None,
        heads: Sequence[int] | None = None,
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal['WithBias', 'BiasFree'] = 'WithBias',
        dual_pixel_task: bool = False,
        checkpoint: bool = False,
    ) -> None:
        default_blocks, default_refinement = self.blocks
        super().__init__(
            inp_channels, out_channels, dim,
            default_blocks if num_blocks is None else num_blocks,
            default_refinement if num_refinement_blocks is None else num_refinement_blocks,
            ffn_expansion_factor, bias, LayerNorm_type,
            dual_pixel_task=dual_pixel_task, checkpoint=checkpoint, **self.form,
        )  # fmt: skip


class MambaRealSR11(_Released):
    """Real-world SR x4, as released."""

    form = {'scale': 4, 'channel_width': 1}
    blocks = ([6, 2, 2, 1], 6)


class MambaSISR6(_Released):
    """Classical SR x4, as released."""

    form = {'scale': 4, 'channel_width': 4}
    blocks = ([15, 1, 1, 1], 15)


class Mamber32(_Released):
    """Deraining, as released: the channel scan is added, not multiplied."""

    form = {'channel_width': 4, 'channel_fusion': 'add'}
    blocks = ([3, 5, 7, 9], 2)


class Mamber33(_Released):
    """Deraining in the form of the paper, in the release but used by none of its option files."""

    form = {'channel_width': 2}
    blocks = ([3, 5, 7, 9], 2)
