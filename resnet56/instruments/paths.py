"""Paths (Veit et al. 2016, sections 3 and 4.4): through which of its many paths does a residual network learn?

At each block a residual network can be walked through in two ways: along the shortcut, or through the two
convolutions. n blocks make 2^n paths, and the gradient is the sum over all of them.
"""

import math
import random
from collections.abc import Collection

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..layers import basic_blocks
from .modes import evaluation_mode


def gradient_along(model: nn.Module, images: Tensor, labels: Tensor, through: Collection[str]) -> Tensor:
    """Return the part of the loss gradient that comes back along one path, ``(N, 3, 32, 32)`` like the images.

    The forward pass is the whole network's; only the gradient is kept from all other paths.

    Args:
        model: a residual network, run in evaluation mode and left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
        labels: ``(N,)``.
        through: names of the blocks that the path goes through; around all others it takes the shortcut.

    Raises:
        InputError: if the network has no shortcuts, and so but one path.
    """
    blocks = basic_blocks(model)
    if not all(block.residual for block in blocks.values()):
        raise InputError("a plain network has only one path; give a residual one")
    images = images.clone().requires_grad_()
    with evaluation_mode(model):
        x = F.relu(model.bn1(model.conv1(images)))
        for name, block in blocks.items():
            branch, shortcut = block.branch(x), block.shortcut(x)
            x = F.relu(branch + shortcut.detach() if name in through else branch.detach() + shortcut)
        loss = F.cross_entropy(model.fc(x.mean(dim=(2, 3))), labels)
    return torch.autograd.grad(loss, images)[0]


def path_lengths(model: nn.Module, images: Tensor, labels: Tensor, samples: int = 8, seed: int = 0) -> pd.DataFrame:
    """Measure how much gradient comes back along paths of each length, by sampling paths (Veit et al., Figure 6).

    Args:
        model, images, labels: as for :func:`gradient_along`.
        samples: paths of each length.
        seed: of the choice of paths.

    Returns:
        A row per length, with ``length`` (blocks gone through, 0 to n), ``paths`` (how many there are, n choose length),
        ``gradient`` (mean L2 norm at the images along one path), ``total`` (``paths`` times ``gradient``) and ``share``
        (of the sum of all totals, 0 to 1). Norms add up as if all paths' gradients pointed the same way; this is the
        original study's convention.
    """
    names = list(basic_blocks(model))
    draw = random.Random(seed)
    rows = []
    for length in range(len(names) + 1):
        paths = math.comb(len(names), length)
        norms = [
            gradient_along(model, images, labels, draw.sample(names, length)).norm().item()
            for _ in range(min(samples, paths))
        ]
        gradient = sum(norms) / len(norms)
        rows.append((length, paths, gradient, paths * gradient))
    table = pd.DataFrame(rows, columns=["length", "paths", "gradient", "total"])
    table["share"] = table["total"] / table["total"].sum()
    return table
