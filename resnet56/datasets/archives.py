"""The files in a folder, a tar or a zip archive, which may be damaged or hostile: nothing is unpacked to disk."""

import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ..errors import InputError

MAX_FILE = 1 << 25  # bytes; CIFAR-10's largest file has 31 million
MAX_TOTAL = 1 << 30  # bytes of all files; CIFAR-10 has 0.2 billion
BLOCK = 4096  # bytes that an empty file counts for, so that their number is bounded too

Entry = tuple[str, int, Callable[[], bytes]]  # a file's name, its size in bytes, and what reads it


def read_files(path: Path, limit: Callable[[PurePosixPath], int]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the name and the content of files, one by one.

    Args:
        path: a folder, or a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip file; its content decides which.
        limit: given a file's name, returns how many bytes it may have; 0: the file is left out.

    Raises:
        InputError: if something cannot be read, is damaged or encrypted, is a link or a device, has a path that
            leads out of the archive, or announces too many bytes (it is not read then).
    """
    entries = _folder if path.is_dir() else _archive
    total = 0
    try:
        for name, size, read in entries(path):
            name, total = PurePosixPath(name), total + max(size, BLOCK)
            allowed = limit(name)
            if size > (allowed or size) or total > MAX_TOTAL:
                raise InputError(f"{path}: {str(name)!r} has {size:,} bytes, too many for {path.name} to be CIFAR-10")
            if allowed:
                yield name, read()
    except InputError:
        raise
    except Exception as error:  # tarfile, zipfile, zlib and lzma have no base class in common
        if isinstance(error, OSError) and error.errno:  # else a decompressor raised it
            raise InputError(f"cannot read {error.filename or path}: {error.strerror}; make it readable") from error
        kinds = ".tar, .tar.gz, .tar.xz or .zip archive"
        raise InputError(f"{path} is not a complete {kinds} ({one_line(error)}); get it again") from error


def one_line(error: Exception) -> str:
    """Return what an exception says, or else its name, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _folder(folder: Path) -> Iterator[Entry]:
    def stop(error: OSError):
        raise error

    for root, folders, files in os.walk(folder, onerror=stop):
        folders.sort()
        for name in sorted(folders + files):
            path = Path(root, name)
            if path.is_symlink():
                raise InputError(f"{path} is a link; put what it points to in its place")
            if path.is_file():
                yield path.relative_to(folder.parent).as_posix(), path.stat().st_size, path.read_bytes


def _archive(path: Path) -> Iterator[Entry]:
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    return _zip(path) if is_zip else _tar(path)


class _Header(tarfile.TarInfo):
    """A tar header that is refused before the bytes it announces are read, whatever kind they are of."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        if len(buf) < tarfile.BLOCKSIZE:  # tarfile would take it for the end
            raise EOFError("it ends too early")
        header = super().frombuf(buf, encoding, errors)
        if header.size > MAX_FILE:
            raise InputError(f"{header.name!r} announces {header.size:,} bytes; no file of CIFAR-10 has so many")
        return header


def _check_name(path: Path, name: str) -> None:
    if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise InputError(f"{path}: unsafe path {name!r}; nothing was imported")


def _tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path, "r|*", tarinfo=_Header) as archive:  # a stream
        for member in archive:
            _check_name(path, member.name)
            if not (member.isfile() or member.isdir()):
                raise InputError(f"{path}: {member.name!r} is a link or a device, not a file; nothing was imported")
            if member.isfile():
                yield member.name, member.size, lambda member=member: archive.extractfile(member).read()


def _zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_name(path, member.filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{path}: {member.filename!r} is a link or a device, not a file; nothing was imported")
            if member.flag_bits & 1:
                raise InputError(f"{path}: {member.filename!r} is encrypted; unpack it and import the folder")
            if not member.is_dir():
                yield member.filename, member.file_size, lambda member=member: archive.read(member)
