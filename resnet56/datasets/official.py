"""The official CIFAR-10, in Python's version or the binary one: each file is what its MD5 sum says, or is not used."""

import hashlib
import pickle
from pathlib import Path

import numpy as np

from ..data import DataSet, make_data_set
from ..errors import InputError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def versions() -> list[tuple[str, str, dict[str, str]]]:
    """Return folder, archive and files' MD5 sums of Python's version, as torchvision has it, and of the binary one."""
    from torchvision.datasets import CIFAR10  # imported here: it takes a second, and nothing else needs it

    sums = dict([*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])])
    binary = "cifar-10-batches-bin", "cifar-10-binary.tar.gz", BINARY_MD5
    return [(CIFAR10.base_folder, CIFAR10.filename, sums), binary]


def decode(contents: dict[str, bytes], where: Path) -> DataSet:
    """Make a data set of official files, by name, found ``where``; InputError if one is missing, or how it differs.

    Nothing is decoded before all are checked, since unpickling other files could run what is in them.
    """
    sums = max((sums for *_, sums in versions()), key=lambda sums: len(contents.keys() & sums.keys()))
    wrong = []
    for name, expected in sums.items():
        if name not in contents:
            wrong.append(f"{name} is missing")
        elif (found := hashlib.md5(contents[name], usedforsecurity=False).hexdigest()) != expected:
            wrong.append(f"{name} differs ({len(contents[name]):,} bytes of MD5 {found}, not {expected})")
    if wrong:
        raise InputError(f"{where} is not the official CIFAR-10: {', '.join(wrong)}; get it again")
    arrays = []
    for part in ("data_batch", "test_batch"):
        rows = np.concatenate([_rows(name, contents[name]) for name in sums if name.startswith(part)])
        arrays += [rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]]
    return make_data_set("cifar10", "CIFAR-10", CIFAR10_CLASSES, arrays)


def _rows(name: str, content: bytes) -> np.ndarray:
    """Return a file's images as the binary version has them: uint8 rows of a label and the pixels."""
    if name.endswith(".bin"):
        return np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    batch = pickle.loads(content, encoding="latin1")
    return np.column_stack([np.array(batch["labels"], np.uint8), batch["data"]])
