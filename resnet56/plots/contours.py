"""Figures of the loss landscape around trained networks, all networks of a figure on one logarithmic scale."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..errors import InputError
from .style import caption, display_name, lines, panels, styled

LOWEST, HIGHEST = 1e-4, 100.0  # nats: the scale goes no further; guessing gives ln 10 = 2.3
NARROWEST = 0.02  # decades: the scale of a flat landscape
DIRECTION = "filter-normalised direction"


@styled
def plot_loss_lines(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw loss and error along a line through each network's trained weights (Li et al. 2018, section 4).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.landscape.loss_landscape` gave. Where a loss is
            above ``HIGHEST`` nats or not finite, its line leaves the panel through the top.
        conditions: what was measured on what, in a line, written above.
    """
    bottom, top = _log_range(tables)
    figure, (left, right) = panels(2, 3.4)
    tables = {arch: table.set_index("x") for arch, table in tables.items()}
    losses = {arch: 10 ** _log_loss(table["loss"], bottom, top + 2) for arch, table in tables.items()}
    lines(left, losses, linestyle="-", linewidth=1.6)
    lines(right, {arch: table["error"] for arch, table in tables.items()}, linestyle="-", linewidth=1.6)
    left.set(yscale="log", ylim=(10**bottom / 1.2, 10**top * 1.2), ylabel="loss (nats)", title="Loss")
    labels = _levels(bottom, top)
    left.set_yticks([10**level for level in labels], labels.values())
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set(ylim=(0, 100), ylabel="error (%)", title="Error")
    for axis in (left, right):
        axis.axvline(0, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
        axis.margins(x=0)
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlabel(f"step along a {DIRECTION}")
    left.legend(loc="upper center")
    caption(figure, conditions)
    return figure


@styled
def plot_loss_contours(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the loss around each network's trained weights, the cross, as contours (Li et al. 2018, Figure 5).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.landscape.loss_landscape` gave. Losses above
            ``HIGHEST`` nats, and those that are not finite, have the colour of the scale's tip.
        conditions: what was measured on what, in a line, written above.

    Raises:
        InputError: if a surface has fewer than two points a side.
    """
    bottom, top = _log_range(tables)
    surfaces = {arch: table.pivot(index="y", columns="x", values="loss") for arch, table in tables.items()}
    heights = {arch: _log_loss(losses, bottom, top + 2) for arch, losses in surfaces.items()}
    if any(min(height.shape) < 2 for height in heights.values()):
        raise InputError("contours need a surface of at least two points a side: measure with more --points")
    extend = "max" if any((height > top + 1e-9).any(axis=None) for height in heights.values()) else "neither"
    labels = _levels(bottom, top)
    figure, axes = panels(len(tables), 4.3, sharex=True, sharey=True)
    for axis, (arch, height) in zip(axes, heights.items(), strict=True):
        x, y = height.columns, height.index
        filled = axis.contourf(x, y, height, np.linspace(bottom, top, 41), cmap="viridis", extend=extend)
        crossed = [level for level in labels if height.min(axis=None) < level < height.max(axis=None)]
        if crossed:
            inks = ["white" if level < (bottom + top) / 2 else "black" for level in crossed]  # on dark, on light
            axis.clabel(axis.contour(x, y, height, crossed, colors=inks, linewidths=0.8), fmt=labels, fontsize=8)
        axis.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.6)
        axis.grid(False)
        axis.locator_params(nbins=4)
        axis.set(title=display_name(arch), xlabel=f"{DIRECTION} 1", aspect="equal")
    axes[0].set_ylabel(f"{DIRECTION} 2")
    bar = figure.colorbar(filled, ax=axes, fraction=0.03, pad=0.015)
    bar.set_ticks(list(labels), labels=labels.values())
    bar.set_label("loss (nats)")
    caption(figure, conditions)
    return figure


def _log_range(tables: dict[str, pd.DataFrame]) -> tuple[float, float]:
    """Return the ends of the scale: log10 of the lowest and highest finite loss, within ``LOWEST`` and ``HIGHEST``."""
    losses = np.concatenate([table["loss"] for table in tables.values()])
    losses = losses[np.isfinite(losses)].clip(LOWEST, HIGHEST)
    if not len(losses):
        losses = np.array([HIGHEST])
    bottom, top = np.log10(losses.min()), np.log10(losses.max())
    return (bottom, top) if top - bottom >= NARROWEST else (bottom - NARROWEST / 2, top + NARROWEST / 2)


def _log_loss(loss: pd.Series | pd.DataFrame, bottom: float, top: float) -> pd.Series | pd.DataFrame:
    """Return log10 of losses, from ``bottom`` to ``top``; those that are not finite are at the top."""
    return np.log10(loss.where(np.isfinite(loss), 10**top).clip(lower=LOWEST)).clip(bottom, top)


def _levels(bottom: float, top: float) -> dict[float, str]:
    """Return what the scale labels, log10 of losses with their text: powers of ten; 2, 5 times these; or its ends."""
    digits = (1, 2, 5) if top - bottom < 2.5 else (1,)
    levels = [digit * 10.0**power for power in range(-4, 3) for digit in digits]
    levels = {np.log10(level): f"{level:g}" for level in levels if bottom <= np.log10(level) <= top}
    return levels or {end: f"{10**end:.3g}" for end in (bottom, top)}
