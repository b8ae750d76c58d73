"""The module behind the book "Fifty-Six Layers": plain and residual networks for CIFAR-10, trained and measured.

Import from here what most readers need; figures are in :mod:`resnet56.plots`.
"""

from .comparison import Comparison, compare, default_recipe, load_comparison
from .data import Batches, DataSet, Split, hold_out, import_images, load_data, pixel_mean
from .engine import Engine
from .errors import InputError
from .hooks import GradientRecorder
from .model import build_model, count_macs, count_parameters, weighted_layers
from .recipe import FAST, PAPER, Recipe
from .runs import Run, find_runs, load_pretrained, load_run
from .train import Score, Trainer, evaluate, fit, fit_together

__version__ = "0.1.0"
