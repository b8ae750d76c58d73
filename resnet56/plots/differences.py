"""Figures of what differs between plain and residual networks (chapter 7): each of the table of its instrument."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..errors import InputError
from ..instruments.initialisation import GROWTH
from .style import GREY, by_family, colour, display_name, lines, mark_stages, note, panels, styled

CHANCE = 90  # percent: the error of guessing among ten classes
DOTS = dict(marker="o", markersize=3.5)
LOWEST, HIGHEST = 1e-4, 100.0  # nats: the scale of a landscape goes no further; guessing gives ln 10 = 2.3
NARROWEST = 0.02  # decades: the scale of a flat landscape
DIRECTION = "filter-normalised direction"
THEORY = dict(color="black", linewidth=1, linestyle=(0, (1, 1.5)))


@styled
def plot_responses(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw each layer's response but the logits, in order and sorted by size (He et al. 2015, Figure 7)."""
    figure, (left, right) = panels(2, 3.4, conditions, sharey=True)
    responses = {arch: table["std"].to_numpy()[:-1] for arch, table in tables.items()}
    lines(left, responses.items())
    lines(right, [(arch, np.sort(std)[::-1]) for arch, std in responses.items()])
    left.set(xlabel="layer, from input to output", ylabel="standard deviation of the response", title="In order")
    right.set(xlabel="layer, from largest to smallest response", title="Sorted", ylim=(0, None))
    right.legend()
    return figure


