"""Paths (Veit et al. 2016, sections 3 and 4.4): through which of its many paths does a residual network learn?

At each block the gradient can come back in two ways: along the shortcut, or through the two convolutions. n blocks make
2^n paths, and the gradient is the sum over all of them. That holds for the *gradient* (the Jacobian) only: with a ReLU
after each addition, as here, what goes forward is no sum over paths. Each ReLU is kept as the whole pass has set it.
"""

import itertools
import math
import random
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..layers import basic_blocks, unwrapped
from ..model import CifarNet
from ..observe import undisturbed

DRAWS = 1000  # of the bootstrap


def gradients_along(model: nn.Module, images: Tensor, labels: Tensor, paths: Iterable[Collection[str]]) -> Tensor:
    """Return the part of the loss gradient that comes back along each of some paths, ``(paths, N, 3, 32, 32)``.

    A path is the names of the blocks that it goes through; around all others it takes the shortcut. The forward pass is
    the whole network's, in evaluation mode, once for all paths; then, for each, the gradient goes back block by block.

    Raises:
        InputError: if the network is no residual one of ``build_model``, and so has but one path.
    """
    model = unwrapped(model)
    blocks = basic_blocks(model)
    if not isinstance(model, CifarNet) or not all(block.residual for block in blocks.values()):
        raise InputError("this network has only one path: give a residual one of build_model")

    def leaf(x: Tensor) -> Tensor:
        return x.detach().clone(memory_format=torch.channels_last).requires_grad_()

    def back(output: Tensor, to: Tensor, gradient: Tensor) -> Tensor:
        return torch.autograd.grad(output, to, gradient, retain_graph=True)[0]

    with torch.enable_grad(), undisturbed(model, training=False):
        images = leaf(images)
        stem = x = F.relu(model.bn1(model.conv1(images)))
        steps = []  # of each block: its name, input, branch and shortcut, and where its last ReLU lets through
        for name, block in blocks.items():
            x = leaf(x)
            branch, shortcut = block.branch(x), block.strength * block.shortcut(x)
            steps.append((name, x, branch, shortcut, branch + shortcut > 0))
            x = F.relu(branch + shortcut)
        x = leaf(x)
        loss = F.cross_entropy(model.fc(x.mean(dim=(2, 3))), labels)
        last = torch.autograd.grad(loss, x)[0]
        found = []
        for path in paths:
            gradient = last
            for name, x, branch, shortcut, passes in reversed(steps):
                gradient = back(branch if name in path else shortcut, x, gradient * passes)
            found.append(back(stem, images, gradient))
    return torch.stack(found)


def path_lengths(model: nn.Module, images: Tensor, labels: Tensor, samples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Measure how much gradient comes back along paths of each length (Veit et al., Figure 6).

    Of each length, ``samples`` paths are drawn at random, or all taken where there are no more. Few paths carry most of
    the gradient, so a mean over a few of them says little: see the intervals. Norms add up as if all paths' gradients
    pointed the same way; this is the original study's convention.

    Returns:
        A row per length, with ``length`` (blocks gone through, 0 to n), ``paths`` (how many, n choose length),
        ``sampled`` (how many were looked at), ``gradient`` (mean L2 norm at the images along one path), ``total``
        (``paths`` times ``gradient``), ``share`` (of the sum of all totals, 0 to 1), and 95 % intervals over the choice
        of paths, by bootstrap: ``gradient_low``, ``gradient_high``, ``share_low``, ``share_high``.
    """
    names = list(basic_blocks(model))
    draw, again = random.Random(seed), np.random.default_rng(seed)
    counts = np.array([math.comb(len(names), length) for length in range(len(names) + 1)])
    means, redrawn = [], []
    for length, count in enumerate(counts):
        few = count <= samples
        paths = itertools.combinations(names, length) if few else (draw.sample(names, length) for _ in range(samples))
        norms = gradients_along(model, images, labels, paths).flatten(1).norm(dim=1).double().cpu().numpy()
        means.append(norms.mean())
        redrawn.append(np.full(DRAWS, norms.mean()) if few else again.choice(norms, (DRAWS, samples)).mean(axis=1))
    totals, sampled = counts * np.array(means), np.minimum(counts, samples)
    table = pd.DataFrame({"length": range(len(counts)), "paths": counts, "sampled": sampled, "gradient": means})
    table["total"], table["share"] = totals, totals / totals.sum()
    shares = counts[:, None] * np.array(redrawn)  # (lengths, DRAWS)
    for name, values in {"gradient": redrawn, "share": shares / shares.sum(axis=0)}.items():
        table[f"{name}_low"], table[f"{name}_high"] = np.quantile(values, [0.025, 0.975], axis=1)
    return table
