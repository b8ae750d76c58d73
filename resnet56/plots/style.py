"""What all figures share: colours, names, style, panels, lines, stages."""

import functools
from collections.abc import Iterable, Iterator, Sized

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from ..errors import InputError
from ..layers import STAGES, stage_of

PLAIN, RESIDUAL = "#D55E00", "#0072B2"  # Okabe and Ito's vermillion and blue: told apart by every kind of eye
GREY = "#666666"
DASHED = (0, (4, 1.5))
STYLE = {"figure.dpi": 110, "figure.facecolor": "white", "savefig.dpi": 150, "font.size": 10, "legend.frameon": False}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10.5, "axes.titlelocation": "left"}
STYLE |= {"axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6}


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


def tint(colour: str, strength: float) -> tuple[float, ...]:
    """Mix a colour with white; a ``strength`` of 0 is white, of 1 the full colour."""
    return tuple(1 - strength * (1 - part) for part in to_rgb(colour))


def display_name(arch: str) -> str:
    """Return an architecture's name as text has it: ``"plain56"`` is plain-56, ``"resnet56"`` is ResNet-56."""
    return arch.replace("plain", "plain-").replace("resnet", "ResNet-")


def panels(columns: int, height: float, conditions: str = "", width=8.4, rows=1, xlabel="", **options):
    """Return a figure, by default as wide as a page, with the conditions written above, and its axes, row by row."""
    options |= dict(squeeze=False, layout="constrained", subplot_kw=dict(xlabel=xlabel))
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
    if conditions:
        figure.suptitle(conditions, x=0.01, ha="left", fontsize=9, color="#555555")
    return figure, list(axes.flat)


def by_family(axes: list[Axes]) -> Iterator[tuple[Axes, str]]:
    """Give plain networks the left of two panels, residual ones the right."""
    for axis, family, title in zip(axes, ("plain", "resnet"), ("Plain", "Residual"), strict=True):
        axis.set_title(title)
        yield axis, family


def note(axis: Axes, text: str, place: tuple, shift: tuple = (0, 0), within="data", **style) -> None:
    """Write a remark, by default small and grey, ``shift`` points from ``place`` in the coordinates ``within``."""
    style = dict(fontsize=8, color=GREY, annotation_clip=False) | style
    axis.annotate(text, place, shift, within, "offset points", **style)


def lines(axis: Axes, curves: Iterable[tuple[str, pd.Series | np.ndarray]], shaded: bool = False, **style) -> None:
    """Draw a line for each architecture and its values, in its colour and under its name; ``style`` is over all that.

    A series lies over its index, other values over 1, 2, 3, ... The deepest network has a solid line, others have
    dashes; or, if ``shaded``, it has the full colour, and others are lighter.
    """
    curves = sorted(curves, key=lambda curve: _family_and_depth(curve[0]))
    depths = sorted({_family_and_depth(arch)[1] for arch, _ in curves}, reverse=True)
    for arch, values in curves:
        place = depths.index(_family_and_depth(arch)[1])
        look = dict(color=colour(arch), linestyle=("-", "--", ":", "-.")[min(place, 3)])
        if shaded:
            look = dict(color=tint(colour(arch), 1 - 0.65 * place / max(1, len(depths) - 1)))
        x = values.index if isinstance(values, pd.Series) else np.arange(1, len(values) + 1)
        axis.plot(x, np.asarray(values), **dict(linewidth=1.5, label=display_name(arch)) | look | style)


def _family_and_depth(arch: str) -> tuple[str, int]:
    family = arch.rstrip("0123456789")
    return family, int(arch.removeprefix(family) or 0)


def stage_ends(layers: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return where each stage begins and ends, counted from 1; ``layers`` are all names from input to output."""
    stages = [stage_of(layer) for layer in layers]
    begins = {stage: stages.index(stage) + 1 for stage in STAGES if stage in stages}
    return {stage: (begin, begin + stages.count(stage) - 1) for stage, begin in begins.items()}


def mark_stages(axis: Axes, layers: Iterable[str], vertical: bool = True) -> None:
    """Mark where the stages begin; ``layers`` are the names of all layers from input to output."""
    draw, ink = (axis.axvline, "#999999") if vertical else (axis.axhline, "white")
    for begin, _ in stage_ends(layers).values():
        draw(begin - 0.5, color=ink, linewidth=0.8, linestyle=(0, (4, 3)))
