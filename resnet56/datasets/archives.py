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

Entry = tuple[str, int, int, Callable[[], bytes]]  # name, kind (as in st_mode), bytes, and what reads them


def read_files(path: Path, limit: Callable[[PurePosixPath], int]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the name and content of each file in a folder, a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz archive.

    ``limit`` gives the bytes that a file of a name may have; 0: it is left out. InputError if something cannot be
    read, is damaged, encrypted, a link or a device, has a path that leads out, or announces too much (unread then).
    """
    total = 0
    try:
        for name, kind, size, read in _folder(path) if path.is_dir() else _archive(path):
            if kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{path}: {name!r} is a link or a device; put what it stands for in its place")
            if kind == stat.S_IFDIR:
                continue
            total += max(size, BLOCK)
            allowed = limit(PurePosixPath(name))
            if size > (allowed or size) or total > MAX_TOTAL:
                raise InputError(f"{path}: {name!r} has {size:,} bytes, too many for {path.name} to be CIFAR-10")
            if allowed:
                yield PurePosixPath(name), read()
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
        for path in (Path(root, name) for name in sorted(folders + files)):
            about = path.lstat()
            yield path.relative_to(folder).as_posix(), stat.S_IFMT(about.st_mode), about.st_size, path.read_bytes


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


def _archive(path: Path) -> Iterator[Entry]:
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    for entry in _zip(path) if is_zip else _tar(path):
        if re.match(r"[/\\]|[A-Za-z]:", entry[0]) or ".." in re.split(r"[/\\]", entry[0]):
            raise InputError(f"{path}: unsafe path {entry[0]!r}; nothing was imported")
        yield entry


def _tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path, "r|*", tarinfo=_Header) as archive:  # a stream
        for member in archive:
            kind = stat.S_IFREG if member.isfile() else stat.S_IFDIR if member.isdir() else 0
            yield member.name, kind, member.size, lambda member=member: archive.extractfile(member).read()


def _zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.flag_bits & 1:
                raise InputError(f"{path}: {member.filename!r} is encrypted; unpack it and import the folder")
            kind = stat.S_IFDIR if member.is_dir() else stat.S_IFMT(member.external_attr >> 16) or stat.S_IFREG
            yield member.filename, kind, member.file_size, lambda member=member: archive.read(member)
