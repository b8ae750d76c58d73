"""Figures of training: schedules, speeds, runs."""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..model import parse_arch
from ..recipe import Recipe
from ..records.published import published
from ..records.runs import Run
from .style import caption, colour, display_name, mark_stages, shade, styled

if TYPE_CHECKING:
    from ..fast.bench import Bench


@styled
def plot_lr_schedule(recipe: Recipe) -> Figure:
    """Draw the learning rate of a recipe given in iterations against the step, on a logarithmic scale."""
    steps = np.arange(recipe.iterations)
    figure, axis = plt.subplots(figsize=(6.5, 2.6))
    axis.step(steps, [recipe.lr_at(step, recipe.iterations) for step in steps], where="post", color="#333333")
    axis.set(xlabel="training step", ylabel="learning rate", yscale="log", xlim=(0, recipe.iterations))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    figure.tight_layout()
    return figure


@styled
def plot_speeds(bench: "Bench") -> Figure:
    """Draw the images per second of each loop, and the bound that the speed of a matrix product sets."""
    about, table = bench.about, bench.table()
    figure, axis = plt.subplots(figsize=(8.4, 0.42 * len(table) + 1.1), layout="constrained")
    places = np.arange(len(table))
    axis.barh(places, table["end_to_end"], color="#7f7f7f", height=0.62)
    axis.barh(places[:1], table["end_to_end"].iloc[:1], color="#c7c7c7", height=0.62)
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        axis.annotate(
            f"{row['ratio']:.2f}x", (row["end_to_end"], place), (4, 0), textcoords="offset points", va="center"
        )
    bound = about["matmul_gflops"] / about["image_gflop"]
    axis.axvline(bound, color="black", linestyle="--", linewidth=1)
    axis.annotate(
        "arithmetic bound", (bound, 0), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=9
    )
    axis.set(xlabel="images per second, with the making of batches", yticks=places, yticklabels=table.index)
    axis.set_xlim(0, 1.04 * max(bound, table["end_to_end"].max()))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    caption(
        figure,
        f"{display_name(about['arch'])}, batches of {about['batch_size']}, {about['data']}, {about['hardware']['name']}",
    )
    return figure


@styled
def plot_comparison(runs: list[Run]) -> Figure:
    """Draw training loss against the step, and the gradient norm of each layer against depth, for runs on one data set.

    Args:
        runs: runs with recorded gradients.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    _draw_losses(left, runs)
    _draw_gradient_norms(right, runs)
    caption(figure, runs[0].label())
    figure.tight_layout()
    return figure


def _draw_losses(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        name = display_name(run.arch)
        sns.lineplot(data=run.history, x="step", y="train_loss", color=colour(run.arch), label=name, ax=axis)
    axis.axhline(np.log(10), color="#888888", linewidth=1, linestyle=":")
    axis.annotate(
        "guessing: ln 10",
        (0.99, np.log(10)),
        (0, 3),
        ("axes fraction", "data"),
        "offset points",
        ha="right",
        fontsize=8,
        color="#666666",
    )
    axis.set(xlabel="training step", ylabel="training loss (nats)", title="Training loss", xlim=(0, None))
    axis.legend(loc="lower left")


def _draw_gradient_norms(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        table = run.gradients
        last = table["step"].max()
        for step, dashes, words in ((0, (2, 1.2), "step 0"), (last, "", f"step {last:,}")):
            rows = table[table["step"] == step]
            axis.plot(
                rows["depth"],
                rows["gradient_norm"],
                color=colour(run.arch),
                linewidth=1.4,
                dashes=dashes or (None, None),
                label=f"{display_name(run.arch)}, {words}",
            )
    mark_stages(axis, runs[0].gradients["layer"].unique(), vertical=True)
    axis.set_yscale("log")
    axis.set(
        xlabel="layer, from input to output", ylabel="L2 norm of the weight gradient", title="Gradient norm by layer"
    )
    axis.legend(fontsize=8, loc="upper right")


@styled
def plot_degradation(runs: list[Run]) -> Figure:
    """Draw the argument of the book: errors while training, on the training images left, on held-out ones right.

    It is He et al. (2015), Figure 1, with a residual network beside the plain ones. The training error is that of the
    augmented batches, smoothed over 50 steps; the diamond is the error on the test images, which are looked at once, at
    the end. Each line is named where it ends.

    Args:
        runs: runs with a validation set, of one recipe, on one data set.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), sharex=True, sharey=True, layout="constrained")
    deepest = max(parse_arch(run.arch)[1] for run in runs)
    for run in runs:
        history, validated = run.history, run.history.dropna(subset="validation_error")
        style = dict(
            color=colour(run.arch), linewidth=2, linestyle="-" if parse_arch(run.arch)[1] == deepest else (0, (4, 1.5))
        )
        smooth = history["train_error"].rolling(5, min_periods=1).mean()
        test = run.about["final"]["test_error"]
        left.plot(history["step"], smooth, **style)
        right.plot(validated["step"], validated["validation_error"], marker="o", markersize=3.5, **style)
        right.plot(
            history["step"].iloc[-1],
            test,
            "D",
            color=style["color"],
            markersize=6,
            markeredgecolor="white",
            zorder=5,
            clip_on=False,
        )
        for axis, end in ((left, smooth.iloc[-1]), (right, test)):
            axis.annotate(
                display_name(run.arch),
                (1, end),
                (6, 0),
                ("axes fraction", "data"),
                "offset points",
                va="center",
                color=style["color"],
                fontsize=10,
                fontweight="bold",
                annotation_clip=False,
            )
    left.set(
        xlabel="training step",
        ylabel="error (%)",
        title="On the images it trains on",
        xlim=(0, history["step"].iloc[-1]),
    )
    right.set(xlabel="training step", title="On images it has not seen")
    left.set_ylim(0, None)
    left.xaxis.set_major_formatter("{x:,.0f}")
    caption(figure, runs[0].label())
    return figure


