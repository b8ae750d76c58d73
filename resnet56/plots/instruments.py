"""Figures of what the instruments measure: responses, shattered gradients, lesions, paths, and networks before training."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..instruments.initialisation import GROWTH
from ..layers import STAGES, stage_of
from ..model import parse_arch
from .style import caption, colour, display_name, mark_stages, shade, styled

CHANCE = 90  # percent: the error of guessing among ten classes


@styled
def plot_responses(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw each layer's response by its place in the network, and sorted by size (He et al. 2015, Figure 7).

    Args:
        tables: from architecture to what :func:`resnet56.instruments.responses.layer_responses` gave; the output of the
            last layer, the logits, is left out as in the paper.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, layout="constrained")
    for arch, table in tables.items():
        std = table["std"].to_numpy()[:-1]
        style = dict(color=colour(arch), linewidth=1.4, linestyle=dashes(arch, tables), label=display_name(arch))
        left.plot(table["depth"].iloc[:-1], std, **style)
        right.plot(np.arange(1, len(std) + 1), np.sort(std)[::-1], **style)
    _mark_one_depth(left, tables)
    left.set(xlabel="layer, from input to output", ylabel="standard deviation of the response", title="In order")
    right.set(xlabel="layer, from largest to smallest response", title="Sorted")
    left.set_ylim(0, None)
    right.legend()
    caption(figure, conditions)
    return figure


def dashes(arch: str, archs) -> str:
    """Return a line style: solid for the deepest networks of a figure, dashed for the next, then dotted."""
    depths = sorted({parse_arch(other)[1] for other in archs}, reverse=True)
    return ("-", "--", ":", "-.")[min(depths.index(parse_arch(arch)[1]), 3)]


def _mark_one_depth(axis: Axes, tables: dict[str, pd.DataFrame]) -> None:
    """Mark the stages, if all networks have them at the same layers."""
    layers = [tuple(table["layer"]) for table in tables.values()]
    if len(set(layers)) == 1:
        mark_stages(axis, layers[0], vertical=True)


@styled
def plot_shattering(curves: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the autocorrelation of input gradients along a line of images, plain networks left, residual ones right.

    Args:
        curves: from architecture to what :func:`resnet56.instruments.shattering.autocorrelation` gave; of ``"white"``
            and ``"brown"`` the references.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.3), sharex=True, sharey=True, layout="constrained")
    references = {"brown": ("brown noise", (0, (6, 2))), "white": ("white noise", (0, (1, 1.5)))}
    archs = [name for name in curves if name not in references]
    for axis, family, words in zip(axes, ("plain", "resnet"), ("Plain", "Residual"), strict=True):
        members = sorted((name for name in archs if name.startswith(family)), key=lambda name: parse_arch(name)[1])
        for index, arch in enumerate(members):
            axis.plot(
                np.asarray(curves[arch]),
                color=shade(arch, index, len(members)),
                linewidth=1.7,
                marker="o",
                markersize=3,
                label=display_name(arch),
            )
        for name, (label, style) in references.items():
            if name in curves:
                axis.plot(np.asarray(curves[name]), color="#777777", linewidth=1.2, linestyle=style, label=label)
        axis.set(xlabel="lag, in points of the line", title=words)
        axis.legend(fontsize=8, loc="upper right", ncols=2)
    axes[0].set(
        ylabel="autocorrelation of the input gradient",
        xlim=(0, None),
        ylim=(-0.06, 1.42),
        yticks=[0, 0.25, 0.5, 0.75, 1],
    )
    caption(figure, conditions)
    return figure


@styled
def plot_correlations(matrices: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw, for each network, the cosine between the input gradients of each two images, a small map per network.

    Args:
        matrices: from a name to ``(N, N)`` cosines, see :func:`resnet56.instruments.shattering.correlations`.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(8.4, 8.4 / len(matrices) + 0.5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = axis.imshow(np.asarray(matrix), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(display_name(name), loc="center")
        axis.set_xlabel("image")
        axis.grid(False)
    axes[0, 0].set_ylabel("image")
    figure.colorbar(image, ax=axes, pad=0.01, fraction=0.025, label="cosine of gradients")
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5), sharey=True, layout="constrained")
    for arch, table in each.items():
        blocks = table[table["count"] == 1]
        left.plot(
            np.arange(1, len(blocks) + 1),
            blocks["error"],
            color=colour(arch),
            marker="o",
            markersize=3.5,
            linewidth=1,
            label=display_name(arch),
        )
        whole = table.loc[table["count"] == 0, "error"].item()
        left.axhline(whole, color=colour(arch), linewidth=1, linestyle=(0, (5, 2)))
        left.annotate(
            "nothing removed",
            (len(blocks), whole),
            (0, -3),
            textcoords="offset points",
            va="top",
            ha="right",
            fontsize=8,
            color=colour(arch),
        )
    stages = [stage_of(name) for name in blocks["removed"]]
    for stage in STAGES[1:]:
        left.axvline(stages.index(stage) + 1, color="#999999", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
    for arch, table in several.items():
        errors = table.groupby("count")["error"]
        right.plot(errors.mean().index, errors.mean(), color=colour(arch), linewidth=1.5, marker="o", markersize=3.5)
        right.fill_between(errors.mean().index, errors.min(), errors.max(), color=colour(arch), alpha=0.18, linewidth=0)
    for axis in (left, right):
        axis.axhline(CHANCE, color="#666666", linewidth=1, linestyle=":")
    right.annotate(
        "guessing",
        (1, CHANCE),
        (4, 0),
        ("axes fraction", "data"),
        "offset points",
        fontsize=8,
        va="center",
        color="#666666",
        annotation_clip=False,
    )
    left.set(xlabel="block removed, from input to output", ylabel="error (%)", ylim=(0, 100), title="One block removed")
    right.set(xlabel="number of blocks removed, at random", title="Several blocks removed")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(*left.get_legend_handles_labels(), fontsize=9, loc="lower right")
    caption(figure, conditions)
    return figure


@styled
def plot_path_lengths(table: pd.DataFrame, conditions: str) -> Figure:
    """Draw how many paths there are of each length, the gradient along one, and all of them together (Veit et al., Fig. 6).

    Args:
        table: what :func:`resnet56.instruments.paths.path_lengths` gave.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.9), sharex=True, layout="constrained")
    length = table["length"]
    axes[0].bar(length, 100 * table["paths"] / table["paths"].sum(), color="#9a9a9a", width=0.8)
    axes[0].set(title="Paths there are", ylabel="share of all paths (%)")
    axes[1].plot(length, table["gradient"], color=colour("resnet"), marker="o", markersize=3, linewidth=1.2)
    axes[1].set(title="Gradient along one", ylabel="L2 norm at the images", yscale="log")
    axes[2].bar(length, 100 * table["share"], color=colour("resnet"), width=0.8)
    axes[2].set(title="All paths together", ylabel="share of the gradient (%)")
    for axis in axes:
        axis.set_xlabel("path length, in blocks")
    caption(figure, conditions)
    return figure


