"""Fetch a file over HTTP into a cache: resumed where it broke off, checked, with progress."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from tqdm import tqdm

from ..errors import UserError
from ..files import cache_folder, lock, unlock

REVALIDATE_TIMEOUT = 5
"""Seconds that a server has to say whether a file is still the same."""
WAIT = 0.2
"""Seconds between two looks at whether another process has fetched a file."""
TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""
AGAIN = 'run it again to go on from there'
"""What to do where a part of a file is kept."""
_BLOCK = 2**18
_DIGITS = 16  # of the folder of an address
_addresses: dict[Path, str] = {}  # of the copies that were asked for
_one_at_a_time = threading.RLock()
logger = logging.getLogger('vmambair_arch')


def is_url(source: str | Path) -> bool:
    return isinstance(source, str) and source.lower().startswith(('https://', 'http://'))


def download(url: str) -> Path:
    """The local copy of a file on the web, fetched where it is not in the cache, or has changed there since.

    A download that broke off is kept, and the next call goes on from there if the server still has the same file.

    Args:
        url: http(s) address; a fragment `#sha256=<64 hex digits>` is the checksum that the file must have.

    Raises:
        UserError: no such file, no connection, a connection that broke, a wrong checksum, a web page instead of a file.
    """
    address, _, fragment = url.partition('#')
    _as_ascii(address)
    checksum = _checksum(url, fragment)
    path = _place(address)
    _addresses[path] = address
    with _alone(path):
        is_new = not path.is_file()
        if is_new:
            _fetch(address, path)
        elif not checksum:  # which says by itself whether it is the right file
            _revalidate(address, path)
        if checksum:
            found = _sha256(path)
            if found != checksum and not is_new:  # an older version
                _fetch(address, path)
                found = _sha256(path)
            if found != checksum:
                forget(path)
                raise UserError(
                    f'{address}: its sha256 is {found}, not {checksum}; the file was removed, check the address'
                )
    return path


def name_of(path: Path) -> str:
    """What whoever asked for a file knows it by: the address that it is the local copy of, or else its path."""
    return _addresses.get(path, str(path))


def is_copy(path: Path) -> bool:
    """Whether a file is the local copy of one on the web."""
    ours = re.fullmatch(f'[0-9a-f]{{{_DIGITS}}}', path.parent.name)
    return bool(ours) and path.parent.parent.resolve() == cache_folder().resolve()


def forget(path: Path) -> None:
    """Remove the local copy of a file on the web, which is not what it was taken for."""
    path.unlink(missing_ok=True)
    _etag(path).unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process, and of its threads one, fetches at a time; others wait, and find the file."""
    guarded = path.with_name(f'{path.name}.lock')
    with _one_at_a_time:
        try:
            if holder := lock(guarded):
                logger.warning('%s: waiting for %s, which fetches it', path.name, holder)
                while lock(guarded):
                    time.sleep(WAIT)
        except UserError:  # a cache that cannot be written may hold the file all the same
            yield
            return
        try:
            yield
        finally:
            unlock(guarded)


def _place(address: str) -> Path:
    return cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:_DIGITS] / _name(address)


def _etag(path: Path) -> Path:
    return path.with_name(f'{path.name}.etag')


def _revalidate(address: str, path: Path) -> None:
    """Fetch the file anew if the server has another one by now; without a server, what is here is used, and said."""
    try:
        known = _etag(path).read_text()
    except OSError:
        return
    try:
        with _ask(address, REVALIDATE_TIMEOUT, {'If-None-Match': known}) as response:
            changed = response.headers.get('ETag') not in (None, known)
    except urllib.error.HTTPError as error:
        changed = False
        if error.code != 304:
            logger.warning('%s: the server answered %d; the copy from before is used', address, error.code)
    except (OSError, ValueError, HTTPException) as error:
        changed = False
        logger.warning(
            '%s: cannot be asked (%s); the copy from before is used', address, getattr(error, 'reason', error)
        )
    if changed:
        _fetch(address, path)


def _checksum(url: str, fragment: str) -> str | None:
    if not fragment:
        return None
    found = re.fullmatch(r'sha256=([0-9a-f]{64})', fragment.lower())
    if not found:
        raise UserError(f"{url}: the part after '#' must be sha256= and 64 hexadecimal digits")
    return found[1]


