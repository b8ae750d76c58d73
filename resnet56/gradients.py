"""Hooks: look inside a network while it trains, without touching the training loop (chapter "Gradient heatmaps")."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn import functional as F

from .errors import InputError
from .layers import responses, stage_of, undisturbed, unwrapped, weighted_layers
from .train import autocast

if TYPE_CHECKING:
    from .train import Trainer

MEASURED = ("weight_norm", "output_gradient_norm", "gradient_norm", "zero_share")


class GradientRecorder:
    """Record the gradient of every convolution and linear layer while a network, any network, trains.

    Of a trainer it measures the weights before a step and the gradients after it: with every loop, compiled, captured
    in a CUDA graph, or spread over processes, whose summed gradient it sees. Of a bare model it measures what is in
    ``.grad`` at the end of each backward pass, by hooks that are gone after the ``with`` block. Passes that add to one
    gradient (gradient accumulation) are one step: a new one begins when weights change or gradients are cleared.

    Example:
        >>> with GradientRecorder(trainer, every=50) as recorder:
        ...     fit(trainer)
        >>> recorder.table()

    Args:
        network: a trainer; or a model, as it is or in ``DataParallel``, ``DistributedDataParallel``, ``torch.compile``.
        every: record the first of every so many steps.
        probe: a fixed batch, images ``(N, 3, 32, 32)`` as the network sees them and labels ``(N,)``, for which
            :func:`output_gradient_norms` are recorded too.

    Raises:
        InputError: if no layer's weight gets a gradient, or one is not built yet or computed anew at each pass (pruned,
            parametrised); if the probe gives no logits; if ``every`` is below 1.
    """

    def __init__(
        self, network: "torch.nn.Module | Trainer", every: int = 1, probe: tuple[Tensor, Tensor] | None = None
    ):
        if every < 1:
            raise InputError(f"cannot record every {every} steps: give at least 1")
        self.trainer = None if isinstance(network, nn.Module) else network
        self.model = unwrapped(self.trainer.model if self.trainer else network)
        self.layers = weighted_layers(self.model)
        _check_layers(self.layers)
        self.every = every
        self.device = self.layers[0][1].weight.device
        self.probe = tuple(part.to(self.device) for part in probe) if probe else None
        if self.probe:
            output_gradient_norms(self.model, *(part[:2] for part in self.probe))  # refused now, not in the training
        self._before = self.trainer.replayed(self._measure_before) if self.trainer else self._measure_before
        self._records: dict[int, Tensor] = {}  # by step, (layers, MEASURED), still on the device
        self._step, self._versions = -1, None  # of a bare model: the last step, and of which version its weights were

    def __enter__(self) -> "GradientRecorder":
        if self.trainer:
            self.trainer.recorders.append(self)
        else:
            weights = [module.weight for _, module in self.layers]
            self._hook = register_multi_grad_hook(weights, self._backward_begins, mode="any")
        return self

    def __exit__(self, *exception) -> None:
        if self.trainer:
            self.trainer.recorders.remove(self)
        else:
            self._hook.remove()

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Record the step that a trainer takes in this context, if its number is a multiple of ``every``."""
        due = step % self.every == 0
        before = self._before() if due else None
        yield
        if due:
            self._records[step] = torch.cat([before, self._measure_after()], dim=1)

    def _backward_begins(self, _: Tensor) -> None:
        """Called with the first gradient of each backward pass, before it is added to ``.grad``: is this a new step?"""
        weights = [module.weight for _, module in self.layers]
        versions = [weight._version for weight in weights]  # counts changes in place
        cleared = not any(weight.grad is not None and weight.grad.any() for weight in weights)
        if cleared or versions != self._versions:
            self._step, self._versions = self._step + 1, versions
        # Run at the end of the backward pass, behind what DistributedDataParallel runs there to add up the gradients.
        at_the_end = torch.autograd.Variable._execution_engine.queue_callback
        at_the_end(lambda: at_the_end(self._after_backward))

    def _after_backward(self) -> None:
        with self.at_step(self._step):
            pass

    def _measure_before(self) -> Tensor:
        """Measure what depends on the weights that the step starts from, ``(layers, 2)``."""
        weights = torch.stack([module.weight.detach().float().norm().to(self.device) for _, module in self.layers])
        outputs = torch.full_like(weights, torch.nan)
        if self.probe:
            precision = self.trainer.recipe.precision if self.trainer else "fp32"
            outputs = output_gradient_norms(self.model, *self.probe, precision)
        return torch.stack([weights, outputs], dim=1)

    def _measure_after(self) -> Tensor:
        """Measure the gradients of the weights, ``(layers, 2)``; not a number where there is none."""
        nothing = torch.full((2,), torch.nan, device=self.device)
        gradients = [module.weight.grad for _, module in self.layers]
        pairs = [nothing if g is None else torch.stack([g.float().norm(), (g == 0).float().mean()]) for g in gradients]
        return torch.stack([pair.to(self.device) for pair in pairs])

    def state_dict(self) -> list[tuple[int, Tensor]]:
        """Return what was recorded, for a checkpoint."""
        return [(step, values.cpu()) for step, values in self._records.items()]

    def load_state_dict(self, state: list[tuple[int, Tensor]]) -> None:
        """Go on after what :meth:`state_dict` returned."""
        self._records = dict(state)

    def table(self) -> pd.DataFrame:
        """Return what was recorded, a row per recorded step and layer, from the first layer to the last.

        Columns: ``step`` (0 is the gradient at the initial weights), ``depth`` (from 1), ``layer`` (name), ``stage``;
        of the layer's weights: ``weight_norm``, ``gradient_norm`` (L2), ``gradient_rms`` (root mean square),
        ``gradient_to_weight`` (ratio of the norms), ``zero_share`` (of gradient entries that are exactly zero, 0 to 1);
        ``output_gradient_norm`` (L2, of the layer's output). Not a number: the gradient of a layer that is frozen or
        not reached, and ``output_gradient_norm`` without a probe. Layers that share a weight share its gradient.
        """
        names = [name for name, _ in self.layers]
        rows = [(step, depth, name, stage_of(name)) for step in self._records for depth, name in enumerate(names, 1)]
        table = pd.DataFrame(rows, columns=["step", "depth", "layer", "stage"])
        nothing = torch.empty(0, len(MEASURED))
        table[list(MEASURED)] = torch.cat([nothing, *(values.cpu() for values in self._records.values())]).numpy()
        sizes = [module.weight.numel() for _, module in self.layers] * len(self._records)
        table["gradient_rms"] = table["gradient_norm"] / np.sqrt(sizes)
        table["gradient_to_weight"] = table["gradient_norm"] / table["weight_norm"]
        return table


