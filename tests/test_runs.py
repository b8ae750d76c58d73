"""Records: what is saved is what is loaded, and damage is named."""

import json

import numpy as np
import pandas as pd
import pytest

from resnet56 import InputError, Recipe, compare, find_runs, load_comparison, load_run
from resnet56.plots import plot_comparison, plot_gradient_heatmaps
from resnet56.records.files import new_folder, unused, write_file
from resnet56.records.runs import Run, runs_table, save_run

RECIPE = Recipe(iterations=12, batch_size=20, lr=0.05)


@pytest.fixture
def comparison(data_set):
    return compare(data_set, RECIPE, depth=8, device="cpu", record_every=5, progress=False)


def test_a_comparison_trains_both_nets_alike(comparison, data_set):
    plain, residual = comparison.plain, comparison.residual
    assert (plain.arch, residual.arch) == ("plain8", "resnet8")
    for run in (plain, residual):
        assert run.history["step"].tolist() == [5, 10, 12]
        assert run.gradients["step"].unique().tolist() == [0, 5, 10]
        assert run.about["data"]["title"] == "noise" and run.about["data"]["fingerprint"] == data_set.fingerprint
        assert run.about["recipe"]["lr"] == 0.05 and run.about["steps"] == 12
    first = [run.gradients.query("step == 0").set_index("layer") for run in (plain, residual)]
    # the same initial weights, yet other gradients, since the shortcuts are there
    assert first[0]["weight_norm"].tolist() == first[1]["weight_norm"].tolist()
    assert first[0]["gradient_norm"].tolist() != first[1]["gradient_norm"].tolist()
    table = comparison.table()
    assert table.index.tolist() == ["plain8", "resnet8"]
    assert (table["test accuracy"] + table["test error"]).tolist() == [100, 100]


def test_a_run_is_loaded_as_it_was_saved(comparison, tmp_path):
    save_run(tmp_path / "run", comparison.plain)
    loaded = load_run(tmp_path / "run")
    assert {key: value for key, value in loaded.about.items() if key not in ("files", "checksum")} == json.loads(
        json.dumps(comparison.plain.about)
    )
    pd.testing.assert_frame_equal(loaded.history, comparison.plain.history, rtol=1e-5, check_dtype=False)
    pd.testing.assert_frame_equal(loaded.gradients, comparison.plain.gradients, rtol=1e-5, check_dtype=False)
    assert loaded.label() == comparison.plain.label()
    assert list(find_runs(tmp_path)) == ["run"]


def test_the_training_error_of_a_loaded_run_is_that_of_its_last_fifty_steps(comparison, tmp_path):
    history = pd.DataFrame(
        {"step": range(10, 81, 10), "train_loss": 1.0, "train_error": [90, 80, 70, 60, 50, 40, 30, 20]}
    )
    save_run(tmp_path / "plain8-seed-0", Run(comparison.plain.about, history))
    assert runs_table(tmp_path)["train_error"].tolist() == [(60 + 50 + 40 + 30 + 20) / 5]


def test_a_comparison_is_loaded_by_name(comparison, data_folder):
    for run in (comparison.plain, comparison.residual):
        save_run(data_folder / "runs" / "mine" / run.arch, run)
    loaded = load_comparison("mine")
    assert (loaded.plain.arch, loaded.residual.arch) == ("plain8", "resnet8")
    pd.testing.assert_frame_equal(loaded.table(), comparison.table())
    with pytest.raises(InputError, match="no recorded comparison 'other'"):
        load_comparison("other")


@pytest.mark.parametrize("name", ["history.csv", "gradients.npz", "run.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damage_is_named(comparison, tmp_path, name, damage):
    save_run(tmp_path / "run", comparison.plain)
    path = tmp_path / "run" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            content[: len(content) // 2] + (b"" if damage == "cut" else b"}" + content[len(content) // 2 :])
        )
    with pytest.raises(InputError, match="recorded run run"):
        load_run(tmp_path / "run")


def test_an_edited_figure_is_found_out(comparison, tmp_path):
    save_run(tmp_path / "run", comparison.plain)
    path = tmp_path / "run" / "run.json"
    about = json.loads(path.read_text())
    about["final"]["test_error"] -= 1
    path.write_text(json.dumps(about, indent=2))
    with pytest.raises(InputError, match="run.json is damaged"):
        load_run(tmp_path / "run")


def test_figures_draw_every_run(comparison):
    runs = [comparison.plain, comparison.residual]
    left, right = plot_comparison(runs).axes
    assert [line.get_label() for line in left.lines[:2]] == ["plain-8", "ResNet-8"]
    for line, run in zip(left.lines, runs, strict=False):
        np.testing.assert_allclose(line.get_ydata(), run.history["train_loss"])
    expected = runs[0].gradients.query("step == 0")["gradient_norm"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), expected)

    heatmaps = plot_gradient_heatmaps(runs).axes
    meshes = [axis.collections[0] for axis in heatmaps[:2]]
    for mesh, run in zip(meshes, runs, strict=True):
        table = run.gradients.pivot(index="depth", columns="step", values="gradient_norm")
        np.testing.assert_allclose(mesh.get_array().reshape(table.shape), table)
    assert meshes[0].norm is meshes[1].norm  # one scale for both


# --- Files, whole or not at all -----------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "folder" / "file"
    write_file(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        write_file(path, fail)
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_only_when_complete(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "runs" / "run") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert not list((tmp_path / "runs").iterdir())
    with new_folder(tmp_path / "runs" / "run") as folder:
        (folder / "file").write_text("first")
    with pytest.raises(InputError, match="cannot write"), new_folder(tmp_path / "runs" / "run") as folder:
        (folder / "file").write_text("second")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    assert (tmp_path / "runs" / "run" / "file").read_text() == "first"
    assert unused(tmp_path / "runs" / "run").name == "run-2"
