"""Recipes: how a network is trained, as data."""

import math
from dataclasses import dataclass

from .errors import InputError

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("step", "one-cycle")
LONGEST, HIGHEST_LR = 10**9, 1000  # steps of a run, and its rate: beyond is a slip of the keyboard
PEAK = 0.25  # where in a one-cycle run the learning rate is highest


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum and a learning-rate schedule.

    Attributes:
        iterations: number of steps; give this or ``epochs``.
        epochs: passes over the training images (whole batches only); may be fractional.
        batch_size: images a step.
        lr: learning rate, the highest of the run.
        schedule: ``"step"``: divided by 10 at each milestone (He et al. 2015, section 4.2). ``"one-cycle"``: up in
            a straight line for a quarter of the run, then down to zero (Smith & Topin 2018, simplified).
        milestones: of the step schedule, as fractions of the run.
        warmup: number of first steps of the step schedule taken at a tenth of the rate (the paper's ResNet-110).
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2 penalty.
        decay_all: whether it falls on every parameter, as in the paper, or only on the weights of convolutions and
            linear layers, not on biases and batch normalisation.
        label_smoothing: share of the label spread evenly over all classes (Szegedy et al. 2015, section 7).
        seed: of the initial weights (where the caller builds them), the data order and the augmentation.
        precision: ``"fp32"``, or ``"bf16"`` for bfloat16 autocast. On NVIDIA GPUs PyTorch's fp32 convolutions
            multiply in TF32.

    Raises:
        InputError: if a value makes no sense.
    """

    iterations: int | None = None
    epochs: float | None = None
    batch_size: int = 128
    lr: float = 0.1
    schedule: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_all: bool = True
    label_smoothing: float = 0.0
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self):
        def check(name: str, good: bool, what: str):
            if not good:
                raise InputError(f"{name} must be {what}, not {getattr(self, name)!r}")

        if (self.iterations is None) == (self.epochs is None):
            raise InputError("give iterations or epochs, one of the two")
        for name in ("iterations", "batch_size", "warmup", "seed"):
            value = getattr(self, name)
            check(name, value is None or value % 1 == 0, "a whole number")
        check("iterations", self.iterations is None or self.iterations >= 1, "at least 1")
        check("iterations", self.iterations is None or self.iterations <= LONGEST, f"at most {LONGEST:,}")
        check("epochs", self.epochs is None or 0 < self.epochs < math.inf, "positive")
        check("batch_size", self.batch_size >= 1, "at least 1")
        check("lr", self.lr > 0, "positive")
        check("lr", self.lr <= HIGHEST_LR, f"at most {HIGHEST_LR:,}")
        check("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        check("milestones", all(0 < m < 1 for m in self.milestones), "fractions of the run, between 0 and 1")
        check("warmup", self.warmup >= 0, "zero or positive")
        check("warmup", self.warmup == 0 or self.schedule == "step", "0 for a one-cycle schedule, which starts low")
        check("momentum", 0 <= self.momentum < 1, "from 0 up to, not including, 1")
        check("weight_decay", self.weight_decay >= 0, "zero or positive")
        check("weight_decay", self.weight_decay <= 1, "at most 1")
        check("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 up to, not including, 1")
        check("seed", 0 <= self.seed < 2**32, "from 0 to 4,294,967,295")
        check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))

    def total_steps(self, images: int) -> int:
        """Return the length of the run, in steps, on a training set of ``images`` images.

        Raises:
            InputError: if so many epochs are more steps than anyone could wait for.
        """
        if self.iterations is not None:
            return self.iterations
        steps = self.epochs * (images // self.batch_size)
        if steps > LONGEST:
            raise InputError(f"epochs must come to at most {LONGEST:,} steps; {self.epochs:g} are more")
        return max(1, round(steps))

    def lr_at(self, step: int, total_steps: int) -> float:
        """Return the learning rate of step number ``step`` (from 0) of ``total_steps``."""
        if self.schedule == "one-cycle":
            rise, fall = PEAK * total_steps, (1 - PEAK) * total_steps
            return self.lr * min((step + 1) / rise, (total_steps - step) / fall, 1)
        passed = sum(step >= milestone * total_steps for milestone in self.milestones)
        return self.lr * 0.1 ** (passed + (step < self.warmup))


#: The paper's recipe for CIFAR-10, 64k iterations, the learning rate divided by 10 at 32k and 48k.
PAPER = Recipe(iterations=64_000)

#: A tenth of the paper's epochs, for the same network. Its ingredients were tried by the suite ``ingredients``.
FAST = Recipe(
    epochs=16,
    batch_size=512,
    lr=1.6,
    schedule="one-cycle",
    nesterov=True,
    weight_decay=5e-4,
    decay_all=False,
    label_smoothing=0.1,
)

#: The paper's recipe in five epochs, for machines without a GPU. The learning rate goes up and down once.
LAPTOP = Recipe(epochs=5, schedule="one-cycle")

PRESETS = {"paper": PAPER, "fast": FAST, "laptop": LAPTOP}
