"""Figures of training: what is drawn is what was recorded, or published."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from resnet56 import Recipe, cli
from resnet56.plots import colour, plot_degradation, plot_results
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
        validation, test = right.lines[2 * index : 2 * index + 2]
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
