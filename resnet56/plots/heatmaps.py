"""Figures of gradients by layer: flow and heatmaps (chapter 6)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from ..records.runs import Run
from .style import DASHED, display_name, lines, mark_stages, note, panels, stage_ends, styled

#: What the axes call the columns of a run's gradients. The loss is in nats; weights have no unit.
QUANTITIES = {
    "gradient_norm": "L2 norm of the weight gradient (nats)",
    "gradient_rms": "root mean square of the weight gradient (nats)",
    "gradient_to_weight": "gradient norm / weight norm (change per unit of learning rate)",
    "weight_norm": "L2 norm of the weights",
    "output_gradient_norm": "L2 norm of the gradient at the layer's output (nats)",
}
STRIP, GAP = 0.035, 0.012  # width of a heatmap's strip for step 0, and of the gap beside it, as shares of the rest


@styled
def plot_gradient_flow(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the gradient norm of each layer against its place in the network, a line per network.

    Of tables of :meth:`resnet56.gradients.GradientRecorder.table`: the geometric mean over the recorded steps.
    """
    figure, (axis,) = panels(1, 3.9, conditions, 7.5)
    lines(axis, [(arch, _geometric_mean(table["gradient_norm"], table["depth"])) for arch, table in tables.items()])
    axis.set(xlabel="layer, from input to output", ylabel=QUANTITIES["gradient_norm"], yscale="log")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tables), borderaxespad=0.1)
    return figure


@styled
def plot_gradient_flow_by_epoch(runs: list[Run], quantity: str = "gradient_norm") -> Figure:
    """Draw a recorded quantity of each layer against its place in the network, a line per epoch, a panel per run.

    A line is the geometric mean over the steps of the epoch; step 0, the initial weights, is apart, dashed.
    """
    check_recorded(runs, quantity)
    count = int(np.ceil(max(run.history["epoch"].max() for run in runs)))
    colours = ListedColormap(plt.get_cmap("viridis")(np.linspace(0, 0.93, count)))  # without the yellow, lost on white
    norm = Normalize(0.5, count + 0.5)
    figure, axes = panels(len(runs), 4, runs[0].label(), sharey=True)
    for axis, run in zip(axes, runs, strict=True):
        values = run.by_layer(quantity)
        depths = np.arange(1, len(values.columns) + 1)
        steps_per_epoch = round(run.history["step"].max() / run.history["epoch"].max())
        trained = values[values.index > 0]
        for epoch, means in _geometric_mean(trained, trained.index // steps_per_epoch + 1).iterrows():
            axis.plot(depths, means, color=colours(norm(epoch)), linewidth=1.4 if count <= 12 else 0.8)
        if 0 in values.index:
            start = dict(color="black", linewidth=1.4, linestyle=DASHED, zorder=3, label="step 0: initial weights")
            axis.plot(depths, values.loc[0], **start)
        mark_stages(axis, values.columns)
        for stage, ends in stage_ends(values.columns).items():
            note(axis, stage, (sum(ends) / 2, 1), (0, 3), ("data", "axes fraction"), ha="center")
        axis.grid(axis="x", visible=False)
        axis.set(xlabel="layer, from input to output", yscale="log", xlim=(0.5, len(depths) + 0.5))
        axis.set_title(display_name(run.arch), pad=18)
    axes[0].set_ylabel(QUANTITIES.get(quantity, quantity))
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend(loc="lower right", bbox_to_anchor=(1, 1.05), borderaxespad=0, fontsize=9)
    bar = dict(ax=axes, pad=0.015, fraction=0.03, ticks=MaxNLocator(8, integer=True), label="epoch")
    figure.colorbar(ScalarMappable(norm, colours), **bar)
    return figure


@styled
def plot_gradient_heatmaps(runs: list[Run], quantity: str = "gradient_norm") -> Figure:
    """Draw a recorded quantity of every layer at every recorded step, a heatmap per run, on one logarithmic scale.

    The thin strip on the left is step 0, the initialisation. In the map, the colour of a recorded step reaches back to
    the recorded step before it.
    """
    check_recorded(runs, quantity)
    layers = runs[0].gradients.drop_duplicates("depth")
    for run in runs[1:]:
        if run.gradients["depth"].max() != len(layers):
            raise InputError(f"{runs[0].arch} and {run.arch} differ in depth and cannot share an axis: draw each alone")
    tables = [run.by_layer(quantity).T for run in runs]
    ends, good = colour_scale(tables)
    norm = LogNorm(*ends)
    figure, axes = panels(len(runs), 5, runs[0].label(), sharey=True)
    for axis, run, table in zip(axes, runs, tables, strict=True):
        mesh = _draw_heatmap(axis, table, norm)
        strip = " (strip on the left: step 0)" if len(table.columns) > 1 and 0 in table.columns else ""
        axis.set(title=display_name(run.arch), xlabel=f"training step{strip}")
    middle = len(layers) // 12  # of the blocks of a stage
    named = layers["layer"].str.contains(rf"^conv1$|^layer[23]\.0\.conv1|\.{middle}\.conv1|^fc$")
    ticks = layers[named | (len(layers) <= 20)]
    axes[0].set_yticks(ticks["depth"], ticks["layer"], fontsize=9)
    axes[0].set_ylabel("layer, from input (top) to output")
    axes[0].invert_yaxis()
    label = QUANTITIES.get(quantity, quantity) + ("" if good else "; grey: zero or not finite")
    figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.03, extend="both", label=label)
    return figure


