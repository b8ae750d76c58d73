"""Batch normalisation's part: gradients and branches of a network before its first step.

With batch normalisation a plain network's gradients explode towards the input (Yang et al. 2019), and a residual
network's branches are small beside its shortcuts (De & Smith 2020).
"""

import math

import pandas as pd
import torch
from torch import Tensor, nn

from ..gradients import output_gradient_norms
from ..layers import STAGES, basic_blocks, stage_of, weighted_layers

#: Growth of the gradient per layer towards the input in wide, plain networks with batch normalisation and ReLU (Yang et
#: al. 2019, section 4).
GROWTH = math.sqrt(math.pi / (math.pi - 1))


def gradient_growth(model: nn.Module, images: Tensor, labels: Tensor) -> pd.DataFrame:
    """Measure by which factor the gradient grows from one layer's output to that of the layer before it.

    Args:
        model: the network; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
        labels: ``(N,)``.

    Returns:
        A row per stage, with ``stage``, ``layers`` and ``growth``, the mean factor per layer (geometric) between the outputs
        of the first and the last layer of the stage, which all have one shape; compare :data:`GROWTH`.
    """
    norms = output_gradient_norms(model, images, labels).tolist()
    stages = [stage_of(name) for name, _ in weighted_layers(model)]
    rows = []
    for stage in STAGES:
        inside = [norm for norm, where in zip(norms, stages, strict=True) if where == stage]
        rows.append((stage, len(inside), (inside[0] / inside[-1]) ** (1 / (len(inside) - 1))))
    return pd.DataFrame(rows, columns=["stage", "layers", "growth"])


@torch.no_grad()
def branch_variances(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure how large each block's branch is beside its shortcut (De & Smith 2020, section 3).

    In training mode, so that it can be used on a fresh network. Running statistics are left as they are.

    Args:
        model: a residual network.
        images: ``(N, 3, 32, 32)`` as the network sees them.

    Returns:
        A row per block, with ``block`` (1 for the first), ``name``, ``stage``, ``branch`` and ``shortcut`` (variance over
        images and pixels, mean over channels) and ``ratio`` (branch over shortcut). Were the two independent and no
        nonlinearity behind the addition, the ratio of block l would be about 1/l.
    """
    found: dict[str, tuple[float, float]] = {}

    def look(name: str):
        def hook(block: nn.Module, inputs: tuple[Tensor]) -> None:
            found[name] = (spread(block.branch(*inputs)), spread(block.shortcut(*inputs)))

        return hook

    def spread(maps: Tensor) -> float:
        return maps.var(dim=(0, 2, 3)).mean().item()

    blocks = {name: block for name, block in basic_blocks(model).items() if block.residual}
    hooks = [block.register_forward_pre_hook(look(name)) for name, block in blocks.items()]
    training = model.training
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        torch.func.functional_call(model.train(), statistics, (images,))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    rows = [
        (index, name, stage_of(name), branch, shortcut, branch / shortcut)
        for index, (name, (branch, shortcut)) in enumerate(found.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=["block", "name", "stage", "branch", "shortcut", "ratio"])
