"""Hooks: look inside a network while it trains, without touching the training loop (chapter "Gradient heatmaps")."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .errors import InputError
from .layers import stage_of, unwrapped, weighted_layers
from .observe import BackwardPasses, check_gradients, output_gradient_norms
from .train import Trainer

MEASURED = ("weight_norm", "output_gradient_norm", "gradient_norm", "zero_share")


class GradientRecorder:
    """Record the gradient of every convolution and linear layer while a network, any network, trains.

    Of a trainer it measures the weights before a step and the gradients after it, with every loop: compiled, captured
    in a CUDA graph, or spread over processes, whose summed gradient it sees. Of a bare model it measures what is in
    ``.grad`` after each backward pass, see :class:`resnet56.observe.BackwardPasses`.

    Example:
        >>> with GradientRecorder(trainer, every=50) as recorder:
        ...     fit(trainer)
        >>> recorder.table()

    Args:
        network: a trainer; or a model, as it is or in ``DataParallel``, ``DistributedDataParallel``, ``torch.compile``.
        every: record the first of every so many steps.
        probe: a fixed batch, images ``(N, 3, 32, 32)`` as the network sees them and labels ``(N,)``, for which
            :func:`resnet56.observe.output_gradient_norms` are recorded too.

    Raises:
        InputError: if a layer has no gradient to record, the probe gives no logits, or ``every`` is below 1.
    """

    def __init__(self, network: nn.Module | Trainer, every: int = 1, probe: tuple[Tensor, Tensor] | None = None):
        if every < 1:
            raise InputError(f"cannot record every {every} steps: give at least 1")
        self.trainer = None if isinstance(network, nn.Module) else network
        self.model = unwrapped(self.trainer.model if self.trainer else network)
        self.layers = weighted_layers(self.model)
        check_gradients(self.layers)
        self.every = every
        self.device = self.layers[0][1].weight.device
        self.probe = tuple(part.to(self.device) for part in probe) if probe else None
        if self.probe:
            output_gradient_norms(self.model, *(part[:2] for part in self.probe))  # refused now, not in the training
        replayed = getattr(self.trainer, "replayed", lambda measure: measure)  # the engine makes it cheap to repeat
        self._before = replayed(self._measure_before)
        self._records: dict[int, Tensor] = {}  # by step, (layers, MEASURED), still on the device
        self._passes = BackwardPasses([module.weight for _, module in self.layers], self._after_backward)

    def __enter__(self) -> "GradientRecorder":
        if self.trainer:
            self.trainer.recorders.append(self)
        else:
            self._passes.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        if self.trainer:
            self.trainer.recorders.remove(self)
        else:
            self._passes.__exit__()

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Record the step that a trainer takes in this context, if its number is a multiple of ``every``."""
        due = step % self.every == 0
        before = self._before() if due else None
        yield
        if due:
            self._records[step] = torch.cat([before, self._measure_after()], dim=1)

    def _after_backward(self, step: int) -> None:
        with self.at_step(step):
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
        ``output_gradient_norm`` (L2, of the layer's output). What was not measured is not a number.
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
