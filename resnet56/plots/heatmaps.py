"""Figures of gradients by layer: flow and heatmaps (chapter 4)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from ..layers import STAGES, stage_of
from ..records.runs import Run
from .style import DASHED, caption, display_name, lines, mark_stages, note, panels, styled

#: What the axes call the columns of a run's gradients. The loss is in nats; weights have no unit.
QUANTITIES = {
    "gradient_norm": "L2 norm of the weight gradient (nats)",
    "gradient_rms": "root mean square of the weight gradient (nats)",
    "gradient_to_weight": "gradient norm / weight norm (change per unit of learning rate)",
    "weight_norm": "L2 norm of the weights",
    "output_gradient_norm": "L2 norm of the gradient at the layer's output (nats)",
}
PARTS = 5  # that a run too short for epochs is split into
STRIP, GAP = 0.035, 0.012  # width of a heatmap's strip for step 0, and of the gap beside it, as shares of the rest


@styled
def plot_gradient_flow(tables: dict[str, pd.DataFrame], conditions: str) -> Figure:
    """Draw the gradient norm of each layer against its place in the network, a line per network.

    Args:
        tables: from architecture to what :meth:`resnet56.gradients.GradientRecorder.table` gave; norms are
            averaged over the recorded steps (geometric mean).
        conditions: what was measured on what, in a line, written above.
    """
    figure, (axis,) = panels(1, 3.9, 7.5)
    lines(axis, {arch: _geometric_mean(table["gradient_norm"], table["depth"]) for arch, table in tables.items()})
    axis.set(xlabel="layer, from input to output", ylabel=QUANTITIES["gradient_norm"], yscale="log")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(tables), borderaxespad=0.1)
    caption(figure, conditions)
    return figure


@styled
def plot_gradient_flow_by_epoch(runs: list[Run], quantity: str = "gradient_norm") -> Figure:
    """Draw a recorded quantity of each layer against its place in the network, a line per epoch, a panel per run.

    A line is the geometric mean over the recorded steps of its epoch. Step 0, the gradient at the initial weights, has
    a line of its own and is in no mean. Where a run is shorter than two epochs, fifths of the runs stand for epochs.

    Args:
        runs: runs with recorded gradients.
        quantity: a column of the runs' ``gradients``, see :class:`resnet56.records.runs.Run`.

    Raises:
        InputError: if a run has not recorded the quantity.
    """
    check_recorded(runs, quantity)
    epochs = [run.history["epoch"].max() for run in runs]
    by_epoch = min(epochs) >= 2
    count = int(np.ceil(max(epochs))) if by_epoch else PARTS
    colours = ListedColormap(plt.get_cmap("viridis")(np.linspace(0, 0.93, count)))  # without the yellow, lost on white
    norm = Normalize(0.5, count + 0.5)
    figure, axes = panels(len(runs), 4, sharey=True)
    for axis, run, length in zip(axes, runs, epochs, strict=True):
        values = run.by_layer(quantity)
        layers, depths = values.columns, np.arange(1, len(values.columns) + 1)
        total = run.history["step"].max()
        step_count = round(total / length) if by_epoch else total / PARTS
        trained = values[values.index > 0]
        parts = (trained.index // step_count + 1).astype(int)
        for part, means in _geometric_mean(trained, parts).iterrows():
            axis.plot(depths, means, color=colours(norm(part)), linewidth=1.4 if count <= 12 else 0.8)
        if 0 in values.index:
            start = dict(color="black", linewidth=1.4, linestyle=DASHED, zorder=3, label="step 0: initial weights")
            axis.plot(depths, values.loc[0], **start)
        mark_stages(axis, layers, vertical=True)
        _name_stages(axis, layers)
        axis.grid(axis="x", visible=False)
        axis.set(xlabel="layer, from input to output", yscale="log", xlim=(0.5, len(depths) + 0.5))
        axis.set_title(display_name(run.arch), pad=18)
    axes[0].set_ylabel(QUANTITIES.get(quantity, quantity))
    if axes[-1].get_legend_handles_labels()[0]:
        axes[-1].legend(loc="lower right", bbox_to_anchor=(1, 1.05), borderaxespad=0, fontsize=9)
    ticks = MaxNLocator(8, integer=True)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.015, fraction=0.03, ticks=ticks)
    lengths = " and ".join(dict.fromkeys(f"{length:.2g}" for length in epochs))
    bar.set_label("epoch" if by_epoch else f"fifth of the run, which lasts {lengths} epochs")
    caption(figure, runs[0].label())
    return figure


@styled
def plot_gradient_heatmaps(runs: list[Run], quantity: str = "gradient_norm") -> Figure:
    """Draw a recorded quantity of every layer at every recorded step, a heatmap per run, on one logarithmic scale.

    The thin strip on the left is step 0, the initialisation. In the map, the colour of a recorded step reaches back to
    the recorded step before it.

    Args:
        runs: runs with recorded gradients, of nets of one depth.
        quantity: a column of the runs' ``gradients``, see :class:`resnet56.records.runs.Run`.

    Raises:
        InputError: if a run has not recorded the quantity, or the nets have different depths.
    """
    check_recorded(runs, quantity)
    layers = runs[0].gradients.drop_duplicates("depth")
    for run in runs[1:]:
        if run.gradients["depth"].max() != len(layers):
            raise InputError(f"{runs[0].arch} and {run.arch} differ in depth and cannot share an axis: draw each alone")
    tables = [run.by_layer(quantity).T for run in runs]
    values = np.concatenate([table.to_numpy().ravel() for table in tables])
    good = np.isfinite(values) & (values > 0)
    norm = LogNorm(*np.quantile(values[good], [0.002, 0.998]))
    colours = plt.get_cmap("viridis").with_extremes(bad="#bbbbbb")
    figure, axes = panels(len(runs), 5, sharey=True)
    for axis, run, table in zip(axes, runs, tables, strict=True):
        mesh = _draw_heatmap(axis, table, norm, colours)
        strip = " (strip on the left: step 0)" if len(table.columns) > 1 and 0 in table.columns else ""
        axis.set(title=display_name(run.arch), xlabel=f"training step{strip}")
    first = axes[0]
    first.invert_yaxis()
    middle = len(layers) // 12  # of the blocks of a stage
    named = layers["layer"].str.contains(rf"^conv1$|^layer[23]\.0\.conv1|\.{middle}\.conv1|^fc$")
    ticks = layers[named | (len(layers) <= 20)]
    first.set_yticks(ticks["depth"], ticks["layer"], fontsize=9)
    first.set_ylabel("layer, from input (top) to output")
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.03, extend="both")
    holes = "" if good.all() else "; grey: zero or not finite"
    bar.set_label(QUANTITIES.get(quantity, quantity) + holes)
    caption(figure, runs[0].label())
    return figure


def _draw_heatmap(axis: Axes, table: pd.DataFrame, norm: LogNorm, colours: Colormap) -> QuadMesh:
    """Draw a heatmap of ``table``, a row per layer and a column per recorded step; return the mesh."""
    steps = table.columns.to_numpy()
    last = max(steps[-1], 1)
    start = -(STRIP + GAP) * last if steps[0] == 0 else 0
    edges_x, edges_y = np.append(start, steps), np.arange(len(table) + 1) + 0.5
    mesh = axis.pcolormesh(edges_x, edges_y, table.to_numpy(), norm=norm, cmap=colours, rasterized=True)
    mark_stages(axis, table.index, vertical=False)
    ticks = [int(tick) for tick in MaxNLocator(5, integer=True).tick_values(0, steps[-1]) if 0 < tick <= steps[-1]]
    if steps[0] == 0:
        axis.axvspan(-GAP * last, 0, color="white", linewidth=0)  # within the strip: no other step is hidden
        axis.set_xticks([start + STRIP * last / 2, *ticks], ["0", *(f"{tick:,}" for tick in ticks)])
    axis.set_xlim(start, steps[-1] or -GAP)  # up to the gap, where step 0 is all there is
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return mesh


def _name_stages(axis: Axes, layers: pd.Index) -> None:
    """Write the names of the stages above an axis along which lie ``layers``, all layers from input to output."""
    stages = np.array([stage_of(layer) for layer in layers])
    for stage in sorted({*stages} & {*STAGES}):
        middle = np.flatnonzero(stages == stage).mean() + 1
        note(axis, stage, (middle, 1), (0, 3), ("data", "axes fraction"), ha="center")


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
