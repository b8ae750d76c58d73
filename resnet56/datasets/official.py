"""The official CIFAR-10, in Python's version or the binary one: each file is what its MD5 sum says, or is not used."""

import contextlib
import hashlib
import os
import pickle
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

import numpy as np

from ..data import DataSet, make_data_set
from ..errors import InputError
from ..records.files import check_writable, data_dir, new_folder
from .archives import MAX_FILE, read_files

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
BINARY_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}


def versions() -> dict[str, dict[str, str]]:
    """Return the official files' MD5 sums, by folder and file: Python's version (from torchvision) and the binary."""
    official = _torchvision()
    sums = [*official.train_list, *official.test_list, (official.meta["filename"], official.meta["md5"])]
    return {official.base_folder: dict(sums), BINARY: BINARY_MD5}


def file_names() -> set[str]:
    """Return the names of all official files."""
    return {name for sums in versions().values() for name in sums}


def places() -> list[Path]:
    """Return where the official files may lie under ``data/``, the best place first."""
    official = _torchvision()
    return [data_dir() / name for name in (official.base_folder, official.filename, BINARY, BINARY_ARCHIVE)]


def _torchvision():
    from torchvision.datasets import CIFAR10  # imported here: it takes a second, and nothing else needs it

    return CIFAR10


def check(contents: dict[str, bytes], where: Path) -> tuple[str, dict[str, bytes]]:
    """Return the version that these files (by name, found ``where``) are: its folder's name, and its files.

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
    if wrong:
        wrong = wrong if contents else ["none of its files is there"]
        raise InputError(f"{where} is not the official CIFAR-10: {', '.join(wrong)}")
    return folder, {name: contents[name] for name in sums}


def read(path: Path, keep: bool = False) -> DataSet | None:
    """Read the official CIFAR-10 from one of :func:`places`; None if there is nothing.

    Args:
        path: a folder or an archive.
        keep: unpack an archive if there is no folder yet, so that it is read faster next time.

    Raises:
        InputError: if it is damaged: which file has what wrong.
    """
    if not path.exists():
        return None
    names = file_names()
    contents = {file.name: content for file, content in read_files(path, lambda file: MAX_FILE * (file.name in names))}
    try:
        folder, files = check(contents, path)
    except InputError as error:
        raise InputError(f"{error}; delete {path}, then load it again online, or import it") from error
    if keep and not (data_dir() / folder).exists():
        with contextlib.suppress(InputError):  # where data/ cannot be written, unpack it each time
            save(folder, files)
    return decode(files)


def save(folder: str, files: dict[str, bytes]) -> None:
    """Write the files of a version to its folder under ``data/``, which is not there yet: whole or not at all."""
    with new_folder(data_dir() / folder) as unfinished:
        for name, content in files.items():
            (unfinished / name).write_bytes(content)


def decode(files: dict[str, bytes]) -> DataSet:
    """Make a data set of official files, once they are checked: unpickling others could run what is in them."""
    arrays = []
    for part in ("data_batch", "test_batch"):
        batches = [_decode_batch(name, files[name]) for name in files if name.startswith(part)]
        arrays += [np.concatenate(column) for column in zip(*batches, strict=True)]
    return make_data_set("cifar10", "CIFAR-10", CIFAR10_CLASSES, arrays)


def _decode_batch(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 pixels, ``(N, 3, 32, 32)``, and labels, ``(N,)``."""
    if name.endswith(".bin"):
        rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
    batch = pickle.loads(content, encoding="latin1")
    return batch["data"].reshape(-1, 3, 32, 32), np.array(batch["labels"])


def download() -> DataSet | None:
    """Download the official archive, and keep it unpacked under ``data/``, or as it is beside a damaged folder.

    Returns:
        The data set; None if folder and archive are there but damaged, since nothing is replaced unasked.

    Raises:
        InputError: if it cannot be reached or written, or what comes is something else.
    """
    from torchvision.datasets.utils import download_url

    url, (folder, archive) = _torchvision().url, places()[:2]
    is_damaged = folder.exists()
    if is_damaged and archive.exists():
        return None
    try:
        urllib.request.urlopen(url, timeout=5).close()  # offline: fail now, not after minutes
        check_writable(data_dir())
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir()) as unfinished:
            download_url(url, unfinished, archive.name, _torchvision().tgz_md5)
            data = read(Path(unfinished, archive.name), keep=True)
            if is_damaged:
                os.replace(Path(unfinished, archive.name), archive)
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download CIFAR-10 from {url}: {getattr(error, 'reason', error)}") from error
    except RuntimeError as error:
        raise InputError(f"what {url} sent is not the official CIFAR-10 (its MD5 sum differs)") from error
    return data
