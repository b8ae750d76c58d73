"""Batch normalisation's running statistics, set to those of a batch (chapter "Differences")."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..observe import listening, undisturbed


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the running statistics of batch normalisation to those of one batch, as a fresh network needs for evaluation.

    Args:
        model: the network; its running statistics are replaced, if it has any.
        images: ``(N, 3, 32, 32)`` as the network sees them.
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
