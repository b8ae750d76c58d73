"""Hooks: look inside a network while it trains, without touching the training loop."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import response_layers, stage_of, weighted_layers
from .train import autocast

if TYPE_CHECKING:
    from .train import Trainer

MEASURED = ("weight_norm", "output_gradient_norm", "gradient_norm", "zero_share")


class GradientRecorder:
    """Record the gradient of every weighted layer while a network trains.

    Of a trainer it measures the weights before a step and the gradients after it, so that it works with every loop: plain,
    compiled, captured in a CUDA graph, or spread over processes, whose summed gradient it sees. Of a bare model it measures
    when backpropagation reaches the first layer, by a hook that is gone at the end of the ``with`` block. Norms are taken on
    the device, and read only when the table is asked for.

    Example:
        >>> with GradientRecorder(trainer, every=50) as recorder:
        ...     fit(trainer)
        >>> recorder.table()

    Args:
        network: a trainer; or a model, for a training loop of your own, where each backward pass is taken for a step.
        every: record the first of every so many steps.
        probe: a fixed batch, images ``(N, 3, 32, 32)`` as the network sees them and labels ``(N,)``. If given, the
            gradient of its loss at every layer's output is measured too, see :func:`output_gradient_norms`.
    """

    def __init__(
        self, network: "torch.nn.Module | Trainer", every: int = 1, probe: tuple[Tensor, Tensor] | None = None
    ):
        self.trainer = None if isinstance(network, nn.Module) else network
        self.model = self.trainer.model if self.trainer else network
        self.layers = weighted_layers(self.model)
        self.every = every
        device = self.layers[0][1].weight.device
        self.probe = tuple(part.to(device) for part in probe) if probe else None
        self._before = self.trainer.replayed(self._measure_before) if self.trainer else self._measure_before
        self._records: list[tuple[int, Tensor]] = []  # step and (layers, MEASURED), still on the device
        self._hook = None

    def __enter__(self) -> "GradientRecorder":
        if self.trainer:
            self.trainer.recorders.append(self)
        else:
            steps = itertools.count()
            first = self.layers[0][1].weight  # the last to get its gradient
            self._hook = first.register_post_accumulate_grad_hook(lambda _: self._after_backward(next(steps)))
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
            self._records.append((step, torch.cat([before, self._measure_after()], dim=1)))

    def _after_backward(self, step: int) -> None:
        with self.at_step(step):
            pass

    def _measure_before(self) -> Tensor:
        """Measure what depends on the weights that the step starts from, ``(layers, 2)``."""
        weights = torch.stack([module.weight.detach().norm() for _, module in self.layers])
        if self.probe is None:
            return torch.stack([weights, torch.full_like(weights, torch.nan)], dim=1)
        precision = self.trainer.recipe.precision if self.trainer else "fp32"
        return torch.stack([weights, output_gradient_norms(self.model, *self.probe, precision)], dim=1)

    def _measure_after(self) -> Tensor:
        """Measure the gradients of the weights, ``(layers, 2)``."""
        gradients = [module.weight.grad for _, module in self.layers]
        return torch.stack([torch.stack([g.norm(), (g == 0).float().mean()]) for g in gradients])

    def state_dict(self) -> list[tuple[int, Tensor]]:
        """Return what was recorded, for a checkpoint."""
        return [(step, values.cpu()) for step, values in self._records]

    def load_state_dict(self, state: list[tuple[int, Tensor]]) -> None:
        """Go on after what :meth:`state_dict` returned."""
        self._records = list(state)

    def table(self) -> pd.DataFrame:
        """Return what was recorded, a row per recorded step and layer, from the first layer to the last.

        Columns: ``step`` (0 is the gradient at the initial weights), ``depth`` (1 for the first layer), ``layer`` (name),
        ``stage`` (``stem``, ``layer1`` to ``layer3``, ``head``); of the layer's weights: ``weight_norm`` (L2),
        ``gradient_norm`` (L2), ``gradient_rms`` (root mean square), ``gradient_to_weight`` (ratio of the L2 norms),
        ``zero_share`` (share of gradient entries that are exactly zero, 0 to 1); of the layer's output:
        ``output_gradient_norm`` (L2, not a number without a probe batch).
        """
        frames = []
        for step, values in self._records:
            frame = pd.DataFrame(values.cpu().numpy(), columns=MEASURED)
            names = [name for name, _ in self.layers]
            frame.insert(0, "step", step)
            frame.insert(1, "depth", range(1, len(names) + 1))
            frame.insert(2, "layer", names)
            frame.insert(3, "stage", [stage_of(name) for name in names])
            frame["gradient_rms"] = frame["gradient_norm"] / [module.weight.numel() ** 0.5 for _, module in self.layers]
            frame["gradient_to_weight"] = frame["gradient_norm"] / frame["weight_norm"]
            frames.append(frame)
        columns = ["step", "depth", "layer", "stage", *MEASURED, "gradient_rms", "gradient_to_weight"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def output_gradient_norms(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "fp32") -> Tensor:
    """Measure the gradient of the loss at every layer's output: after batch normalisation, before the nonlinearity.

    The network runs in training mode, so batch normalisation uses the statistics of this batch; its running statistics
    and the gradients of its weights are left as they are.

    Args:
        model: the network.
        images: ``(N, 3, 32, 32)``, as the network sees them.
        labels: ``(N,)``.
        precision: ``"fp32"`` or ``"bf16"``.

    Returns:
        ``(layers,)``: for each of :func:`resnet56.model.weighted_layers`, the L2 norm, over all images, channels and
        pixels, of the gradient of the mean loss.
    """
    outputs: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        for _, module in response_layers(model)
    ]
    training = model.training
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.enable_grad(), autocast(images.device, precision):
            logits = torch.func.functional_call(model.train(), statistics, (images,))
            loss = F.cross_entropy(logits.float(), labels)
            gradients = torch.autograd.grad(loss, outputs)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return torch.stack([gradient.float().norm() for gradient in gradients])
