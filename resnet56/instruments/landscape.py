"""The loss landscape around a trained network (Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets").

The loss is measured at weights + x * d1 + y * d2, where d1 and d2 are random directions of the convolutions and linear
layers. Batch normalisation undoes a scaling of the weights, so the same step is small for a network with large weights
and large for one with small weights. Filter normalisation (section 4) makes landscapes comparable: it gives each filter
of a direction the norm of the network's own, and a step of 1 changes every filter by as much as it is long.

As in the paper's own procedure the running statistics stay those of the trained weights, whatever the activations. In a
deep plain network their changes multiply from layer to layer, and the loss can grow by many orders of magnitude.
"""

import copy
import itertools

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from ..data import Split, normalise
from ..errors import InputError
from ..layers import unwrapped
from ..train import evaluate
from .points import digest, measure_each

BATCH_SIZE = 500  # images at a time, where several points are evaluated together


@torch.no_grad()
def filter_normalised_directions(model: nn.Module, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Draw Gaussian directions in weight space, with filter normalisation (Li et al. 2018, section 4).

    A filter is the weights of one output channel of a convolution, or of one output of a linear layer. Biases and batch
    normalisation's gain and bias do not move. The draw is made on the CPU: it is the same whatever the model's device.

    Each of the ``count`` directions is a dict from each parameter's name to its part, of its shape and on its device.

    Raises:
        InputError: if the network has no weights to move, or is not built yet.
    """
    weights = dict(model.named_parameters())
    if any(isinstance(weight, nn.parameter.UninitializedParameter) for weight in weights.values()):
        raise InputError("the network is not built yet: run a batch through it first")
    if not any(weight.ndim > 1 for weight in weights.values()):
        raise InputError("the network has no convolution or linear layer whose weights could be moved")
    generator = torch.Generator().manual_seed(seed)

    def part(weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return torch.zeros_like(weight)
        gaussian = torch.randn(weight.shape, generator=generator).to(weight)
        return gaussian * (_filter_norms(weight) / _filter_norms(gaussian))

    return [{name: part(weight) for name, weight in weights.items()} for _ in range(count)]


def _filter_norms(weight: Tensor) -> Tensor:
    """Return the L2 norm of each filter, ``(C, 1, ...)`` for weights ``(C, ...)``."""
    return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)


@torch.no_grad()
def loss_landscape(
    model: nn.Module, split: Split, mean: Tensor, *, axes: int = 2, points: int = 51, reach=1.0, seeds=(0,), **options
) -> pd.DataFrame:
    """Measure the loss around the trained weights: along a line, or on a square, in filter-normalised directions.

    The line of a seed is the row ``y = 0`` of its square. To compare networks at equal loss, give one of a checkpoint.

    Args:
        model: a trained network, any that has convolutions or linear layers; left as it was.
        split, mean: the images, evaluated without augmentation, and the training images' mean, ``(3, 32, 32)``.
        axes: 1 for a line, 2 for a square.
        points: along each axis, evenly spaced; an odd number, so that the centre is one of them.
        reach: each coordinate goes from ``-reach`` to ``reach``; at 1 every filter has moved by its own norm.
        seeds: of the directions, one for each line or square.
        options: ``at_once``, ``progress`` and ``partial`` of :func:`resnet56.instruments.points.measure_each`. On a CPU
            one point at once is fastest; try more on a GPU, which a small network does not fill, as memory allows.

    Returns:
        A row per point, with ``seed``, ``x``, for two axes ``y``, ``loss`` (mean cross-entropy, nats) and ``error``
        (percent). Where the activations overflow, the loss is infinite or not a number, and the error means nothing.

    Raises:
        InputError: if there is no such grid, or the network has no weights to move or is not built yet.
    """
    if axes not in (1, 2):
        raise InputError(f"no landscape with {axes} axes: give 1 for a line, 2 for a square")
    if points < 3 or points % 2 == 0:
        raise InputError(f"{points} points have no centre: give an odd number, at least 3")
    middle = points // 2
    steps = reach * np.arange(-middle, middle + 1) / middle  # exactly 0 in the middle
    grid = pd.DataFrame(itertools.product(seeds, *axes * [steps]), columns=["seed", "x", "y"][: axes + 1])
    model = unwrapped(model)
    directions = {seed: filter_normalised_directions(model, axes, seed) for seed in seeds}
    device = next(model.parameters()).device
    split, mean = split.to(device), mean.to(device)
    probe = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    moving = {name: weight for name, weight in probe.named_parameters() if weight.ndim > 1}
    centre = {name: weight.clone() for name, weight in moving.items()}

    def at(seed: float, *point: float) -> dict[str, Tensor]:
        moves = list(zip(point, directions[int(seed)], strict=True))
        return {name: weight + sum(step * move[name] for step, move in moves) for name, weight in centre.items()}

    def measure(rows: pd.DataFrame) -> pd.DataFrame:
        weights = [at(*row) for row in rows.itertuples(index=False)]
        if len(weights) > 1:
            stacked = {name: torch.stack([each[name] for each in weights]) for name in centre}
            return _evaluate_each(probe, stacked, split, mean)
        for name, weight in moving.items():
            weight.copy_(weights[0][name])
        return pd.DataFrame([evaluate(probe, split, mean)])

    key = repr(model) + digest(*model.state_dict().values(), split.pixels, split.labels, mean)
    return measure_each(grid, measure, label="loss landscape", key=key, **options)


def _evaluate_each(model: nn.Module, weights: dict[str, Tensor], split: Split, mean: Tensor) -> pd.DataFrame:
    """Do what :func:`resnet56.train.evaluate` does for P sets of weights ``(P, *shape)``, all of them on each batch."""
    forward = vmap(lambda own, images: functional_call(model, own, images), in_dims=(0, None))
    losses = errors = 0
    for pixels, labels in zip(split.pixels.split(BATCH_SIZE), split.labels.split(BATCH_SIZE), strict=True):
        logits = forward(weights, normalise(pixels, mean)).float()  # (P, N, classes)
        expected = labels.expand(len(logits), -1)
        losses = losses + F.cross_entropy(logits.movedim(2, 1), expected, reduction="none").sum(dim=1)
        errors = errors + (logits.argmax(dim=2) != expected).sum(dim=1)
    count = len(split)
    return pd.DataFrame({"loss": (losses / count).tolist(), "error": (100 * errors / count).tolist()})
