"""What all figures share: colours, names, style, captions."""

import functools
from collections.abc import Iterable

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ..layers import STAGES, stage_of

PLAIN, RESIDUAL = "#D55E00", "#0072B2"  # Okabe and Ito's vermillion and blue: told apart by every kind of eye
STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def styled(function):
    """Draw with this module's style, whatever the caller's."""

    @functools.wraps(function)
    def draw(*arguments, **options):
        with plt.rc_context(STYLE):
            figure = function(*arguments, **options)
            interactive = plt.isinteractive()  # a notebook switches this on with its first figure,
        plt.interactive(interactive)  # and rc_context has just switched it off again
        return figure

    return draw


def colour(arch: str) -> str:
    """Return the colour of an architecture, the same in every figure: plain is vermillion, residual is blue."""
    return PLAIN if arch.startswith("plain") else RESIDUAL


def shade(arch: str, index: int, count: int) -> tuple[float, float, float]:
    """Return a shade of the architecture's colour, from light (``index`` 0) to full (``count`` - 1), for several depths."""
    strength = 0.35 + 0.65 * (index / (count - 1) if count > 1 else 1)
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour(arch)))


def display_name(arch: str) -> str:
    """Return an architecture's name as text has it: ``"plain56"`` is plain-56, ``"resnet56"`` is ResNet-56."""
    return arch.replace("plain", "plain-").replace("resnet", "ResNet-")


def caption(figure: Figure, conditions: str) -> None:
    """Write above a figure what it was measured on."""
    figure.suptitle(conditions, x=0.01, ha="left", fontsize=9, color="#555555")


def mark_stages(axis: Axes, layers: Iterable[str], vertical: bool) -> None:
    """Mark the first layer of each stage, the stage boundaries; ``layers`` are all layers' names from input to output."""
    stages = [stage_of(layer) for layer in layers]
    for stage in STAGES:
        first = stages.index(stage) + 1
        draw = axis.axvline if vertical else axis.axhline
        draw(first - 0.5, color="#999999" if vertical else "white", linewidth=0.8, linestyle=(0, (4, 3)))
