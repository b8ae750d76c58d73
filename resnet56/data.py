"""Data: a data set, how it is split, and how it becomes batches (appendix "The data").

Images are moved to the training device whole; batches are cropped, flipped and normalised there, for all images at
once, as in He et al. (2015), section 4.2. :func:`resnet56.datasets.loading.load_data` says where images come from.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError

PAD = 4  # pixels added on each side before the random crop


@dataclass(frozen=True)
class Split:
    """Images, uint8 RGB ``pixels`` of shape ``(N, 3, 32, 32)``, with their ``labels``, int64 class indices ``(N,)``."""

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
    """A data set in memory."""

    name: str  #: what ``load_data`` calls it, such as "cifar10"
    title: str  #: what figures, printouts and records call it, such as "CIFAR-10"
    classes: tuple[str, ...]  #: their names, in index order
    train: Split  #: the training images
    test: Split  #: the test images, which choose nothing and are only reported on
    fingerprint: str  #: sha256 of all pixels and labels, as 64 hexadecimal digits


def make_data_set(name: str, title: str, classes: tuple[str, ...], arrays: list) -> DataSet:
    """Make a data set of arrays: training pixels, ``(N, 3, 32, 32)``, and labels, ``(N,)``, then those of the test."""
    digest, tensors = hashlib.sha256(), []
    for array, dtype in zip(arrays, (np.uint8, np.int64) * 2, strict=True):
        array = np.ascontiguousarray(array, dtype=dtype)
        digest.update(array.astype(np.uint8, copy=False).data)
        tensors.append(torch.from_numpy(array))
    return DataSet(name, title, tuple(classes), Split(*tensors[:2]), Split(*tensors[2:]), digest.hexdigest())


def hold_out(split: Split, count: int, seed: int = 0) -> tuple[Split, Split | None]:
    """Split off ``count`` images for validation, as many of each class, chosen at random by ``seed``.

    The paper fixed its schedule on a split of CIFAR-10's training images into 45,000 and 5,000 (section 4.2). Returns
    the rest and what was held out, each in the order of ``split``; all and None for a count of 0. Raises InputError if
    ``count`` is not a multiple of the number of classes, or would use a class up.
    """
    if count == 0:
        return split, None
    labels = split.labels.cpu()
    sizes = labels.bincount()
    classes = len(sizes)
    if count % classes or not 0 < count < classes * sizes.min():
        raise InputError(
            f"cannot hold out {count} of {len(split)} images, as many of each class; choose a multiple of {classes} "
            f"below {classes * sizes.min()}, or 0 for none (--validation)"
        )
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(split), dtype=torch.bool)
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=generator)[: count // classes]]] = True
    return split[~held], split[held]


def pixel_mean(split: Split) -> Tensor:
    """Return the mean image, float32 ``(3, 32, 32)`` on the 0-to-255 scale; its sums are exact integers."""
    return (split.pixels.sum(dim=0, dtype=torch.int64) / len(split)).float()


def normalise(pixels: Tensor, mean: Tensor) -> Tensor:
    """Subtract the mean image and divide by 255: uint8 ``(N, 3, 32, 32)`` to float32 of the same shape."""
    return (pixels - mean) / 255


def augment(pixels: Tensor, mean: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Normalise, pad by 4 pixels, crop to 32x32 and flip, each image by its own draw (He et al. 2015, section 4.2).

    The padding is zero after normalisation: the mean image's own grey. ``pixels`` are uint8 ``(N, 3, 32, 32)``, the
    result is float32; ``top`` and ``left``, int64 ``(N,)`` from 0 to 8, are the crop's corner in the padded image, and
    ``flip``, bool ``(N,)``, says whether it is mirrored left and right.
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

    Every epoch has its own shuffle, crops and flips, drawn from a generator seeded with (seed, epoch). So two networks
    can be shown the same batches, and a run can be resumed at any step, with nothing to store. The images of an epoch's
    incomplete last batch are left out; the next epoch shuffles anew.
    """

    def __init__(self, split: Split, batch_size: int, seed: int):
        if batch_size > len(split):
            raise InputError(f"a batch of {batch_size} is larger than the training set: use up to {len(split)}")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.mean = pixel_mean(split)
        self.steps_per_epoch = len(split) // batch_size
        self._epoch = None

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images, float32 ``(batch_size, 3, 32, 32)``, and labels, ``(batch_size,)``, of one step."""
        return self.views(self.draw(step))

    def draw(self, step: int) -> Tensor:
        """Return what chance decides for one step, int64 ``(4, batch_size)``: image, crop's top and left, mirrored?"""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self._draw_epoch(epoch)
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
