"""Importing CIFAR-10 from a folder or an archive: the official files, or a copy kept as image files."""

import io
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data import DataSet, make_data_set
from ..errors import InputError
from ..records.files import data_dir
from . import official
from .archives import MAX_FILE, one_line, read_files
from .loading import CIFAR10_CLASSES, cache_path, first, load_cached, notice, on_disk, save_cached

FULL_SIZE = (50_000, 10_000)  # CIFAR-10's training and test images
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_IMAGE_BYTES = 1 << 20  # a 32x32 image takes a few kB


def import_images(path: str | Path, progress: bool = True) -> DataSet:
    """Import CIFAR-10, check it, and keep it under ``data/``. What is there already is never replaced.

    Args:
        path: a folder, a ``.tar``, ``.tar.gz``, ``.tar.xz`` or a ``.zip`` file that holds the official files, of
            Python's version or the binary one, or images ``train/<class>/*.png|jpg`` and ``test/<class>/*.png|jpg``.
        progress: show a progress bar.

    Returns:
        Of the official files, the data set ``cifar10``; of images, ``cifar10-jpeg``, or ``cifar10-png`` if none is a
        JPEG, whatever the files are called, in the order of file names. A copy with fewer than 5,000 + 1,000 images a
        class says so in its title.

    Raises:
        InputError: if there is no such file, or it is damaged, encrypted or unsafe (a link, an absolute path, ``..``,
            a file too large); if an official file is missing or differs; if there are other classes than CIFAR-10's,
            classes of unequal size, or an image that is not 32x32 RGB; or if another data set of that name is there.
            Nothing is written then.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder, or a .tar, .tar.gz, .tar.xz or .zip file")
    names = official.file_names()

    def limit(file: PurePosixPath) -> int:
        is_image = file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        return MAX_FILE if file.name in names else is_image * MAX_IMAGE_BYTES

    files, images = {}, {}
    inside = read_files(path, limit)
    for file, content in tqdm(inside, desc=f"Importing {path.name}", unit=" files", disable=not progress):
        if file.name in names:
            files[file.name] = content
            continue
        key, where = file.parts[-3:], f"{path}: {str(file)!r}"
        _check_name(key, where)
        if key in images:
            raise InputError(f"{path}: {'/'.join(key)!r} is there twice; leave one of them out")
        images[key] = _decode(content, where)
    return _keep_official(files, path) if files else _keep_images(images, path)


def _keep_official(contents: dict[str, bytes], path: Path) -> DataSet:
    folder, files = official.check(contents, path)
    data, place, problems = first(on_disk("cifar10", keep=False))
    if data is not None:
        notice(f"the official CIFAR-10 is there already, in {place}; nothing was written")
        return data
    if (data_dir() / folder).exists():
        raise InputError("; ".join(problems))
    official.save(folder, files)
    return official.decode(files)


def _keep_images(images: dict[tuple[str, str, str], tuple[np.ndarray, str]], path: Path) -> DataSet:
    if not images:
        raise InputError(f"{path} has neither the official files nor images train/<class>/*.png, test/<class>/*.jpg")
    arrays = []
    for split in ("train", "test"):
        keys = sorted(key for key in images if key[0] == split)
        _check_counts(path, split, Counter(key[1] for key in keys))
        arrays.append(np.stack([images[key][0] for key in keys]))
        arrays.append(np.array([CIFAR10_CLASSES.index(key[1]) for key in keys]))
    kinds = sorted({kind for _, kind in images.values()})
    counts = len(arrays[1]), len(arrays[3])
    size = "" if counts == FULL_SIZE else f", {counts[0]:,} + {counts[1]:,} images"
    title = f"CIFAR-10 ({' and '.join(kinds)} copy{size})"
    data = make_data_set(f"cifar10-{kinds[0].lower()}", title, CIFAR10_CLASSES, arrays)
    present, place = load_cached(data.name), cache_path(data.name)
    if present is None:
        save_cached(data)
    elif present.fingerprint == data.fingerprint:
        notice(f"the very same images are in {place} already; nothing was written")
    else:
        raise InputError(
            f"{place} holds other images ({present.title}, sha256 {present.fingerprint[:12]}...) than {path} (sha256 "
            f"{data.fingerprint[:12]}...); to import these instead, delete it or move it away first"
        )
    return data


def _check_name(key: tuple[str, ...], where: str) -> None:
    if len(key) < 3 or key[0] not in ("train", "test"):
        raise InputError(f"{where} is not of the form train/<class>/<image> or test/<class>/<image>")
    if key[1] not in CIFAR10_CLASSES:
        classes = ", ".join(CIFAR10_CLASSES)
        raise InputError(f"{where} is of class {key[1]!r}, which is not one of CIFAR-10's: {classes}")


def _decode(content: bytes, name: str) -> tuple[np.ndarray, str]:
    """Decode one image file: uint8 ``(3, 32, 32)``, and "PNG" or "JPEG"."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (32, 32) or image.mode != "RGB":
                raise InputError(f"{name} is {image.size[0]}x{image.size[1]} {image.mode}, not 32x32 RGB")
            return np.asarray(image).transpose(2, 0, 1), image.format
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can raise nearly anything
        raise InputError(f"{name} cannot be decoded as PNG or JPEG ({one_line(error)})") from error


def _check_counts(path: Path, split: str, counts: Counter) -> None:
    missing = [name for name in CIFAR10_CLASSES if not counts[name]]
    if missing:
        raise InputError(f"{path}: no {split} images of {', '.join(missing)}; expected {split}/<class>/*.png or *.jpg")
    usual = Counter(counts.values()).most_common(1)[0][0]
    odd = [f"{split}/{name} has {counts[name]:,}" for name in CIFAR10_CLASSES if counts[name] != usual]
    if odd:
        raise InputError(f"{path}: {', '.join(odd)} images, other classes {usual:,}; give each class equal size")
