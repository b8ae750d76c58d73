"""Loading: the official CIFAR-10, an imported copy, or the embedded drawings, by name."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ..data import DataSet, make_data_set
from ..errors import InputError
from ..records.files import data_dir, write_file
from . import official, shapes10
from .archives import one_line
from .official import CIFAR10_CLASSES as CIFAR10_CLASSES  # its other home

COPIES = ("cifar10-png", "cifar10-jpeg")
NAMES = ("auto", "cifar10", "cifar10-jpeg", "cifar10-png", "shapes10")
SHAPES10_FINGERPRINT = "eaa6f4673919c82c3752760b4ed97908d9c9cc70a0949e0a0a050436525f608e"  # what it is on every machine


def load_data(name: str | None = None) -> DataSet:
    """Load a data set by name. A damaged source is passed over, which is said in one line.

    Args:
        name: one of

            * ``"cifar10"``: the official CIFAR-10, from its folder, its archive (``cifar-10-python.tar.gz``) or
              a download (170 MB) to ``data/``; every file is checked against its MD5 sum;
            * ``"cifar10-jpeg"``, ``"cifar10-png"``: a copy that
              :func:`resnet56.datasets.importing.import_images` made;
            * ``"shapes10"``: the embedded one, drawn on first use (see :mod:`resnet56.datasets.shapes10`);
            * ``"auto"``: the first to be had of official CIFAR-10 on disk, an imported copy, the download,
              and ``shapes10``;
            * None: what the environment variable ``RESNET56_DATA`` says, or else ``"auto"``.

    Raises:
        InputError: if there is no such data set, or it cannot be had; the message says why, and what works instead.
    """
    name = name or os.environ.get("RESNET56_DATA") or "auto"
    if name not in NAMES:
        source = " in RESNET56_DATA" if name == os.environ.get("RESNET56_DATA") else ""
        raise InputError(f"unknown data set {name!r}{source}: use one of {', '.join(NAMES)}")
    if name == "shapes10":
        return _load_shapes10()
    names = ("cifar10", *COPIES) if name == "auto" else (name,)
    sources = {place: load for each in names for place, load in on_disk(each).items()}
    if "cifar10" in names:
        sources["the download"] = official.download
    data, place, problems = first(sources)
    reason = "; ".join(problems)
    if data is not None:
        if problems:
            notice(f"using {data.title}, {place}, because {reason}")
        return data
    if name == "auto":
        notice(f"using shapes10, the embedded drawings, not CIFAR-10, because {reason}")
        return _load_shapes10()
    if name == "cifar10":
        reason += f"; put cifar-10-python.tar.gz into {data_dir()}, import a copy with `resnet56 data import PATH`, "
        reason += "or use --data shapes10 (RESNET56_DATA=shapes10)"
    raise InputError(reason or f"no imported data set {name!r}: import one with `resnet56 data import PATH`")


def available_data() -> list[str]:
    """List the names of the data sets that are on disk, whole and intact; shapes10 always counts as such."""
    return survey_data()[0]


def survey_data() -> tuple[list[str], list[str]]:
    """Return :func:`available_data`, and a sentence about each thing on disk that is damaged."""
    names, problems = [], []
    for name in ("cifar10", *COPIES):
        data, _, found = first(on_disk(name, keep=False))
        names += [name] * (data is not None)
        problems += found
    return [*names, "shapes10"], problems


def notice(text: str) -> None:
    """Print a notice in one line, on terminals of any encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    print(f"Notice: {text}.".encode(encoding, "backslashreplace").decode(encoding))


Sources = dict[Path | str, Callable[[], DataSet | None]]  # what loads a data set, by place; None: nothing is there


def on_disk(name: str, keep: bool = True) -> Sources:
    """Return the places where a data set may be on disk, the best first; ``keep`` an archive unpacked."""
    if name == "cifar10":
        return {place: partial(official.read, place, keep) for place in official.places()}
    return {cache_path(name): partial(load_cached, name)}


def first(sources: Sources) -> tuple[DataSet | None, Path | str, list[str]]:
    """Return the first data set to be had (None without one), its place, and what is wrong with those before it."""
    problems = []
    for place, load in sources.items():
        try:
            if (data := load()) is not None:
                return data, place, problems
        except InputError as error:
            problems.append(str(error))
    return None, "", problems


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


# --- The cache of imported and drawn data sets: one uncompressed .npz each ----------------------------

ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def cache_path(name: str) -> Path:
    """Return the file for a data set of that name."""
    return data_dir() / f"{name}.npz"


def save_cached(data: DataSet) -> None:
    """Write a data set to its file, whole or not at all; InputError if that cannot be written."""
    about = {"title": data.title, "classes": data.classes, "fingerprint": data.fingerprint}
    arrays = (data.train.pixels, data.train.labels.byte(), data.test.pixels, data.test.labels.byte())
    named = {key: array.numpy() for key, array in zip(ARRAYS, arrays, strict=True)}
    write_file(cache_path(data.name), lambda file: np.savez(file, about=json.dumps(about), **named))


def load_cached(name: str) -> DataSet | None:
    """Load a data set from its file, None if there is none; InputError if it cannot be read, or is damaged."""
    path = cache_path(name)
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            data = make_data_set(name, about["title"], about["classes"], [file[key] for key in ARRAYS])
        reason = "" if data.fingerprint == about["fingerprint"] else "its checksum differs"
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; make it readable") from error
    except Exception as error:  # zip, json and numpy each have their own errors
        reason = one_line(error)
    if reason:
        raise InputError(f"{path} is damaged ({reason}); delete it, then `resnet56 data import` your copy again")
    return data
