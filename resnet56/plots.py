"""Figures. Each function makes one from recorded runs or images, and returns it."""

import functools
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .data import DataSet
from .model import STAGES
from .recipe import Recipe
from .runs import Run

if TYPE_CHECKING:
    from .bench import Bench

PLAIN, RESIDUAL = "#D55E00", "#0072B2"  # Okabe and Ito's vermillion and blue: told apart by every kind of eye
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


def _styled(function):
    """Draw with this module's style, whatever the caller's."""

    @functools.wraps(function)
    def draw(*arguments, **options):
        with plt.rc_context(STYLE):
            figure = function(*arguments, **options)
            interactive = plt.isinteractive()  # a notebook switches this on with its first figure,
        plt.interactive(interactive)  # and rc_context has just switched it off again
        return figure

    return draw


def colour(arch: str) -> str:
    """Return the colour of an architecture, the same in every figure: plain is vermillion, residual is blue."""
    return PLAIN if arch.startswith("plain") else RESIDUAL


def display_name(arch: str) -> str:
    """Return an architecture's name as text has it: ``"plain56"`` is plain-56, ``"resnet56"`` is ResNet-56."""
    return arch.replace("plain", "plain-").replace("resnet", "ResNet-")


def _caption(figure: Figure, conditions: str) -> None:
    """Write above a figure what it was measured on."""
    figure.suptitle(conditions, x=0.01, ha="left", fontsize=9, color="#555555")


@_styled
def plot_images(data: DataSet, rows: int = 4) -> Figure:
    """Draw a grid of training images: a column per class, the first ``rows`` images of each."""
    figure, axes = plt.subplots(
        rows, len(data.classes), figsize=(8.4, 0.84 * rows + 0.6), squeeze=False, layout="constrained"
    )
    for label, column in enumerate(axes.T):
        members = (data.train.labels == label).nonzero().flatten()[:rows]
        for axis, index in zip(column, members, strict=True):
            axis.imshow(data.train.pixels[index].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            axis.set_axis_off()
        column[0].set_title(data.classes[label], loc="center", fontsize=9.5)
    _caption(figure, data.title)
    return figure


@_styled
def plot_views(images: np.ndarray, titles: list[str], conditions: str) -> Figure:
    """Draw images in a row, each with its title; ``images`` is float ``(N, 3, H, W)`` from 0 to 1."""
    figure, axes = plt.subplots(1, len(images), figsize=(1.4 * len(images), 2), layout="constrained")
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
        axis.set_title(title, loc="center", fontsize=8.5)
        axis.set_axis_off()
    _caption(figure, conditions)
    return figure


@_styled
def plot_lr_schedule(recipe: Recipe) -> Figure:
    """Draw the learning rate of a recipe given in iterations against the step, on a logarithmic scale."""
    steps = np.arange(recipe.iterations)
    figure, axis = plt.subplots(figsize=(6.5, 2.6))
    axis.step(steps, [recipe.lr_at(step, recipe.iterations) for step in steps], where="post", color="#333333")
    axis.set(xlabel="training step", ylabel="learning rate", yscale="log", xlim=(0, recipe.iterations))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    figure.tight_layout()
    return figure


@_styled
def plot_speeds(bench: "Bench") -> Figure:
    """Draw the images per second of each loop, and the bound that the speed of a matrix product sets."""
    about, table = bench.about, bench.table()
    figure, axis = plt.subplots(figsize=(8.4, 0.42 * len(table) + 1.1), layout="constrained")
    places = np.arange(len(table))
    axis.barh(places, table["end_to_end"], color="#7f7f7f", height=0.62)
    axis.barh(places[:1], table["end_to_end"].iloc[:1], color="#c7c7c7", height=0.62)
    for place, (_, row) in zip(places, table.iterrows(), strict=True):
        axis.annotate(f"{row['ratio']:.2f}x", (row["end_to_end"], place), (4, 0), textcoords="offset points", va="center")
    bound = about["matmul_gflops"] / about["image_gflop"]
    axis.axvline(bound, color="black", linestyle="--", linewidth=1)
    axis.annotate("arithmetic bound", (bound, 0), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=9)
    axis.set(xlabel="images per second, with the making of batches", yticks=places, yticklabels=table.index)
    axis.set_xlim(0, 1.04 * max(bound, table["end_to_end"].max()))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    _caption(figure, f"{display_name(about['arch'])}, batches of {about['batch_size']}, {about['data']}, {about['hardware']['name']}")
    return figure


@_styled
def plot_gradient_flow(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the gradient norm of each layer against its place in the network, a line per network.

    Args:
        tables: from architecture to what :meth:`resnet56.hooks.GradientRecorder.table` gave; norms are
            averaged over the recorded steps (geometric mean).
        conditions: what was measured on what, in a line, written above.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.9))
    deepest = max(table["depth"].max() for table in tables.values())
    for arch, table in tables.items():
        norms = np.exp(np.log(table.set_index("depth")["gradient_norm"]).groupby("depth").mean())
        axis.plot(norms.index, norms, color=colour(arch), linewidth=1.6, linestyle="-" if len(norms) == deepest else "--",
                  label=display_name(arch))
    axis.set(xlabel="layer, from input to output", ylabel="L2 norm of the weight gradient", yscale="log")
    axis.legend()
    _caption(figure, conditions)
    figure.tight_layout()
    return figure