@styled
def plot_training_curves(runs: list[Run]) -> Figure:
    """Draw errors while training, plain networks left, residual ones right, in the manner of He et al. (2015), Figure 6.

    Dashed is the error on the augmented training batches, solid that on the held-out validation images, and the dot at
    the end that on the test images, which are looked at once.

    Args:
        runs: runs with a validation set, of one recipe, on one data set.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.7), sharex=True, sharey=True, layout="constrained")
    for axis, family, words in zip(axes, ("plain", "resnet"), ("Plain", "Residual"), strict=True):
        members = sorted((run for run in runs if run.arch.startswith(family)), key=lambda run: parse_arch(run.arch)[1])
        for index, run in enumerate(members):
            tint = shade(run.arch, index, len(members))
            history = run.history
            smooth = history["train_error"].rolling(5, min_periods=1).mean()
            axis.plot(history["step"], smooth, color=tint, linewidth=1, linestyle=(0, (4, 1.5)))
            validated = history.dropna(subset="validation_error")
            axis.plot(
                validated["step"],
                validated["validation_error"],
                color=tint,
                linewidth=1.8,
                marker="o",
                markersize=3,
                label=display_name(run.arch),
            )
            axis.plot(
                history["step"].iloc[-1],
                run.about["final"]["test_error"],
                "D",
                color=tint,
                markersize=5.5,
                markeredgecolor="white",
                clip_on=False,
                zorder=5,
            )
        axis.set(xlabel="training step", title=words)
        axis.legend(loc="upper right")
    axes[0].set(ylabel="error (%)", ylim=(0, None), xlim=(0, None))
    axes[0].xaxis.set_major_formatter("{x:,.0f}")
    caption(figure, runs[0].label() + "\ndashed: training batches; solid: validation; diamond: test")
    return figure


@styled
def plot_depth_sweep(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw final errors against depth for plain and residual networks: the degradation picture.

    Args:
        summary: what :func:`resnet56.records.runs.summarise` gave. Dashed is the training error, solid the test error; bars are
            standard deviations over seeds, where there are several.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axis = plt.subplots(figsize=(6.2, 3.9), layout="constrained")
    for family, table in summary.sort_values("depth").groupby("family"):
        for split, style in (("train", (0, (4, 1.5))), ("test", "-")):
            axis.errorbar(
                table["depth"],
                table[f"{split}_error"],
                table[f"{split}_error_std"].fillna(0),
                color=colour(family),
                linestyle=style,
                marker="o" if split == "test" else "s",
                markersize=5,
                capsize=3,
                linewidth=1.6,
                label=f"{'plain' if family == 'plain' else 'residual'}, {split}",
            )
    axis.set(xlabel="depth, in layers", ylabel="error at the end of training (%)", xticks=sorted(set(summary["depth"])))
    axis.set_ylim(0, None)
    axis.legend()
    caption(figure, conditions)
    return figure


@styled
def plot_results(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw test errors of a suite against depth, beside the published ones, plain networks left, residual ones right.

    Args:
        summary: what :func:`resnet56.records.runs.summarise` gave; filled marks, bars are standard deviations over seeds.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.9), sharey=True, layout="constrained")
    for axis, family, words in zip(axes, ("plain", "resnet"), ("Plain", "Residual"), strict=True):
        measured = summary[summary["family"] == family].sort_values("depth")
        axis.errorbar(
            measured["depth"],
            measured["test_error"],
            measured["test_error_std"].fillna(0),
            color=colour(family),
            marker="o",
            markersize=6,
            capsize=3,
            linewidth=1.6,
            label="measured here",
        )
        others = published()
        for (source, table), mark in zip(others.groupby("source", sort=False), "Ds^v", strict=True):
            table = table[table["family"] == family].sort_values("depth")
            if len(table):
                axis.errorbar(
                    table["depth"],
                    table["test_error"],
                    table["test_error_std"].fillna(0),
                    color="#444444",
                    markerfacecolor="white",
                    marker=mark,
                    markersize=6,
                    capsize=3,
                    linewidth=1,
                    label=source,
                )
        axis.set(title=words, xlabel="depth, in layers", xticks=sorted({*summary["depth"], *others["depth"]}))
        axis.legend(fontsize=8.5)
    axes[0].set(ylabel="test error (%)", ylim=(0, None))
    axes[0].set_ylim(0, 1.4 * axes[0].get_ylim()[1])  # room for the legend
    caption(figure, f"filled: {conditions}; open: official CIFAR-10, full recipe")
    return figure
