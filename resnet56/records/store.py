"""The store: sealed folders, whose JSON holds a checksum of itself and of every file beside it. No pickle anywhere."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from .files import data_dir

UNKNOWN = "unknown"  # the commit, where git does not tell


def place(folder: str | Path | None = None) -> Path:
    """Return a folder, given as it is or by its name in ``data/runs/``; without either, that."""
    return Path(folder) if folder and Path(folder).is_dir() else data_dir() / "runs" / (folder or "")


def seal(path: Path, about: dict) -> None:
    """Write ``about`` as JSON, with the checksums of itself and of all files beside it."""
    about = {**about, "files": {file.name: _sha256(file) for file in sorted(path.parent.iterdir())}}
    about = json.loads(json.dumps(about))  # what it will be when loaded: a number as a key becomes a string
    path.write_text(json.dumps(about | {"checksum": _checksum(about)}, indent=2) + "\n")


@contextmanager
def unsealed(folder: str | Path, name: str, what: str) -> Iterator[tuple[Path, dict]]:
    """Check every file of a sealed folder, found by :func:`place`; yields that and what its JSON ``name`` says.

    If a file is missing or damaged, or cannot be read in this context, that is an ``InputError``, which names ``what``.
    """
    folder = place(folder)
    if not folder.exists():
        raise InputError(f"no {what} at {folder}; {how_to_get(folder)}")
    try:
        about = json.loads((folder / name).read_text())
        damaged = [name] * (about["checksum"] != _checksum(about))
        damaged += [file for file, digest in about["files"].items() if _sha256(folder / file) != digest]
        if about.get("commit", UNKNOWN) is None:  # as it was written once
            about["commit"] = UNKNOWN
        if not damaged:
            yield folder, about
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{what} {folder.name} cannot be read ({error}); {how_to_get(folder)}") from error
    if damaged:
        raise InputError(f"{what} {folder.name}: {damaged[0]} is damaged (its checksum differs); {how_to_get(folder)}")


def _sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits; of text, whatever line ends it was checked out with."""
    content = path.read_bytes()
    text = path.suffix in (".csv", ".json")
    return hashlib.sha256(content.replace(b"\r\n", b"\n") if text else content).hexdigest()


def _checksum(about: dict) -> str:
    """Return the sha256 of everything in ``about`` but its own ``checksum``."""
    rest = {key: value for key, value in about.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def how_to_get(path: Path) -> str:
    """Say which step brings a missing or damaged record, whose place in ``data/runs/`` is ``path``."""
    from .suites import SUITES  # imported here: suites record runs

    for folder in (path, *path.parents[:2]):
        suite, data, steps = re.fullmatch(r"([^-]*)-?(.*?)(?:-(\d+)-steps)?", folder.name).groups()
        if suite in SUITES:
            command = "measure" if path.parent.name == "measurements" else "reproduce"
            command += f" {suite}" + f" --data {data}" * bool(data) + f" --iterations {steps}" * bool(steps)
            command += f" --only {path.name}" * (path.name in SUITES[suite].runs)
            break
    else:
        match = re.fullmatch(r"compare-(\d+)-([\w-]+)-(\d+)-steps-seed-(\d+)", path.name)
        if not match or "exercises" in path.parts:
            return "bring it back with `git checkout -- PATH` if it is one of the book's, or choose another"
        command = "compare --depth {} --data {} --steps {} --seed {}".format(*match.groups())
    there, anew = (f"move {path} away, and ", " anew") if path.exists() else ("", "")
    return f"{there}`resnet56 {command}` makes it{anew}"
