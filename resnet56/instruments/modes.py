"""Run a network in evaluation mode, or with a batch's own statistics, and leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode; on leaving, back in the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of batch normalisation to those of one batch, as a fresh network needs for evaluation.

    Args:
        model: the network; its running statistics are replaced.
        images: ``(N, 3, 32, 32)`` as the network sees them.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    model.train()(images)
    model.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
