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
from .style import DASHED, by_family, colour, display_name, lines, mark_stages, note, panels, styled

if TYPE_CHECKING:
    from ..fast.bench import Bench

DIAMOND = dict(marker="D", markersize=6, markeredgecolor="white", linestyle="", clip_on=False, zorder=5, label=None)
AT_RIGHT = ("axes fraction", "data")


@styled
def plot_lr_schedule(recipe: Recipe, images: int = 50_000) -> Figure:
    """Draw the learning rate of a recipe against the step, for training on so many images."""
    total = recipe.total_steps(images)
    steps = np.unique(np.linspace(0, total - 1, 64_000, dtype=int))
    figure, (axis,) = panels(1, 2.6, width=6.5, xlabel="training step")
    axis.step(steps, [recipe.lr_at(step, total) for step in steps], where="post", color="#333333")
    axis.set(ylabel="learning rate", yscale="log", xlim=(0, total))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure


@styled
def plot_speeds(bench: "Bench") -> Figure:
    """Draw the images per second of each loop, and the bound that the speed of a matrix product sets."""
    about, table = bench.about, bench.table()
    conditions = [f"{display_name(about['arch'])}, batches of {about['batch_size']}", about["data"]]
    figure, (axis,) = panels(1, 0.42 * len(table) + 1.1, ", ".join([*conditions, about["hardware"]["name"]]))
    shades = ["#c7c7c7", *(len(table) - 1) * ["#7f7f7f"]]
    bars = axis.barh(table.index, table["end_to_end"], color=shades, height=0.62)
    axis.bar_label(bars, [f"{ratio:.2f}x" for ratio in table["ratio"]], padding=4)
    bound = about["matmul_gflops"] / about["image_gflop"]
    axis.axvline(bound, color="black", linestyle="--", linewidth=1)
    note(axis, "arithmetic bound", (bound, 0), (-4, 0), ha="right", va="center", fontsize=9, color="black")
    axis.set(xlabel="images per second, with the making of batches", xlim=(0, 1.04 * max(bound, *table["end_to_end"])))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    return figure


@styled
def plot_comparison(runs: list[Run]) -> Figure:
    """Draw the training loss of runs on one data set against the step, and the gradient norm of each layer."""
    check_recorded(runs, "gradient_norm")
    figure, (left, right) = panels(2, 3.6, runs[0].label())
    for run in runs:
        name, norms = display_name(run.arch), run.by_layer()
        sns.lineplot(run.history, x="step", y="train_loss", color=colour(run.arch), label=name, ax=left)
        for step, dashes in {norms.index[0]: (0, (2, 1.2)), norms.index[-1]: "-"}.items():
            style = dict(linestyle=dashes, linewidth=1.4, label=f"{name}, step {step:,}")
            lines(right, [(run.arch, norms.loc[step].to_numpy())], **style)
    left.axhline(np.log(10), color="#888888", linewidth=1, linestyle=":")
    note(left, "guessing: ln 10", (0.99, np.log(10)), (0, 3), AT_RIGHT, ha="right")
    left.set(xlabel="training step", ylabel="training loss (nats)", title="Training loss", xlim=(0, None))
    left.legend(loc="lower left")
    mark_stages(right, norms.columns)
    right.set(xlabel="layer, from input to output", ylabel="L2 norm of the weight gradient")
    right.set(yscale="log", title="Gradient norm by layer")
    right.legend(fontsize=8, loc="upper right")
    return figure


def smoothed(run: Run) -> pd.Series:
    """Return a run's training error by step, the mean of five records, or of as many as there are."""
    return run.history.set_index("step")["train_error"].rolling(5, min_periods=1).mean()


def validated(run: Run) -> pd.Series:
    """Return a run's validation error by step; :class:`resnet56.errors.InputError` if it has none."""
    if "validation_error" not in run.history or run.history["validation_error"].isna().all():
        raise InputError(f"the run of {run.arch} has no validation errors: it was trained without a validation set")
    return run.history.set_index("step")["validation_error"].dropna()


def tested(run: Run) -> pd.Series:
    """Return a run's test error at its last step."""
    return pd.Series(run.about["final"]["test_error"], run.history["step"].iloc[-1:])


