"""Lesions (Veit et al. 2016, sections 4 and 5): take blocks out of a trained network, and see what it still can do.

A lesion also gives the layers behind it inputs that their batch normalisation does not know. So each network can be
measured twice: as it is left, and with the running statistics estimated again. What is mended by that was no loss.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Split
from ..errors import InputError
from ..layers import basic_blocks, unwrapped
from ..model import BasicBlock, OptionA
from ..observe import undisturbed
from ..train import evaluate
from .modes import calibrate
from .points import digest, measure_each


class Bypass(nn.Module):
    """What is left of a block when its two convolutions are gone: its shortcut.

    A plain block has none. Where its shape does not change it is left out; where it does, shortcut option A stands in.
    """

    def __init__(self, block: BasicBlock):
        super().__init__()
        extra_channels = block.conv1.out_channels - block.conv1.in_channels
        self.shortcut = block.downsample or (OptionA(extra_channels) if extra_channels else nn.Identity())
        self.strength = (block.residual and block.strength) or 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to what the whole block would."""
        return F.relu(self.strength * self.shortcut(x))


@contextmanager
def without_blocks(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Take blocks out of ``model`` for the time of the ``with`` block.

    Args:
        model: a network of :func:`resnet56.model.build_model`.
        names: of the blocks, such as ``"layer1.3"``.

    Raises:
        InputError: if the network has no block of such a name.
    """
    blocks, model, names = basic_blocks(model), unwrapped(model), list(names)
    for name in names:
        if name not in blocks:
            raise InputError(f"no block {name!r} in this network; its blocks are {', '.join(blocks)}")
    try:
        for name in names:
            model.set_submodule(name, Bypass(blocks[name]).train(blocks[name].training))
        yield
    finally:
        for name in names:
            model.set_submodule(name, blocks[name])


def lesion_each(
    model: nn.Module,
    split: Split,
    mean: Tensor,
    *,
    recalibrate: Tensor | None = None,
    progress: bool = True,
    partial: Path | None = None,
) -> pd.DataFrame:
    """Take out one block at a time and evaluate what is left (Veit et al., Figure 3).

    Args:
        model: a trained network of :func:`resnet56.model.build_model`; left as it was.
        split: the images.
        mean: the mean image of the training images, ``(3, 32, 32)``.
        recalibrate: training images ``(N, 3, 32, 32)`` as the network sees them, in one batch of a thousand or so. If
            given, each network is also evaluated with batch normalisation estimated again on them.
        progress, partial: see :func:`resnet56.instruments.points.measure_each`.

    Returns:
        A row for the whole network and one per block, with ``removed`` (name, empty for the whole network), ``count``
        (0 or 1), ``loss`` (nats), ``error`` (percent), and with ``recalibrate`` ``loss_recalibrated``,
        ``error_recalibrated``.

    Raises:
        InputError: if the network has no blocks, or ``partial`` is of another study.
        Interrupted: on SIGINT or SIGTERM, when the results so far are saved.
    """
    sets = [(), *((name,) for name in basic_blocks(model))]
    return _study(model, split, mean, sets, recalibrate, progress, partial)


def lesion_random(
    model: nn.Module,
    split: Split,
    mean: Tensor,
    *,
    counts: Iterable[int] = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20),
    repeats: int = 5,
    seed: int = 0,
    recalibrate: Tensor | None = None,
    progress: bool = True,
    partial: Path | None = None,
) -> pd.DataFrame:
    """Take out several blocks at once, chosen at random among those that keep the shape (Veit et al., Figure 5a).

    Args:
        model, split, mean, recalibrate, progress, partial: as for :func:`lesion_each`.
        counts: how many blocks to take out.
        repeats: draws for each count.
        seed: of the draws; networks of one depth lose the same blocks.

    Returns:
        As for :func:`lesion_each`, a row per draw; several names are separated by spaces.

    Raises:
        InputError: also if the network has fewer such blocks than a count asks for.
    """
    names = [name for name, block in basic_blocks(model).items() if block.conv1.stride == (1, 1)]
    counts = list(counts)
    if max(counts) > len(names):
        raise InputError(f"cannot take out {max(counts)} blocks: this network has {len(names)} that keep the shape")
    draw = random.Random(seed)
    sets = [tuple(draw.sample(names, count)) for count in counts for _ in range(repeats)]
    return _study(model, split, mean, sets, recalibrate, progress, partial)


def _study(model, split, mean, sets, recalibrate, progress, partial) -> pd.DataFrame:
    model = unwrapped(model)
    points = pd.DataFrame({"removed": [" ".join(names) for names in sets], "count": [len(names) for names in sets]})

    def measure(chunk: pd.DataFrame) -> pd.DataFrame:
        with without_blocks(model, chunk["removed"].item().split()):
            score = evaluate(model, split, mean)
            row = {"loss": score.loss, "error": score.error}
            if recalibrate is not None:
                with undisturbed(model, training=True):  # it gives back the running statistics
                    calibrate(model, recalibrate.to(next(model.parameters()).device))
                    score = evaluate(model, split, mean)
                row |= {"loss_recalibrated": score.loss, "error_recalibrated": score.error}
        return pd.DataFrame([row])

    images = torch.zeros(0) if recalibrate is None else recalibrate
    key = repr(model) + digest(*model.state_dict().values(), split.pixels, split.labels, mean, images)
    return measure_each(points, measure, label="lesions", progress=progress, partial=partial, key=key)
