"""Figures of training: schedules, speeds, runs."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import InputError
from ..recipe import Recipe
from ..records.published import published
from ..records.runs import Run
from .heatmaps import check_recorded
from .style import DASHED, by_family, caption, colour, display_name, lines, mark_stages, note, panels, shade, styled

if TYPE_CHECKING:
    from ..fast.bench import Bench

DIAMOND = dict(marker="D", markeredgecolor="white", linestyle="", clip_on=False, zorder=5)
AT_RIGHT = ("axes fraction", "data")


@styled
def plot_lr_schedule(recipe: Recipe, images: int = 50_000) -> Figure:
    """Draw the learning rate of a recipe against the step, on a logarithmic scale.

    Args:
        recipe: the recipe.
        images: how many it trains on, which gives the length of a recipe in epochs.
    """
    total = recipe.total_steps(images)
    steps = np.unique(np.linspace(0, total - 1, 64_000, dtype=int))
    figure, (axis,) = panels(1, 2.6, 6.5)
    axis.step(steps, [recipe.lr_at(step, total) for step in steps], where="post", color="#333333")
    axis.set(xlabel="training step", ylabel="learning rate", yscale="log", xlim=(0, total))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure


@styled
def plot_speeds(bench: "Bench") -> Figure:
    """Draw the images per second of each loop, and the bound that the speed of a matrix product sets."""
    about, table = bench.about, bench.table()
    figure, (axis,) = panels(1, 0.42 * len(table) + 1.1)
    speeds, places = table["end_to_end"], np.arange(len(table))
    axis.barh(places, speeds, color=["#c7c7c7", *(len(table) - 1) * ["#7f7f7f"]], height=0.62)
    for place, speed, ratio in zip(places, speeds, table["ratio"], strict=True):
        note(axis, f"{ratio:.2f}x", (speed, place), (4, 0), va="center", fontsize=10, color="black")
    bound = about["matmul_gflops"] / about["image_gflop"]
    axis.axvline(bound, color="black", linestyle="--", linewidth=1)
    note(axis, "arithmetic bound", (bound, 0), (-4, 0), ha="right", va="center", fontsize=9, color="black")
    axis.set(xlabel="images per second, with the making of batches", yticks=places, yticklabels=table.index)
    axis.set_xlim(0, 1.04 * max(bound, speeds.max()))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    hardware = about["hardware"]["name"]
    caption(figure, f"{display_name(about['arch'])}, batches of {about['batch_size']}, {about['data']}, {hardware}")
    return figure


@styled
def plot_comparison(runs: list[Run]) -> Figure:
    """Draw training loss against the step, and the gradient norm of each layer against depth, for runs on one data set.

    Args:
        runs: runs with recorded gradients.

    Raises:
        InputError: if a run has none.
    """
    check_recorded(runs, "gradient_norm")
    figure, (left, right) = panels(2, 3.6)
    _draw_losses(left, runs)
    _draw_gradient_norms(right, runs)
    caption(figure, runs[0].label())
    return figure


def _draw_losses(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        name = display_name(run.arch)
        sns.lineplot(data=run.history, x="step", y="train_loss", color=colour(run.arch), label=name, ax=axis)
    axis.axhline(np.log(10), color="#888888", linewidth=1, linestyle=":")
    note(axis, "guessing: ln 10", (0.99, np.log(10)), (0, 3), AT_RIGHT, ha="right")
    axis.set(xlabel="training step", ylabel="training loss (nats)", title="Training loss", xlim=(0, None))
    axis.legend(loc="lower left")


def _draw_gradient_norms(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        norms = run.by_layer()
        for step in norms.index[[0, -1]].unique():
            style = dict(linestyle="-" if step == norms.index[-1] else (0, (2, 1.2)), linewidth=1.4)
            style["label"] = f"{display_name(run.arch)}, step {step:,}"
            lines(axis, {run.arch: norms.loc[step].to_numpy()}, **style)
    mark_stages(axis, norms.columns, vertical=True)
    axis.set(xlabel="layer, from input to output", ylabel="L2 norm of the weight gradient", yscale="log")
    axis.set_title("Gradient norm by layer")
    axis.legend(fontsize=8, loc="upper right")


def smoothed(run: Run) -> pd.Series:
    """Return a run's training error by step, the mean of five records, or of as many as there are."""
    return run.history.set_index("step")["train_error"].rolling(5, min_periods=1).mean()


def validated(run: Run) -> pd.Series:
    """Return a run's validation error by step.

    Raises:
        InputError: if it has none.
    """
    if "validation_error" not in run.history or run.history["validation_error"].isna().all():
        raise InputError(f"the run of {run.arch} has no validation errors: it was trained without a validation set")
    return run.history.set_index("step")["validation_error"].dropna()


@styled
def plot_degradation(runs: list[Run]) -> Figure:
    """Draw the argument of the book: errors while training, on the training images left, on held-out ones right.

    It is He et al. (2015), Figure 1, with a residual network beside the plain ones. The training error is that of the
    augmented batches, smoothed over 50 steps; the diamond is the error on the test images, which are looked at once, at
    the end. Each line is named where it ends.

    Args:
        runs: runs with a validation set, of one recipe, on one data set.

    Raises:
        InputError: if a run has no validation errors.
    """
    figure, (left, right) = panels(2, 3.6, sharex=True, sharey=True)
    lines(left, [(run.arch, smoothed(run)) for run in runs], linewidth=2)
    lines(right, [(run.arch, validated(run)) for run in runs], linewidth=2, marker="o", markersize=3.5)
    for run in runs:
        end, test = run.history["step"].iloc[-1], run.about["final"]["test_error"]
        right.plot(end, test, color=colour(run.arch), markersize=6, **DIAMOND)
        style = dict(va="center", color=colour(run.arch), fontsize=10, fontweight="bold")
        note(left, display_name(run.arch), (1, smoothed(run).iloc[-1]), (6, 0), AT_RIGHT, **style)
        note(right, display_name(run.arch), (1, test), (6, 0), AT_RIGHT, **style)
    left.set(xlabel="training step", ylabel="error (%)", title="On the images it trains on")
    left.set(xlim=(0, end), ylim=(0, None))
    right.set(xlabel="training step", title="On images it has not seen")
    left.xaxis.set_major_formatter("{x:,.0f}")
    caption(figure, runs[0].label())
    return figure


