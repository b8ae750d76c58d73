"""Figures of training: what is drawn is what was recorded, or published."""

import statistics

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from resnet56 import FAST, PAPER, DataSet, InputError, Recipe, Split, cli
from resnet56.fast.bench import Bench
from resnet56.plots import (
    colour,
    interactive_curves,
    plot_comparison,
    plot_degradation,
    plot_depth_sweep,
    plot_gradient_heatmaps,
    plot_images,
    plot_lesions,
    plot_loss_contours,
    plot_loss_lines,
    plot_lr_schedule,
    plot_responses,
    plot_results,
    plot_speeds,
    plot_training_curves,
    plot_views,
)
from resnet56.records.published import published
from resnet56.records.runs import Run, runs_table
from resnet56.records.suites import SUITES, Suite


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def made_up(arch, train_error, validation_error, test_error):
    steps = np.arange(10, 10 * len(train_error) + 1, 10)
    history = pd.DataFrame({"step": steps, "train_error": train_error, "validation_error": validation_error})
    about = {
        "arch": arch,
        "steps": int(steps[-1]),
        "final": {"test_error": test_error},
        "hardware": {"name": "an abacus"},
        "data": {"title": "noise"},
        "recipe": {"batch_size": 20, "seed": 0, "precision": "fp32"},
    }
    return Run(about, history)


def test_the_degradation_picture_shows_both_errors_and_names_each_line():
    nan = float("nan")
    runs = [
        made_up("plain20", [80.0, 60, 50, 40, 30, 20], [nan, nan, 55, nan, nan, 35], 36.0),
        made_up("plain56", [90.0, 80, 70, 60, 50, 40], [nan, nan, 75, nan, nan, 65], 66.0),
    ]
    left, right = plot_degradation(runs).axes
    for index, run in enumerate(runs):
        line = left.lines[index]
        # the mean of the last five records, or of as many as there are
        expected = [np.mean(run.history["train_error"][max(0, i - 4) : i + 1]) for i in range(6)]
        np.testing.assert_allclose(line.get_ydata(), expected)
        assert to_hex(line.get_color()) == colour(run.arch).lower()
        validation, test = right.lines[index], right.lines[len(runs) + index]
        assert validation.get_xdata().tolist() == [30, 60]
        np.testing.assert_allclose(validation.get_ydata(), run.history["validation_error"].dropna())
        assert (test.get_xdata()[0], test.get_ydata()[0]) == (60, run.about["final"]["test_error"])
    for axis in (left, right):
        assert [text.get_text() for text in axis.texts] == ["plain-20", "plain-56"]
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle()  # told apart without colour


def test_results_are_drawn_beside_what_was_published():
    summary = pd.DataFrame(
        {
            "family": ["plain", "plain", "resnet", "resnet"],
            "depth": [20, 56, 20, 56],
            "seeds": 2,
            "train_error": 0.0,
            "train_error_std": 0.0,
            "test_error": [28.0, 56, 24, 23],
            "test_error_std": [1.0, 2, np.nan, 1],
        }
    )
    figure = plot_results(summary, "noise")
    for axis, family in zip(figure.axes, ("plain", "resnet"), strict=True):
        measured, *others = axis.containers
        assert list(measured[0].get_ydata()) == list(summary[summary["family"] == family]["test_error"])
        table = published()
        table = table[table["family"] == family]
        drawn = sorted(value for container in others for value in container[0].get_ydata())
        assert drawn == sorted(table["test_error"])
        assert {container.get_label() for container in others} == set(table["source"])
    marks = {(drawn.get_label(), drawn[0].get_marker()) for axis in figure.axes for drawn in axis.containers}
    assert len({mark for _, mark in marks}) == len(marks) == published()["source"].nunique() + 1  # one each


def test_reproduce_draws_the_picture_of_its_suite(data_set, tmp_path, monkeypatch, capsys):
    archs = ("plain20", "plain56", "resnet56")
    recipe = Recipe(iterations=1, batch_size=2)
    monkeypatch.setitem(SUITES, "laptop", Suite({f"{arch}-seed-0": (arch, recipe) for arch in archs}))
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    assert cli.main(["reproduce", "laptop", "--out", str(tmp_path), "--device", "cpu"]) == 0
    folder = tmp_path / "runs" / f"laptop-{data_set.name}"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "figure.png") in capsys.readouterr().out
    assert list(runs_table(folder)["arch"]) == list(archs)


# --- Kinds of input that break figures ----------------------------------------------------------------


