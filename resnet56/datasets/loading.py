"""Loading: the official CIFAR-10, an imported copy, or the embedded drawings, by name."""

import contextlib
import os
import tempfile
import urllib.request
from functools import partial
from http.client import HTTPException
from pathlib import Path

from ..data import DataSet, make_data_set
from ..errors import InputError
from ..records.files import check_writable, data_dir
from . import official, shapes10
from .importing import cache_path, load_cached, notice, read, save_cached
from .official import CIFAR10_CLASSES as CIFAR10_CLASSES  # its other home

NAMES = ("auto", "cifar10", "cifar10-jpeg", "cifar10-png", "shapes10")
ON_DISK = ("cifar10", "cifar10-png", "cifar10-jpeg")  # the best first
SHAPES10_FINGERPRINT = "eaa6f4673919c82c3752760b4ed97908d9c9cc70a0949e0a0a050436525f608e"  # what it is on every machine


def load_data(name: str | None = None) -> DataSet:
    """Load a data set by name. A damaged source is passed over, which is said in one line.

    The names are ``"cifar10"``, the official one, from its folder or archive in ``data/`` or by download (170 MB),
    each file checked against its MD5 sum; ``"cifar10-jpeg"`` and ``"cifar10-png"``, copies that
    :func:`resnet56.datasets.importing.import_images` made; ``"shapes10"``, the embedded
    :mod:`resnet56.datasets.shapes10`; and ``"auto"``, the first to be had of official files on disk, a copy, the
    download, and ``shapes10``. None is what the environment variable ``RESNET56_DATA`` says, or else ``"auto"``.

    Raises:
        InputError: if there is no such data set, or it cannot be had; the message says why, and what works instead.
    """
    name = name or os.environ.get("RESNET56_DATA") or "auto"
    if name not in NAMES:
        source = " in RESNET56_DATA" if name == os.environ.get("RESNET56_DATA") else ""
        raise InputError(f"unknown data set {name!r}{source}: use one of {', '.join(NAMES)}")
    if name == "shapes10":
        return _load_shapes10()
    names = ON_DISK if name == "auto" else (name,)
    others = {"the download": _download} if "cifar10" in names else {}
    if name == "auto":
        others["the embedded drawings, not CIFAR-10"] = _load_shapes10
    data, place, problems = _find(names, others)
    reason = "; ".join(problems)
    if data is None:
        if name == "cifar10":
            reason += f"; put cifar-10-python.tar.gz into {data_dir()}, import a copy with `resnet56 data import PATH`"
            reason += ", or use --data shapes10 (RESNET56_DATA=shapes10)"
        raise InputError(reason or f"no imported data set {name!r}: import one with `resnet56 data import PATH`")
    if problems:
        notice(f"using {data.title}, {place}, because {reason}")
    if data.name == "cifar10" and not (cache_path("cifar10").exists() or Path(place).is_dir()):
        with contextlib.suppress(InputError):  # where data/ cannot be written, unpack or download it each time
            save_cached(data)
    return data


def survey_data() -> tuple[list[str], list[str]]:
    """List the data sets that are on disk and intact (shapes10 always counts as such), and what is damaged there."""
    names, problems = [], []
    for name in ON_DISK:
        data, _, found = _find((name,), others={})
        names += [name] * (data is not None)
        problems += found
    return [*names, "shapes10"], problems


def _find(names: tuple[str, ...], others: dict) -> tuple[DataSet | None, Path | str, list[str]]:
    """Return the first intact data set of these names on disk, or of others; its place; what is wrong before it."""
    sources = {}
    for name in names:
        sources[cache_path(name)] = partial(load_cached, name)
        if name == "cifar10":
            places = [data_dir() / place for folder, archive, _ in official.versions() for place in (folder, archive)]
            sources |= {place: partial(read, place) for place in places if place.exists()}
    problems = []
    for place, load in (sources | others).items():
        try:
            if (data := load()) is not None:
                return data, place, problems
        except InputError as error:
            problems.append(str(error))
    return None, "", problems


def _download() -> DataSet:
    from torchvision.datasets import CIFAR10, utils

    try:
        urllib.request.urlopen(CIFAR10.url, timeout=5).close()  # offline: fail now, not after minutes
        check_writable(data_dir())
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir()) as unfinished:
            utils.download_url(CIFAR10.url, unfinished, CIFAR10.filename, CIFAR10.tgz_md5)
            return read(Path(unfinished, CIFAR10.filename))
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download CIFAR-10 from {CIFAR10.url}: {getattr(error, 'reason', error)}") from error
    except RuntimeError as error:
        raise InputError(f"what {CIFAR10.url} sent is not the official CIFAR-10 (its MD5 sum differs)") from error


def _load_shapes10() -> DataSet:
    cached, _, _ = _find(("shapes10",), others={})  # none if it is damaged: it is drawn again
    if cached is not None and cached.fingerprint == SHAPES10_FINGERPRINT:
        return cached
    arrays = [*shapes10.draw(50_000, seed=0), *shapes10.draw(10_000, seed=1)]
    data = make_data_set("shapes10", "shapes10", shapes10.CLASSES, arrays)
    if data.fingerprint != SHAPES10_FINGERPRINT:
        raise RuntimeError("shapes10 came out differently on this machine; please report it with your versions")
    with contextlib.suppress(InputError):  # where data/ cannot be written, draw it each time
        save_cached(data)
    return data
