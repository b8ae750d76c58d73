"""Inspection: the instruments of chapter 7, and dead filters, on one trained network, in one table."""

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Split, normalise
from ..gradients import output_gradient_norms
from ..layers import basic_blocks, listening, response_layers, undisturbed
from .lesions import lesion_each
from .responses import layer_responses

STILL = 1e-3  # a channel whose values differ by less, over all images and pixels, says nothing


@torch.no_grad()
def dead_filters(model: nn.Module, images: Tensor) -> list[int]:
    """Count the filters of each weighted layer that answer every image alike, so that they tell no images apart.

    What counts is what is passed on: the response after its ReLU, or as it is where none follows at once (the second
    layer of a residual block, whose shortcut is added first, and the last layer).

    Args:
        model: a trained network; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
    """
    residual = {f"{name}.conv2" for name, block in basic_blocks(model).items() if block.residual}
    layers = response_layers(model)
    rectified = {module: name not in residual and name != "fc" for name, module in layers}
    dead: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        values = (F.relu(output) if rectified[module] else output).transpose(0, 1).flatten(1)
        dead[module] = int((values.amax(dim=1) - values.amin(dim=1) < STILL).sum())

    with undisturbed(model, training=False), listening(rectified, note):
        model(images)
    return [dead[module] for _, module in layers]


def inspect_network(model: nn.Module, mean: Tensor, train: Split, test: Split, progress: bool = True) -> pd.DataFrame:
    """Apply the instruments to one trained network.

    Args:
        model: the network; left as it was.
        mean: its mean image.
        train: training images, a batch for the gradient.
        test: test images, for all else.
        progress: show a bar for the lesions.

    Returns:
        A row per weighted layer, with ``depth``, ``layer``, ``stage``, ``std`` (of its response, see
        :func:`resnet56.instruments.responses.layer_responses`), ``gradient`` (L2 norm of the loss's gradient at its
        output, see :func:`resnet56.gradients.output_gradient_norms`), ``dead`` (filters, see :func:`dead_filters`) and,
        at the last layer of each block, ``lesion`` (error in percent without the block). ``table.attrs["error"]`` is
        that of the whole network.
    """
    images = normalise(test.pixels, mean)
    table = layer_responses(model, images)
    table["gradient"] = output_gradient_norms(model, normalise(train.pixels, mean), train.labels).tolist()
    table["dead"] = dead_filters(model, images)
    lesions = lesion_each(model, test, mean, progress=progress).set_index("removed")["error"]
    table["lesion"] = [lesions.get(name.removesuffix(".conv2")) for name in table["layer"]]
    table.attrs["error"] = float(lesions[""])
    return table
