"""The official CIFAR-10, in Python's version or the binary one: each file is what its MD5 sum says, or is not used."""

import contextlib
import hashlib
import os
import pickle
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from ..data import DataSet
from ..errors import InputError
from ..records.files import check_writable, data_dir, new_folder
from .archives import MAX_FILE, read_files
from .cache import CIFAR10_CLASSES, make_data_set

BINARY, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
BINARY_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def _torchvision():
    from torchvision.datasets import CIFAR10  # imported here: nothing else needs torchvision

    return CIFAR10


def versions() -> dict[str, dict[str, str]]:
    """Return the MD5 sum of each official file, by folder: Python's version, whose sums torchvision has, and the binary."""
    official = _torchvision()
    sums = dict([*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])])
    return {official.base_folder: sums, BINARY: BINARY_MD5}


def places() -> list[Path]:
    """Return where the official files may lie under ``data/``, the best place first."""
    official = _torchvision()
    return [data_dir() / name for name in (official.base_folder, official.filename, BINARY, BINARY_ARCHIVE)]


def check(contents: dict[str, bytes], where: Path) -> str:
    """Return the folder name of the version that these files, by name, make up; ``where`` they are from.

    Raises:
        InputError: if one is missing, or is not the official one; which, and how it differs.
    """
    folder, sums = max(versions().items(), key=lambda version: len(contents.keys() & version[1].keys()))
    wrong = []
    for name, expected in sums.items():
        if name not in contents:
            wrong.append(f"{name} is missing")
        elif (found := hashlib.md5(contents[name], usedforsecurity=False).hexdigest()) != expected:
            wrong.append(f"{name} differs ({len(contents[name]):,} bytes of MD5 {found}, not {expected})")
    if not contents:
        wrong = ["none of its files is there"]
    if wrong:
        raise InputError(f"{where} is not the official CIFAR-10: {', '.join(wrong)}")
    return folder


def read(path: Path, keep: bool = False) -> DataSet | None:
    """Read the official CIFAR-10 from a folder or an archive under ``data/``; None if there is no such thing.

    Args:
        path: one of :func:`places`.
        keep: unpack an archive, if there is no folder yet, so that it is read faster next time.

    Raises:
        InputError: if it is damaged: which file has what wrong.
    """
    if not path.exists():
        return None
    names = {name for sums in versions().values() for name in sums}
    inside = read_files(path, lambda name: MAX_FILE if PurePosixPath(name).name in names else 0)
    contents = {PurePosixPath(name).name: content for name, content in inside}
    try:
        folder = data_dir() / check(contents, path)
    except InputError as error:
        raise InputError(f"{error}; delete {path}, then load it again online, or import it") from error
    if keep and not folder.exists():
        with contextlib.suppress(InputError):  # where data/ cannot be written, unpack it each time
            save(contents, folder)
    return decode(contents)


def save(contents: dict[str, bytes], folder: Path) -> None:
    """Write the files of a version to its folder, which must not be there: whole or not at all."""
    with new_folder(folder) as unfinished:
        for name in versions()[folder.name]:
            (unfinished / name).write_bytes(contents[name])


def decode(contents: dict[str, bytes]) -> DataSet:
    """Make a data set of official files, once they are checked: unpickling others could run what is in them."""
    arrays = []
    for part in ("data_batch", "test_batch"):
        batches = [_decode_batch(name, contents[name]) for name in sorted(contents) if name.startswith(part)]
        arrays += [np.concatenate(column) for column in zip(*batches, strict=True)]
    return make_data_set("cifar10", "CIFAR-10", CIFAR10_CLASSES, arrays)


def _decode_batch(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 pixels, ``(N, 3, 32, 32)``, and labels, ``(N,)``."""
    if name.endswith(".bin"):
        rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
    batch = pickle.loads(content, encoding="latin1")
    return np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(batch["labels"])


def download() -> DataSet | None:
    """Download the official archive to ``data/``, unpack and read it; None if both are there already.

    Raises:
        InputError: if it cannot be reached or written, or what comes is something else.
    """
    from torchvision.datasets.utils import download_url

    official = _torchvision()
    folder, archive = places()[:2]
    if folder.exists() and archive.exists():
        return None  # both are damaged then: nothing that exists is replaced unasked
    try:
        urllib.request.urlopen(official.url, timeout=5).close()  # offline: fail now, not after minutes
        check_writable(data_dir())
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir()) as unfinished:
            fetched = Path(unfinished, archive.name)
            download_url(official.url, unfinished, archive.name, official.tgz_md5)
            is_damaged = folder.exists()  # then the archive is kept, beside it
            data = read(fetched, keep=True)
            if is_damaged:
                os.replace(fetched, archive)
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download CIFAR-10 from {official.url}: {getattr(error, 'reason', error)}") from error
    except RuntimeError as error:
        raise InputError(f"what {official.url} sent is not the official CIFAR-10 (its MD5 sum differs)") from error
    return data
