"""The instruments' figures show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from resnet56.plots import (
    plot_branch_variances,
    plot_depth_sweep,
    plot_initial_gradients,
    plot_lesions,
    plot_path_lengths,
    plot_responses,
    plot_shattering,
    plot_training_curves,
)
from resnet56.plots.style import PLAIN, RESIDUAL, lines, styled
from resnet56.records.published import beside_published, published
from resnet56.records.runs import Run

LAYERS = [
    "conv1",
    "layer1.0.conv1",
    "layer1.0.conv2",
    "layer2.0.conv1",
    "layer2.0.conv2",
    "layer3.0.conv1",
    "layer3.0.conv2",
    "fc",
]
BLOCKS = ["layer1.0", "layer2.0", "layer3.0"]


def line(axis, label):
    """The data of the line with this label."""
    return next(line for line in axis.get_lines() if line.get_label() == label).get_ydata().tolist()


def test_the_deepest_network_stands_out():
    _, (left, right) = plt.subplots(1, 2)
    curves = [("plain56", [3.0, 4.0]), ("plain20", [1.0, 2.0]), ("resnet110", pd.Series([5.0, 6.0], index=[0, 9]))]
    lines(left, curves)
    lines(right, curves, shaded=True)
    drawn = {entry.get_label(): entry for entry in left.get_lines()}
    assert {name: entry.get_linestyle() for name, entry in drawn.items()} == {
        "plain-20": ":",
        "plain-56": "--",
        "ResNet-110": "-",
    }
    assert drawn["plain-20"].get_xdata().tolist() == [1, 2] and drawn["ResNet-110"].get_xdata().tolist() == [0, 9]
    assert [drawn[name].get_color() for name in ("plain-20", "plain-56", "ResNet-110")] == [PLAIN, PLAIN, RESIDUAL]
    drawn = {entry.get_label(): entry for entry in right.get_lines()}
    assert {entry.get_linestyle() for entry in drawn.values()} == {"-"}
    assert drawn["ResNet-110"].get_color() == pytest.approx(to_rgb(RESIDUAL))
    grey = [rgb_to_hsv(drawn[name].get_color())[1] for name in ("plain-20", "plain-56")]  # saturation
    assert 0.2 < grey[0] < grey[1] < rgb_to_hsv(to_rgb(PLAIN))[1]


def test_a_notebook_stays_interactive_after_its_first_figure():
    try:
        styled(plt.ion)()
        assert plt.isinteractive()
    finally:
        plt.ioff()
    styled(plt.figure)()
    assert not plt.isinteractive()


def test_responses_in_order_and_sorted_without_the_logits():
    std = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0, 99.0]
    table = pd.DataFrame({"depth": range(1, 9), "layer": LAYERS, "std": std})
    left, right = plot_responses({"resnet8": table}, "noise").axes
    assert line(left, "ResNet-8") == std[:-1] and line(right, "ResNet-8") == [7, 6, 5, 4, 3, 2, 1]


def test_shattering_sets_plain_left_and_residual_right_with_both_references():
    curves = {"plain8": [1, 0.5], "resnet8": [1, 0.9], "resnet20": [1, 0.8], "white": [1, 0], "brown": [1, 0.95]}
    left, right = plot_shattering(curves, "noise").axes
    assert line(left, "plain-8") == [1, 0.5] and line(right, "ResNet-20") == [1, 0.8]
    for axis in (left, right):
        assert line(axis, "white noise") == [1, 0] and line(axis, "brown noise") == [1, 0.95]


def test_lesions_show_each_block_and_the_mean_of_the_draws():
    each = pd.DataFrame({"removed": ["", *BLOCKS], "count": [0, 1, 1, 1], "error": [10.0, 20, 30, 40]})
    several = pd.DataFrame({"removed": 4 * ["-"], "count": [1, 1, 2, 2], "error": [20.0, 40, 50, 70]})
    left, right = plot_lesions({"resnet8": each}, {"resnet8": several}, "noise").axes[:2]
    assert line(left, "ResNet-8") == [20, 30, 40]
    assert right.get_lines()[0].get_ydata().tolist() == [30, 60]
    (band,) = right.collections
    assert {tuple(corner) for corner in band.get_paths()[0].vertices} == {(1, 20), (1, 40), (2, 50), (2, 70)}
    assert {10, 90} <= {entry.get_ydata()[0] for entry in left.get_lines()}  # the whole network, and guessing
    assert [text.xy[1] for text in right.texts if text.get_text() == "guessing"] == [90]


def test_paths_as_shares():
    table = pd.DataFrame({"length": [0, 1, 2], "paths": [1, 2, 1], "gradient": [4.0, 2, 1], "share": [0.4, 0.5, 0.1]})
    axes = plot_path_lengths(table, "noise").axes
    assert [bar.get_height() for bar in axes[0].patches] == [25, 50, 25]
    assert axes[1].get_lines()[0].get_ydata().tolist() == [4, 2, 1]
    assert [bar.get_height() for bar in axes[2].patches] == pytest.approx([40, 50, 10])


def test_the_reference_slope_is_the_theorys():
    norms = {"plain20": np.geomspace(100, 1, 20), "resnet20": np.ones(20)}
    axis = plot_initial_gradients(norms, "noise").axes[0]
    reference = line(axis, "1.21 times a layer (Yang et al.)")
    assert reference[0] / reference[1] == pytest.approx(1.2112, abs=1e-4)
    assert len(line(axis, "plain-20")) == 19  # without the logits


def test_branch_variances_beside_one_over_block():
    table = pd.DataFrame({"block": [1, 2, 3], "ratio": [1.0, 0.4, 0.3]})
    axis = plot_branch_variances({"resnet8": table}, "noise").axes[0]
    assert line(axis, "1 / block") == pytest.approx([1, 1 / 2, 1 / 3]) and line(axis, "ResNet-8") == [1, 0.4, 0.3]


def test_training_curves_and_the_depth_sweep():
    about = {
        "data": {"title": "noise"},
        "steps": 20,
        "final": {"test_error": 33.0},
        "hardware": {"name": "CPU"},
        "recipe": {"batch_size": 2, "seed": 0, "precision": "fp32"},
    }
    history = pd.DataFrame({"step": [10, 20], "train_error": [60.0, 40], "validation_error": [np.nan, 50]})
    runs = [Run({**about, "arch": arch}, history) for arch in ("plain8", "resnet8", "resnet14")]
    left, right = plot_training_curves(runs).axes
    assert line(left, "plain-8") == [50] and line(right, "ResNet-14") == [50]
    assert [33.0] in [entry.get_ydata().tolist() for entry in left.get_lines()]

    summary = pd.DataFrame(
        {
            "family": ["plain", "plain", "resnet"],
            "depth": [20, 8, 8],
            "train_error": [3.0, 2, 1],
            "test_error": [6.0, 5, 4],
            "train_error_std": np.nan,
            "test_error_std": [1.0, np.nan, 2],
        }
    )
    axis = plot_depth_sweep(summary, "noise").axes[0]
    drawn = {tuple(bars.lines[0].get_ydata()): bars.lines[0].get_color() for bars in axis.containers}
    assert drawn == {(2, 3): PLAIN, (5, 6): PLAIN, (1,): RESIDUAL, (4,): RESIDUAL}


def test_published_figures_beside_measured_ones():
    summary = pd.DataFrame(
        {
            "family": ["resnet", "resnet"],
            "depth": [56, 8],
            "seeds": [2, 1],
            "test_error": [7.0, 12.345],
            "test_error_std": [0.25, np.nan],
        }
    )
    table = beside_published(summary).set_index("depth")
    assert table["measured"].tolist() == ["7.00 ± 0.25", "12.35"]
    assert table.loc[56, "He et al. 2015, Table 6"] == "6.97" and table.loc[8, "He et al. 2015, Table 6"] == ""
    errors = published().query("source.str.contains('Table 6')").set_index("depth")["test_error"]
    assert errors.is_monotonic_decreasing  # deeper is better, in the paper's table
