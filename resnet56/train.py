"""Training: the recipe of He et al. (2015), section 4.2, one step at a time, with checkpoints.

:class:`Trainer` takes single steps, so that several networks can be trained in turn; :func:`fit` drives one
to its end. Nothing here knows about figures, the command line or the book.
"""

import dataclasses
import io
import math
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .data import Batches, DataSet, Split, hold_out, normalise
from .errors import InputError
from .files import write_file
from .model import build_model

LOG_EVERY = 10  # steps between two rows of the history; the loss is read from the device only then
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum and a step schedule.

    Attributes:
        iterations: number of steps; give this or ``epochs``.
        epochs: passes over the training images (whole batches only); may be fractional.
        batch_size: images a step.
        lr: initial learning rate.
        momentum: of SGD.
        weight_decay: L2 penalty, on every parameter.
        milestones: the learning rate is divided by 10 when these fractions of the run are done.
        warmup: number of first steps taken at a tenth of the learning rate (the paper's ResNet-110).
        seed: of the initial weights (where the caller builds them), the data order and the augmentation.
        precision: ``"fp32"``, or ``"bf16"`` for bfloat16 autocast.

    Raises:
        InputError: if a value makes no sense.
    """

    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: int = 0
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self):
        def check(name: str, good: bool, what: str):
            if not good:
                raise InputError(f"{name} must be {what}, not {getattr(self, name)!r}")

        if (self.iterations is None) == (self.epochs is None):
            raise InputError("give either iterations or epochs")
        check("iterations", self.iterations is None or self.iterations >= 1, "at least 1")
        check("epochs", self.epochs is None or 0 < self.epochs < math.inf, "positive")
        check("batch_size", self.batch_size >= 1, "at least 1")
        check("lr", 0 < self.lr < math.inf, "positive")
        check("momentum", 0 <= self.momentum < 1, "from 0 up to, not including, 1")
        check("weight_decay", 0 <= self.weight_decay < math.inf, "zero or positive")
        check("milestones", all(0 < m < 1 for m in self.milestones), "fractions of the run, between 0 and 1")
        check("warmup", self.warmup >= 0, "zero or positive")
        check("seed", 0 <= self.seed < 2**32, "from 0 to 4,294,967,295")
        check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))

    def total_steps(self, images: int) -> int:
        """Return the length of the run, in steps, on a training set of ``images`` images."""
        if self.iterations is not None:
            return self.iterations
        return max(1, round(self.epochs * (images // self.batch_size)))

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of step number ``step`` (from 0) of ``total_steps``."""
        passed = sum(step >= milestone * total_steps for milestone in self.milestones)
        return self.lr * 0.1 ** (passed + (step < self.warmup))


#: The paper's recipe for CIFAR-10, 64k iterations, the learning rate divided by 10 at 32k and 48k.
PAPER = Recipe(iterations=64_000)


@dataclass(frozen=True)
class Score:
    """What a network reaches on a set of images.

    Attributes:
        loss: mean cross-entropy, in nats.
        error: share of images misclassified, in percent.
    """

    loss: float
    error: float

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, in percent."""
        return 100 - self.error


class NonFiniteLoss(ArithmeticError):
    """The loss or a weight became infinite or not a number; training stopped."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the step was finished and, where there is a checkpoint, it was saved.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


# --- Devices ------------------------------------------------------------------------------------------


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes the first of cuda, mps and cpu that is there.

    Raises:
        InputError: if the name is unknown or this machine has no such device.
    """
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}: use one of {', '.join(DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        raise InputError(f"no {name} device on this machine: use --device auto or --device cpu")
    return torch.device(name)


def fast_precision(device: torch.device) -> str:
    """Return ``"bf16"`` where ``device`` computes in bfloat16 by hardware, else ``"fp32"``."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and "bf16" in _cpu_features()
    return "bf16" if fast else "fp32"


def _cpu_features() -> str:
    """Return the processor's feature flags as the kernel lists them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = next((line for line in lines if line.startswith("flags")), "")
    return " ".join(flag for flag in flags.split() if flag in ("avx512_bf16", "amx_bf16"))


def _autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


# --- Training -----------------------------------------------------------------------------------------


class Trainer:
    """A network in training: all that the next step needs.

    Args:
        model: the network; it is moved to ``device``.
        train: the training images.
        recipe: how to train.
        device: where, a name for :func:`pick_device` or a device.

    Attributes:
        step: number of steps taken.
        total_steps: number of steps to take.
        seconds: time spent in training steps, in seconds.
        history: one dict each ``LOG_EVERY`` steps and at the end of each epoch: ``step`` (steps taken so far), ``epoch``, ``lr`` (of the
            last of these steps), ``train_loss`` (nats) and ``train_error`` (percent), both means over the
            augmented batches of these steps; rows made by :func:`fit` with a validation set also have
            ``validation_loss`` and ``validation_error``.
    """

    def __init__(self, model: nn.Module, train: Split, recipe: Recipe, device: str | torch.device = "auto"):
        self.device = pick_device(device) if isinstance(device, str) else device
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.recipe = recipe
        self.batches = Batches(train.to(self.device), recipe.batch_size, recipe.seed)
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.total_steps = recipe.total_steps(len(train))
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict] = []
        self._unread: list[tuple[Tensor, Tensor]] = []  # losses and errors still on the device

    def take_step(self) -> None:
        """Train on one batch.

        Raises:
            NonFiniteLoss: if the loss of one of the last ``LOG_EVERY`` steps was not finite; looked at each
                ``LOG_EVERY`` steps.
        """
        started = time.perf_counter()
        lr = self.recipe.lr_at(self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images, labels = self.batches[self.step]
        images = images.contiguous(memory_format=torch.channels_last)

        self.model.train()
        with _autocast(self.device, self.recipe.precision):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        self.step += 1
        self._unread.append((loss.detach(), (logits.argmax(dim=1) != labels).float().mean()))
        if self.step % LOG_EVERY == 0 or self.epoch_done():
            self._log(lr)
        self.seconds += time.perf_counter() - started

    def epoch_done(self) -> bool:
        """Tell whether the last step ended an epoch, or the run."""
        return self.step % self.batches.steps_per_epoch == 0 or self.step == self.total_steps

    def _log(self, lr: float) -> None:
        loss, error = torch.tensor([torch.stack(column).mean() for column in zip(*self._unread, strict=True)]).tolist()
        self._unread.clear()
        self._check_finite(math.isfinite(loss), "loss")
        epoch = self.step / self.batches.steps_per_epoch
        self.history.append(
            {"step": self.step, "epoch": epoch, "lr": lr, "train_loss": loss, "train_error": 100 * error}
        )

    def _check_finite(self, finite: bool, what: str) -> None:
        if not finite:
            raise NonFiniteLoss(
                f"the {what} is no longer finite at step {self.step} of {self.total_steps}; "
                f"train again with a learning rate below {self.recipe.lr:g}"
            )

    def state_dict(self) -> dict:
        """Return what :meth:`load_state_dict` needs to go on from here; order and augmentation follow from the step.

        Raises:
            NonFiniteLoss: if a weight, a running statistic or a loss is not finite, so that a broken run is never saved.
        """
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        finite = torch.stack([value.isfinite().all() for value in values + [loss for loss, _ in self._unread]])
        self._check_finite(bool(finite.all()), "loss or a weight")
        return {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "unread": self._unread,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from where :meth:`state_dict` was called."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = list(state["history"])
        self._unread = [tuple(value.to(self.device) for value in pair) for pair in state["unread"]]


def fit(
    trainer: Trainer,
    *,
    validation: Split | None = None,
    checkpoint: "Checkpoint | None" = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train to the end of the recipe, from wherever ``trainer`` stands.

    Args:
        trainer: the network in training.
        validation: if given, evaluated after every epoch and at the end.
        checkpoint: if given, saved after every epoch, at the end and on interruption.
        progress: show a progress bar with loss, images per second and time left.

    Returns:
        The history as a table, a row each ``LOG_EVERY`` steps and epoch; the columns are those of :class:`Trainer`.

    Raises:
        NonFiniteLoss: if the loss is not finite; the last good checkpoint is kept.
        Interrupted: on SIGINT or SIGTERM, when the step is finished and the checkpoint saved.
    """
    with ProgressBar(trainer, progress) as bar, catch_signals() as caught:
        while trainer.step < trainer.total_steps:
            trainer.take_step()
            bar.advance()
            if trainer.epoch_done():
                if validation is not None:
                    score = evaluate(trainer.model, validation, trainer.batches.mean, trainer.recipe.precision)
                    row = {"validation_loss": score.loss, "validation_error": score.error}
                    trainer.history[-1].update(row)
                if checkpoint is not None:
                    checkpoint.save(trainer)
            if caught:
                if checkpoint is not None:
                    checkpoint.save(trainer)
                raise Interrupted(caught[0])
    return pd.DataFrame(trainer.history)


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, mean: Tensor, precision: str = "fp32", batch_size: int = 500) -> Score:
    """Measure loss and error on the single, original view of each image (He et al. 2015, section 4.2).

    The model is evaluated in evaluation mode, on the device its weights are on, and left as it was.

    Args:
        model: the network.
        split: the images.
        mean: the mean image of the training images, ``(3, 32, 32)``.
        precision: ``"fp32"`` or ``"bf16"``.
        batch_size: images at a time.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    loss = errors = 0
    try:
        for pixels, labels in zip(split.pixels.split(batch_size), split.labels.split(batch_size), strict=True):
            images = normalise(pixels.to(device), mean.to(device)).contiguous(memory_format=torch.channels_last)
            labels = labels.to(device)
            with _autocast(device, precision):
                logits = model(images)
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
            errors += (logits.argmax(dim=1) != labels).sum()
    finally:
        model.train(training)
    return Score(float(loss) / len(split), 100 * float(errors) / len(split))


# --- Progress and interruption ------------------------------------------------------------------------


class ProgressBar:
    """A progress bar for one trainer: loss, images per second, time left.

    Args:
        trainer: whose steps are shown.
        show: False for no bar at all.
        position: line on the screen, for several bars at once.
        label: written before the bar.
    """

    def __init__(self, trainer: Trainer, show: bool = True, position: int = 0, label: str = "training"):
        self.trainer = trainer
        self.bar = tqdm(
            total=trainer.total_steps,
            initial=trainer.step,
            desc=label,
            unit="step",
            position=position,
            disable=not show,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix} [{elapsed}<{remaining}]",
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def advance(self) -> None:
        """Show that one more step was taken."""
        trainer = self.trainer
        if trainer.history and trainer.history[-1]["step"] == trainer.step:
            rate = trainer.step * trainer.recipe.batch_size / trainer.seconds
            loss = trainer.history[-1]["train_loss"]
            self.bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} img/s", refresh=False)
        self.bar.update()


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them, so that a step can be finished first.

    A second signal acts at once. Outside the main thread Python delivers no signals, and nothing changes.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number, frame):
        caught.append(number)
        for other in signals:
            signal.signal(other, before[other])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        for number in signals:
            signal.signal(number, before[number])


# --- Checkpoints --------------------------------------------------------------------------------------

FORMAT = "resnet56 checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """What is trained on what, and the file that the run is saved to.

    Attributes:
        path: the file.
        arch: the architecture, as for ``build_model``.
        shortcut: the shortcut option.
        data: name of the data set, as for ``load_data``.
        fingerprint: the data set's.
        validation: how many training images are held out.
    """

    path: Path
    arch: str
    shortcut: str
    data: str
    fingerprint: str
    validation: int

    def about(self) -> dict:
        """Return everything but the path."""
        about = dataclasses.asdict(self)
        del about["path"]
        return about

    def save(self, trainer: Trainer) -> None:
        """Save the run, whole or not at all; the previous checkpoint stays until the new one is complete.

        Raises:
            InputError: if the file cannot be written.
        """
        content = {
            "format": FORMAT,
            **self.about(),
            "recipe": dataclasses.asdict(trainer.recipe),
            "mean": trainer.batches.mean,
            "versions": versions(),
            "trainer": trainer.state_dict(),
        }
        buffer = io.BytesIO()  # torch.save reports a full disk in an error of its own; a plain write does not
        torch.save(content, buffer)
        write_file(self.path, lambda file: file.write(buffer.getbuffer()))


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint, onto the CPU, without running any code stored in it.

    Returns:
        The dict that :meth:`Checkpoint.save` wrote.

    Raises:
        InputError: if the file is missing, damaged or not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(f"{path} is damaged or not a checkpoint; delete it, or give another one") from error
    expected = {field.name for field in dataclasses.fields(Checkpoint)} - {"path"} | {"recipe", "mean", "trainer"}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not expected <= content.keys():
        raise InputError(f"{path} is not a checkpoint made by `resnet56 train`; give one that is")
    return content


def load_model(content: dict) -> nn.Module:
    """Build the network a checkpoint holds, with its weights, on the CPU, in evaluation mode."""
    model = build_model(content["arch"], content["shortcut"])
    model.load_state_dict(content["trainer"]["model"])
    return model.eval()


def resume(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put ``trainer`` where the run saved in ``checkpoint.path`` stopped.

    Raises:
        InputError: if the file is not a checkpoint, or is one of another network, data set or recipe; the
            message names each difference.
    """
    content = load_checkpoint(checkpoint.path)
    here = {**checkpoint.about(), **dataclasses.asdict(trainer.recipe)}
    there = {**{key: content[key] for key in checkpoint.about()}, **content["recipe"]}
    differences = [f"{key} is {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
    if differences:
        raise InputError(f"{checkpoint.path} is of another run: {'; '.join(differences)}")
    trainer.load_state_dict(content["trainer"])


def versions() -> dict[str, str]:
    """Return the versions of Python, PyTorch and the operating system."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "system": platform.platform()}


def split_train(data: DataSet, validation: int) -> tuple[Split, Split | None]:
    """Return the images to train on and to validate on, None if ``validation`` is 0."""
    return hold_out(data.train, validation) if validation else (data.train, None)
