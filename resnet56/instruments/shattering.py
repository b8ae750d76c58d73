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
    """Return the gradient of one logit with respect to each image.

    In evaluation mode: batch normalisation would otherwise mix the gradients of the images of a batch. A fresh network
    needs :func:`resnet56.instruments.modes.calibrate` first.

    Args:
        model: any network from images to logits; left as it was.
        images: ``(N, 3, 32, 32)`` as the network sees them.
        output: which logit.

    Returns:
        ``(N, 3072)``.

    Raises:
        InputError: if the network has no such logit.
    """
    return _logits_and_gradients(model, images, output)[1]


def along_line(model: nn.Module, start: Tensor, end: Tensor, points: int = 256, output: int = 0) -> pd.DataFrame:
    """Follow one logit, and its slope, along the straight line between two images (Balduzzi et al. 2017, Figure 1).

    Args:
        model: as for :func:`input_gradients`.
        start, end: ``(3, 32, 32)`` as the network sees them.
        points: images on the line.
        output: which logit.

    Returns:
        A row per point, with ``position`` (0 at ``start``, 1 at ``end``), ``logit`` and ``slope``: the gradient
        projected on the line, in logits per length of the line.
    """
    logits, gradients = _logits_and_gradients(model, line(start, end, points), output)
    slopes = gradients @ (end - start).flatten()
    return pd.DataFrame({"position": torch.linspace(0, 1, points), "logit": logits.cpu(), "slope": slopes.cpu()})


def _logits_and_gradients(model: nn.Module, images: Tensor, output: int) -> tuple[Tensor, Tensor]:
    parts = []
    with torch.enable_grad(), undisturbed(model, training=False):
        for batch in images.split(128):
            batch = batch.detach().clone().requires_grad_()
            logits = model(batch.clone())  # a copy, for networks that work on their input in place
            if not isinstance(logits, Tensor) or logits.ndim != 2 or not 0 <= output < logits.shape[1]:
                raise InputError(f"{type(model).__name__} has no logit {output}: give a network to (N, classes)")
            logits = logits[:, output]
            parts.append((logits.detach(), torch.autograd.grad(logits.sum(), batch)[0].flatten(1)))
    logits, gradients = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(gradients)


def autocorrelation(series: Tensor, lags: int) -> Tensor:
    """Return the autocorrelation of a series of vectors at lags 0 to ``lags``.

    It is the usual sample autocorrelation, with the products of numbers replaced by inner products of vectors and the
    mean taken along the series: 1 at lag 0, about 0 beyond for white noise.

    Args:
        series: ``(T, D)``, T vectors of length D in a row.
        lags: the largest lag, below T.

    Returns:
        ``(lags + 1,)``.

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
