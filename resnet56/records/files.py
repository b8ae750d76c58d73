"""Where files live, and how they are written: whole or not at all, and by one process at a time."""

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none; there nothing is locked
    fcntl = None

LEFTOVER = ".*.partial"  # temporary files and folders, hidden; every search for records leaves them out
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


class InProgress(InputError):
    """Another process is at it."""


def data_dir() -> Path:
    """Return the folder for data sets and recorded runs: ``RESNET56_HOME``, or ``data/`` in a checkout of the project.

    Raises:
        InputError: if the package is installed without its project, and the variable is not set.
    """
    if home := os.environ.get("RESNET56_HOME"):
        return Path(home)
    checkout = Path(__file__).resolve().parent.parent.parent
    if not (checkout / "pyproject.toml").exists():
        raise InputError(
            "resnet56 runs outside of its project, so there is no data/ folder; set RESNET56_HOME to a folder for "
            "data sets and recorded runs"
        )
    return checkout / "data"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing ``path`` into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            step = "make room there, and try again"
        elif error.errno in IN_THE_WAY:
            step = "move away what is in its place"
        else:
            step = "make that writable, or where it is in the folder for data, set RESNET56_HOME to another"
        raise InputError(f"cannot write {path}: {error.strerror or error}; {step}") from error


def check_writable(folder: Path) -> None:
    """Create ``folder`` if need be and try to write in it, so that long work fails before it starts.

    Raises:
        InputError: if that does not work.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _sync(path: Path) -> None:
    """Have the disk take over what was written to a file, or the names in a folder, where the system can."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[bool]:
    """Try to lock a file or folder; yields whether that worked. The system unlocks it when the process ends."""
    if fcntl is None:
        yield True
        return
    handle = os.open(path, flags, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = path.exists() and os.path.samestat(os.fstat(handle), path.stat())  # not one that was just removed
    except (BlockingIOError, FileNotFoundError):
        mine = False
    try:
        yield mine
    finally:
        os.close(handle)


@contextmanager
def _temporary(make: Callable[..., str], folder: Path, name: str, leftovers: str | None = None) -> Iterator[Path]:
    """Yield a new temporary file or folder, locked while in use; ``leftovers`` of killed processes are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(leftovers or f".{glob.escape(name)}.*.partial") if fcntl else ():
        with suppress(OSError), _locked(old) as abandoned:
            if abandoned:
                _remove(old)
    with ExitStack() as stack:
        mine = False
        while not mine:  # again, if another process took it for a leftover before it was locked
            path = Path(make(prefix=f".{name}.", suffix=".partial", dir=folder))
            with suppress(FileNotFoundError):
                mine = stack.enter_context(_locked(path))
        try:
            yield path
        finally:
            _remove(path)


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: to a temporary file beside it, synced, then renamed over it.

    Args:
        path: the file; its folder is created if need be.
        write: called with the open temporary file, a binary one.

    Raises:
        InputError: if it cannot be written; what was there before is left as it was.
    """
    path = Path(path)

    def make(**where) -> str:
        handle, name = tempfile.mkstemp(**where)
        os.close(handle)
        return name

    with _explained(path), _temporary(make, path.parent, path.name) as temporary:
        with open(temporary, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Write a folder whole or not at all: yields an empty one that takes the name ``path`` on success.

    Args:
        path: the folder.
        scratch: where it is until then, on the same disk; if None, beside ``path``, hidden.

    Raises:
        InputError: if it cannot be written, or there is something of that name.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        leftovers = LEFTOVER if scratch else None
        with _temporary(tempfile.mkdtemp, scratch or path.parent, path.name, leftovers) as temporary:
            os.chmod(temporary, 0o755)
            yield temporary
            for inside in (*temporary.rglob("*"), temporary):
                _sync(inside)
            if path.exists():  # an empty folder would be replaced
                raise FileExistsError(errno.EEXIST, "there is something of that name")
            temporary.rename(path)
            _sync(path.parent)


def unused(path: Path) -> Path:
    """Return ``path``, or if there is something of that name, the first of ``path-2``, ``path-3``, ... without."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextmanager
def lock(path: Path, what: str = "trained", folder: Path | None = None) -> Iterator[None]:
    """Keep other processes from making what is saved to ``path``; however this one ends, its lock ends too.

    The lock is a hidden file, which is gone afterwards; if a process was killed it stays, and hinders nobody.

    Args:
        path: need not exist.
        what: is being done, for the message.
        folder: for the lock; if None, that of ``path``.

    Raises:
        InProgress: if another process has it.
    """
    beside = (folder or Path(path).parent) / f".{Path(path).name}.lock"
    with _explained(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        held = _locked(beside, os.O_RDWR | os.O_CREAT)
        mine = held.__enter__()
    try:
        if not mine:
            raise InProgress(
                f"{path} is being {what} by another process; wait for it, or work elsewhere with --out FOLDER"
            )
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)
    finally:
        held.__exit__(None, None, None)
