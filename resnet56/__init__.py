"""The module behind the book "Fifty-Six Layers": plain and residual networks for CIFAR-10, trained and measured.

Import from here what most readers need; figures are in :mod:`resnet56.plots`.
"""

# ruff: noqa: E402
import os
import sys

if "torch" not in sys.modules:  # later is too late: import resnet56 before torch, or set the variable yourself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits for the others sleeps and does not spin

from .comparison import compare, default_recipe
from .data import Batches, DataSet, Split, hold_out, pixel_mean
from .datasets import import_images, load_data
from .devices import choose_threads
from .errors import InputError
from .fast import Engine, fit_together
from .gradients import GradientRecorder
from .layers import count_macs, count_parameters, weighted_layers
from .model import build_model
from .recipe import FAST, PAPER, Recipe
from .records.runs import Comparison, Run, find_runs, load_comparison, load_pretrained, load_run
from .train import Score, Trainer, evaluate, fit

choose_threads()
__version__ = "0.1.0"
__all__ = [
    "FAST",
    "PAPER",
    "Batches",
    "Comparison",
    "DataSet",
    "Engine",
    "GradientRecorder",
    "InputError",
    "Recipe",
    "Run",
    "Score",
    "Split",
    "Trainer",
    "build_model",
    "compare",
    "count_macs",
    "count_parameters",
    "default_recipe",
    "evaluate",
    "find_runs",
    "fit",
    "fit_together",
    "hold_out",
    "import_images",
    "load_comparison",
    "load_data",
    "load_pretrained",
    "load_run",
    "pixel_mean",
    "weighted_layers",
]
