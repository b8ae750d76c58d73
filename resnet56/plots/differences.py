"""Figures of what differs between plain and residual networks: responses, gradients, lesions, paths (chapter 5)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..instruments.initialisation import GROWTH
from ..layers import STAGES, stage_of
from .style import GREY, by_family, caption, colour, lines, mark_stages, note, panels, styled

CHANCE = 90  # percent: the error of guessing among ten classes
DOTTED = dict(color="black", linewidth=1, linestyle=(0, (1, 1.5)))  # what theory says


@styled
def plot_responses(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw each layer's response by its place in the network, and sorted by size (He et al. 2015, Figure 7).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.responses.layer_responses` gave; the output of the
            last layer, the logits, is left out as in the paper.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (left, right) = panels(2, 3.4, sharey=True)
    responses = {arch: table["std"].to_numpy()[:-1] for arch, table in tables.items()}
    lines(left, responses)
    lines(right, {arch: np.sort(std)[::-1] for arch, std in responses.items()})
    layers = {tuple(table["layer"]) for table in tables.values()}
    if len(layers) == 1:  # of one depth
        mark_stages(left, layers.pop(), vertical=True)
    left.set(xlabel="layer, from input to output", ylabel="standard deviation of the response", title="In order")
    right.set(xlabel="layer, from largest to smallest response", title="Sorted", ylim=(0, None))
    right.legend()
    caption(figure, conditions)
    return figure


@styled
def plot_shattering(curves: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the autocorrelation of input gradients along a line of images, plain networks left, residual ones right.

    Args:
        curves: from architecture to what :func:`resnet56.instruments.shattering.autocorrelation` gave; of ``"white"``
            and ``"brown"`` the references.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = panels(2, 3.3, sharex=True, sharey=True)
    curves = {name: pd.Series(np.asarray(curve)) for name, curve in curves.items()}  # from lag 0
    for axis, archs in by_family(axes, curves):
        lines(axis, {arch: curves[arch] for arch in archs}, shaded=True, linewidth=1.7, marker="o", markersize=3)
        for name, style in {"brown": (0, (6, 2)), "white": (0, (1, 1.5))}.items():
            if name in curves:
                axis.plot(curves[name], color="#777777", linewidth=1.2, linestyle=style, label=f"{name} noise")
        axis.set_xlabel("lag, in points of the line")
        if axis.lines:
            axis.legend(fontsize=8, loc="upper right", ncols=2)
    axes[0].set(ylabel="autocorrelation of the input gradient", yticks=[0, 0.25, 0.5, 0.75, 1])
    axes[0].set(xlim=(0, None), ylim=(-0.06, 1.42))
    caption(figure, conditions)
    return figure


@styled
def plot_lesions(each: dict[str, pd.DataFrame], several: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the error with each block taken out, and with several taken out at random (Veit et al. 2016, Figures 3, 5a).

    Args:
        each: from architecture to what :func:`resnet56.instruments.lesions.lesion_each` gave.
        several: the same for :func:`resnet56.instruments.lesions.lesion_random`; the line is the mean of the draws, the
            band goes from the least to the greatest.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (left, right) = panels(2, 3.5, sharey=True)
    dots = dict(marker="o", markersize=3.5, linestyle="-")
    lesions = {arch: table[table["count"] == 1] for arch, table in each.items()}
    lines(left, {arch: blocks["error"].to_numpy() for arch, blocks in lesions.items()}, linewidth=1, **dots)
    for arch, blocks in lesions.items():
        for whole in each[arch].loc[each[arch]["count"] == 0, "error"]:
            left.axhline(whole, color=colour(arch), linewidth=1, linestyle=(0, (5, 2)))
            note(left, "nothing removed", (len(blocks), whole), (0, -3), va="top", ha="right", color=colour(arch))
    stages = [stage_of(name) for name in blocks["removed"]]
    for stage in {*STAGES[1:]} & {*stages}:
        left.axvline(stages.index(stage) + 1, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    draws = {arch: table.groupby("count")["error"] for arch, table in several.items()}
    lines(right, {arch: errors.mean() for arch, errors in draws.items()}, **dots)
    for arch, errors in draws.items():
        right.fill_between(errors.mean().index, errors.min(), errors.max(), color=colour(arch), alpha=0.18, linewidth=0)
    for axis in (left, right):
        axis.axhline(CHANCE, color=GREY, linewidth=1, linestyle=":")
    note(right, "guessing", (1, CHANCE), (4, 0), ("axes fraction", "data"), va="center")
    left.set(xlabel="block removed, from input to output", ylabel="error (%)", ylim=(0, 100), title="One block removed")
    right.set(xlabel="number of blocks removed, at random", title="Several blocks removed")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(*left.get_legend_handles_labels(), fontsize=9, loc="lower right")
    caption(figure, conditions)
    return figure


@styled
def plot_path_lengths(table: pd.DataFrame, conditions: str) -> Figure:
    """Draw how many paths there are of each length, the gradient along one, and all together (Veit et al., Fig. 6).

    Args:
        table: what :func:`resnet56.instruments.paths.path_lengths` gave.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (paths, gradient, share) = panels(3, 2.9, sharex=True)
    table = table.set_index("length")
    paths.bar(table.index, 100 * table["paths"] / table["paths"].sum(), color="#9a9a9a", width=0.8)
    paths.set(title="Paths there are", ylabel="share of all paths (%)")
    lines(gradient, {"resnet": table["gradient"]}, marker="o", markersize=3, linewidth=1.2)
    gradient.set(title="Gradient along one", ylabel="L2 norm at the images", yscale="log")
    share.bar(table.index, 100 * table["share"], color=colour("resnet"), width=0.8)
    share.set(title="All paths together", ylabel="share of the gradient (%)")
    for axis in (paths, gradient, share):
        axis.set_xlabel("path length, in blocks")
    caption(figure, conditions)
    return figure


@styled
def plot_initial_gradients(norms: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the loss gradient at every layer's output, and the slope that theory gives for wide plain networks.

    Args:
        norms: from architecture to what :func:`resnet56.observe.output_gradient_norms` gave; the logits are left out.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (axis,) = panels(1, 3.7, 7.5)
    norms = {arch: np.asarray(values)[:-1] for arch, values in norms.items()}
    lines(axis, norms)
    deepest = max(norms.values(), key=lambda values: (len(values), values[0]))
    layers = np.arange(1, len(deepest) // 3)
    slope = 2 * deepest[0] * GROWTH ** (1.0 - layers)
    axis.plot(layers, slope, label="1.21 times a layer (Yang et al.)", **DOTTED)
    axis.set(xlabel="layer, from input to output", ylabel="L2 norm of the gradient at its output", yscale="log")
    axis.legend()
    caption(figure, conditions)
    return figure


@styled
def plot_branch_variances(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the variance of each block's branch over that of its shortcut, and 1/block (De & Smith 2020).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.initialisation.branch_variances` gave.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (axis,) = panels(1, 3.7, 7.5)
    ratios = {arch: table.set_index("block")["ratio"] for arch, table in tables.items()}
    lines(axis, ratios, shaded=True, marker="o", markersize=3.5, linewidth=1.3)
    blocks = np.arange(1, max(map(len, ratios.values())) + 1)
    axis.plot(blocks, 1 / blocks, label="1 / block", **DOTTED)
    axis.set(xlabel="block, from input to output", ylabel="variance of branch / shortcut", xscale="log", yscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend()
    caption(figure, conditions)
    return figure
