"""Diagnosis: what state a network is in, in a few numbers; and by what angle its weights have turned ("Treatments")."""

import copy
import itertools
import math
from collections.abc import Mapping
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor, nn

from ..layers import basic_blocks, stage_of, weighted_layers
from ..observe import listening, output_gradient_norms, responses, undisturbed
from .modes import calibrate
from .shattering import autocorrelation, input_gradients, line

LAGS = (1, 15)  # of 256 points of a line between two images


def diagnosis(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Tell how far a network's blocks are from the identity, and whether its gradients explode, shatter or die.

    Args:
        model: a network of :func:`resnet56.model.build_model`, fresh or trained, treated or not; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them, in one batch of a hundred or more.
        labels: ``(N,)``.

    Returns:
        ``identity_distance``: the mean of :func:`identity_distances` (0 to 1). ``gradient_growth``: the factor by which
        the gradient grows a layer, towards the input (geometric mean over the blocks of a stage; 1.21 in wide plain
        networks; not a number in stages of one block). ``autocorrelation_1``, ``autocorrelation_15``: of the
        gradient of the first logit at 256 images on the line from the first image to the last, with batch normalisation
        set to ``images`` (1 to about 0; Balduzzi et al. 2017). ``dead_filters``: how many, see :func:`dead_filters`.

    Raises:
        InputError: if the network is of another kind.
    """
    distances = identity_distances(model, images)
    still = copy.deepcopy(model)
    calibrate(still, images)
    correlation = autocorrelation(input_gradients(still, line(images[0], images[-1])), max(LAGS))
    return {
        "identity_distance": fmean(distances.values()),
        "gradient_growth": _gradient_growth(model, images, labels),
        **{f"autocorrelation_{lag}": correlation[lag].item() for lag in LAGS},
        "dead_filters": sum(dead_filters(model, images, training=True)),
    }


@torch.no_grad()
def identity_distances(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Measure how far each block is from handing on its input, by the block's name.

    It is 1 minus the squared correlation, over images and pixels, of a channel's output with the same channel's input
    (mean over channels that have an input; the input subsampled where the shape changes). It is 0 for the identity,
    also with a gain and a shift, which the next batch normalisation undoes; about 1 if the output has nothing to do
    with the input, and 1 if it is its opposite. In training mode.
    """
    found: dict[nn.Module, float] = {}

    def note(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        rows = slice(None, None, block.conv1.stride[0])
        first = (output.shape[1] - inputs[0].shape[1]) // 2  # option A puts new channels at both ends
        x, y = inputs[0][:, :, rows, rows].double(), output[:, first : first + inputs[0].shape[1]].double()
        x, y = (maps - maps.mean(dim=(0, 2, 3), keepdim=True) for maps in (x, y))
        xx, yy, xy = ((a * b).sum(dim=(0, 2, 3)) for a, b in ((x, x), (y, y), (x, y)))
        share = torch.where(yy > 0, xy.clamp(min=0) ** 2 / (xx * yy), 0)
        found[block] = 1 - share[xx > 0].mean().item()

    blocks = basic_blocks(model)
    with undisturbed(model, training=True), listening(blocks.values(), note):
        model(images)
    return {name: found[block] for name, block in blocks.items()}


@torch.no_grad()
def dead_filters(model: nn.Module, images: Tensor, training: bool = False) -> list[int]:
    """Count, in each weighted layer, the filters that ReLU silences for every image and pixel.

    Their response is below 0 everywhere; at the end of a residual block the sum with the shortcut is, too. The last
    layer, which no ReLU follows, has none.

    Args:
        model: a network of :func:`resnet56.model.build_model`; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
        training: in training mode, for fresh networks, instead of evaluation mode.
    """
    blocks = basic_blocks(model)
    ends = {block: f"{name}.conv2" for name, block in blocks.items()}
    passed: dict[str, Tensor] = {}  # at the end of each block: the largest value of each channel

    def largest(maps: Tensor) -> Tensor:
        return maps.amax(dim=[0, *range(2, maps.ndim)])

    def note(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        passed[ends[block]] = largest(output)

    with undisturbed(model, training), responses(model, largest) as found, listening(blocks.values(), note):
        model(images)
    silent = {name: (uses[-1] < 0) & (passed.get(name, uses[-1]) <= 0) for name, uses in found.items()}
    return [0 if stage_of(name) == "head" else int(where.sum()) for name, where in silent.items()]


def _gradient_growth(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the geometric mean of the growth a layer, between the ends of neighbouring blocks of one stage."""
    names = [name for name, _ in weighted_layers(model)]
    norms = dict(zip(names, output_gradient_norms(model, images, labels).log().tolist(), strict=True))
    ends = [f"{name}.conv2" for name in basic_blocks(model)]
    pairs = [(end, later) for end, later in itertools.pairwise(ends) if stage_of(end) == stage_of(later)]
    return math.exp(fmean(norms[end] - norms[later] for end, later in pairs) / 2) if pairs else math.nan


def turning_angles(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> pd.DataFrame:
    """Measure the angle between each layer's weights at two steps of a training.

    Batch normalisation undoes the length of the weights before it: only their direction counts, and this is how far the
    steps in between have moved it.

    Args:
        before, after: what ``model.state_dict()`` gave, at two steps; a copy, or the weights go on changing in it.

    Returns:
        A row per convolution and linear layer, with ``layer`` (name) and ``angle`` (degrees, 0 to 180; not a number if
        all weights are zero).
    """
    rows = []
    for name, weight in before.items():
        if name.endswith("weight") and weight.ndim > 1:
            one, two = weight.double().flatten(), after[name].double().flatten().to(weight.device)
            one, two = one / one.norm(), two / two.norm()
            angle = 2 * torch.atan2((one - two).norm(), (one + two).norm())  # exact for small angles, too
            rows.append((name.removesuffix(".weight"), math.degrees(angle)))
    return pd.DataFrame(rows, columns=["layer", "angle"])