def summary_of(errors):
    """What ``summarise`` gives for the test errors of ResNet-56, a seed each; training errors are half of them."""
    spread = statistics.stdev(errors) if len(errors) > 1 else np.nan
    row = {"family": "resnet", "depth": 56, "seeds": len(errors), "train_error": statistics.mean(errors) / 2}
    row |= {"train_error_std": spread / 2, "test_error": statistics.mean(errors), "test_error_std": spread}
    return pd.DataFrame([row])


@pytest.mark.parametrize("plot", [plot_results, plot_depth_sweep])
def test_two_seeds_are_two_dots_and_three_are_a_deviation(plot):
    for errors, dots in (([6.0, 7.0], [6.0, 7.0]), ([6.0, 7.0, 8.0], []), ([6.0], [])):
        axis = plot(summary_of(errors), "noise").axes[-1]
        scattered = [drawn for drawn in axis.collections if isinstance(drawn, PathCollection)]
        drawn = np.concatenate([drawn.get_offsets()[:, 1].compressed() for drawn in scattered])
        assert set(dots) <= set(drawn.round(9)) and (len(drawn) == 0) == (not dots)
        bars = next(bars for bars in axis.containers if bars.get_label() in ("measured here", "residual, test"))
        (segment,) = bars.lines[2][0].get_segments()
        half = (segment[1, 1] - segment[0, 1]) / 2
        assert half == pytest.approx(1.0 if len(errors) == 3 else 0)


def test_the_schedule_of_a_recipe_given_in_epochs():
    (line,) = plot_lr_schedule(FAST, images=5120).axes[0].lines
    assert line.get_xdata().tolist() == list(range(160))
    assert line.get_ydata() == pytest.approx([FAST.lr_at(step, 160) for step in range(160)])
    (line,) = plot_lr_schedule(PAPER).axes[0].lines
    assert len(line.get_xdata()) == 64_000 and line.get_ydata()[[31_999, 32_000]] == pytest.approx([0.1, 0.01])
    plot_lr_schedule(Recipe(iterations=1)).canvas.draw()


@pytest.mark.parametrize("plot", [plot_degradation, plot_training_curves, plot_comparison, interactive_curves])
def test_what_a_run_lacks_is_named(plot):
    run = made_up("resnet8", [80.0], [float("nan")], 36.0)
    words = "no recorded gradients" if plot is plot_comparison else "no validation errors"
    with pytest.raises(InputError, match=words):
        plot("fig-x", [run]) if plot is interactive_curves else plot([run])


@pytest.mark.parametrize("plot", [plot_degradation, plot_training_curves])
def test_runs_of_one_network_are_all_drawn(plot):
    runs = [made_up("resnet110", [80.0, 40], [50.0, 40], 36.0), made_up("resnet110", [70.0, 30], [45.0, 35], 30.0)]
    right = plot(runs).axes[1]
    drawn = [line.get_ydata().tolist() for line in right.lines]
    assert [50.0, 40] in drawn and [45.0, 35] in drawn and [36.0] in drawn and [30.0] in drawn


def test_nothing_to_draw_is_said_in_a_line():
    empty = Run({"arch": "plain20"}, pd.DataFrame({"step": []}))
    for plot, arguments in (
        (plot_degradation, ([],)),
        (plot_degradation, ([empty],)),
        (plot_comparison, ([],)),
        (plot_results, (pd.DataFrame({"family": []}), "noise")),
        (plot_responses, ({}, "noise")),
        (plot_lesions, ({"resnet8": pd.DataFrame({"count": []})}, {}, "noise")),
        (plot_loss_contours, ({}, "noise")),
        (plot_gradient_heatmaps, ([],)),
        (plot_views, (np.empty((0, 3, 8, 8)), [], "noise")),
    ):
        with pytest.raises(InputError, match=f"^{plot.__name__}: there is nothing to draw"):
            plot(*arguments)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [2.3, 0.0, 1e9, float("inf"), float("nan")])
def test_flat_and_broken_landscapes_are_drawn(value):
    x, y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5))
    flat = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "loss": value, "error": 90.0})
    bowl = flat.assign(loss=0.1 + flat["x"] ** 2 + flat["y"] ** 2)
    hole = bowl.assign(loss=bowl["loss"].where(bowl["x"] < 1, np.nan))
    for tables in ({"plain8": flat}, {"plain8": flat, "resnet8": bowl}, {"resnet8": hole}):
        plot_loss_contours(tables, "noise").canvas.draw()
        lines = {arch: table[table["y"] == 0] for arch, table in tables.items()}
        plot_loss_lines(lines, "noise").canvas.draw()


