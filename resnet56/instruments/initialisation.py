"""Batch normalisation's part: gradients and branches of a network before its first step.

In a wide network with He's initialisation, batch normalisation and ReLU, what leaves a normalisation is about Gaussian
with variance 1. In a plain network a squared gradient on its way back is halved by ReLU, which lets half of the units
through, and divided by the variance of what the layer was given, ReLU of a Gaussian's (pi - 1) / (2 pi), because batch
normalisation makes the output's variance 1. So the gradient explodes: it grows :data:`GROWTH` times a layer.

In a residual network each block adds a branch of variance 1, and ReLU reflects the sum at 0: a random walk with a wall,
whose variance after l blocks is (1 - 2/pi) l, that of the absolute value of a Gaussian. So a branch's share falls as
:func:`branch_ratio` (De & Smith 2020), and so does the gradient that it adds: not a factor a layer, but a power of the
depth, :func:`shortcut_power`.
"""

import math

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError
from ..layers import basic_blocks, stage_of
from ..observe import listening, undisturbed

#: Growth of the gradient per layer towards the input in wide, plain networks (Yang et al. 2019, section 4): 1.21.
GROWTH = math.sqrt(math.pi / (math.pi - 1))


def branch_ratio(block: int) -> float:
    """Return the variance of a fresh residual network's branch over that of its shortcut at block l, from 1: 2.75/l."""
    return 1 / ((1 - 2 / math.pi) * block)


def shortcut_power() -> float:
    """Return a: from block m of a wide residual network back to block l the gradient grows (m/l)^a times; 1.36.

    The squared gradient at block l is what the branches behind it added and the shortcuts brought back. The branch of
    block k adds c/k times the squared gradient there, c = GROWTH^2 / (1 - 2/pi) = 4.03, being two layers of which the
    first is given variance (1 - 2/pi) k. The shortcuts bring it back to a unit unless the unit's walk was at 0 in
    between: with probability 2/pi arcsin(sqrt(l/k)), the arcsine law. Put l^(-2a) into the sum over k, as an integral:
    2a = c (1 - B(2a + 1/2, 1/2) / pi), B being Euler's beta function.
    """
    power = 2.0  # 2a; putting it into the right side again and again converges
    for _ in range(100):
        beta = math.exp(math.lgamma(power + 0.5) + math.lgamma(0.5) - math.lgamma(power + 1))
        power = GROWTH**2 * branch_ratio(1) * (1 - beta / math.pi)
    return power / 2


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set batch normalisation's running statistics to those of a batch, ``(N, 3, 32, 32)`` as the network sees it.

    A fresh network needs this before it is looked at in evaluation mode.
    """
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        over = [0, *range(2, inputs[0].ndim)]  # all but the channels
        found[norm] = inputs[0].mean(over), inputs[0].var(over)

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    with undisturbed(model, training=True), listening(norms, note):
        model(images)
    for norm, (mean, variance) in found.items():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


@torch.no_grad()
def branch_variances(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure how large each block's branch is beside its shortcut (De & Smith 2020, section 3).

    For a residual network, also a fresh one: in training mode, on images ``(N, 3, 32, 32)`` as it sees them. Returns a
    row per block, with ``block`` (1 for the first), ``name``, ``stage``, ``branch`` and ``shortcut`` (variance over
    images and pixels, mean over channels) and ``ratio`` (branch over shortcut).

    Raises:
        InputError: if the network has no blocks of :func:`resnet56.model.build_model`, or no shortcuts.
    """
    blocks = {name: block for name, block in basic_blocks(model).items() if block.residual}
    if not blocks:
        raise InputError("a plain network has no shortcuts to compare its branches with: give a residual one")
    found: dict[nn.Module, tuple[float, float]] = {}

    def note(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        maps = block.branch(*inputs), block.strength * block.shortcut(*inputs)
        found[block] = tuple(each.var(dim=(0, 2, 3)).mean().item() for each in maps)

    with undisturbed(model, training=True), listening(blocks.values(), note):
        model(images)
    rows = [
        (index, name, stage_of(name), *found[block], found[block][0] / (found[block][1] or math.nan))
        for index, (name, block) in enumerate(blocks.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=["block", "name", "stage", "branch", "shortcut", "ratio"])
