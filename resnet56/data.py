"""Data: where images come from, how they are split, and how they become batches.

A split is a uint8 tensor of images and a tensor of labels. They are moved to the training device whole; batches
are cropped, flipped and normalised there, for all images at once, as in He et al. (2015), section 4.2.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from . import shapes10
from .errors import InputError
from .files import data_dir, write_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("auto", "cifar10", "cifar10-jpeg", "cifar10-png", "shapes10")
FULL_SIZE = (50_000, 10_000)  # CIFAR-10's training and test images
SHAPES10_FINGERPRINT = "eaa6f4673919c82c3752760b4ed97908d9c9cc70a0949e0a0a050436525f608e"  # what it is on every machine
PAD = 4  # pixels added on each side before the random crop


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
        pixels: uint8, ``(N, 3, 32, 32)``, RGB.
        labels: int64, ``(N,)``, class indices.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices) -> "Split":
        return Split(self.pixels[indices], self.labels[indices])

    def to(self, device) -> "Split":
        """Return the same images on ``device``."""
        return Split(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSet:
    """A data set in memory.

    Attributes:
        name: what ``load_data`` calls it, such as ``"cifar10-jpeg"``.
        title: what figures, printouts and records call it, such as "CIFAR-10 (JPEG copy)".
        classes: the ten class names, in index order.
        train: the training images.
        test: the test images; they choose nothing, they are only reported on.
        fingerprint: sha256 of all pixels and labels, as 64 hexadecimal digits.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    fingerprint: str


# --- Loading ------------------------------------------------------------------------------------------


def load_data(name: str | None = None) -> DataSet:
    """Load a data set by name.

    Args:
        name: one of

            * ``"cifar10"``: the official CIFAR-10, downloaded (170 MB, checksum verified) if need be;
            * ``"cifar10-jpeg"``, ``"cifar10-png"``: a copy imported with :func:`import_images`;
            * ``"shapes10"``: the embedded one, drawn on first use (see :mod:`resnet56.shapes10`);
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


# --- Importing a copy of CIFAR-10 from image files ----------------------------------------------------

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
            raise InputError(f"{path}: {name} is of class {parts[-2]!r}, which is not one of CIFAR-10's: "
                             + ", ".join(CIFAR10_CLASSES))
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
                    raise InputError(f"{path}: {member.name} has {member.size:,} bytes; a 32x32 image has a few thousand")
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


# --- From a data set to batches -----------------------------------------------------------------------


def hold_out(split: Split, count: int, seed: int = 0) -> tuple[Split, Split]:
    """Split off ``count`` images for validation, the same number of each class, chosen at random.

    The paper fixed its schedule on a split of CIFAR-10's training images into 45,000 and 5,000 (section 4.2).

    Args:
        split: the training images.
        count: how many to hold out, a multiple of the number of classes.
        seed: the choice is a function of it.

    Returns:
        ``(rest, held_out)``, each in the order of ``split``.

    Raises:
        InputError: if ``count`` is not a multiple of the number of classes, or too large.
    """
    classes = int(split.labels.max()) + 1
    if count % classes or not 0 < count < len(split):
        raise InputError(f"cannot hold out {count} of {len(split)} images evenly from {classes} classes")
    generator = torch.Generator().manual_seed(seed)
    labels = split.labels.cpu()
    held = torch.zeros(len(split), dtype=torch.bool)
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=generator)[: count // classes]]] = True
    return split[~held], split[held]


def evenly(split: Split, count: int) -> Split:
    """Return ``count`` images spread evenly over ``split``: its first ones may all be of one class.

    Args:
        split: the images.
        count: how many; all, if there are no more.
    """
    return split[:: max(1, len(split) // count)][:count]


def pixel_mean(split: Split) -> Tensor:
    """Return the mean image, float32 ``(3, 32, 32)`` on the 0-to-255 scale; its sums are exact integers."""
    return (split.pixels.sum(dim=0, dtype=torch.int64) / len(split)).float()


def normalise(pixels: Tensor, mean: Tensor) -> Tensor:
    """Subtract the mean image and divide by 255: uint8 ``(N, 3, 32, 32)`` to float32 of the same shape."""
    return (pixels - mean) / 255


def augment(pixels: Tensor, mean: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Normalise, pad by 4 pixels, crop to 32x32 and flip, each image by its own draw (He et al. 2015, section 4.2).

    The padding is zero after normalisation: the mean image's own grey.

    Args:
        pixels: uint8 ``(N, 3, 32, 32)``.
        mean: the mean image, ``(3, 32, 32)``.
        top, left: int64 ``(N,)``, 0 to 8: the crop's corner in the padded image.
        flip: bool ``(N,)``: mirror left and right?

    Returns:
        float32 ``(N, 3, 32, 32)``.
    """
    padded = F.pad(normalise(pixels, mean), (PAD, PAD, PAD, PAD))
    steps = torch.arange(32, device=pixels.device)
    rows = top[:, None] + steps
    columns = left[:, None] + torch.where(flip[:, None], 31 - steps, steps)
    image = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    channel = torch.arange(3, device=pixels.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Batches:
    """Augmented training batches: batch number ``step`` is a function of the images, the seed and ``step``.

    Every epoch has its own shuffle, crops and flips, drawn from a generator seeded with (seed, epoch). So two
    networks can be shown the same batches, and a run can be resumed at any step, with nothing to store. The
    images of an epoch's incomplete last batch are left out; the next epoch shuffles anew.

    Args:
        split: the training images, on the device where the batches are wanted.
        batch_size: images a batch.
        seed: of the order and the augmentation.

    Raises:
        InputError: if a batch is larger than the data set.
    """

    def __init__(self, split: Split, batch_size: int, seed: int):
        if batch_size > len(split):
            raise InputError(f"a batch of {batch_size} is larger than the training set of {len(split)} images")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.mean = pixel_mean(split)
        self.steps_per_epoch = len(split) // batch_size
        self._epoch = None

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images, float32 ``(batch_size, 3, 32, 32)``, and labels, ``(batch_size,)``, of one step."""
        return self.views(self.draw(step))

    def draw(self, step: int) -> Tensor:
        """Return what chance decides for one step, int64 ``(4, batch_size)``: image, crop's top and left, mirrored or not."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._draws = self._draw_epoch(epoch)
            self._epoch = epoch
        return self._draws[:, position * self.batch_size : (position + 1) * self.batch_size]

    def views(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented images and the labels of one draw; nothing here waits for the device."""
        chosen, top, left, flip = draw
        batch = self.split[chosen]
        return augment(batch.pixels, self.mean, top, left, flip.bool()), batch.labels

    def _draw_epoch(self, epoch: int) -> Tensor:
        """Draw the epoch's randomness on the CPU, so that it is the same whatever the device."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count = len(self.split)
        order = torch.randperm(count, generator=generator)
        corners = torch.randint(0, 2 * PAD + 1, (2, count), generator=generator)
        flip = torch.randint(0, 2, (1, count), generator=generator)
        return torch.cat([order[None], corners, flip]).to(self.split.labels.device)
