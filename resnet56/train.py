"""Training: one network, one step at a time. This is the plain loop, to be read (chapter "Training in full").

:class:`resnet56.fast.engine.Engine` takes the same steps faster, :func:`resnet56.fast.together.fit_together` long runs.
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Batches, Split, normalise
from .devices import Device, autocast, pick_device
from .errors import NonFiniteLoss
from .observe import undisturbed
from .recipe import Recipe
from .treatments import Treatment

LOG_EVERY = 10  # steps between two rows of the history


@dataclass(frozen=True)
class Score:
    """What a network reaches on a set of images."""

    loss: float  #: mean cross-entropy, in nats
    error: float  #: share of images misclassified, in percent

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, in percent."""
        return 100 - self.error


class Trainer:
    """A network in training, and all that its next step needs: the plain loop.

    Attributes:
        history: a dict each ``LOG_EVERY`` steps and at the end of each epoch: ``step`` (steps taken so far), ``epoch``,
            ``lr`` (of the last of these steps), ``train_loss`` (nats, with the recipe's label smoothing) and
            ``train_error`` (percent), means over the augmented batches of these steps. Off the CPU the rows of an epoch
            are there at its end, so that the device is not waited for in between.
        recorders: who looks on, such as :class:`resnet56.gradients.GradientRecorder`: each step is taken in the context
            ``recorder.at_step(step)``. What they recorded is part of the state.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Split,
        recipe: Recipe,
        device: Device = "auto",
        treatment: Treatment | None = None,
    ):
        self.device = pick_device(device)
        self.model = model.to(self.device)
        self.recipe = recipe
        self.treatment = treatment or Treatment()
        self.treatment.start(model)
        self.batches = Batches(train.to(self.device), recipe.batch_size, recipe.seed)
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, recipe), lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        self.step, self.total_steps = 0, recipe.total_steps(len(train))
        self.history: list[dict] = []
        self.recorders: list = []
        self._unread: list[Tensor] = []  # (loss, share of errors) of the last steps, still on the device

    def take_step(self) -> None:
        """Train on one batch; NonFiniteLoss is raised when the history is written."""
        lr = self.recipe.lr_at(self.step, self.total_steps)
        lr *= self.treatment.before_step(self.model, self.step / self.total_steps)
        with ExitStack() as stack:
            for recorder in self.recorders:
                stack.enter_context(recorder.at_step(self.step))
            self._unread.append(self._update(self.batches.draw(self.step), lr))
        self.step += 1
        if self.epoch_done() or (self.device.type == "cpu" and self.step % LOG_EVERY == 0):
            self._log()

    def _update(self, draw: Tensor, lr: float) -> Tensor:
        """Take one step of SGD on the batch that ``draw`` stands for; return its loss and share of errors, ``(2,)``."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self.batches.views(draw)
        self.model.train()
        with autocast(self.device, self.recipe.precision):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.treatment.after_backward(self.model)
        self.optimizer.step()
        self.treatment.after_step(self.model)
        return torch.stack([loss.detach(), (logits.argmax(dim=1) != labels).float().mean()])

    def _log(self) -> None:
        """Read the losses from the device and write the rows of the history that they complete."""
        block = []
        for step, values in enumerate(torch.stack(self._unread).tolist(), self.step - len(self._unread) + 1):
            block.append(values)
            if step % LOG_EVERY == 0 or self.epoch_done(step):
                loss, error = map(fmean, zip(*block, strict=True))
                self._check_finite(math.isfinite(loss), "loss", step)
                epoch, lr = step / self.batches.steps_per_epoch, self.recipe.lr_at(step - 1, self.total_steps)
                self.history.append(dict(step=step, epoch=epoch, lr=lr, train_loss=loss, train_error=100 * error))
                block = []
        self._unread.clear()

    def _check_finite(self, finite: bool, what: str, step: int) -> None:
        if not finite:
            raise NonFiniteLoss(
                f"the {what} is no longer finite at step {step} of {self.total_steps}; "
                f"train again with a tenth of the learning rate, {self.recipe.lr / 10:g}"
            )

    def epoch_done(self, step: int | None = None) -> bool:
        """Tell whether a step, by default the last one taken, ended an epoch or the run."""
        step = self.step if step is None else step
        return step % self.batches.steps_per_epoch == 0 or step == self.total_steps

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.total_steps

    def validate(self, validation: Split) -> None:
        """Evaluate the network, and write loss and error into the last row of the history."""
        score = evaluate(self.model, validation, self.batches.mean, self.recipe.precision)
        self.history[-1].update(validation_loss=score.loss, validation_error=score.error)

    def state_dict(self) -> dict:
        """Return what :meth:`load_state_dict` needs to go on; a broken run is never saved, see :exc:`NonFiniteLoss`."""
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        finite = torch.stack([value.isfinite().all() for value in values + self._unread])
        self._check_finite(bool(finite.all()), "loss or a weight", self.step)
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "momentum": [self._momentum(parameter).clone() for parameter in self.model.parameters()],
            "treatment": self.treatment.state_dict(),
            "history": self.history,
            "unread": self._unread,
            "records": [recorder.state_dict() for recorder in self.recorders],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from where :meth:`state_dict` was called, on this trainer or another of the same network and recipe."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for parameter, momentum in zip(self.model.parameters(), state["momentum"], strict=True):
            self._momentum(parameter).copy_(momentum)
        self.treatment.load_state_dict(state.get("treatment", {}))
        self.history = list(state["history"])
        self._unread = [values.to(self.device) for values in state["unread"]]
        for recorder, records in zip(self.recorders, state["records"], strict=False):
            recorder.load_state_dict(records)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Return the optimizer's momentum of one parameter, the tensor itself; zero before the first step."""
        state = self.optimizer.state[parameter]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Return the optimizer's parameter groups: with and, for ``decay_all=False``, without weight decay."""
    spared = [p for p in model.parameters() if not recipe.decay_all and p.ndim < 2]  # biases, batch normalisation
    decayed = [p for p in model.parameters() if recipe.decay_all or p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return groups if spared else groups[:1]


def fit(trainer: Trainer, validation: Split | None = None) -> pd.DataFrame:
    """Train to the end of the recipe, from wherever ``trainer`` stands; return its history as a table.

    ``validation`` is evaluated after every epoch and at the end. For progress, checkpoints and signals use
    :func:`resnet56.fast.together.fit_together`. Raises NonFiniteLoss where the loss is not finite.
    """
    while not trainer.finished:
        trainer.take_step()
        if validation is not None and trainer.epoch_done():
            trainer.validate(validation)
    return pd.DataFrame(trainer.history)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, mean: Tensor, precision: str = "fp32", batch_size: int = 500) -> Score:
    """Measure loss and error on the single, original view of each image (He et al. 2015, section 4.2).

    The model is in evaluation mode meanwhile, on its own device; ``mean`` is its training images', ``(3, 32, 32)``.
    """
    device = next(model.parameters()).device
    loss, errors = torch.zeros(2, device=device)
    with undisturbed(model, training=False), autocast(device, precision):
        for pixels, labels in zip(split.pixels.split(batch_size), split.labels.split(batch_size), strict=True):
            labels = labels.to(device)
            logits = model(normalise(pixels.to(device), mean.to(device))).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            errors += (logits.argmax(dim=1) != labels).sum()
    return Score(loss.item() / len(split), 100 * errors.item() / len(split))
