"""Loading: the official CIFAR-10, an imported copy, or the embedded drawings, by name."""

import contextlib
import hashlib
import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch

from ..data import DataSet, Split
from ..errors import InputError
from ..records.files import data_dir, write_file
from . import shapes10

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("auto", "cifar10", "cifar10-jpeg", "cifar10-png", "shapes10")
SHAPES10_FINGERPRINT = "eaa6f4673919c82c3752760b4ed97908d9c9cc70a0949e0a0a050436525f608e"  # what it is on every machine


def load_data(name: str | None = None) -> DataSet:
    """Load a data set by name.

    Args:
        name: one of

            * ``"cifar10"``: the official CIFAR-10, downloaded (170 MB, checksum verified) if need be;
            * ``"cifar10-jpeg"``, ``"cifar10-png"``: a copy imported with :func:`resnet56.datasets.importing.import_images`;
            * ``"shapes10"``: the embedded one, drawn on first use (see :mod:`resnet56.datasets.shapes10`);
            * ``"auto"``: the first to be had of official CIFAR-10 on disk, an imported copy, the download,
              and ``shapes10``;
            * None: what the environment variable ``RESNET56_DATA`` says, or else ``"auto"``.

    Raises:
        InputError: if there is no such data set, or it cannot be had; the message names the alternatives.
    """
    name = name or os.environ.get("RESNET56_DATA") or "auto"
    if name == "auto":
        return _load_first_available()
    if name == "cifar10":
        return _load_cifar10()
    if name == "shapes10":
        return _load_shapes10()
    if name in NAMES:
        return _load_cached(name)
    raise InputError(f"unknown data set {name!r}: use one of {', '.join(NAMES)}")


def available_data() -> list[str]:
    """List the names of the data sets that can be loaded without a download."""
    imported = [name for name in ("cifar10-png", "cifar10-jpeg") if _cache_path(name).exists()]
    return ["cifar10"] * _has_cifar10() + imported + ["shapes10"]


def _has_cifar10() -> bool:
    folder = data_dir() / "cifar-10-batches-py"
    return all((folder / name).is_file() for name in ("batches.meta", "data_batch_5", "test_batch"))


def _load_first_available() -> DataSet:
    on_disk = available_data()[0]
    if on_disk != "shapes10":
        return load_data(on_disk)
    try:
        return _load_cifar10()
    except InputError as error:
        print(f"Notice: using shapes10, the embedded drawings, not CIFAR-10 ({str(error).split(';')[0]}).")
        return _load_shapes10()


def _load_cifar10() -> DataSet:
    from torchvision.datasets import CIFAR10  # imported here: nothing else needs torchvision

    try:
        if not _has_cifar10():
            urllib.request.urlopen(CIFAR10.url, timeout=5).close()  # offline: fail now, not after minutes
        parts = [CIFAR10(data_dir(), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"cannot download CIFAR-10: {reason}; go online, or import a copy with `resnet56 data import PATH`, "
            "or use --data shapes10 (RESNET56_DATA=shapes10)"
        ) from error
    arrays = []
    for part in parts:
        arrays += [part.data.transpose(0, 3, 1, 2), np.asarray(part.targets)]
    return _data_set("cifar10", "CIFAR-10", CIFAR10_CLASSES, arrays)


def _load_shapes10() -> DataSet:
    path = _cache_path("shapes10")
    if path.exists():
        try:
            cached = _load_cached("shapes10")
            if cached.fingerprint == SHAPES10_FINGERPRINT:
                return cached
        except InputError:
            pass  # damaged, or of another version: draw it again
    arrays = [*shapes10.draw(50_000, seed=0), *shapes10.draw(10_000, seed=1)]
    data = _data_set("shapes10", "shapes10", shapes10.CLASSES, arrays)
    if data.fingerprint != SHAPES10_FINGERPRINT:
        raise RuntimeError("shapes10 came out differently on this machine; please report it with your versions")
    with contextlib.suppress(InputError):  # where data/ cannot be written, draw it each time
        _save_cached(data)
    return data


def _data_set(name: str, title: str, classes, arrays) -> DataSet:
    """Make a :class:`DataSet` of arrays: training pixels and labels, test pixels and labels."""
    digest = hashlib.sha256()
    tensors = []
    for array, dtype in zip(arrays, (np.uint8, np.int64) * 2, strict=True):
        array = np.ascontiguousarray(array, dtype=dtype)
        digest.update(array.astype(np.uint8, copy=False).data)
        tensors.append(torch.from_numpy(array))
    return DataSet(name, title, tuple(classes), Split(*tensors[:2]), Split(*tensors[2:]), digest.hexdigest())


# --- The cache of imported and drawn data sets: one uncompressed .npz each ----------------------------

ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def _cache_path(name: str) -> Path:
    return data_dir() / f"{name}.npz"


def _save_cached(data: DataSet) -> None:
    about = {"title": data.title, "classes": data.classes, "fingerprint": data.fingerprint}
    arrays = (data.train.pixels, data.train.labels.byte(), data.test.pixels, data.test.labels.byte())
    named = {key: array.numpy() for key, array in zip(ARRAYS, arrays, strict=True)}
    write_file(_cache_path(data.name), lambda file: np.savez(file, about=json.dumps(about), **named))


def _load_cached(name: str) -> DataSet:
    path = _cache_path(name)
    if not path.exists():
        raise InputError(f"no imported data set {name!r}: import one with `resnet56 data import PATH`")
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            data = _data_set(name, about["title"], about["classes"], [file[key] for key in ARRAYS])
    except Exception as error:  # zip, json and numpy each have their own errors
        raise InputError(f"{path} is damaged ({error}); delete it and import the data again") from error
    if data.fingerprint != about["fingerprint"]:
        raise InputError(f"{path} is damaged (its checksum differs); delete it and import the data again")
    return data
