"""Weights of other people's networks (VGG, AlexNet, Inception): found on disk, downloaded only where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .load import read_pickle

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path('experiments') / 'pretrained_models'
"""Where BasicSR looks, below the current folder."""


def pretrained_state(url: str, where: str | Path | None = None) -> dict[str, Tensor]:
    """The state dict that `url` offers.

    Args:
        url: its last part is the name of the file.
        where: the file, or the folder that holds it under that name or as `<network>_features*.pth`. Default: `FOLDER`,
            then torch's hub folder, then a download into the latter.

    Raises:
        UserError: the file is not there, is broken, or cannot be downloaded.
    """
    import torch

    file = url.rpartition('/')[2]
    hub = Path(torch.hub.get_dir()) / 'checkpoints'
    if where is not None and not Path(where).is_dir():
        return read_pickle(where)
    for folder in (FOLDER, hub) if where is None else (Path(where),):
        found = [folder / file, *sorted(folder.glob(f'{file.partition("-")[0]}_features*.pth'))]
        for path in found:
            if path.is_file():
                return read_pickle(path)
    if where is not None:
        raise UserError(f'{where} holds no {file}')
    try:
        return torch.hub.load_state_dict_from_url(url, map_location='cpu', check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f'{file} is neither in {FOLDER} nor in {hub}, and the download failed ({error}); copy it there from {url}'
        ) from None


def imagenet_features(name: str, where: str | Path | None = None) -> dict[str, Tensor]:
    """The convolutions of torchvision's network `name` with its ImageNet weights: float32, keys as in `.features`.

    Arguments and errors as in `pretrained_state`; a file of the features alone will do, in any precision.
    """
    from torchvision.models import get_model_weights

    state = pretrained_state(get_model_weights(name).DEFAULT.url, where)
    features = {k.removeprefix('features.'): v.float() for k, v in state.items() if k.startswith('features.')}
    if not features:
        raise UserError(f'{where or name}: no weights of {name} (no key starts with features.)')
    return features