@styled
def plot_shattering(curves: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the autocorrelation of input gradients along a line of images, plain networks left, residual ones right.

    ``"white"`` and ``"brown"`` are the references.
    """
    figure, axes = panels(2, 3.3, conditions, xlabel="lag, in points of the line", sharex=True, sharey=True)
    curves = {name: pd.Series(np.asarray(curve)) for name, curve in curves.items()}  # from lag 0
    for axis, family in by_family(axes):
        members = [(arch, curve) for arch, curve in curves.items() if arch.startswith(family)]
        lines(axis, members, shaded=True, linewidth=1.7, marker="o", markersize=3)
        for name, dashes in {"brown": (0, (6, 2)), "white": (0, (1, 1.5))}.items():
            if name in curves:
                axis.plot(curves[name], color="#777777", linewidth=1.2, linestyle=dashes, label=f"{name} noise")
        if axis.lines:
            axis.legend(fontsize=8, loc="upper right", ncols=2)
    axes[0].set(xlim=(0, None), ylim=(-0.06, 1.42), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes[0].set_ylabel("autocorrelation of the input gradient")
    return figure


@styled
def plot_lesions(each: dict[str, pd.DataFrame], several: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the error with each block taken out, and with several taken out at random (Veit et al. 2016, Figures 3, 5a).

    Of random draws, the mean, with a band from the least to the greatest.
    """
    figure, (left, right) = panels(2, 3.5, conditions, sharey=True)
    for arch, table in each.items():
        ink, blocks = colour(arch), table[table["count"] == 1]
        lines(left, [(arch, blocks["error"].to_numpy())], linewidth=1, **DOTS)
        for whole in table.loc[table["count"] == 0, "error"]:
            left.axhline(whole, color=ink, linewidth=1, linestyle=(0, (5, 2)))
            note(left, "nothing removed", (len(blocks), whole), (0, -3), va="top", ha="right", color=ink)
    mark_stages(left, blocks["removed"])
    for arch, table in several.items():
        errors = table.groupby("count")["error"].agg(["mean", "min", "max"])
        lines(right, [(arch, errors["mean"])], **DOTS)
        right.fill_between(errors.index, errors["min"], errors["max"], color=colour(arch), alpha=0.18, linewidth=0)
    for axis in (left, right):
        axis.axhline(CHANCE, color=GREY, linewidth=1, linestyle=":")
    note(right, "guessing", (1, CHANCE), (4, 0), ("axes fraction", "data"), va="center")
    left.set(xlabel="block removed, from input to output", ylabel="error (%)", ylim=(0, 100), title="One block removed")
    right.set(xlabel="number of blocks removed, at random", title="Several blocks removed")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(*left.get_legend_handles_labels(), fontsize=9, loc="lower right")
    return figure


@styled
def plot_path_lengths(table: pd.DataFrame, conditions: str) -> Figure:
    """Draw how many paths there are of each length, the gradient along one, and all together (Veit et al., Fig. 6)."""
    figure, (paths, gradient, share) = panels(3, 2.9, conditions, xlabel="path length, in blocks", sharex=True)
    table = table.set_index("length")
    paths.bar(table.index, 100 * table["paths"] / table["paths"].sum(), color="#9a9a9a")
    paths.set(title="Paths there are", ylabel="share of all paths (%)")
    lines(gradient, [("resnet", table["gradient"])], marker="o", markersize=3, linewidth=1.2)
    gradient.set(title="Gradient along one", ylabel="L2 norm at the images", yscale="log")
    share.bar(table.index, 100 * table["share"], color=colour("resnet"))
    share.set(title="All paths together", ylabel="share of the gradient (%)")
    return figure


@styled
def plot_initial_gradients(norms: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the loss gradient at the output of all layers but the last, and the slope of theory for plain networks."""
    figure, (axis,) = panels(1, 3.7, conditions, 7.5)
    norms = {arch: np.asarray(values)[:-1] for arch, values in norms.items()}
    lines(axis, norms.items())
    deepest = max(norms.values(), key=lambda values: (len(values), values[0]))
    layers = np.arange(1, len(deepest) // 3)
    axis.plot(layers, 2 * deepest[0] * GROWTH ** (1.0 - layers), label="1.21 times a layer (Yang et al.)", **THEORY)
    axis.set(xlabel="layer, from input to output", ylabel="L2 norm of the gradient at its output", yscale="log")
    axis.legend()
    return figure


@styled
def plot_branch_variances(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the variance of each block's branch over that of its shortcut, and 1/block (De & Smith 2020)."""
    figure, (axis,) = panels(1, 3.7, conditions, 7.5)
    ratios = {arch: table.set_index("block")["ratio"] for arch, table in tables.items()}
    lines(axis, ratios.items(), shaded=True, linewidth=1.3, **DOTS)
    blocks = np.arange(1, max(map(len, ratios.values())) + 1)
    axis.plot(blocks, 1 / blocks, label="1 / block", **THEORY)
    axis.set(xlabel="block, from input to output", ylabel="variance of branch / shortcut", xscale="log", yscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend()
    return figure


@styled
def plot_loss_lines(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw loss and error along a line through each network's trained weights (Li et al. 2018, section 4).

    Where a loss is above ``HIGHEST`` nats or not finite, its line leaves the panel through the top.
    """
    tables, bottom, top, labels = _on_one_scale(tables)
    figure, (left, right) = panels(2, 3.4, conditions, xlabel=f"step along a {DIRECTION}")
    for axis, column in ((left, "loss"), (right, "error")):
        curves = [(arch, table.set_index("x")[column]) for arch, table in tables.items()]
        lines(axis, curves, linestyle="-", linewidth=1.6)
        axis.axvline(0, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)))
        axis.margins(x=0)
        axis.locator_params(axis="x", nbins=4)
    left.set(yscale="log", ylim=(10**bottom / 1.2, 10**top * 1.2), ylabel="loss (nats)", title="Loss")
    left.set_yticks([10**level for level in labels], labels.values())
    left.yaxis.set_minor_formatter(NullFormatter())
    left.legend(loc="upper center")
    right.set(ylim=(0, 100), ylabel="error (%)", title="Error")
    return figure


@styled
def plot_loss_contours(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the loss around each network's trained weights, the cross, as contours (Li et al. 2018, Figure 5).

    Losses above ``HIGHEST`` nats, and those that are not finite, have the colour of the scale's tip.
    """
    tables, bottom, top, labels = _on_one_scale(tables)
    heights = [np.log10(table.pivot(index="y", columns="x", values="loss")) for table in tables.values()]
    if any(min(height.shape) < 2 for height in heights):
        raise InputError("contours need a surface of at least two points a side: measure with more --points")
    extend = "max" if any((height > top + 1e-9).any(axis=None) for height in heights) else "neither"
    figure, axes = panels(len(tables), 4.3, conditions, sharex=True, sharey=True)
    for axis, arch, height in zip(axes, tables, heights, strict=True):
        surface = height.columns, height.index, height
        filled = axis.contourf(*surface, np.linspace(bottom, top, 41), cmap="viridis", extend=extend)
        crossed = [level for level in labels if height.min(axis=None) < level < height.max(axis=None)]
        if crossed:
            inks = ["white" if level < (bottom + top) / 2 else "black" for level in crossed]  # on dark, on light
            axis.clabel(axis.contour(*surface, crossed, colors=inks, linewidths=0.8), fmt=labels, fontsize=8)
        axis.plot(0, 0, marker="+", color="white", markersize=9, markeredgewidth=1.6)
        axis.grid(False)
        axis.locator_params(nbins=4)
        axis.set(title=display_name(arch), xlabel=f"{DIRECTION} 1", aspect="equal")
    axes[0].set_ylabel(f"{DIRECTION} 2")
    bar = figure.colorbar(filled, ax=axes, fraction=0.03, pad=0.015, label="loss (nats)")
    bar.set_ticks(list(labels), labels=labels.values())
    return figure


def _on_one_scale(tables: dict[str, pd.DataFrame]) -> tuple[dict, float, float, dict[float, str]]:
    """Return tables for one scale, log10 of the loss at its ends, and what it says at which log10 of a loss.

    It goes from the lowest to the highest finite loss, within bounds; losses in the tables up to two decades beyond,
    where those not finite are. It says powers of ten; 2, 5 times these, where there is space; or its ends.
    """
    losses = pd.concat(tables.values())["loss"]
    finite = losses[np.isfinite(losses)].clip(LOWEST, HIGHEST)
    bottom, top = np.log10(finite.agg(["min", "max"]).fillna(HIGHEST))
    if top - bottom < NARROWEST:
        bottom, top = bottom - NARROWEST / 2, top + NARROWEST / 2
    digits = (1, 2, 5) if top - bottom < 2.5 else (1,)
    levels = [digit * 10.0**power for power in range(-4, 3) for digit in digits]
    labels = {np.log10(level): f"{level:g}" for level in levels if bottom <= np.log10(level) <= top}
    labels = labels or {end: f"{10**end:.3g}" for end in (bottom, top)}
    within = {arch: table["loss"].fillna(np.inf).clip(LOWEST, 10 ** (top + 2)) for arch, table in tables.items()}
    return {arch: table.assign(loss=within[arch]) for arch, table in tables.items()}, bottom, top, labels
