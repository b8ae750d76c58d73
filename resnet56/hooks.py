"""Hooks: look inside a network while it trains, without touching the training loop."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn

from .model import STAGES, weighted_layers

if TYPE_CHECKING:
    from .train import Trainer


class GradientRecorder:
    """Record the norm of every weighted layer's gradient while a network trains.

    It hangs a hook on each weight that fires when backpropagation has written the weight's gradient; the
    norm is taken there, on the device, and read only when the table is asked for. On leaving the ``with``
    block the hooks are gone.

    Example:
        >>> with GradientRecorder(trainer, every=50) as recorder:
        ...     fit(trainer)
        >>> recorder.table()

    Args:
        network: a trainer; or a model, for a training loop of your own, where each backward pass is taken for a step.
        every: record the first of every so many steps. Only these have hooks on a trainer's model, so that the
            others cost nothing.
    """

    def __init__(self, network: "torch.nn.Module | Trainer", every: int = 1):
        self.trainer = None if isinstance(network, nn.Module) else network
        self.layers = weighted_layers(self.trainer.model if self.trainer else network)
        self.every = every
        self._records: list[tuple[int, int, Tensor, Tensor]] = []
        self._hooks: list = []

    def __enter__(self) -> "GradientRecorder":
        if self.trainer:
            self.trainer.recorders.append(self)
        else:
            self._hang_hooks(itertools.count)
        return self

    def __exit__(self, *exception) -> None:
        if self.trainer:
            self.trainer.recorders.remove(self)
        self._remove_hooks()

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Record the step that a trainer takes in this context, if its number is a multiple of ``every``."""
        if step % self.every == 0:
            self._hang_hooks(lambda: itertools.repeat(step))
        try:
            yield
        finally:
            self._remove_hooks()

    def _hang_hooks(self, steps: Callable[[], Iterator[int]]) -> None:
        for index, (_, module) in enumerate(self.layers):
            self._hooks.append(module.weight.register_post_accumulate_grad_hook(self._make_hook(index, steps())))

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _make_hook(self, index: int, steps: Iterator[int]):
        @torch.no_grad()
        def hook(weight: Tensor) -> None:
            step = next(steps)
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