def _as_ascii(address: str) -> str:
    """An address as HTTP has it: the host's letters beyond ASCII in IDNA, others, and blanks, in percent.

    Raises:
        UserError: it is no address, or holds a user name or password, which would show in messages and records.
    """
    shown = re.sub('//.*@', '//', address)
    try:
        parts = urlsplit(address)
        name, colon, port = parts.netloc.partition(':')  # beyond ASCII it is none of IPv6
        host = parts.netloc if parts.netloc.isascii() else name.encode('idna').decode() + colon + port
        path, query = (quote(part, "%/:@!$&'()*+,;=~[]?") for part in (parts.path, parts.query))
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UserError(f'{shown}: is not an address; it should be https://, a host and the path of a file')
    if '@' in host:
        raise UserError(
            f'{shown}: an address with a user name or password is not fetched; '
            'fetch the file by other means, and name that'
        )
    return urlunsplit((parts.scheme, host, path, query, ''))


def _name(address: str) -> str:
    """The last part of the address, safe as the name of a file in its own folder."""
    name = unquote(urlsplit(address).path).replace('\\', '/').rpartition('/')[2]
    return re.sub(r'[^\w.-]', '_', name).lstrip('.')[-100:] or 'checkpoint'


def _fetch(address: str, path: Path) -> None:
    partial, mark = path.with_name(f'{path.name}.partial'), path.with_name(f'{path.name}.mark')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open(address, partial, mark) as response:
            resumed = response.status == 206
            etag = response.headers.get('ETag')
            start = partial.stat().st_size if resumed else 0
            if resumed and not (response.headers.get('Content-Range') or '').startswith(f'bytes {start}-'):
                raise UserError(f'{address}: the server sent another part of the file than the one asked for')
            length = response.headers.get('Content-Length')
            total = start + int(length) if length else None
            if not resumed:
                partial.unlink(missing_ok=True)
            # What identifies this very version of the file, for a later attempt to go on.
            mark.write_text(response.headers.get('ETag') or response.headers.get('Last-Modified') or '')
            with (
                partial.open('ab' if resumed else 'wb') as file,
                tqdm(total=total, initial=start, unit='B', unit_scale=True, desc=path.name) as bar,
            ):
                while block := response.read(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if total is not None and partial.stat().st_size != total:
            raise UserError(f'{address}: the connection ended early; {AGAIN}')
        if _is_page(partial):
            partial.unlink()
            mark.unlink(missing_ok=True)
            raise UserError(f'{address}: is a web page, not a checkpoint; use the address of the raw file')
        partial.replace(path)
        mark.unlink(missing_ok=True)
        _etag(path).write_text(etag) if etag else _etag(path).unlink(missing_ok=True)
    except UserError:
        raise
    except urllib.error.HTTPError as error:
        raise UserError(f'{address}: the server answered {error.code} {_line(error.reason)}') from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, 'reason', None) or error
        what = '; check the address and the connection' if getattr(error, 'filename', None) is None else ''
        what = f'; {AGAIN}' if partial.is_file() else what
        raise UserError(f'{address}: cannot be fetched ({_line(reason)}){what}') from None


def _line(reason: object) -> str:
    return ' '.join(str(reason).split())


def _is_page(path: Path) -> bool:
    """Whether a file is HTML, as servers send it for a login or for the page about a file. No checkpoint is text."""
    with path.open('rb') as file:
        head = file.read(512)
    return b'\0' not in head and head.removeprefix(b'\xef\xbb\xbf').lstrip().startswith(b'<')


def _ask(address: str, timeout: float, headers: Mapping[str, str] = {}) -> HTTPResponse:
    request = urllib.request.Request(_as_ascii(address), headers={'User-Agent': 'vmambair', **headers})
    response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    return response


def _open(address: str, partial: Path, mark: Path) -> HTTPResponse:
    """The response: 206 with the rest of `partial` where the server has the same file and can, else 200 with all."""
    headers = {}
    if partial.is_file() and mark.is_file() and (known := mark.read_text()):
        headers = {'Range': f'bytes={partial.stat().st_size}-', 'If-Range': known}
    try:
        return _ask(address, TIMEOUT, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # all of it, or more than there is, was here already
            raise
        return _ask(address, TIMEOUT)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