@styled
def plot_initial_gradients(norms: dict[str, np.ndarray], conditions: str) -> Figure:
    """Draw the loss gradient at every layer's output, and the slope that theory gives for wide plain networks.

    Args:
        norms: from architecture to what :func:`resnet56.gradients.output_gradient_norms` gave; the logits are left out.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.7), layout="constrained")
    for arch, values in norms.items():
        values = np.asarray(values)[:-1]
        axis.plot(
            np.arange(1, len(values) + 1),
            values,
            color=colour(arch),
            linewidth=1.5,
            linestyle=dashes(arch, norms),
            label=display_name(arch),
        )
    deepest = max((np.asarray(values)[:-1] for values in norms.values()), key=lambda values: (len(values), values[0]))
    layers = np.arange(1, len(deepest) // 3)
    axis.plot(
        layers,
        2 * deepest[0] * GROWTH ** (1.0 - layers),
        color="black",
        linewidth=1,
        linestyle=(0, (1, 1.5)),
        label="1.21 times a layer (Yang et al.)",
    )
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
    figure, axis = plt.subplots(figsize=(7.5, 3.7), layout="constrained")
    longest = max(len(table) for table in tables.values())
    for index, (arch, table) in enumerate(tables.items()):
        axis.plot(
            table["block"],
            table["ratio"],
            color=shade(arch, index, len(tables)),
            marker="o",
            markersize=3.5,
            linewidth=1.3,
            label=display_name(arch),
        )
    blocks = np.arange(1, longest + 1)
    axis.plot(blocks, 1 / blocks, color="black", linewidth=1, linestyle=(0, (1, 1.5)), label="1 / block")
    axis.set(xlabel="block, from input to output", ylabel="variance of branch / shortcut", xscale="log", yscale="log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.legend()
    caption(figure, conditions)
    return figure