def _check_layers(layers: list[tuple[str, nn.Module]]) -> None:
    """Refuse in one line what has no gradients to record."""
    for name, module in layers:
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise InputError(f"{name} is not built yet: run a batch through the network first")
        if not isinstance(module.weight, nn.Parameter):
            raise InputError(f"{name} computes its weight at each pass (pruned or parametrised): it has no gradient")
    if not any(module.weight.requires_grad for _, module in layers):
        raise InputError("nothing to record: no convolution or linear layer whose weight requires a gradient")


def output_gradient_norms(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "fp32") -> Tensor:
    """Measure the gradient of the loss at every layer's output: after normalisation, before the nonlinearity.

    The network, any from images to logits ``(N, classes)``, runs in training mode, so batch normalisation uses the
    statistics of this batch; its running statistics and the gradients of its weights are left as they are.

    Returns:
        ``(layers,)``, for each of :func:`resnet56.layers.weighted_layers` the L2 norm of the gradient of the mean loss,
        over all images, pixels, channels and uses of the layer; not a number where the loss does not need it.

    Raises:
        InputError: if the network gives no logits.
    """
    model = unwrapped(model)
    with torch.enable_grad(), undisturbed(model, training=True), responses(model) as found:
        images = images.detach().clone().requires_grad_()  # so that there is a gradient behind frozen layers, too
        with autocast(images.device, precision):
            logits = model(images.clone())
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise InputError(f"{type(model).__name__} gives no logits (N, classes), which the loss needs")
        loss = F.cross_entropy(logits.float(), labels)
        outputs = [output for uses in found.values() for output in uses]
        gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True))
    norms = []
    for uses in found.values():
        squares = [g.float().square().sum() for g in (next(gradients) for _ in uses) if g is not None]
        norms.append(sum(squares).sqrt().to(loss.device) if squares else loss.new_full((), torch.nan))
    return torch.stack(norms)
