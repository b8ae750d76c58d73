"""Figures that answer to the reader's hand: the data of a still figure, for ``book/_static/figures.js`` to draw.

A notebook cell draws the still figure; the next one returns an :class:`Interactive` with the name of that figure. On a
built page the script puts its drawing in the still picture's place. Without a script, and on paper, the picture stays.
"""

import html
import json
import re
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from ..errors import InputError
from ..model import parse_arch
from ..records.runs import Run
from .heatmaps import QUANTITIES, check_recorded, colour_scale
from .style import display_name, stage_ends
from .training import smoothed, validated

DIGITS = 3  # significant ones of every number in a page: more than an eye can see
POINTS = 200  # of a curve, at most


@dataclass(frozen=True)
class Interactive:
    """The data of a figure, which a notebook shows as a ``<script>`` of JSON: nothing to see but for ``figures.js``.

    Attributes:
        kind: which drawing: ``"heatmaps"``, ``"curves"`` or ``"depths"``.
        figure: name of the still figure whose place it takes, as in the cell's metadata.
        data: what is drawn, of strings, numbers, lists and dicts.
    """

    kind: str
    figure: str
    data: dict

    def __repr__(self) -> str:
        return f"<interactive {self.kind} for {self.figure}>"

    def _repr_html_(self) -> str:
        text = json.dumps(self.data, separators=(",", ":"), sort_keys=True, allow_nan=False)
        text = text.replace("<", "\\u003c")  # so that no string in it can end the script
        about = f'data-kind="{html.escape(self.kind)}" data-figure="{html.escape(self.figure)}"'
        return f'<script type="application/json" class="figure-data" {about}>{text}</script>'


def interactive_heatmaps(figure: str, runs: list[Run], quantity: str = "gradient_norm") -> Interactive:
    """Return the data of :func:`resnet56.plots.heatmaps.plot_gradient_heatmaps`, to walk through by step and layer."""
    check_recorded(runs, quantity)
    tables = [run.by_layer(quantity) for run in runs]
    steps, layers = tables[0].index, tables[0].columns
    for run, table in zip(runs, tables, strict=True):
        if not (table.columns.equals(layers) and table.index.equals(steps)):
            raise InputError(f"{runs[0].arch} and {run.arch} differ in layers or recorded steps: draw each alone")
    colours = plt.get_cmap("viridis")
    data = {
        "conditions": runs[0].label(),
        "quantity": QUANTITIES.get(quantity, quantity),
        "steps": steps.tolist(),
        "layers": layers.tolist(),
        "places": [_place(layer, list(layers)) for layer in layers],
        "stages": list(stage_ends(layers).values()),
        "scale": _rounded(colour_scale(tables)[0]),
        "colours": [to_hex(colours(index)) for index in range(colours.N)],
        "networks": [
            {**_network(run.arch), "values": [_rounded(row) for row in table.to_numpy()]}
            for run, table in zip(runs, tables, strict=True)
        ],
    }
    return Interactive("heatmaps", figure, data)


def interactive_curves(figure: str, runs: list[Run]) -> Interactive:
    """Return the data of :func:`resnet56.plots.training.plot_training_curves`, to read off by step.

    As there, the training error is the mean of five records. Of a long run up to 200 points are kept, and the last.
    """
    if not runs:
        raise InputError("there is no run to draw")
    curves = []
    for run in sorted(runs, key=lambda run: parse_arch(run.arch)):
        train, validation = _thinned(smoothed(run)), _thinned(validated(run))
        errors = {"train": _rounded(train), "validation": [validation.index.tolist(), _rounded(validation)]}
        (test,) = _rounded([run.about["final"]["test_error"]])
        curves.append({**_network(run.arch), "steps": train.index.tolist(), **errors, "test": test})
    last = runs[0].history.iloc[-1]
    per_epoch = float(last["step"] / last["epoch"])
    return Interactive("curves", figure, {"conditions": runs[0].label(), "runs": curves, "steps_per_epoch": per_epoch})


def interactive_depths(figure: str, table: pd.DataFrame, value: str, label: str) -> Interactive:
    """Return the data of a walk through depths: a value by layer, in plain and residual networks of growing depth.

    Args:
        table: a row per network and layer, with ``arch`` (such as ``"plain56"``), ``depth`` (the layer's number, from
            1) and the value. Depths that only one family has are left out.
        value, label: its column, and what the axis calls it, with its unit.
    """
    missing = {"arch", "depth", value} - set(table.columns)
    if missing:
        raise InputError(f"the table has no column {sorted(missing)[0]!r}")
    lines: dict[int, dict[str, list]] = {}
    for arch, rows in table.sort_values("depth", kind="stable").groupby("arch"):
        family, depth = parse_arch(arch)
        lines.setdefault(depth, {"depth": depth})[family] = _rounded(rows[value])
    walk = [lines[depth] for depth in sorted(lines) if {"plain", "resnet"} <= lines[depth].keys()]
    if not walk:
        raise InputError("the table has no depth of both a plain and a residual network")
    return Interactive("depths", figure, {"label": label, "walk": walk})


def _network(arch: str) -> dict:
    """Return what the script needs to name and colour a network."""
    family, depth = parse_arch(arch)
    return {"name": display_name(arch), "family": family, "depth": depth}


def _place(layer: str, layers: list[str]) -> str:
    """Return in words where in the network a layer is."""
    found = re.fullmatch(r"layer(\d)\.(\d+)\.conv(\d)", layer)
    if not found:
        return {"conv1": "the first layer", "fc": "the last layer, fully connected"}.get(layer, layer)
    stage, block, convolution = map(int, found.groups())
    blocks = sum(other.startswith(f"layer{stage}.") for other in layers) // 2
    return f"stage {stage}, block {block + 1} of {blocks}, {('first', 'second')[convolution - 1]} convolution"


def _thinned(curve: pd.Series) -> pd.Series:
    """Return the last point and every so many before it, ``POINTS`` at most."""
    stride = -(-len(curve) // POINTS)
    return curve.iloc[::-1].iloc[::stride].iloc[::-1]


def _rounded(values) -> list:
    """Return numbers of ``DIGITS`` significant digits; None for what is not finite, of which JSON has no idea."""
    numbers = [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
    return [int(number) if number is not None and number == int(number) else number for number in numbers]
