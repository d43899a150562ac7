"""Images in zip and tar archives, and in folders that somebody unpacked: named and read, never extracted by name."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from ...errors import UserError
from ...images.image_io import FORMATS

TAR = ('.tar', '.tar.gz', '.tgz', '.tar.bz2', '.tar.xz')
SUFFIXES = ('.zip', *TAR)
FOREIGN = ('.rar', '.7z')
MAX_BYTES = 2**29  # of one member; the largest image of any of these data sets has a tenth of it
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


def find_archives(downloads: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Archives and folders in `downloads` whose name without suffix fits a pattern (case ignored), sorted.

    Raises:
        UserError: there is no such folder; something fits that only another program can unpack.
    """
    if not downloads.is_dir():
        raise UserError(f'{downloads}: no such folder; name the one with the downloaded archives with --downloads')
    found = []
    for path in sorted(downloads.iterdir()):
        name, suffix = _split(path)
        if not any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns):
            continue
        if suffix in FOREIGN and not (downloads / name).is_dir():
            raise UserError(f'{path}: {suffix} archives are not read; unpack it to {downloads / name}')
        if path.is_dir() or suffix in SUFFIXES:
            found.append(path)
    return found


def _split(path: Path) -> tuple[str, str]:
    lower = path.name.lower()
    for suffix in sorted((*SUFFIXES, *FOREIGN), key=len, reverse=True):
        if path.is_file() and lower.endswith(suffix):
            return path.name[: -len(suffix)], suffix
    return path.name, ''


class Archive:
    """The images of an archive or folder. A context manager.

    Attributes:
        members: of each image, by `archive name/inner/path.png`, its size in bytes.

    Raises:
        UserError: damaged, or with members that could end up outside of the archive's folder: links, devices,
            absolute paths, paths with `..`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        name, suffix = _split(path)
        self._handles: dict[str, zipfile.ZipInfo | tarfile.TarInfo | Path] = {}
        self._file: zipfile.ZipFile | tarfile.TarFile | None = None
        self.members: dict[str, int] = {}
        try:
            if suffix == '.zip':
                self._open_zip()
            elif suffix:
                self._open_tar()
            else:
                self._open_folder()
        except _DAMAGE as error:
            self.close()
            raise UserError(f'{path}: damaged or incomplete archive ({error}); download it again') from error
        except UserError:
            self.close()
            raise
        self._handles = {f'{name}/{member}': handle for member, handle in self._handles.items()}
        self.members = {f'{name}/{member}': size for member, size in self.members.items()}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, member: str) -> bytes:
        """The bytes of one of `members`.

        Raises:
            UserError: they cannot be read.
        """
        handle = self._handles[member]
        try:
            if isinstance(handle, Path):
                return handle.read_bytes()
            if isinstance(handle, zipfile.ZipInfo):
                assert isinstance(self._file, zipfile.ZipFile)
                return self._file.read(handle)
            assert isinstance(self._file, tarfile.TarFile)
            content = self._file.extractfile(handle)
            if content is None:
                raise OSError('not a file')
            return content.read()
        except (*_DAMAGE, RuntimeError, NotImplementedError) as error:  # the last two: encrypted, exotic compression
            raise UserError(f'{self.path}: {member} cannot be read ({error}); download the archive again') from error

    def _open_zip(self) -> None:
        self._file = zipfile.ZipFile(self.path)
        for info in self._file.infolist():
            self._check(info.filename, link=stat.S_ISLNK(info.external_attr >> 16))
            if not info.is_dir():
                self._add(info.filename, info.file_size, info)

    def _open_tar(self) -> None:
        self._file = tarfile.open(self.path)  # noqa: SIM115 closed by close()
        for info in self._file.getmembers():
            self._check(info.name, link=not (info.isfile() or info.isdir()))
            if info.isfile():
                self._add(info.name, info.size, info)

    def _open_folder(self) -> None:
        for path in sorted(self.path.rglob('*')):
            if path.is_file():
                self._add(path.relative_to(self.path).as_posix(), path.stat().st_size, path)

    def _check(self, name: str, *, link: bool) -> None:
        path = PurePosixPath(name.replace('\\', '/'))
        if link:
            raise UserError(f"{self.path}: refused, since its member '{name}' is a link or device")
        if path.is_absolute() or '..' in path.parts or name[1:2] == ':':  # C:\...
            raise UserError(f"{self.path}: refused, since its member '{name}' would lie outside of its folder")

    def _add(self, name: str, size: int, handle: zipfile.ZipInfo | tarfile.TarInfo | Path) -> None:
        path = PurePosixPath(name)
        hidden = path.name.startswith('.') or '__MACOSX' in path.parts
        if path.suffix.lower() not in FORMATS or hidden:
            return
        if size > MAX_BYTES:
            raise UserError(f"{self.path}: refused, since its member '{name}' has {size} bytes")
        self._handles[str(path)] = handle
        self.members[str(path)] = size
