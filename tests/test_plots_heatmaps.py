"""Figures of gradients: what is drawn is what was recorded."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import random_split
from matplotlib.collections import QuadMesh

from resnet56 import InputError, Recipe, compare
from resnet56.data import DataSet
from resnet56.plots import display_name, plot_gradient_flow, plot_gradient_flow_by_epoch, plot_gradient_heatmaps


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def runs():
    """Plain-8 and ResNet-8, trained once for all tests: 12 steps, 5 an epoch, with gradients of steps 0, 5 and 10."""
    noise = DataSet("noise", "noise", tuple("abcdefghij"), random_split(100), random_split(50, seed=1), "0" * 64)
    recipe = Recipe(iterations=12, batch_size=20, lr=0.05)
    comparison = compare(noise, recipe, depth=8, device="cpu", record_every=5, progress=False)
    return [comparison.plain, comparison.residual]


def with_steps(run, steps):
    return dataclasses.replace(run, gradients=run.gradients[run.gradients["step"].isin(steps)])


def made_up(run, *, steps, epochs, every):
    """The run, with the gradients of as many steps as asked for drawn at random, and a history to match."""
    frames = [run.gradients[run.gradients["step"] == 0].assign(step=step) for step in range(0, steps, every)]
    gradients = pd.concat(frames, ignore_index=True)
    gradients["gradient_norm"] = np.random.default_rng(len(run.arch)).lognormal(sigma=3, size=len(gradients))
    history = pd.DataFrame({"step": [steps // 2, steps], "epoch": [epochs / 2, epochs]})
    return dataclasses.replace(run, gradients=gradients, history=history)


def norms(run, steps, quantity="gradient_norm"):
    """Brute force: the geometric mean over ``steps``, an array from the first layer to the last."""
    means = []
    for depth in range(1, 9):
        rows = run.gradients[(run.gradients["depth"] == depth) & run.gradients["step"].isin(steps)]
        means.append(np.prod(rows[quantity].to_numpy(dtype=float)) ** (1 / len(rows)))
    return np.array(means)


def data_lines(axis):
    """The lines of an axis that are not stage boundaries: a list of those of the epochs, and that of step 0."""
    lines = [line for line in axis.lines if len(line.get_xdata()) > 2]
    start = [line for line in lines if line.get_linestyle() != "-"]
    return [line for line in lines if line not in start], *start


# --- Flow -----------------------------------------------------------------------------------------------


def test_flow_averages_over_steps(runs):
    figure = plot_gradient_flow({run.arch: run.gradients for run in runs}, "noise")
    for line, run in zip(figure.axes[0].lines, runs, strict=True):
        np.testing.assert_allclose(line.get_ydata(), norms(run, [0, 5, 10]), rtol=1e-6)
        assert line.get_label() == display_name(run.arch)


def test_flow_by_epoch_draws_a_line_per_epoch(runs):
    runs = [made_up(run, steps=30, epochs=3, every=2) for run in runs]
    figure = plot_gradient_flow_by_epoch(runs)
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "epoch"
    for axis, run in zip(panels, runs, strict=True):
        epochs, start = data_lines(axis)
        expected = [norms(run, [2, 4, 6, 8]), norms(run, [10, 12, 14, 16, 18]), norms(run, [20, 22, 24, 26, 28])]
        assert len(epochs) == 3
        for line, values in zip(epochs, expected, strict=True):
            np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-10)
            assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
        np.testing.assert_allclose(start.get_ydata(), norms(run, [0]), rtol=1e-6)
        assert start.get_color() == "black"
        assert axis.get_yscale() == "log" and axis.get_ylim() == panels[0].get_ylim()
        assert axis.get_title("left") == display_name(run.arch)
    colours = [[line.get_color() for line in data_lines(axis)[0]] for axis in panels]
    assert colours[0] == colours[1] and len(set(colours[0])) == 3


def test_flow_by_epoch_reads_the_epochs_of_a_real_run(runs):
    *panels, bar = plot_gradient_flow_by_epoch(runs).axes
    for axis, run in zip(panels, runs, strict=True):
        epochs, start = data_lines(axis)  # 5 steps an epoch: step 5 begins the second, step 10 the third
        np.testing.assert_allclose(
            [line.get_ydata() for line in epochs], [norms(run, [5]), norms(run, [10])], rtol=1e-6
        )
        np.testing.assert_allclose(start.get_ydata(), norms(run, [0]), rtol=1e-6)
    (mesh,) = [artist for artist in bar.collections if isinstance(artist, QuadMesh)]
    colours = mesh.to_rgba(np.array([1, 2, 3]))  # three epochs, of which the first has no record but step 0
    np.testing.assert_allclose([line.get_color() for line in epochs], colours[1:])
    assert bar.get_ylim() == (0.5, 3.5)


def test_flow_by_epoch_marks_and_names_the_stages(runs):
    axis = plot_gradient_flow_by_epoch(runs).axes[0]
    boundaries = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2]
    assert boundaries == [1.5, 3.5, 5.5]
    assert [(text.get_text(), text.xy[0]) for text in axis.texts] == [("layer1", 2.5), ("layer2", 4.5), ("layer3", 6.5)]


@pytest.mark.parametrize("steps", [[0], [5], [0, 5]])
def test_flow_by_epoch_of_few_records(runs, steps):
    axis = plot_gradient_flow_by_epoch([with_steps(runs[0], steps)]).axes[0]
    drawn = [line for line in axis.lines if len(line.get_xdata()) > 2]
    assert len(drawn) == len(steps)


# --- Heatmaps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", ["gradient_norm", "weight_norm", "gradient_rms", "gradient_to_weight"])
def test_heatmaps_show_the_table_on_one_scale(runs, quantity):
    figure = plot_gradient_heatmaps(runs, quantity)
    *panels, bar = figure.axes
    meshes = [axis.collections[0] for axis in panels]
    for mesh, run in zip(meshes, runs, strict=True):
        table = run.gradients.pivot(index="depth", columns="step", values=quantity)
        np.testing.assert_allclose(mesh.get_array().reshape(table.shape), table)
    assert meshes[0].norm.vmin == meshes[1].norm.vmin and meshes[0].norm.vmax == meshes[1].norm.vmax
    everything = pd.concat([run.gradients[quantity] for run in runs])
    assert everything.min() <= meshes[0].norm.vmin < meshes[0].norm.vmax <= everything.max()
    assert everything.between(meshes[0].norm.vmin, meshes[0].norm.vmax).sum() >= len(everything) - 2
    words = {
        "gradient_norm": "L2 norm of the weight gradient (nats)",
        "weight_norm": "L2 norm of the weights",
        "gradient_rms": "root mean square of the weight gradient (nats)",
        "gradient_to_weight": "gradient norm / weight norm (change per unit of learning rate)",
    }
    assert bar.get_ylabel() == words[quantity]


def test_the_initialisation_is_a_strip_and_hides_no_training(runs):
    axis = plot_gradient_heatmaps(runs).axes[0]
    edges = axis.collections[0].get_coordinates()[0, :, 0]
    strip = edges[1] - edges[0]
    assert edges[1:].tolist() == [0, 5, 10]  # a record's colour reaches back to the one before it
    assert 0.02 * 10 < strip < 0.1 * 10
    (gap,) = axis.patches
    assert edges[0] < gap.get_x() < gap.get_x() + gap.get_width() == 0
    assert axis.get_xlim() == (edges[0], 10)
    assert axis.get_xticklabels()[0].get_text() == "0" and edges[0] < axis.get_xticks()[0] < gap.get_x()


@pytest.mark.parametrize(("steps", "edges"), [([0], [0]), ([0, 10], [0, 10]), ([5], [0, 5]), ([5, 10], [0, 5, 10])])
def test_heatmaps_of_few_records(runs, steps, edges):
    axis, _ = plot_gradient_heatmaps([with_steps(runs[1], steps)]).axes
    mesh = axis.collections[0]
    assert mesh.get_array().size == 8 * len(steps)
    assert mesh.get_coordinates()[0, -len(edges) :, 0].tolist() == edges
    left, right = axis.get_xlim()
    assert left < right <= edges[-1]


def test_heatmaps_run_from_input_to_output_and_mark_the_stages(runs):
    axis = plot_gradient_heatmaps(runs).axes[0]
    bottom, top = axis.get_ylim()
    assert bottom > top  # depth 1 is at the top
    assert [line.get_ydata()[0] for line in axis.lines] == [1.5, 3.5, 5.5]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == runs[0].gradients["layer"].unique().tolist()


def test_zeros_and_infinities_are_grey_and_say_so(runs):
    gradients = runs[0].gradients.copy()
    gradients.loc[[3, 4], "gradient_norm"] = [0, np.inf]
    axis, bar = plot_gradient_heatmaps([dataclasses.replace(runs[0], gradients=gradients)]).axes
    mesh = axis.collections[0]
    assert bar.get_ylabel().endswith("grey: zero or not finite")
    painted = mesh.to_rgba(mesh.get_array().reshape(8, 3))
    grey = (painted[..., 0] == painted[..., 1]) & (painted[..., 1] == painted[..., 2])
    assert np.argwhere(grey).tolist() == [[3, 0], [4, 0]]


# --- What cannot be drawn -------------------------------------------------------------------------------


@pytest.mark.parametrize("plot", [plot_gradient_heatmaps, plot_gradient_flow_by_epoch])
def test_what_was_not_recorded_is_named(runs, plot):
    plain, residual = runs
    for gradients in (None, residual.gradients[:0]):
        with pytest.raises(InputError, match="^the run of resnet8 has no recorded gradients; .* records them$"):
            plot([plain, dataclasses.replace(residual, gradients=gradients)])
    still = dataclasses.replace(residual, gradients=residual.gradients.assign(gradient_norm=0.0))
    with pytest.raises(InputError, match="resnet8 has not recorded 'gradient_norm'"):
        plot([plain, still])
    with pytest.raises(InputError, match="resnet8 has not recorded 'gradient_rms': it has weight_norm, gradient_norm"):
        plot(
            [plain, dataclasses.replace(residual, gradients=residual.gradients.drop(columns="gradient_rms"))],
            "gradient_rms",
        )
    for quantity in ("output_gradient_norm", "stage", "colour"):  # without a probe batch, the first is not a number
        with pytest.raises(InputError, match=f"plain8 has not recorded '{quantity}'"):
            plot(runs, quantity)


def test_nets_of_different_depths_share_no_axis(runs):
    deeper = dataclasses.replace(
        runs[1],
        gradients=runs[1].gradients.assign(depth=lambda table: table["depth"] + 6),
        about={**runs[1].about, "arch": "resnet14"},
    )
    with pytest.raises(InputError, match="plain8 and resnet14 differ in depth"):
        plot_gradient_heatmaps([runs[0], deeper])
