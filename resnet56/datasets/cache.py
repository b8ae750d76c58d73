"""Data sets as arrays, and on disk: one uncompressed .npz file each."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from ..data import DataSet, Split
from ..errors import InputError
from ..records.files import data_dir, write_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def make_data_set(name: str, title: str, classes, arrays) -> DataSet:
    """Make a :class:`DataSet` of arrays: training pixels ``(N, 3, 32, 32)`` and labels ``(N,)``, then those of the test."""
    digest = hashlib.sha256()
    tensors = []
    for array, dtype in zip(arrays, (np.uint8, np.int64) * 2, strict=True):
        array = np.ascontiguousarray(array, dtype=dtype)
        digest.update(array.astype(np.uint8, copy=False).data)
        tensors.append(torch.from_numpy(array))
    return DataSet(name, title, tuple(classes), Split(*tensors[:2]), Split(*tensors[2:]), digest.hexdigest())


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
        reason = " ".join(str(error).split()) or type(error).__name__
    if reason:
        raise InputError(f"{path} is damaged ({reason}); delete it, then `resnet56 data import` your copy again")
    return data