def test_contours_show_the_loss_and_need_a_surface():
    x, y = np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1])
    table = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "loss": np.geomspace(1, 1000, 9)})
    axis, bar = plot_loss_contours({"plain8": table}, "noise").axes
    filled = axis.collections[0]
    assert filled.get_array().min() >= 0 and filled.norm.vmax == pytest.approx(2) and filled.extend == "max"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "2", "5", "10", "20", "50", "100"]
    assert (filled.zmin, filled.zmax) == pytest.approx((0, 3))  # what the contours are drawn of
    slope = pd.DataFrame({"x": x.ravel(), "y": y.ravel(), "loss": 10.0 ** x.ravel()})  # it rises to the right
    bands = plot_loss_contours({"plain8": slope}, "noise").axes[0].collections[0].get_paths()
    assert bands[0].vertices[:, 0].max() < -0.9 and np.ptp(bands[0].vertices[:, 1]) == 2
    assert bands[-1].vertices[:, 0].min() > 0.9
    with pytest.raises(InputError, match="two points a side"):
        plot_loss_contours({"plain8": table[:1]}, "noise")


def test_loss_lines_leave_through_the_top():
    table = pd.DataFrame({"x": [-1.0, 0, 1], "loss": [1.0, 0.1, float("inf")], "error": [50.0, 5, 90]})
    left, right = plot_loss_lines({"plain8": table}, "noise").axes
    assert left.lines[0].get_ydata() == pytest.approx([1, 0.1, 100]) and left.get_ylim()[1] < 2
    assert right.lines[0].get_ydata().tolist() == [50, 5, 90] and left.lines[0].get_xdata().tolist() == [-1, 0, 1]


def test_images_in_columns_of_their_class_and_small_classes_leave_gaps():
    pixels = torch.arange(12, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 32, 32)
    pixels[:, 1, 5, 20] = 200  # green, in the fifth row from the top
    split = Split(pixels, torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 2]))
    test = Split(pixels, split.labels.flip(0))
    figure = plot_images(DataSet("noise", "noise", tuple("abc"), split, test, "0" * 64), rows=2)
    assert figure.axes[0].images[0].get_array()[5, 20].tolist() == [0, 200, 0]
    shown = [[int(image.get_array()[0, 0, 0]) for image in axis.images] for axis in figure.axes]
    assert shown == [[0], [1], [11], [2], [3], []]
    images = np.stack([np.full((3, 4, 4), value) for value in (0.25, 1.5)])
    images[0, 1, 2, 3] = 0.75  # green, in the second row
    figure = plot_views(images, ["one", "two"], "noise")
    assert figure.axes[0].images[0].get_array()[2, 3].tolist() == [0.25, 0.75, 0.25]
    assert [axis.images[0].get_array().max() for axis in figure.axes] == [0.75, 1.0]
    assert [axis.get_title("center") for axis in figure.axes] == ["one", "two"]


def test_speeds_are_drawn_beside_the_bound():
    rows = [dict(loop="textbook", step=1.0, end_to_end=100.0, ratio=1.0)]
    rows += [dict(loop="+", step=1.0, end_to_end=150.0, ratio=1.5)]
    about = {"arch": "resnet56", "batch_size": 128, "data": "noise", "hardware": {"name": "abacus"}}
    about |= {"matmul_gflops": 400.0, "image_gflop": 2.0}
    axis = plot_speeds(Bench(about, rows)).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [100, 150] and axis.lines[0].get_xdata()[0] == 200
    assert [text.get_text() for text in axis.texts] == ["1.00x", "1.50x", "arithmetic bound"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["textbook", "+"]


def test_a_comparison_shows_losses_and_the_first_and_last_gradients():
    layers = ["conv1", "layer1.0.conv1", "fc"]
    rows = [(s, d + 1, n, 10.0 * s + d + 1) for s in (0, 5, 10) for d, n in enumerate(layers)]
    gradients = pd.DataFrame(rows, columns=["step", "depth", "layer", "gradient_norm"]).assign(stage="stem")
    run = made_up("plain8", [80.0, 70], [60.0, 50], 50.0)
    run = Run(run.about, run.history.assign(train_loss=[2.0, 1.5]), gradients)
    left, right = plot_comparison([run]).axes
    assert left.lines[0].get_ydata().tolist() == [2.0, 1.5] and left.lines[1].get_ydata()[0] == np.log(10)
    assert [line.get_ydata().tolist() for line in right.lines[:2]] == [[1, 2, 3], [101, 102, 103]]
    assert right.lines[0].get_linestyle() != right.lines[1].get_linestyle()
    assert [line.get_label() for line in right.lines[:2]] == ["plain-8, step 0", "plain-8, step 10"]
