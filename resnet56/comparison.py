"""The experiment of the book: a plain and a residual network of the same depth, side by side."""

from contextlib import ExitStack

import pandas as pd
import torch

from .data import DataSet
from .devices import Device, fast_precision, pick_device
from .errors import InputError
from .fast import Engine, fit_together
from .gradients import GradientRecorder
from .model import build_model
from .recipe import Recipe
from .records.runs import Comparison, Run, describe_run
from .train import evaluate

#: Steps and learning rate of a comparison where none are asked for, a few minutes' worth. In a short run the paper's
#: rate of 0.1 is too high for ResNet-56, whose loss first shoots up and takes hundreds of steps to recover.
DEFAULTS = {"cpu": (250, 0.02), "mps": (1000, 0.02), "cuda": (4000, 0.1)}


def default_recipe(device: Device = "auto") -> Recipe:
    """Return the paper's recipe, shortened to what ``device`` does in a few minutes, in its fastest precision."""
    device = pick_device(device)
    steps, lr = DEFAULTS[device.type]
    return Recipe(iterations=steps, lr=lr, precision=fast_precision(device))


def compare(
    data: DataSet,
    recipe: Recipe,
    *,
    depth: int = 56,
    device: Device = "auto",
    record_every: int = 10,
    progress: bool = True,
) -> Comparison:
    """Train a plain and a residual network of one ``depth`` with one recipe, in turn, ten steps at a time.

    Both start from the very same weights, see the very same augmented images, and are evaluated once on the test
    images, at the end. They train on all training images: nothing is chosen, so nothing is held out. Gradients are
    recorded each ``record_every`` steps. Raises InputError if the depth or the device cannot be had, Interrupted on
    SIGINT or SIGTERM.
    """
    if depth < 8:  # "resnet-8" is a name of ResNet-8
        raise InputError(f"no network of depth {depth}: the smallest is 8")
    trainers, recorders = {}, {}
    with ExitStack() as stack:
        for arch in (f"plain{depth}", f"resnet{depth}"):
            torch.manual_seed(recipe.seed)
            trainers[arch] = Engine(build_model(arch), data.train, recipe, device)
            recorders[arch] = stack.enter_context(GradientRecorder(trainers[arch], record_every))
        fit_together(trainers, progress=progress)

    def run(arch: str) -> Run:
        trainer = trainers[arch]
        test = evaluate(trainer.model, data.test, trainer.batches.mean, recipe.precision)
        about = describe_run(trainer, arch=arch, shortcut="A", data=data, validation=0, test=test)
        return Run(about, pd.DataFrame(trainer.history), recorders[arch].table())

    return Comparison(*map(run, trainers))
