"""Figures of the loss landscape around trained networks, all networks of a figure on one logarithmic scale."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .style import caption, colour, display_name, styled

LOWEST, HIGHEST = 1e-4, 100.0  # nats: the scale goes no further; guessing gives ln 10 = 2.3
DIRECTION = "filter-normalised direction"


@styled
def plot_loss_lines(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw loss and error along a line through each network's trained weights (Li et al. 2018, section 4).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.landscape.loss_line` gave. Where the loss is above
            ``HIGHEST`` nats or not finite, its line leaves the panel through the top.
        conditions: what was measured on what, in a line, written above.
    """
    bottom, top = _log_range(tables)
    ticks = _round_levels(bottom, top)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for arch, table in tables.items():
        style = dict(color=colour(arch), linewidth=1.6, label=display_name(arch))
        left.plot(table["x"], 10 ** _log_loss(table["loss"], bottom, top + 2), **style)
        right.plot(table["x"], table["error"], **style)
    left.set(yscale="log", ylim=(10**bottom / 1.2, 10**top * 1.2), ylabel="loss (nats)", title="Loss")
    left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
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
        tables: from architecture to what :func:`resnet56.instruments.landscape.loss_surface` gave. Losses above
            ``HIGHEST`` nats, and those that are not finite, have the colour of the scale's tip.
        conditions: what was measured on what, in a line, written above.
    """
    bottom, top = _log_range(tables)
    lines = _round_levels(bottom, top)
    labels = {np.log10(level): f"{level:g}" for level in lines}
    inks = ["white" if level < (bottom + top) / 2 else "black" for level in labels]  # on dark colours, on light ones
    figure, axes = plt.subplots(
        1, len(tables), figsize=(8.4, 4.3), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (arch, table) in zip(axes[0], tables.items(), strict=True):
        x, y, loss = _grid(table)
        height = _log_loss(loss, bottom, top + 2)
        extend = "max" if _exceeds(tables, top) else "neither"
        filled = axis.contourf(x, y, height, np.linspace(bottom, top, 41), cmap="viridis", extend=extend)
        drawn = axis.contour(x, y, height, list(labels), colors=inks, linewidths=0.8)
        axis.clabel(drawn, fmt=labels, fontsize=8)
        axis.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.6)
        axis.grid(False)
        axis.locator_params(nbins=4)
        axis.set(title=display_name(arch), xlabel=f"{DIRECTION} 1", aspect="equal")
    axes[0, 0].set_ylabel(f"{DIRECTION} 2")
    bar = figure.colorbar(filled, ax=axes, fraction=0.03, pad=0.015)
    bar.set_ticks(list(labels), labels=labels.values())
    bar.set_label("loss (nats)")
    caption(figure, conditions)
    return figure


@styled
def plot_loss_surfaces(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the loss around each network's trained weights as a surface (Li et al. 2018, Figure 1).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.landscape.loss_surface` gave. Losses above
            ``HIGHEST`` nats, and those that are not finite, make a plateau at the top; the figure says so.
        conditions: what was measured on what, in a line, written above.
    """
    bottom, top = _log_range(tables)
    ticks = _round_levels(bottom, top)
    figure, axes = plt.subplots(1, len(tables), figsize=(8.4, 4), squeeze=False, subplot_kw={"projection": "3d"})
    figure.subplots_adjust(left=0, right=0.97, bottom=0.04, top=0.92, wspace=0.02)
    for axis, (arch, table) in zip(axes[0], tables.items(), strict=True):
        x, y, loss = _grid(table)
        axis.plot_surface(
            x,
            y,
            _log_loss(loss, bottom, top),
            cmap="viridis",
            vmin=bottom,
            vmax=top,
            rcount=len(y),
            ccount=len(x),
            edgecolor="#00000040",
            linewidth=0.2,
            rasterized=True,
        )
        axis.set_title(display_name(arch), loc="center", y=0.98)
        axis.set(xlabel="direction 1", ylabel="direction 2", zlabel="loss (nats)", zlim=(bottom, top))
        axis.locator_params(nbins=4)
        axis.set_zticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
        axis.tick_params(labelsize=8, pad=1)
        axis.view_init(elev=28, azim=-55)
        axis.set_box_aspect((1, 1, 0.75), zoom=0.9)
    if _exceeds(tables, top):
        conditions += f"; cut off at {10**top:g} nats"
    caption(figure, conditions)
    return figure


def _log_range(tables: dict[str, pd.DataFrame]) -> tuple[float, float]:
    """Return the ends of the scale: log10 of the lowest and highest finite loss, within ``LOWEST`` and ``HIGHEST``."""
    losses = np.concatenate([table["loss"] for table in tables.values()])
    losses = losses[np.isfinite(losses)].clip(LOWEST, HIGHEST)
    return np.log10(losses.min()), np.log10(losses.max())


def _log_loss(loss: np.ndarray, bottom: float, top: float) -> np.ndarray:
    """Return log10 of losses, from ``bottom`` to ``top``; those that are not finite are at the top."""
    return np.log10(np.nan_to_num(loss, nan=10**top, posinf=10**top).clip(LOWEST)).clip(bottom, top)


def _exceeds(tables: dict[str, pd.DataFrame], top: float) -> bool:
    """Tell whether a loss lies above the scale, or is not finite."""
    return not all((table["loss"] <= 10**top * 1.001).all() for table in tables.values())


def _grid(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates and loss of a surface as arrays, a row for each y and a column for each x."""
    losses = table.pivot(index="y", columns="x", values="loss")
    x, y = np.meshgrid(losses.columns, losses.index)
    return x, y, losses.to_numpy()


def _round_levels(bottom: float, top: float) -> list[float]:
    """Return the losses to label: powers of ten, and 2 and 5 times these where the scale has few of them."""
    digits = (1, 2, 5) if top - bottom < 2.5 else (1,)
    levels = [digit * 10.0**power for power in range(-4, 3) for digit in digits]
    return [level for level in levels if bottom <= np.log10(level) <= top]
