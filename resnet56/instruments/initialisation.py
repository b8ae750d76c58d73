"""Batch normalisation's part: gradients and branches of a network before its first step.

In a wide network with He's initialisation, batch normalisation and ReLU, what leaves a normalisation is about Gaussian
with variance 1, and two things can be computed.

**Plain: explosion.** On its way back a squared gradient is halved by ReLU, which lets half of the units through, and
divided by the variance of what the layer was given, because batch normalisation makes the output's variance 1. That
is the variance of ReLU of a Gaussian, (pi - 1) / (2 pi) = 0.341. So it grows 1.467 times a layer, and the gradient
:data:`GROWTH` = 1.21 times (Yang et al. 2019).

**Residual: a power law.** Each block adds a branch of variance 1, and ReLU reflects the sum at 0: a random walk with a
wall, whose variance after l blocks is (1 - 2/pi) l. So the branch's share falls (De & Smith 2020) as
:func:`branch_ratio`, 2.75/l, and so does the gradient that it adds: not a factor a layer, but a power of the depth,
:func:`shortcut_power`.
"""

import math

import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..layers import basic_blocks, stage_of
from ..observe import listening, undisturbed

#: Variance of max(z, 0) for a standard Gaussian z.
RELU_VARIANCE = (math.pi - 1) / (2 * math.pi)

#: Growth of the gradient per layer towards the input in wide, plain networks with batch normalisation and ReLU (Yang et
#: al. 2019, section 4): 1.21.
GROWTH = math.sqrt(0.5 / RELU_VARIANCE)


def reflected_variance(blocks: float) -> float:
    """Return the variance of a random walk that starts at 0 and cannot go below it, after so many steps of variance 1.

    It is distributed as the absolute value of a Gaussian of variance ``blocks`` (for many steps).
    """
    return (1 - 2 / math.pi) * blocks


def branch_ratio(block: int) -> float:
    """Return the variance of a fresh residual network's branch over that of its shortcut, at block 1, 2, ..."""
    return 1 / reflected_variance(block)


def shortcut_power() -> float:
    """Return a: from block m of a wide residual network back to block l the gradient grows (m/l)^a times.

    The squared gradient at block l is what the branches behind it added and the shortcuts brought back. The branch of
    block k adds c/k times the squared gradient there, c = GROWTH^2 / (1 - 2/pi) = 4.03, being two layers of which the
    first is given variance (1 - 2/pi) k. The shortcuts bring it back to a unit unless the unit's walk was at 0 in
    between: with probability 2/pi arcsin(sqrt(l/k)), the arcsine law. Put l^(-2a) into the sum over k, as an integral:
    2a = c (1 - B(2a + 1/2, 1/2) / pi), B being Euler's beta function. The solution is a = 1.36.
    """
    power = 2.0  # 2a; putting it into the right side again and again converges
    for _ in range(100):
        beta = math.exp(math.lgamma(power + 0.5) + math.lgamma(0.5) - math.lgamma(power + 1))
        power = GROWTH**2 * branch_ratio(1) * (1 - beta / math.pi)
    return power / 2


@torch.no_grad()
def branch_variances(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Measure how large each block's branch is beside its shortcut (De & Smith 2020, section 3).

    In training mode, so that it can be used on a fresh network, which is left as it was.

    Args:
        model: a residual network of :func:`resnet56.model.build_model`.
        images: ``(N, 3, 32, 32)`` as the network sees them.

    Returns:
        A row per block, with ``block`` (1 for the first), ``name``, ``stage``, ``branch`` and ``shortcut`` (variance
        over images and pixels, mean over channels) and ``ratio`` (branch over shortcut); compare :func:`branch_ratio`.

    Raises:
        InputError: if the network has no such blocks, or no shortcuts.
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
