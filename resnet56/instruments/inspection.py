"""Inspection: the instruments of chapter 7, and dead filters, on one trained network, in one table."""

import pandas as pd
from torch import Tensor, nn

from ..data import Split, normalise
from ..observe import output_gradient_norms
from .diagnosis import dead_filters
from .lesions import lesion_each
from .responses import layer_responses


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
        output, see :func:`resnet56.observe.output_gradient_norms`), ``dead`` (filters, see
        :func:`resnet56.instruments.diagnosis.dead_filters`) and, at the last layer of each block, ``lesion`` (error in
        percent without the block). ``table.attrs["error"]`` is that of the whole network.
    """
    images = normalise(test.pixels, mean)
    table = layer_responses(model, images)
    table["gradient"] = output_gradient_norms(model, normalise(train.pixels, mean), train.labels).tolist()
    table["dead"] = dead_filters(model, images)
    lesions = lesion_each(model, test, mean, progress=progress).set_index("removed")["error"]
    table["lesion"] = [lesions.get(name.removesuffix(".conv2")) for name in table["layer"]]
    table.attrs["error"] = float(lesions[""])
    return table
