"""Layer responses: how strongly each layer acts on what it is given (He et al. 2015, section 4.2 and Figure 7)."""

import pandas as pd
import torch
from torch import Tensor, nn

from ..layers import stage_of
from ..observe import responses, undisturbed


@torch.no_grad()
def layer_responses(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure the standard deviation of each layer's output after batch normalisation, before the nonlinearity.

    In evaluation mode, as in the paper: it is meant for trained networks. (With the statistics of the batch, batch
    normalisation would make the response of a fresh network's layer 1 by construction.)

    Args:
        model: any network with convolutions or linear layers; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.

    Returns:
        A row per weighted layer, with ``depth`` (1 for the first), ``layer``, ``stage``, ``std`` (over images, channels
        and pixels; no unit; of a layer's last use, not a number where it is not used).
    """
    with undisturbed(model, training=False), responses(model, torch.std) as found:
        model(images)
    rows = [
        (depth, name, stage_of(name), spreads[-1].item() if spreads else float("nan"))
        for depth, (name, spreads) in enumerate(found.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=["depth", "layer", "stage", "std"])
