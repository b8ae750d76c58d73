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

LEFTOVER = ".*.partial"  # unfinished folders, hidden; every search for records leaves them out
STEPS = {
    "make room there, and try again": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "move away what is in its place": (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR),
}


class InProgress(InputError):
    """Another process is at it."""


def data_dir() -> Path:
    """Return the folder for data sets and recorded runs: ``RESNET56_HOME``, or ``data/`` in a checkout of the project.

    Without either, that is an ``InputError``.
    """
    if home := os.environ.get("RESNET56_HOME"):
        return Path(home)
    checkout = Path(__file__).resolve().parents[2]
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
        other = "make that writable, or where it is in the folder for data, set RESNET56_HOME to another"
        step = next((step for step, numbers in STEPS.items() if error.errno in numbers), other)
        raise InputError(f"cannot write {path}: {error.strerror or error}; {step}") from error


def check_writable(folder: Path) -> None:
    """Create ``folder`` if need be and try to write in it: an ``InputError`` if that fails, before long work starts."""
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


@contextmanager
def _locked(path: Path, flags: int = os.O_RDONLY) -> Iterator[bool]:
    """Try to lock a file or folder; yields whether that worked. The system unlocks it when the process ends."""
    if fcntl is None:
        yield True
        return
    handle = os.open(path, flags, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = os.path.samestat(os.fstat(handle), path.stat())  # not one that was just removed
    except (BlockingIOError, FileNotFoundError):
        mine = False
    try:
        yield mine
    finally:
        os.close(handle)


@contextmanager
def _unfinished(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in which to write what ``path`` will be, locked while in use, removed in the end.

    What killed processes left is removed: all in ``scratch``, or beside ``path`` what has its name.
    """
    folder = scratch or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(LEFTOVER if scratch else f".{glob.escape(path.name)}{LEFTOVER}") if fcntl else ():
        with suppress(OSError), _locked(old) as abandoned:
            if abandoned:
                shutil.rmtree(old, ignore_errors=True)
    with ExitStack() as stack:
        mine = False
        while not mine:  # again, if another process took it for a leftover before it was locked
            name = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=folder)
            stack.callback(shutil.rmtree, name, ignore_errors=True)
            with suppress(FileNotFoundError):
                mine = stack.enter_context(_locked(Path(name)))
        yield Path(name)


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all, and its folder if need be; ``write`` is called with a temporary, binary file.

    If that fails, what was there before is left as it was, and the error is an ``InputError``.
    """
    path = Path(path)
    with _explained(path), _unfinished(path) as folder:
        temporary = folder / path.name
        with open(temporary, "wb") as file:
            write(file)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """Write a folder whole or not at all: yields an empty one that takes the name ``path`` on success.

    Until then it is hidden, in ``scratch``, which must be on the same disk, or beside ``path``. If it cannot be
    written, or there is something of that name, that is an ``InputError``.
    """
    path = Path(path)
    with _explained(path), _unfinished(path, scratch) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(temporary, 0o755)
        yield temporary
        for inside in (*temporary.rglob("*"), temporary):
            _sync(inside)
        if path.exists():  # an empty folder would be replaced
            raise FileExistsError(errno.EEXIST, "there is something of that name")
        temporary.rename(path)
        _sync(path.parent)


@contextmanager
def lock(path: Path, what: str = "trained", folder: Path | None = None) -> Iterator[None]:
    """Keep other processes from making what is saved to ``path``, which need not exist; they are told ``what`` it is.

    The lock is a hidden file, in ``folder`` or beside ``path``, which is gone afterwards. If a process was killed it
    stays, and hinders nobody. If another process has it, that is an :class:`InProgress`.
    """
    beside = (folder or Path(path).parent) / f".{Path(path).name}.lock"
    with ExitStack() as stack:
        with _explained(beside):
            beside.parent.mkdir(parents=True, exist_ok=True)
            mine = stack.enter_context(_locked(beside, os.O_RDWR | os.O_CREAT))
        if not mine:
            raise InProgress(
                f"{path} is being {what} by another process; wait for it, or work elsewhere with --out FOLDER"
            )
        stack.callback(beside.unlink, missing_ok=True)
        yield
