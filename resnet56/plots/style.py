"""What all figures share: colours, names, style, captions, panels, lines."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sized

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ..errors import InputError
from ..layers import STAGES, stage_of

PLAIN, RESIDUAL = "#D55E00", "#0072B2"  # Okabe and Ito's vermillion and blue: told apart by every kind of eye
GREY = "#666666"
DASHED = (0, (4, 1.5))
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
    """Draw with this module's style, whatever the caller's; refuse to draw nothing."""

    @functools.wraps(function)
    def draw(*arguments, **options):
        if any(map(_is_empty, arguments)):
            raise InputError(f"{function.__name__}: there is nothing to draw, no run or an empty table")
        with plt.rc_context(STYLE):
            figure = function(*arguments, **options)
            interactive = plt.isinteractive()  # a notebook switches this on with its first figure,
        plt.interactive(interactive)  # and rc_context has just switched it off again
        return figure

    return draw


def _is_empty(given: object) -> bool:
    """Tell whether ``given`` is an empty table, dict or list, one of empty ones, or a run without a history."""
    if isinstance(given, dict | list | tuple):
        return not given or any(map(_is_empty, given.values() if isinstance(given, dict) else given))
    given = getattr(given, "history", given)
    return isinstance(given, Sized) and not isinstance(given, str) and len(given) == 0


def colour(arch: str) -> str:
    """Return the colour of an architecture, the same in every figure: plain is vermillion, residual is blue."""
    return PLAIN if arch.startswith("plain") else RESIDUAL


def shade(arch: str, index: int, count: int) -> tuple[float, float, float]:
    """Return a shade of the architecture's colour, from light (``index`` 0) to full (``count`` - 1)."""
    strength = 0.35 + 0.65 * (index / (count - 1) if count > 1 else 1)
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour(arch)))


def display_name(arch: str) -> str:
    """Return an architecture's name as text has it: ``"plain56"`` is plain-56, ``"resnet56"`` is ResNet-56."""
    return arch.replace("plain", "plain-").replace("resnet", "ResNet-")


def depth_of(arch: str) -> int:
    """Return the depth in an architecture's name, 0 if there is none."""
    found = re.search(r"\d+", arch)
    return int(found[0]) if found else 0


def caption(figure: Figure, conditions: str) -> None:
    """Write above a figure what it was measured on."""
    figure.suptitle(conditions, x=0.01, ha="left", fontsize=9, color="#555555")


def note(axis: Axes, text: str, place: tuple, shift: tuple = (0, 0), within="data", **style) -> None:
    """Write a remark, by default small and grey, ``shift`` points from ``place`` in the coordinates ``within``."""
    style = dict(fontsize=8, color=GREY, annotation_clip=False) | style
    axis.annotate(text, place, shift, within, "offset points", **style)


def panels(count: int, height: float, width: float = 8.4, **options) -> tuple[Figure, list[Axes]]:
    """Return a figure as wide as a page, with ``count`` panels side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width, height), squeeze=False, layout="constrained", **options)
    return figure, list(axes[0])


def by_family(axes: list[Axes], archs: Iterable[str]) -> Iterator[tuple[Axes, list[str]]]:
    """Give plain networks the left of two panels, residual ones the right; yields each with its ``archs``, by depth."""
    for axis, family, title in zip(axes, ("plain", "resnet"), ("Plain", "Residual"), strict=True):
        axis.set_title(title)
        yield axis, sorted((arch for arch in archs if arch.startswith(family)), key=depth_of)


def lines(
    axis: Axes, curves: Mapping | list[tuple[str, pd.Series | np.ndarray]], shaded: bool = False, **style
) -> None:
    """Draw a line a network, in its colour and under its name.

    Args:
        axis: where.
        curves: architectures and their values, a dict or pairs; a series lies over its index, others over 1, 2, 3, ...
        shaded: tell depths apart by shade, not by dashes; the deepest network has the full colour or the solid line.
        style: of all lines, over what is said above.
    """
    pairs = list(curves.items() if isinstance(curves, Mapping) else curves)
    depths = sorted({depth_of(arch) for arch, _ in pairs}, reverse=True)
    for arch, values in pairs:
        place = depths.index(depth_of(arch))
        told_apart = dict(color=colour(arch), linestyle=("-", "--", ":", "-.")[min(place, 3)])
        if shaded:
            told_apart = dict(color=shade(arch, len(depths) - 1 - place, len(depths)))
        x = values.index if isinstance(values, pd.Series) else np.arange(1, len(values) + 1)
        axis.plot(x, np.asarray(values), **dict(linewidth=1.5, label=display_name(arch)) | told_apart | style)


def mark_stages(axis: Axes, layers: Iterable[str], vertical: bool) -> None:
    """Mark the boundaries of the stages; ``layers`` are the names of all layers from input to output."""
    stages = [stage_of(layer) for layer in layers]
    draw = axis.axvline if vertical else axis.axhline
    for stage in STAGES:
        if stage in stages:
            colour = "#999999" if vertical else "white"
            draw(stages.index(stage) + 0.5, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
