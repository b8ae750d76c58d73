"""Where files live, and how they are written: whole or not at all."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none; there nothing is locked
    fcntl = None


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
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a folder you can write to") from error


def check_writable(folder: Path) -> None:
    """Create ``folder`` if need be and try to write in it, so that long work fails before it starts.

    Raises:
        InputError: if that does not work.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole or not at all: to a temporary file beside it, synced, then renamed over it.

    Args:
        path: the file; its folder is created if need be.
        write: called with the open temporary file, a binary one.

    Raises:
        InputError: if it cannot be written; what was there before is left as it was.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Write a folder whole or not at all: yields an empty one that takes the name ``path`` on success.

    Raises:
        InputError: if it cannot be written, or there is one of that name.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            os.chmod(temporary, 0o755)
            yield temporary
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def unused(path: Path) -> Path:
    """Return ``path``, or if there is something of that name, the first of ``path-2``, ``path-3``, ... without."""
    names = itertools.chain([path.name], (f"{path.name}-{number}" for number in itertools.count(2)))
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other processes from training the run that is saved to ``path``; however this one ends, its lock ends too.

    Raises:
        InputError: if another process has it.
    """
    path = Path(path)
    if fcntl is None:
        yield
        return
    beside = path.with_name(f".{path.name}.lock")
    with _explained(beside):
        beside.parent.mkdir(parents=True, exist_ok=True)
        file = open(beside, "w")  # noqa: SIM115 (closed below, when the run is over)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{path} is being trained by another process; wait for it, or train elsewhere with --out FOLDER"
            ) from error
        try:
            yield
        finally:
            beside.unlink(missing_ok=True)