def _draw_heatmap(axis: Axes, table: pd.DataFrame, norm: LogNorm) -> QuadMesh:
    """Draw a heatmap of ``table``, a row per layer and a column per recorded step; return the mesh."""
    steps = table.columns.to_numpy()
    last = max(steps[-1], 1)
    start = -(STRIP + GAP) * last if steps[0] == 0 else 0
    edges, colours = np.append(start, steps), plt.get_cmap("viridis").with_extremes(bad="#bbbbbb")
    mesh = axis.pcolormesh(edges, np.arange(len(table) + 1) + 0.5, table, norm=norm, cmap=colours, rasterized=True)
    mark_stages(axis, table.index, vertical=False)
    if steps[0] == 0:
        axis.axvspan(-GAP * last, 0, color="white", linewidth=0)  # within the strip: no other step is hidden
        ticks = [int(tick) for tick in MaxNLocator(5, integer=True).tick_values(0, steps[-1]) if 0 < tick <= steps[-1]]
        axis.set_xticks([start + STRIP * last / 2, *ticks], ["0", *(f"{tick:,}" for tick in ticks)])
    axis.set_xlim(start, steps[-1] or -GAP)  # up to the gap, where step 0 is all there is
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return mesh


def colour_scale(tables: list[pd.DataFrame]) -> tuple[np.ndarray, bool]:
    """Return the ends of a logarithmic scale, without the utmost values, and whether every value has a logarithm."""
    values = np.concatenate([table.to_numpy().ravel() for table in tables])
    good = np.isfinite(values) & (values > 0)
    return np.quantile(values[good], [0.002, 0.998]), good.all()


def _geometric_mean(values: pd.DataFrame | pd.Series, groups: pd.Index | pd.Series) -> pd.DataFrame | pd.Series:
    """Return the geometric mean of each group of rows, which a zero makes zero."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).groupby(groups).mean())


def check_recorded(runs: list[Run], quantity: str) -> None:
    """Raise :class:`resnet56.errors.InputError` for the first run that has not recorded ``quantity``."""
    for run in runs:
        if run.gradients is None or run.gradients.empty:
            raise InputError(f"the run of {run.arch} has no recorded gradients; `resnet56 compare` records them")
        recorded = run.gradients.drop(columns=["step", "depth", "layer", "stage"])
        recorded = recorded.columns[((recorded > 0) & (recorded < np.inf)).any()]
        if quantity not in recorded:
            raise InputError(f"the run of {run.arch} has not recorded {quantity!r}: it has {', '.join(recorded)}")
