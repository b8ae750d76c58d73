"""Recipes: how a network is trained, as data (chapter "Training in full")."""

from dataclasses import dataclass

from .errors import InputError

PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("step", "one-cycle")
LONGEST = 10**9  # steps of a run
RANGES = {  # what makes sense; beyond is a slip of the keyboard
    "iterations": (1, LONGEST),
    "epochs": (1e-6, 10**6),
    "batch_size": (1, 10**6),
    "lr": (1e-30, 1000),
    "warmup": (0, LONGEST),
    "momentum": (0.0, 0.9999),
    "weight_decay": (0.0, 1),
    "label_smoothing": (0.0, 0.9999),
    "seed": (0, 2**32 - 1),
}
PEAK = 0.25  # where in a one-cycle run the learning rate is highest


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum and a learning-rate schedule; the paper's, but for the length.

    The step schedule divides the rate by 10 at each milestone (He et al. 2015, section 4.2). The one-cycle schedule
    goes up in a straight line for a quarter of the run, then down to zero (Smith & Topin 2018, simplified). Raises
    InputError if a value makes no sense.
    """

    iterations: int | None = None  #: steps of the run; give this or epochs
    epochs: float | None = None  #: passes over the training images, whole batches only; may be fractional
    batch_size: int = 128  #: images a step
    lr: float = 0.1  #: learning rate, the highest of the run
    schedule: str = "step"  #: "step" or "one-cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)  #: of the step schedule, as fractions of the run
    warmup: int = 0  #: first steps of the step schedule, taken at a tenth of the rate (the paper's ResNet-110)
    momentum: float = 0.9  #: of SGD
    nesterov: bool = False  #: whether the momentum is Nesterov's
    weight_decay: float = 1e-4  #: L2 penalty
    decay_all: bool = True  #: on all parameters, as in the paper; or on weights, not biases and batch normalisation
    label_smoothing: float = 0.0  #: share of the label spread over all classes (Szegedy et al. 2015, section 7)
    seed: int = 0  #: of the initial weights, where the caller builds them, the data order and the augmentation
    precision: str = "fp32"  #: "fp32" (on NVIDIA GPUs convolutions multiply in TF32), or "bf16" for bfloat16 autocast

    def __post_init__(self):
        def check(name: str, good: bool, what: str):
            if not good:
                raise InputError(f"{name} must be {what}, not {getattr(self, name)!r}")

        if (self.iterations is None) == (self.epochs is None):
            raise InputError("give iterations or epochs, one of the two")
        for name, (low, high) in RANGES.items():
            value, whole = getattr(self, name), isinstance(low, int)
            fits = value is None or (low <= value <= high and not (whole and value % 1))
            check(name, fits, f"{'a whole number ' * whole}from {low:,} to {high:,}")
        check("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        check("milestones", all(0 < m < 1 for m in self.milestones), "fractions of the run, between 0 and 1")
        check("warmup", self.warmup == 0 or self.schedule == "step", "0 for a one-cycle schedule, which starts low")
        check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))

    def total_steps(self, images: int) -> int:
        """Return the length of the run, in steps, on so many ``images``; an InputError if nobody could wait for it."""
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
