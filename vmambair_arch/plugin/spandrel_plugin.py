"""Our networks for spandrel, and so for chaiNNer, ComfyUI and whatever else loads models with it.

spandrel hands over a state dict alone, which is all that is needed: see `archs.configuration`.
"""

from __future__ import annotations

from spandrel import (
    MAIN_REGISTRY,
    Architecture,
    ArchSupport,
    ImageModelDescriptor,
    StateDict,
)

from ..archs.base import Network
from ..archs.configuration import NETWORKS, build, configuration


class _Architecture(Architecture[Network]):
    """One of our networks.

    Args:
        arch: a key of `NETWORKS`, its id in spandrel.
    """

    def __init__(self, arch: str) -> None:
        super().__init__(id=arch, detect=lambda state_dict: _arch_of(state_dict) == arch)

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        network = build(state_dict)
        config = network.config
        return ImageModelDescriptor(
            network,
            state_dict,
            architecture=self,
            purpose='Restoration' if network.scale == 1 else 'SR',
            tags=[f'{config["dim"]}dim', f'{config["d_state"]}state'],
            supports_half=True,
            supports_bfloat16=True,
            scale=network.scale,
            input_channels=config['inp_channels'],
            output_channels=config['out_channels'],
        )


def _arch_of(state_dict: StateDict) -> str | None:
    try:
        return configuration(state_dict)[0]
    except ValueError:
        return None


def register() -> None:
    """Add our networks to spandrel's registry; twice is as good as once."""
    # Restormer's names are ours but for the attention.
    supports = [ArchSupport.from_architecture(_Architecture(arch), before=('Restormer',)) for arch in NETWORKS]
    MAIN_REGISTRY.add(*supports, ignore_duplicates=True)
