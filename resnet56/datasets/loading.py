"""Loading: the official CIFAR-10, an imported copy, or the embedded drawings, by name."""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial

from ..data import DataSet
from ..errors import InputError
from ..records.files import data_dir
from . import official, shapes10
from .cache import CIFAR10_CLASSES, load_cached, make_data_set, save_cached

__all__ = ["CIFAR10_CLASSES", "NAMES", "available_data", "load_data", "survey_data"]

COPIES = ("cifar10-png", "cifar10-jpeg")
NAMES = ("auto", "cifar10", "cifar10-jpeg", "cifar10-png", "shapes10")
SHAPES10_FINGERPRINT = "eaa6f4673919c82c3752760b4ed97908d9c9cc70a0949e0a0a050436525f608e"  # what it is on every machine


def load_data(name: str | None = None) -> DataSet:
    """Load a data set by name. A damaged source is passed over, which is said in one line.

    Args:
        name: one of

            * ``"cifar10"``: the official CIFAR-10, from its folder, its archive (``cifar-10-python.tar.gz``) or
              a download (170 MB) to ``data/``; every file is checked against its MD5 sum;
            * ``"cifar10-jpeg"``, ``"cifar10-png"``: a copy imported with :func:`resnet56.datasets.importing.import_images`;
            * ``"shapes10"``: the embedded one, drawn on first use (see :mod:`resnet56.datasets.shapes10`);
            * ``"auto"``: the first to be had of official CIFAR-10 on disk, an imported copy, the download,
              and ``shapes10``;
            * None: what the environment variable ``RESNET56_DATA`` says, or else ``"auto"``.

    Raises:
        InputError: if there is no such data set, or it cannot be had; the message says why, and what works instead.
    """
    name = name or os.environ.get("RESNET56_DATA") or "auto"
    if name not in NAMES:
        raise InputError(f"unknown data set {name!r}: use one of {', '.join(NAMES)}")
    if name == "shapes10":
        return _load_shapes10()
    if name == "auto":
        sources = [source for each in ("cifar10", *COPIES) for source in _on_disk(each)] + [official.download]
    else:
        sources = _on_disk(name) + [official.download] * (name == "cifar10")
    data, problems = _first(sources)
    if data is not None:
        if problems:
            notice(f"using {data.title}, because {'; '.join(problems)}")
        return data
    if name == "auto":
        notice(f"using shapes10, the embedded drawings, not CIFAR-10, because {'; '.join(problems)}")
        return _load_shapes10()
    if name == "cifar10":
        problems.append(
            f"put cifar-10-python.tar.gz into {data_dir()}, or import a copy with `resnet56 data import PATH`, or use "
            "--data shapes10 (RESNET56_DATA=shapes10)"
        )
    raise InputError(
        "; ".join(problems) or f"no imported data set {name!r}: import one with `resnet56 data import PATH`"
    )


def available_data() -> list[str]:
    """List the names of the data sets that are on disk and intact; shapes10 always is, the others are read whole."""
    return survey_data()[0]


def survey_data() -> tuple[list[str], list[str]]:
    """Return the names of the data sets that are on disk and intact, and a sentence about each thing that is damaged."""
    names, problems = [], []
    for name in ("cifar10", *COPIES):
        data, found = _first(_on_disk(name, keep=False))
        names += [name] * (data is not None)
        problems += found
    return [*names, "shapes10"], problems


def notice(text: str) -> None:
    """Print a notice in one line, on terminals of any encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    print(f"Notice: {text}.".encode(encoding, "backslashreplace").decode(encoding))


def _on_disk(name: str, keep: bool = True) -> list[Callable[[], DataSet | None]]:
    """Return what loads a data set from each place on disk; ``keep`` an archive unpacked."""
    if name == "cifar10":
        return [partial(official.read, place, keep) for place in official.places()]
    return [partial(load_cached, name)]


def _first(sources: list[Callable[[], DataSet | None]]) -> tuple[DataSet | None, list[str]]:
    """Return the data set of the first source that has it, None without one, and what is wrong with those before it."""
    problems = []
    for source in sources:
        try:
            if (data := source()) is not None:
                return data, problems
        except InputError as error:
            problems.append(str(error))
    return None, problems


def _load_shapes10() -> DataSet:
    with contextlib.suppress(InputError):  # damaged: draw it again
        cached = load_cached("shapes10")
        if cached is not None and cached.fingerprint == SHAPES10_FINGERPRINT:
            return cached
    arrays = [*shapes10.draw(50_000, seed=0), *shapes10.draw(10_000, seed=1)]
    data = make_data_set("shapes10", "shapes10", shapes10.CLASSES, arrays)
    if data.fingerprint != SHAPES10_FINGERPRINT:
        raise RuntimeError("shapes10 came out differently on this machine; please report it with your versions")
    with contextlib.suppress(InputError):  # where data/ cannot be written, draw it each time
        save_cached(data)
    return data
