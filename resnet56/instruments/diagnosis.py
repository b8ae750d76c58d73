"""Diagnosis: what state a network is in, layer by layer and in a few numbers; and how far training has turned it."""

import copy
import itertools
import math
from collections.abc import Mapping
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Split, normalise
from ..layers import basic_blocks, stage_of, weighted_layers
from ..observe import listening, output_gradient_norms, responses, undisturbed
from .initialisation import calibrate
from .lesions import lesion_each
from .shattering import autocorrelation, input_gradients, line

LAGS = (1, 15)  # of 256 points of a line between two images


@torch.no_grad()
def layer_responses(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure how strongly each layer acts on what it is given (He et al. 2015, section 4.2 and Figure 7).

    A response is a layer's output after batch normalisation, before the nonlinearity: of any trained network, to images
    ``(N, 3, 32, 32)`` as it sees them, in evaluation mode as in the paper. Returns a row per weighted layer, with
    ``depth`` (1 for the first), ``layer``, ``stage``, ``std`` (standard deviation over images, channels and pixels; no
    unit; of a layer's last use, not a number where it is not used).
    """
    with undisturbed(model, training=False), responses(model, torch.std) as found:
        model(images)
    rows = [
        (depth, name, stage_of(name), spreads[-1].item() if spreads else math.nan)
        for depth, (name, spreads) in enumerate(found.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=["depth", "layer", "stage", "std"])


def inspect_network(model: nn.Module, mean: Tensor, train: Split, test: Split, progress: bool = True) -> pd.DataFrame:
    """Apply instruments to a trained network with its mean image; it is left as it was.

    Returns :func:`layer_responses` to the test images, with ``gradient`` (see
    :func:`resnet56.observe.output_gradient_norms`; on the training images), ``dead`` (filters) and, at the last layer
    of each block, ``lesion`` (error in percent without the block). ``table.attrs["error"]`` is that of the whole.
    """
    images = normalise(test.pixels, mean)
    table = layer_responses(model, images)
    table["gradient"] = output_gradient_norms(model, normalise(train.pixels, mean), train.labels).tolist()
    table["dead"] = dead_filters(model, images)
    lesions = lesion_each(model, test, mean, progress=progress).set_index("removed")["error"]
    table["lesion"] = [lesions.get(name.removesuffix(".conv2")) for name in table["layer"]]
    table.attrs["error"] = float(lesions[""])
    return table


def diagnosis(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Tell how far a network's blocks are from the identity, and whether its gradients explode, shatter or die.

    ``identity_distance`` is the mean of :func:`identity_distances`. ``gradient_growth`` is the factor by which the
    gradient grows a layer, towards the input (geometric mean over the blocks of a stage; 1.21 in wide plain networks;
    not a number in stages of one block). ``autocorrelation_1`` and ``_15`` are those of the gradient of the first logit
    at 256 images on the line from the first image to the last, with batch normalisation set to ``images`` (1 to about
    0; Balduzzi et al. 2017). ``dead_filters`` is their number, see :func:`dead_filters`.

    Args:
        model: a network of :func:`resnet56.model.build_model`, fresh or trained, treated or not; left as it was.
        images, labels: a batch of a hundred or more, ``(N, 3, 32, 32)`` as the network sees them, and ``(N,)``.
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
    """Measure how far each block is from handing on its input, by the block's name, in training mode.

    It is 1 minus the squared correlation, over images and pixels, of a channel's output with the same channel's input
    (mean over channels that have an input; the input subsampled where the shape changes): 0 for the identity, also with
    a gain and a shift, which the next batch normalisation undoes; 1 for what has nothing to do with the input, and for
    its opposite.
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
    """Count, in each weighted layer, the filters that ReLU silences for every image ``(N, 3, 32, 32)`` and pixel.

    Their response is below 0 everywhere; at the end of a residual block the sum with the shortcut is, too. The last
    layer, which no ReLU follows, has none. Give ``training`` for fresh networks, to look at them in training mode.
    """
    ends = {block: f"{name}.conv2" for name, block in basic_blocks(model).items()}
    passed: dict[str, Tensor] = {}  # at the end of each block: the largest value of each channel

    def largest(maps: Tensor) -> Tensor:
        return maps.amax(dim=[0, *range(2, maps.ndim)])

    def note(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        passed[ends[block]] = largest(output)

    with undisturbed(model, training), responses(model, largest) as found, listening(ends, note):
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
    """Measure the angle between each layer's weights at two steps of a training, given as state dicts (copies!).

    Batch normalisation undoes the length of the weights before it: only their direction counts, and this is how far the
    steps in between have moved it. Returns a row per convolution and linear layer, with ``layer`` (name) and ``angle``
    (degrees, 0 to 180; not a number if all weights are zero).
    """
    rows = []
    for name, weight in before.items():
        if name.endswith("weight") and weight.ndim > 1:
            one, two = weight.double().flatten(), after[name].double().flatten().to(weight.device)
            one, two = one / one.norm(), two / two.norm()
            angle = 2 * torch.atan2((one - two).norm(), (one + two).norm())  # exact for small angles, too
            rows.append((name.removesuffix(".weight"), math.degrees(angle)))
    return pd.DataFrame(rows, columns=["layer", "angle"])