@styled
def plot_training_curves(runs: list[Run]) -> Figure:
    """Draw errors while training, plain networks left, residual ones right, as He et al. (2015), Figure 6.

    Dashed is the error on the augmented training batches, solid that on the held-out validation images, and the diamond
    at the end that on the test images, which are looked at once.

    Args:
        runs: runs with a validation set, of one recipe, on one data set.

    Raises:
        InputError: if a run has no validation errors.
    """
    figure, axes = panels(2, 3.7, sharex=True, sharey=True)
    for axis, archs in by_family(axes, {run.arch for run in runs}):
        members = [(arch, run) for arch in archs for run in runs if run.arch == arch]
        lines(axis, [(arch, smoothed(run)) for arch, run in members], True, linewidth=1, linestyle=DASHED, label=None)
        lines(axis, [(arch, validated(run)) for arch, run in members], True, linewidth=1.8, marker="o", markersize=3)
        for arch, run in members:
            end, test = run.history["step"].iloc[-1], run.about["final"]["test_error"]
            axis.plot(end, test, color=shade(arch, archs.index(arch), len(archs)), markersize=5.5, **DIAMOND)
        axis.set_xlabel("training step")
        if archs:
            axis.legend(loc="upper right")
    axes[0].set(ylabel="error (%)", ylim=(0, None), xlim=(0, None))
    axes[0].xaxis.set_major_formatter("{x:,.0f}")
    caption(figure, runs[0].label() + "\ndashed: training batches; solid: validation; diamond: test")
    return figure


def _draw_means(axis: Axes, table: pd.DataFrame, column: str, **style) -> None:
    """Draw mean errors by depth, with their spread: two runs as two dots, three and more as a standard deviation.

    Two runs lie at their mean plus and minus their sample's standard deviation over the root of two.
    """
    table = table.sort_values("depth")
    mean, std = table[column], table[f"{column}_std"]
    two = table.get("seeds", 0 * mean) == 2
    axis.errorbar(table["depth"], mean, std.mask(two).fillna(0), capsize=3, **style)
    both = np.concatenate([mean - std / np.sqrt(2), mean + std / np.sqrt(2)])
    axis.scatter(np.tile(table["depth"], 2), np.where(np.tile(two, 2), both, np.nan), s=12, color=style["color"])


@styled
def plot_depth_sweep(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw final errors against depth for plain and residual networks: the degradation picture.

    Args:
        summary: what :func:`resnet56.records.runs.summarise` gave. Dashed is the training error, solid the test error;
            two seeds are dots beside their mean, bars the standard deviations of three and more.
        conditions: what was measured on what, in a line, written above.
    """
    figure, (axis,) = panels(1, 3.9, 6.2)
    for family, table in summary.groupby("family"):
        name = {"plain": "plain", "resnet": "residual"}[family]
        style = dict(color=colour(family), markersize=5, linewidth=1.6)
        _draw_means(axis, table, "train_error", linestyle=DASHED, marker="s", label=f"{name}, train", **style)
        _draw_means(axis, table, "test_error", linestyle="-", marker="o", label=f"{name}, test", **style)
    axis.set(xlabel="depth, in layers", ylabel="error at the end of training (%)", xticks=sorted(set(summary["depth"])))
    axis.set_ylim(0, None)
    axis.legend()
    caption(figure, conditions)
    return figure


@styled
def plot_results(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw test errors of a suite against depth, beside the published ones, plain networks left, residual ones right.

    Args:
        summary: what :func:`resnet56.records.runs.summarise` gave; filled marks, spread as in :func:`plot_depth_sweep`.
        conditions: what was measured on what, in a line, written above.
    """
    figure, axes = panels(2, 3.9, sharey=True)
    others = published()
    for axis, (family,) in by_family(axes, ("plain", "resnet")):
        own = summary[summary["family"] == family]
        style = dict(color=colour(family), linewidth=1.6, label="measured here")
        _draw_means(axis, own, "test_error", marker="o", markersize=6, **style)
        for (source, table), mark in zip(others.groupby("source", sort=False), "Ds^v", strict=True):
            table = table[table["family"] == family].sort_values("depth")
            if len(table):
                spread = table["test_error_std"].fillna(0)
                style = dict(color="#444444", markerfacecolor="white", markersize=6, capsize=3, linewidth=1)
                axis.errorbar(table["depth"], table["test_error"], spread, marker=mark, label=source, **style)
        axis.set(xlabel="depth, in layers", xticks=sorted({*summary["depth"], *others["depth"]}))
        axis.legend(fontsize=8.5)
    axes[0].set(ylabel="test error (%)", ylim=(0, None))
    axes[0].set_ylim(0, 1.4 * axes[0].get_ylim()[1])  # room for the legend
    caption(figure, f"filled: {conditions}; open: official CIFAR-10, full recipe")
    return figure
