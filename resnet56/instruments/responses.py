"""Layer responses: how strongly each layer acts on what it is given (He et al. 2015, section 4.2 and Figure 7)."""

import pandas as pd
import torch
from torch import Tensor, nn

from ..layers import response_layers, stage_of
from .modes import evaluation_mode


@torch.no_grad()
def layer_responses(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure the standard deviation of each layer's output after batch normalisation, before the nonlinearity.

    In evaluation mode, as in the paper: it is meant for trained networks. (With the statistics of the batch, batch
    normalisation would make the response of a fresh network's layer 1 by construction.)

    Args:
        model: the network; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.

    Returns:
        A row per weighted layer, with ``depth`` (1 for the first), ``layer``, ``stage``, ``std`` (over images, channels and
        pixels; no unit).
    """
    layers = response_layers(model)
    spreads: dict[nn.Module, float] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: spreads.update({module: output.std().item()}))
        for _, module in layers
    ]
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows = [(depth, name, stage_of(name), spreads[module]) for depth, (name, module) in enumerate(layers, start=1)]
    return pd.DataFrame(rows, columns=["depth", "layer", "stage", "std"])
