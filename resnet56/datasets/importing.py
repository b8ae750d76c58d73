"""Importing a copy of CIFAR-10 from image files, which may be incomplete, damaged or hostile."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data import DataSet
from ..errors import InputError
from .loading import CIFAR10_CLASSES, _data_set, _save_cached

FULL_SIZE = (50_000, 10_000)  # CIFAR-10's training and test images
IMAGE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MAX_IMAGE_BYTES = 1 << 20  # a 32x32 image takes a few kB; this stops archives made to fill a disk or memory


def import_images(path: str | Path, progress: bool = True) -> DataSet:
    """Import a copy of CIFAR-10 kept as image files, check it, and cache it under ``data/``.

    Args:
        path: a folder with ``train/<class>/*.png|jpg`` and ``test/<class>/*.png|jpg``, or a ``.tar``,
            ``.tar.gz`` or ``.tar.xz`` of one. Nothing is unpacked to disk.
        progress: show a progress bar.

    Returns:
        The data set, named ``cifar10-jpeg`` or ``cifar10-png`` after its file format; its images are
        ordered by file name. A copy with fewer than 5,000 + 1,000 images a class says so in its title.

    Raises:
        InputError: if the archive is damaged; holds a link, an absolute path or ``..``; has other classes
            than CIFAR-10's, classes of unequal size, or an image that is not 32x32 RGB. Nothing is written then.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give an image folder or a .tar, .tar.gz or .tar.xz of one")
    images: dict[tuple[str, str, str], np.ndarray] = {}
    formats = set()
    files = _folder_files(path) if path.is_dir() else _tar_files(path)
    for name, content in tqdm(files, desc=f"Importing {path.name}", unit=" images", disable=not progress):
        parts = PurePosixPath(name).parts
        suffix = PurePosixPath(name).suffix.lower()
        if suffix not in IMAGE_SUFFIXES or parts[-1].startswith("."):
            continue
        if len(parts) < 3 or parts[-3] not in ("train", "test"):
            raise InputError(f"{path}: {name} is not of the form train/<class>/<image> or test/<class>/<image>")
        if parts[-2] not in CIFAR10_CLASSES:
            raise InputError(
                f"{path}: {name} is of class {parts[-2]!r}, which is not one of CIFAR-10's: "
                + ", ".join(CIFAR10_CLASSES)
            )
        key = parts[-3:]
        if key in images:
            raise InputError(f"{path}: {'/'.join(key)} is there twice")
        images[key] = _decode(content, f"{path}: {name}")
        formats.add(IMAGE_SUFFIXES[suffix])
    arrays = []
    for split in ("train", "test"):
        _check_counts(path, split, Counter(key[1] for key in images if key[0] == split))
        keys = sorted(key for key in images if key[0] == split)
        arrays.append(np.stack([images[key] for key in keys]))
        arrays.append(np.array([CIFAR10_CLASSES.index(key[1]) for key in keys]))
    kind = "JPEG" if "JPEG" in formats else "PNG"
    counts = len(arrays[1]), len(arrays[3])
    size = "" if counts == FULL_SIZE else f", {counts[0]:,} + {counts[1]:,} images"
    data = _data_set(f"cifar10-{kind.lower()}", f"CIFAR-10 ({kind} copy{size})", CIFAR10_CLASSES, arrays)
    _save_cached(data)
    return data


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    def refuse(error: OSError):
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error

    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=False):
        for name in sorted(folders + files):
            path = Path(root, name)
            if path.is_symlink():
                raise InputError(f"{path} is a link; links are not followed, copy the images themselves")
            if path.is_file():
                try:
                    with open(path, "rb") as file:
                        content = file.read(MAX_IMAGE_BYTES + 1)
                except OSError as error:
                    refuse(error)
                yield path.relative_to(folder.parent).as_posix(), content


def _tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r|*") as archive:  # a stream: members are read in memory, one by one
            for member in archive:
                parts = PurePosixPath(member.name).parts
                if member.name.startswith("/") or ".." in parts:
                    raise InputError(f"{path}: unsafe path {member.name!r} in the archive; nothing was imported")
                if member.isdir():
                    continue
                if not member.isfile():
                    raise InputError(f"{path}: {member.name} is a link or a device, not a file; nothing was imported")
                if member.size > MAX_IMAGE_BYTES:
                    raise InputError(
                        f"{path}: {member.name} has {member.size:,} bytes; a 32x32 image has a few thousand"
                    )
                yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a complete .tar, .tar.gz or .tar.xz archive ({error})") from error
    except Exception as error:
        # lzma.LZMAError and zlib.error share no base class with the others
        raise InputError(f"{path} is a damaged archive ({error}); get it again") from error


def _decode(content: bytes, name: str) -> np.ndarray:
    """Decode one image file into uint8 ``(3, 32, 32)``."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (32, 32) or image.mode != "RGB":
                raise InputError(f"{name} is {image.size[0]}x{image.size[1]} {image.mode}, not 32x32 RGB")
            return np.asarray(image).transpose(2, 0, 1)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can raise nearly anything
        raise InputError(f"{name} cannot be decoded: {error}") from error


def _check_counts(path: Path, split: str, counts: Counter) -> None:
    missing = [name for name in CIFAR10_CLASSES if not counts[name]]
    if missing:
        raise InputError(f"{path}: no {split} images of {', '.join(missing)}; expected {split}/<class>/*.png or *.jpg")
    fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[fewest] != counts[most]:
        raise InputError(
            f"{path}: {split}/{fewest} has {counts[fewest]:,} images but {split}/{most} has {counts[most]:,}; "
            "the classes must be of equal size, so some are missing"
        )
