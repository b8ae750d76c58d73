"""Importing CIFAR-10 from a folder or an archive (the official files, or a copy kept as image files) and keeping it."""

import contextlib
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data import DataSet, make_data_set
from ..errors import InputError
from ..records.files import InProgress, data_dir, lock, write_file
from ..streams import Stream
from . import official
from .archives import MAX_FILE, one_line, read_files
from .official import CIFAR10_CLASSES

FULL_SIZE = (50_000, 10_000)  # CIFAR-10's training and test images
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_IMAGE_BYTES = 1 << 20  # a 32x32 image takes a few kB
ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


def import_images(path: str | Path, progress: bool = True) -> DataSet:
    """Import CIFAR-10, check it, and keep it under ``data/``. What is there already is never replaced.

    ``path`` is a folder, a ``.tar``, ``.tar.gz``, ``.tar.xz`` or ``.zip`` file. Official files in it, of Python's
    version or the binary one, become the data set ``cifar10``; images ``train/<class>/*.png|jpg`` and
    ``test/<class>/*.png|jpg`` become, in the order of their names, ``cifar10-jpeg``, or ``cifar10-png`` if none is a
    JPEG, whatever the files are called.

    Raises:
        InputError: if it is missing, damaged, encrypted or unsafe (a link, an absolute path, ``..``, a file too large),
            if an official file differs, if classes are others than CIFAR-10's or of unequal size, if an image is not
            32x32 RGB, or if another data set of that name is there. Nothing is written then.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder, or a .tar, .tar.gz, .tar.xz or .zip file")
    data = read(path, progress)
    place = cache_path(data.name)
    while True:
        with contextlib.suppress(InProgress), lock(place, "imported"):
            present = load_cached(data.name)
            if present is None:
                save_cached(data)
            elif present.fingerprint == data.fingerprint:
                notice(f"the very same images are in {place} already; nothing was written")
            else:
                raise InputError(
                    f"{place} holds other images ({present.title}, sha256 {present.fingerprint[:12]}...) than {path} "
                    f"(sha256 {data.fingerprint[:12]}...); to import these instead, delete it or move it away first"
                )
            return data
        time.sleep(0.1)  # while another import is being saved


def read(path: Path, progress: bool = False) -> DataSet:
    """Read CIFAR-10 from a folder or an archive, as :func:`import_images` does, and keep nothing."""
    official_names = {name for *_, sums in official.versions() for name in sums}

    def limit(file: PurePosixPath) -> int:
        is_image = file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        return MAX_FILE if file.name in official_names else is_image * MAX_IMAGE_BYTES

    files, images = {}, {}
    inside = read_files(path, limit)
    for file, content in tqdm(inside, desc=f"Importing {path.name}", unit=" files", disable=not progress):
        key = file.parts[-3:]
        if file.name in official_names:
            files[file.name] = content
        elif key in images:
            raise InputError(f"{path}: {'/'.join(key)!r} is there twice; leave one of them out")
        else:
            images[key] = _decode(key, content, f"{path}: {str(file)!r}")
    return official.decode(files, path) if files else _make_copy(images, path)


def _decode(key: tuple[str, ...], content: bytes, where: str) -> tuple[np.ndarray, str]:
    """Decode the image file split/class/name: uint8 ``(3, 32, 32)``, and "PNG" or "JPEG"."""
    if len(key) < 3 or key[0] not in ("train", "test"):
        raise InputError(f"{where} is not of the form train/<class>/<image> or test/<class>/<image>")
    if key[1] not in CIFAR10_CLASSES:
        classes = ", ".join(CIFAR10_CLASSES)
        raise InputError(f"{where} is of class {key[1]!r}, which is not one of CIFAR-10's: {classes}")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (32, 32) or image.mode != "RGB":
                raise InputError(f"{where} is {image.size[0]}x{image.size[1]} {image.mode}, not 32x32 RGB")
            return np.asarray(image).transpose(2, 0, 1), image.format
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can raise nearly anything
        raise InputError(f"{where} cannot be decoded as PNG or JPEG ({one_line(error)})") from error


def _make_copy(images: dict[tuple[str, str, str], tuple[np.ndarray, str]], path: Path) -> DataSet:
    """Make a data set of decoded images; its title says if it has fewer than 5,000 + 1,000 of each class."""
    if not images:
        raise InputError(f"{path} has neither the official files nor images train/<class>/*.png, test/<class>/*.jpg")
    arrays = []
    for split in ("train", "test"):
        keys = sorted(key for key in images if key[0] == split)
        counts = Counter(name for _, name, _ in keys)
        if missing := [name for name in CIFAR10_CLASSES if name not in counts]:
            wanted = f"expected {split}/<class>/*.png or *.jpg"
            raise InputError(f"{path}: no {split} images of {', '.join(missing)}; {wanted}")
        usual = Counter(counts.values()).most_common(1)[0][0]
        if odd := [f"{split}/{name} has {counts[name]:,}" for name in CIFAR10_CLASSES if counts[name] != usual]:
            wanted = f"other classes {usual:,}; give each class equal size"
            raise InputError(f"{path}: {', '.join(odd)} images, {wanted}")
        arrays += [np.stack([images[key][0] for key in keys]), [CIFAR10_CLASSES.index(name) for _, name, _ in keys]]
    kinds = sorted({kind for _, kind in images.values()})
    counts = len(arrays[1]), len(arrays[3])
    size = "" if counts == FULL_SIZE else f", {counts[0]:,} + {counts[1]:,} images"
    title = f"CIFAR-10 ({' and '.join(kinds)} copy{size})"
    return make_data_set(f"cifar10-{kinds[0].lower()}", title, CIFAR10_CLASSES, arrays)


def notice(text: str) -> None:
    """Print a notice in one line, on terminals of any encoding."""
    print(f"Notice: {text}.", file=Stream(sys.stdout))


def cache_path(name: str) -> Path:
    """Return the file under ``data/`` of an imported, downloaded or drawn data set: an uncompressed .npz."""
    return data_dir() / f"{name}.npz"


def save_cached(data: DataSet) -> None:
    """Write a data set to its file, whole or not at all; InputError if that cannot be written."""
    about = {"title": data.title, "classes": data.classes, "fingerprint": data.fingerprint}
    arrays = (data.train.pixels, data.train.labels.byte(), data.test.pixels, data.test.labels.byte())
    named = dict(zip(ARRAYS, arrays, strict=True))
    write_file(cache_path(data.name), lambda file: np.savez(file, about=json.dumps(about), **named))


def load_cached(name: str) -> DataSet | None:
    """Load a data set from its file, None if there is none; InputError if it cannot be read, or is damaged."""
    path = cache_path(name)
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            data = make_data_set(name, about["title"], about["classes"], [file[key] for key in ARRAYS])
        if data.fingerprint != about["fingerprint"]:
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; make it readable") from error
    except Exception as error:  # zip, json and numpy each have their own errors
        again = "delete it, then `resnet56 data import` your copy again"
        raise InputError(f"{path} is damaged ({one_line(error)}); {again}") from error
    return data