@styled
def plot_degradation(runs: list[Run]) -> Figure:
    """Draw the argument of the book: errors while training, on the training images left, on held-out ones right.

    It is He et al. (2015), Figure 1, with a residual network beside the plain ones, for runs of one recipe. The
    training error is that of the augmented batches, smoothed over 50 steps; the diamond is the error on the test
    images, which are looked at once, at the end. Each line is named where it ends.
    """
    figure, (left, right) = panels(2, 3.6, runs[0].label(), xlabel="training step", sharex=True, sharey=True)
    lines(left, [(run.arch, smoothed(run)) for run in runs], linewidth=2)
    lines(right, [(run.arch, validated(run)) for run in runs], linewidth=2, marker="o", markersize=3.5)
    lines(right, [(run.arch, tested(run)) for run in runs], **DIAMOND)
    for run in runs:
        for axis, curve in ((left, smoothed(run)), (right, tested(run))):
            style = dict(va="center", color=colour(run.arch), fontsize=10, fontweight="bold")
            note(axis, display_name(run.arch), (1, curve.iloc[-1]), (6, 0), AT_RIGHT, **style)
    left.set(ylabel="error (%)", xlim=(0, curve.index[-1]), ylim=(0, None), title="On the images it trains on")
    right.set_title("On images it has not seen")
    left.xaxis.set_major_formatter("{x:,.0f}")
    return figure


@styled
def plot_training_curves(runs: list[Run]) -> Figure:
    """Draw errors while training, plain networks left, residual ones right, as He et al. (2015), Figure 6.

    Dashed is the error on the augmented training batches, solid that on the held-out validation images, and the diamond
    at the end that on the test images, which are looked at once. The runs are of one recipe, on one data set.
    """
    conditions = f"{runs[0].label()}\ndashed: training batches; solid: validation; diamond: test"
    figure, axes = panels(2, 3.7, conditions, xlabel="training step", sharex=True, sharey=True)
    for axis, family in by_family(axes):
        members = [run for run in runs if run.arch.startswith(family)]
        lines(axis, [(run.arch, smoothed(run)) for run in members], True, linewidth=1, linestyle=DASHED, label=None)
        lines(axis, [(run.arch, validated(run)) for run in members], True, linewidth=1.8, marker="o", markersize=3)
        lines(axis, [(run.arch, tested(run)) for run in members], True, **DIAMOND)
        if members:
            axis.legend(loc="upper right")
    axes[0].set(ylabel="error (%)", ylim=(0, None), xlim=(0, None))
    axes[0].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _draw_means(axis: Axes, table: pd.DataFrame, column: str, **style) -> None:
    """Draw mean errors by depth, with their spread: two runs as two dots, three and more as a standard deviation.

    Two runs lie at their mean plus and minus their sample's standard deviation over the root of two.
    """
    table = table.sort_values("depth")
    mean, std = table[column], table[f"{column}_std"]
    two = table.get("seeds", 0 * mean) == 2
    axis.errorbar(table["depth"], mean, std.mask(two).fillna(0), capsize=3, **style)
    for seed in (mean - std / np.sqrt(2), mean + std / np.sqrt(2)):
        axis.scatter(table["depth"], seed.where(two), s=12, color=style["color"])


@styled
def plot_depth_sweep(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw final errors against depth for plain and residual networks: the degradation picture.

    Of a table of :func:`resnet56.records.runs.summarise`. Dashed is the training error, solid the test error; two seeds
    are dots beside their mean, bars the standard deviations of three and more.
    """
    figure, (axis,) = panels(1, 3.9, conditions, 6.2, xlabel="depth, in layers")
    for family, table in summary.groupby("family"):
        for kind, dashes, mark in (("train", DASHED, "s"), ("test", "-", "o")):
            name = {"plain": "plain", "resnet": "residual"}[family]
            style = dict(color=colour(family), linestyle=dashes, linewidth=1.6, marker=mark, markersize=5)
            _draw_means(axis, table, f"{kind}_error", label=f"{name}, {kind}", **style)
    axis.set(ylabel="error at the end of training (%)", ylim=(0, None), xticks=sorted(set(summary["depth"])))
    axis.legend()
    return figure


@styled
def plot_results(summary: pd.DataFrame, conditions: str) -> Figure:
    """Draw test errors of a suite against depth, beside the published ones, plain networks left, residual ones right.

    Of a table of :func:`resnet56.records.runs.summarise`; filled marks, spread as in :func:`plot_depth_sweep`.
    """
    conditions = f"filled: {conditions}; open: official CIFAR-10, full recipe"
    figure, axes = panels(2, 3.9, conditions, xlabel="depth, in layers", sharey=True)
    others = published()
    marks = dict(zip(others["source"].unique(), "Ds^v", strict=True))
    for axis, family in by_family(axes):
        style = dict(color=colour(family), linewidth=1.6, marker="o", markersize=6)
        _draw_means(axis, summary[summary["family"] == family], "test_error", label="measured here", **style)
        for source, table in others[others["family"] == family].groupby("source", sort=False):
            style = dict(color="#444444", markerfacecolor="white", linewidth=1, marker=marks[source], markersize=6)
            _draw_means(axis, table, "test_error", label=source, **style)
        axis.set_xticks(sorted({*summary["depth"], *others["depth"]}))
        axis.legend(fontsize=8.5)
    axes[0].set(ylabel="test error (%)", ylim=(0, 1.4 * axes[0].get_ylim()[1]))  # room for the legend
    return figure
