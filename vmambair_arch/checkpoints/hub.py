"""Checkpoints on the Hugging Face Hub: 'user/repo', 'user/repo:file', 'user/repo@revision:file'.

The networks get `save_pretrained`, `push_to_hub` and `from_pretrained` here and not from huggingface_hub's mixin, since
they are built on torch alone and the package is an extra. What they write is what the mixin reads and the other way
round: `model.safetensors`, `config.json` and a card.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..archs.base import Network
from ..errors import UserError
from ..files import replacing

INSTALL = 'the Hub needs huggingface_hub: pip install huggingface_hub'
MODEL = 'model.safetensors'
_ID = re.compile(r'([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?(?::(.+))?')


def parse_hub_id(source: str | Path) -> tuple[str, str | None, str | None] | None:
    """Repository, revision and file of 'user/repo@revision:file', the last two None where they are left out.

    None for what is not such a name. A file that exists is asked for first: 'weights/a.pth' has the same form.
    """
    found = _ID.fullmatch(str(source)) if isinstance(source, str) else None
    return (found[1], found[2], found[3]) if found and '..' not in found[0] else None


def hub_file(repo: str, revision: str | None = None, file: str | None = None) -> Path:
    """The local copy of a checkpoint on the Hub; without a network that of the Hub's cache.

    Args:
        repo: 'user/repo'.
        revision: branch, tag or commit; default: main.
        file: in the repository; default: `model.safetensors`, or the one checkpoint that there is.

    Raises:
        UserError: huggingface_hub is missing, no such repository or file, no access, no network and not in the cache.
    """
    hub = hub_module()
    endpoint = os.environ.get('HF_ENDPOINT') or None
    name = f'{repo}@{revision}' if revision else repo
    try:
        if file is None:
            file = choose_file(_list_files(hub, repo, revision, endpoint), name)
        return Path(hub.hf_hub_download(repo, file, revision=revision, endpoint=endpoint))
    except UserError:
        raise
    except Exception as error:  # its own, httpx's and OSError, by version
        raise UserError(f'{name}{f":{file}" if file else ""}: {_said(error)}') from None


def _list_files(hub: Any, repo: str, revision: str | None, endpoint: str | None) -> list[str]:
    try:
        return list(hub.HfApi(endpoint=endpoint).list_repo_files(repo, revision=revision))
    except Exception as error:
        if type(error).__name__ in ('RepositoryNotFoundError', 'GatedRepoError', 'RevisionNotFoundError'):
            raise
        try:
            folder = Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))
        except Exception:
            raise error from None
        return [str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()]


def choose_file(files: Sequence[str], name: str, between: str = ':') -> str:
    """The checkpoint among files: `model.safetensors`, else the only one, safetensors before .pth.

    Args:
        files: their names.
        name: of where they lie, for messages.
        between: what stands between that name and a file's where one is named.

    Raises:
        UserError: there is none, or several.
    """
    if MODEL in files:
        return MODEL
    for suffix in ('.safetensors', '.pth'):
        found = sorted(file for file in files if file.endswith(suffix))
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f'{name}: has {len(found)} checkpoints; name one, such as {name.rstrip("/") + between}{found[0]}'
            )
    raise UserError(f'{name}: has no checkpoint in it (no .safetensors, no .pth)')


def save_pretrained(network: Network, folder: str | Path, **about: Any) -> Path:
    """Write a network into a folder as the Hub has them: `model.safetensors`, `config.json`, `README.md`.

    Args:
        network: any of ours.
        folder: made where missing.
        about: what the checkpoint says of itself, see `convert.save_checkpoint`; `half=True` stores fp16.

    Returns:
        The folder.

    Raises:
        UserError: it cannot be written.
    """
    from .card import write_card
    from .convert import save_checkpoint

    folder = Path(folder)
    save_checkpoint(folder / MODEL, network, **about)
    with replacing(folder / 'config.json') as temporary:
        config = {'architecture': network.arch, **network.config}
        temporary.write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    write_card(folder / MODEL, folder / 'README.md')
    return folder


def push_to_hub(
    network: Network,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = 'Upload network',
    **about: Any,
) -> str:
    """Upload a network with its card; the repository is made where there is none.

    Args:
        network: any of ours.
        repo: 'user/repo'.
        private: of a repository that is made; default: as the account says.
        token: default: that of `hf auth login`.
        message: of the commit.
        about: as for `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        UserError: huggingface_hub is missing, not logged in, no access, no network.
    """
    hub = hub_module()
    api = hub.HfApi(endpoint=os.environ.get('HF_ENDPOINT') or None, token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(network, folder, **about)
        try:
            made = api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
        except Exception as error:
            raise UserError(f'{repo}: {_said(error)}') from None
    return str(commit.commit_url)


def _from_pretrained(cls: type[Network], source: str | Path) -> Network:
    """The network in a checkpoint: a file, a folder, an address, 'user/repo' or a name of the package.

    Raises:
        UserError: it cannot be found or read, or is of another network.
    """
    from .load import load_model

    network = load_model(source)
    if not isinstance(network, cls):
        raise UserError(f'{source}: is a {network.arch}, not a {cls.__name__}')
    return network


def attach() -> None:
    """Give the networks these methods."""
    for name, method in (
        ('save_pretrained', save_pretrained),
        ('push_to_hub', push_to_hub),
        ('from_pretrained', classmethod(_from_pretrained)),
    ):
        setattr(Network, name, method)


def hub_module() -> Any:
    """huggingface_hub.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module('huggingface_hub')
    except ImportError:
        raise UserError(INSTALL) from None


def _said(error: Exception) -> str:
    """What went wrong in one line, with what to do about it."""
    kind = type(error).__name__
    known = {
        'RepositoryNotFoundError': 'no such repository on the Hub, or it is private: hf auth login',
        'GatedRepoError': 'access has to be asked for on its page: then hf auth login',
        'RevisionNotFoundError': 'no such revision',
        'EntryNotFoundError': 'no such file in the repository',
        'RemoteEntryNotFoundError': 'no such file in the repository',
        'LocalEntryNotFoundError': 'no connection to the Hub, and not in its cache',
        'OfflineModeIsEnabled': 'HF_HUB_OFFLINE is set, and it is not in the cache',
        'LocalTokenNotFoundError': 'not logged in: hf auth login',
    }
    if kind in known:
        return known[kind]
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    if status in (401, 403):
        return 'no access: hf auth login'
    lines = str(error).strip().splitlines()
    return f'the Hub cannot be used ({lines[0] if lines else kind})'
