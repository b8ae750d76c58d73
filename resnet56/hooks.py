"""Hooks: look inside a network while it trains, without touching the training loop."""

import pandas as pd
import torch
from torch import Tensor, nn

from .model import STAGES, weighted_layers


class GradientRecorder:
    """Record the norm of every weighted layer's gradient while a network trains.

    It hangs a hook on each weight that fires when backpropagation has written the weight's gradient; the
    norm is taken there, on the device, and read only when the table is asked for. A step is one backward
    pass. On leaving the ``with`` block the hooks are gone.

    Example:
        >>> with GradientRecorder(model, every=50) as recorder:
        ...     fit(trainer)
        >>> recorder.table()

    Args:
        model: the network.
        every: record the first of every so many steps.
    """

    def __init__(self, model: nn.Module, every: int = 1):
        self.layers = weighted_layers(model)
        self.every = every
        self._records: list[tuple[int, int, Tensor, Tensor]] = []
        self._hooks: list = []

    def __enter__(self) -> "GradientRecorder":
        for index, (_, module) in enumerate(self.layers):
            hook = self._make_hook(index)
            self._hooks.append(module.weight.register_post_accumulate_grad_hook(hook))
        return self

    def __exit__(self, *exception) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _make_hook(self, index: int):
        step = -1

        @torch.no_grad()
        def hook(weight: Tensor) -> None:
            nonlocal step
            step += 1
            if step % self.every == 0:
                self._records.append((step, index, weight.grad.norm(), weight.norm()))

        return hook

    def table(self) -> pd.DataFrame:
        """Return what was recorded, a row per recorded step and layer, from the first layer to the last.

        Columns: ``step`` (0 is the gradient at the initial weights), ``depth`` (1 for the first layer),
        ``layer`` (name), ``stage`` (``stem``, ``layer1`` to ``layer3``, ``head``), ``gradient_norm`` and
        ``weight_norm`` (L2 norms over the layer's weights).
        """
        rows = []
        for step, index, gradient_norm, weight_norm in sorted(self._records, key=lambda record: record[:2]):
            name = self.layers[index][0]
            rows.append((step, index + 1, name, stage_of(name), gradient_norm.item(), weight_norm.item()))
        return pd.DataFrame(rows, columns=["step", "depth", "layer", "stage", "gradient_norm", "weight_norm"])


def stage_of(layer: str) -> str:
    """Return the stage a layer belongs to: ``stem`` (first layer), ``layer1`` to ``layer3``, ``head`` (last)."""
    stage = layer.split(".")[0]
    return stage if stage in STAGES else {"conv1": "stem", "fc": "head"}[stage]
