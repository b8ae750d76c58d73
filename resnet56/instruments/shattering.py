"""Shattered gradients (Balduzzi et al. 2017): do the gradients of nearby images point the same way?

As a plain network gets deeper, the gradient with respect to its input, followed along a line of images, looks more
and more like white noise. Shortcuts keep it closer to brown noise, the path of a random walk (Figures 1 and 2 of the
paper; its theorem, that the correlation falls as 2^-depth, is about networks without batch normalisation).
"""

import pandas as pd
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..observe import undisturbed


def line(start: Tensor, end: Tensor, points: int = 256) -> Tensor:
    """Return ``points`` images on the straight line from ``start`` to ``end``, both ``(3, 32, 32)``, in a batch."""
    share = torch.linspace(0, 1, points, device=start.device, dtype=start.dtype)[:, None, None, None]
    return torch.lerp(start, end, share)


def input_gradients(model: nn.Module, images: Tensor, output: int = 0) -> Tensor:
    """Return the gradient of the logit number ``output`` with respect to each of N images, ``(N, 3072)``.

    In evaluation mode: batch normalisation would otherwise mix the gradients of the images of a batch. A fresh network
    needs :func:`resnet56.instruments.initialisation.calibrate` first. The network is left as it was.

    Raises:
        InputError: if the network has no such logit.
    """
    gradients = []
    with torch.enable_grad(), undisturbed(model, training=False):
        for batch in images.split(128):
            batch = batch.detach().clone().requires_grad_()
            logits = model(batch.clone())  # a copy, for networks that work on their input in place
            if not isinstance(logits, Tensor) or logits.ndim != 2 or not 0 <= output < logits.shape[1]:
                raise InputError(f"{type(model).__name__} has no logit {output}: give a network to (N, classes)")
            gradients.append(torch.autograd.grad(logits[:, output].sum(), batch)[0].flatten(1))
    return torch.cat(gradients)


def along_line(model: nn.Module, start: Tensor, end: Tensor, points: int = 256, output: int = 0) -> pd.DataFrame:
    """Follow a logit, and its slope, along the straight line between two images (Balduzzi et al. 2017, Figure 1).

    Returns a row per point of :func:`line`, with ``position`` (0 at ``start``, 1 at ``end``), ``logit`` and ``slope``:
    the gradient of :func:`input_gradients` projected on the line, in logits per length of the line.
    """
    images = line(start, end, points)
    slopes = input_gradients(model, images, output) @ (end - start).flatten()
    with torch.no_grad(), undisturbed(model, training=False):
        logits = torch.cat([model(batch)[:, output] for batch in images.split(128)])
    return pd.DataFrame({"position": torch.linspace(0, 1, points), "logit": logits.cpu(), "slope": slopes.cpu()})


def autocorrelation(series: Tensor, lags: int) -> Tensor:
    """Return the autocorrelation of a series of T vectors, ``(T, D)``, at lags 0 to ``lags``: ``(lags + 1,)``.

    It is the usual sample autocorrelation, with the products of numbers replaced by inner products of vectors and the
    mean taken along the series: 1 at lag 0, about 0 beyond for white noise.

    Raises:
        InputError: if the series is too short.
    """
    if not 0 <= lags < len(series):
        raise InputError(f"no autocorrelation at lag {lags} of a series of {len(series)}: give a lag below its length")
    centred = series.double() - series.double().mean(dim=0)
    products = torch.stack([(centred[: len(series) - lag] * centred[lag:]).sum() for lag in range(lags + 1)])
    return products / products[0]


def white_noise(points: int, size: int, seed: int = 0) -> Tensor:
    """Return independent Gaussian vectors, ``(points, size)``: a reference for :func:`autocorrelation`."""
    return torch.randn(points, size, generator=torch.Generator().manual_seed(seed))


def brown_noise(points: int, size: int, seed: int = 0) -> Tensor:
    """Return the path of a random walk, the running sum of white noise, ``(points, size)``."""
    return white_noise(points, size, seed).cumsum(dim=0)