@_styled
def plot_comparison(runs: list[Run]) -> Figure:
    """Draw training loss against the step, and the gradient norm of each layer against depth, for runs on one data set.

    Args:
        runs: runs with recorded gradients.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    _draw_losses(left, runs)
    _draw_gradient_norms(right, runs)
    _caption(figure, runs[0].label())
    figure.tight_layout()
    return figure


def _draw_losses(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        name = display_name(run.arch)
        sns.lineplot(data=run.history, x="step", y="train_loss", color=colour(run.arch), label=name, ax=axis)
    axis.axhline(np.log(10), color="#888888", linewidth=1, linestyle=":")
    axis.annotate("guessing: ln 10", (0.99, np.log(10)), (0, 3), ("axes fraction", "data"), "offset points",
                  ha="right", fontsize=8, color="#666666")
    axis.set(xlabel="training step", ylabel="training loss (nats)", title="Training loss", xlim=(0, None))
    axis.legend(loc="lower left")


def _draw_gradient_norms(axis: Axes, runs: list[Run]) -> None:
    for run in runs:
        table = run.gradients
        last = table["step"].max()
        for step, dashes, words in ((0, (2, 1.2), "step 0"), (last, "", f"step {last:,}")):
            rows = table[table["step"] == step]
            axis.plot(rows["depth"], rows["gradient_norm"], color=colour(run.arch), linewidth=1.4,
                      dashes=dashes or (None, None), label=f"{display_name(run.arch)}, {words}")
    _mark_stages(axis, runs[0], vertical=True)
    axis.set_yscale("log")
    axis.set(xlabel="layer, from input to output", ylabel="L2 norm of the weight gradient", title="Gradient norm by layer")
    axis.legend(fontsize=8, loc="upper right")


def _mark_stages(axis: Axes, run: Run, vertical: bool) -> None:
    """Mark the first layer of each stage: the stage boundaries."""
    layers = run.gradients.drop_duplicates("depth")
    for stage in STAGES:
        first = layers.loc[layers["stage"] == stage, "depth"].min()
        draw = axis.axvline if vertical else axis.axhline
        draw(first - 0.5, color="#999999" if vertical else "white", linewidth=0.8, linestyle=(0, (4, 3)))


@_styled
def plot_gradient_heatmaps(runs: list[Run]) -> Figure:
    """Draw the gradient norm of every layer at every recorded step, a heatmap per run, on one logarithmic scale.

    Args:
        runs: runs with recorded gradients, of nets of one depth.
    """
    tables = [run.by_layer().T for run in runs]
    values = np.concatenate([table.to_numpy().ravel() for table in tables])
    norm = LogNorm(*np.quantile(values[values > 0], [0.002, 0.998]))
    figure, axes = plt.subplots(1, len(runs), figsize=(8.4, 5), sharey=True, layout="constrained")
    for axis, run, table in zip(np.atleast_1d(axes), runs, tables, strict=True):
        steps = table.columns.to_numpy()
        width = steps[1] - steps[0] if len(steps) > 1 else 1
        edges_x = np.append(steps, steps[-1] + width)
        edges_y = np.arange(len(table) + 1) + 0.5
        mesh = axis.pcolormesh(edges_x, edges_y, table.to_numpy(), norm=norm, cmap="viridis", rasterized=True)
        _mark_stages(axis, run, vertical=False)
        axis.grid(False)
        axis.set(title=display_name(run.arch), xlabel="training step")
    first = np.atleast_1d(axes)[0]
    first.invert_yaxis()
    layers = runs[0].gradients.drop_duplicates("depth")
    middle = len(layers) // 12  # of the blocks of a stage
    ticks = layers[layers["layer"].str.contains(rf"^conv1$|^layer[23]\.0\.conv1|\.{middle}\.conv1|^fc$")]
    first.set_yticks(ticks["depth"], ticks["layer"])
    first.set_ylabel("layer, from input (top) to output")
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.03, extend="both")
    bar.set_label("L2 norm of the weight gradient")
    _caption(figure, runs[0].label())
    return figure
