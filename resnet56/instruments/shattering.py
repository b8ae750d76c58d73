"""Shattered gradients (Balduzzi et al. 2017): do the gradients of nearby images point the same way?

As a plain network gets deeper, the gradient with respect to its input, followed along a line of images, looks more and
more like white noise. Shortcuts keep it closer to brown noise, the path of a random walk (Figures 1 and 2 of the paper).
"""

import math

import torch
from torch import Tensor, nn

from .modes import evaluation_mode


def line(start: Tensor, end: Tensor, points: int = 256) -> Tensor:
    """Return images on the straight line from ``start`` to ``end``, both ``(3, 32, 32)``, as ``(points, 3, 32, 32)``."""
    share = torch.linspace(0, 1, points, device=start.device)[:, None, None, None]
    return torch.lerp(start, end, share)


def input_gradients(model: nn.Module, images: Tensor, output: int = 0) -> Tensor:
    """Return the gradient of one logit with respect to each image.

    In evaluation mode: batch normalisation would otherwise mix the gradients of the images of a batch. A fresh network
    needs :func:`resnet56.instruments.modes.calibrate` first.

    Args:
        model: the network; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
        output: which logit.

    Returns:
        ``(N, 3072)``.
    """
    gradients = []
    with evaluation_mode(model):
        for batch in images.split(128):
            batch = batch.clone().requires_grad_()
            gradients.append(torch.autograd.grad(model(batch)[:, output].sum(), batch)[0].flatten(1))
    return torch.cat(gradients)


def autocorrelation(series: Tensor, lags: int) -> Tensor:
    """Return the autocorrelation of a series of vectors at lags 0 to ``lags``.

    It is the usual sample autocorrelation, with the products of numbers replaced by inner products of vectors and the
    mean taken along the series: 1 at lag 0, about 0 beyond for white noise.

    Args:
        series: ``(T, D)``, T vectors of length D in a row.
        lags: the largest lag, below T.

    Returns:
        ``(lags + 1,)``.
    """
    centred = series.double() - series.double().mean(dim=0)
    products = torch.stack([(centred[: len(series) - lag] * centred[lag:]).sum() for lag in range(lags + 1)])
    return products / products[0]


def correlations(gradients: Tensor) -> Tensor:
    """Return the cosine between each two of the gradients ``(N, D)``, as ``(N, N)``."""
    directions = nn.functional.normalize(gradients.double(), dim=1)
    return directions @ directions.T


def mean_correlation(gradients: Tensor) -> float:
    """Return the root mean square of the cosine between two different gradients of ``(N, D)``, from 0 to 1.

    For independent directions it is about :math:`1/\\sqrt{D}`.
    """
    cosines = correlations(gradients)
    count = len(cosines)
    return math.sqrt((cosines.square().sum() - count).clamp(min=0).item() / (count * (count - 1)))


def white_noise(points: int, size: int, seed: int = 0) -> Tensor:
    """Return independent Gaussian vectors, ``(points, size)``: a reference for :func:`autocorrelation`."""
    return torch.randn(points, size, generator=torch.Generator().manual_seed(seed))


def brown_noise(points: int, size: int, seed: int = 0) -> Tensor:
    """Return the path of a random walk, the running sum of white noise, ``(points, size)``."""
    return white_noise(points, size, seed).cumsum(dim=0)
