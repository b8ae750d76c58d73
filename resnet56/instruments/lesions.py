"""Lesions (Veit et al. 2016, sections 4 and 5): take blocks out of a trained network, and see what it still can do.

A lesion also gives the layers behind it inputs that their batch normalisation does not know. What is mended when that
is estimated again was no loss; so this is measured too.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pandas as pd
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Split
from ..errors import InputError
from ..layers import basic_blocks, unwrapped
from ..model import BasicBlock, OptionA
from ..observe import undisturbed
from ..train import evaluate
from .initialisation import calibrate
from .points import digest, measure_each

COUNTS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)  # of blocks taken out at random


def bypass(block: BasicBlock, x: Tensor) -> Tensor:
    """Map a block's input ``(N, in_channels, H, W)`` as what is left of it when its two convolutions are gone does.

    Left is its shortcut. A plain block has none: it is left out where the shape does not change, and where it does,
    shortcut option A stands in.
    """
    extra_channels = block.conv1.out_channels - block.conv1.in_channels
    shortcut = block.downsample or (OptionA(extra_channels) if extra_channels else nn.Identity())
    strength = (block.residual and block.strength) or 1.0
    return F.relu(strength * shortcut(x))


@contextmanager
def without_blocks(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Take blocks, such as ``"layer1.3"``, out of a network for the time of the ``with`` block.

    Raises:
        InputError: if the network has no block of such a name.
    """
    blocks, names = basic_blocks(model), list(names)
    for name in names:
        if name not in blocks:
            raise InputError(f"no block {name!r} in this network; its blocks are {', '.join(blocks)}")
    try:
        for name in names:
            blocks[name].forward = partial(bypass, blocks[name])
        yield
    finally:
        for name in names:
            vars(blocks[name]).pop("forward", None)  # its class has one


def lesion_each(model: nn.Module, split: Split, mean: Tensor, **options) -> pd.DataFrame:
    """Take out one block at a time and evaluate what is left (Veit et al., Figure 3).

    Args:
        model: a trained network of :func:`resnet56.model.build_model`; left as it was.
        split, mean: the images, and the mean image of the training images, ``(3, 32, 32)``.
        options: ``progress`` and ``partial`` of :func:`resnet56.instruments.points.measure_each`; ``recalibrate``,
            training images ``(N, 3, 32, 32)`` as the network sees them, to estimate batch normalisation again.

    Returns:
        A row for the whole network and one per block, with ``removed`` (name, empty for the whole network), ``count``
        (0 or 1), ``loss`` (nats), ``error`` (percent), and with ``recalibrate`` ``loss_recalibrated`` and
        ``error_recalibrated``.
    """
    return _study(model, split, mean, [[], *([name] for name in basic_blocks(model))], options)


def lesion_random(
    model: nn.Module, split: Split, mean: Tensor, *, counts: Sequence[int] = COUNTS, repeats=5, seed=0, **options
) -> pd.DataFrame:
    """Take out several blocks at once, chosen at random among those that keep the shape (Veit et al., Figure 5a).

    As :func:`lesion_each`, with a row for each of ``repeats`` draws of each count of blocks, their names separated by
    spaces. Networks of one depth lose the same blocks. A network with fewer such blocks than that is refused.
    """
    names = [name for name, block in basic_blocks(model).items() if block.conv1.stride == (1, 1)]
    if max(counts) > len(names):
        raise InputError(f"cannot take out {max(counts)} blocks: this network has {len(names)} that keep the shape")
    draw = random.Random(seed)
    return _study(model, split, mean, [draw.sample(names, n) for n in counts for _ in range(repeats)], options)


def _study(model: nn.Module, split: Split, mean: Tensor, sets: list[list[str]], options: dict) -> pd.DataFrame:
    model, images = unwrapped(model), options.pop("recalibrate", None)
    points = pd.DataFrame({"removed": [" ".join(names) for names in sets], "count": [len(names) for names in sets]})

    def measure(rows: pd.DataFrame) -> pd.DataFrame:
        with without_blocks(model, rows["removed"].item().split()):
            found = vars(evaluate(model, split, mean))
            if images is not None:
                with undisturbed(model, training=True):  # it gives back the running statistics
                    calibrate(model, images.to(next(model.parameters()).device))
                    again = vars(evaluate(model, split, mean))
                found |= {f"{name}_recalibrated": value for name, value in again.items()}
        return pd.DataFrame([found])

    given = [split.pixels, split.labels, mean] + [images] * (images is not None)
    key = repr(model) + digest(*model.state_dict().values(), *given)
    return measure_each(points, measure, label="lesions", key=key, **options)
