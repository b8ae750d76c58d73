"""Records: what is saved is what is loaded, and damage is named."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from resnet56 import Engine, InputError, Recipe, build_model, compare, find_runs, fit, load_comparison, load_run
from resnet56.plots import plot_comparison, plot_gradient_heatmaps
from resnet56.records import files, runs
from resnet56.records.files import InProgress, lock, new_folder, write_file
from resnet56.records.runs import Run, commit, last_steps, runs_table, save_run
from resnet56.records.store import seal, unsealed

ROOT = Path(__file__).parent.parent
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


def test_a_comparison_is_loaded_by_name(comparison, data_folder):
    for run in (comparison.plain, comparison.residual):
        save_run(data_folder / "runs" / "mine" / run.arch, run)
    loaded = load_comparison("mine")
    assert (loaded.plain.arch, loaded.residual.arch) == ("plain8", "resnet8")
    pd.testing.assert_frame_equal(loaded.table(), comparison.table())
    with pytest.raises(InputError, match="no complete comparison at .*other; bring it back"):
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
    (tmp_path / "runs" / "empty").mkdir()  # which a rename would replace
    with pytest.raises(InputError, match="something of that name; move away"), new_folder(tmp_path / "runs" / "empty"):
        pass
    (tmp_path / "runs" / "empty").rmdir()
    assert (tmp_path / "runs" / "run" / "file").read_text() == "first"


# --- Exact figures --------------------------------------------------------------------------------------


def test_the_last_fifty_steps_count_alike():
    """Rows of 10 steps, but 3 at the end of an epoch of 43; the first row reaches beyond the last 50 steps."""
    history = pd.DataFrame({"step": [10, 20, 30, 40, 43, 50, 60, 70, 80, 86]})
    history["train_loss"] = [9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    history["train_error"] = 10 * history["train_loss"]
    by_hand = (4 * 6 + 3 * 5 + 7 * 4 + 10 * 3 + 10 * 2 + 10 * 1 + 6 * 0) / 50  # of the row at 40 the steps from 37
    assert last_steps(history) == pytest.approx({"train_loss": by_hand, "train_error": 10 * by_hand})
    assert last_steps(history[:1]) == {"train_loss": 9, "train_error": 90}
    assert last_steps(history[:2], steps=5)["train_loss"] == 8
    assert last_steps(history[:2], steps=11)["train_loss"] == pytest.approx((9 + 80) / 11)


def test_compare_evaluates_on_the_test_images_what_it_trained_on_all_others(learnable):
    result = compare(
        learnable, Recipe(iterations=60, batch_size=20, lr=0.05, seed=3), depth=8, device="cpu", progress=False
    )
    for run in (result.plain, result.residual):
        assert run.about["final"]["test_error"] == pytest.approx(42, abs=4) and run.about["final"]["train_error"] < 20
        assert (run.about["data"]["training_images"], run.about["data"]["validation_images"]) == (200, 0)
    torch.manual_seed(3)
    recipe = Recipe(iterations=60, batch_size=20, lr=0.05, seed=3)
    engine = Engine(build_model("resnet8"), learnable.train, recipe, "cpu")
    by_hand = fit(engine)
    pixels = learnable.test.pixels - learnable.train.pixels.double().mean(dim=0).float()  # the training images' mean
    with torch.no_grad():
        loss = F.cross_entropy(engine.model.eval()(pixels / 255), learnable.test.labels)
    assert result.residual.about["final"]["test_loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert result.residual.history["train_loss"].tolist() == pytest.approx(by_hand["train_loss"].tolist(), rel=1e-4)
    table = result.table()
    assert table.loc["resnet8", "test error"] == result.residual.about["final"]["test_error"]
    assert table.loc["resnet8", "train loss"] == result.residual.history["train_loss"].iloc[-1]
    assert table.loc["plain8", "train error"] == result.plain.history["train_error"].iloc[-1]


# --- Records that are not what they seem ------------------------------------------------------------------


def test_line_ends_change_nothing(comparison, tmp_path):
    save_run(tmp_path / "run", comparison.plain)
    for name in ("run.json", "history.csv"):
        content = (tmp_path / "run" / name).read_bytes()
        assert b"\r" not in content
        (tmp_path / "run" / name).write_bytes(content.replace(b"\n", b"\r\n"))
    assert load_run(tmp_path / "run").history["step"].tolist() == [5, 10, 12]
    with open(tmp_path / "run" / "gradients.npz", "ab") as file:
        file.write(b"\r\n")
    with pytest.raises(InputError, match="gradients.npz is damaged"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("attributes", [True, False])
def test_records_survive_a_clone_with_other_line_ends(tmp_path, attributes):
    source, clone = tmp_path / "source", tmp_path / "clone"
    folder = "data/runs/ingredients-cifar10-jpeg"
    shutil.copytree(ROOT / folder, source / folder)
    if attributes:
        shutil.copy(ROOT / ".gitattributes", source)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "records"]):
        subprocess.run(["git", "-C", source, *command], check=True)
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", source, clone], check=True)
    assert (b"\r\n" in (clone / folder / "paper" / "history.csv").read_bytes()) != attributes
    assert len(runs_table(clone / folder)) == 8


def test_what_is_hidden_is_no_record(comparison, data_folder):
    for name in (
        ".compare-8.x3i488mv.partial/plain8",
        "mine/plain8",
        "mine/resnet8",
        "mine/.ipynb_checkpoints/resnet8",
    ):
        save_run(data_folder / "runs" / name, comparison.residual if "resnet" in name else comparison.plain)
        (data_folder / "runs" / name / "weights.safetensors").write_bytes(b"")
    assert list(find_runs()) == list(runs_table().index) == ["mine/plain8", "mine/resnet8"]
    assert load_comparison("mine").residual.arch == "resnet8"


def test_a_suite_that_lacks_what_a_chapter_needs_is_said_to(comparison, data_folder):
    """One missing run is named with the command that makes it alone; several with that for the suite."""
    folder = data_folder / "runs" / "laptop-cifar10"
    save_run(folder / "plain20-seed-0", comparison.plain)
    assert list(runs_table("laptop-cifar10", need=["plain20-seed-0"]).index) == ["plain20-seed-0"]
    make = "resnet56 reproduce laptop --data cifar10"
    for need, listed, command in (
        (["plain20-seed-0", "plain56-seed-0"], "plain56-seed-0", f"`{make} --only plain56-seed-0` makes it"),
        (["plain56-seed-0", "resnet56-seed-0"], "plain56-seed-0, resnet56-seed-0", f"`{make}` makes it"),
    ):
        with pytest.raises(InputError) as error:
            runs_table("laptop-cifar10", need=need)
        assert f": {listed}; " in str(error.value) and command in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["plain8", "resnet8"])
def test_half_a_comparison_is_none(comparison, data_folder, missing):
    name = "compare-8-noise-12-steps-seed-0"
    for run in (comparison.plain, comparison.residual):
        save_run(data_folder / "runs" / name / run.arch, run)
    shutil.rmtree(data_folder / "runs" / name / missing)
    with pytest.raises(
        InputError, match=f"no complete comparison.*{name}; move .* away, and .resnet56 compare --depth 8"
    ):
        load_comparison(name)


def test_a_comparison_is_of_one_data_set_and_of_two_networks(comparison, data_folder):
    about = comparison.residual.about
    other = Run({**about, "data": {**about["data"], "fingerprint": "4" * 64}}, comparison.residual.history)
    save_run(data_folder / "runs" / "mixed" / "plain8", comparison.plain)
    save_run(data_folder / "runs" / "mixed" / "resnet8", other)
    with pytest.raises(InputError, match="two data sets"):
        load_comparison("mixed")
    for name in ("a", "b"):
        save_run(data_folder / "runs" / "twins" / name, comparison.plain)
    with pytest.raises(InputError, match="no complete comparison"):
        load_comparison("twins")


def test_without_git_the_commit_is_unknown_and_what_reads_it_copes(comparison, tmp_path, monkeypatch):
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit.__wrapped__())
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # "dubious ownership", says git
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit.__wrapped__())
    monkeypatch.setenv("PATH", "")
    assert commit.__wrapped__() == "unknown"
    save_run(tmp_path / "run", Run({**comparison.plain.about, "commit": None}, comparison.plain.history))
    assert load_run(tmp_path / "run").about["commit"] == "unknown"


def test_the_commit_is_that_of_the_package_and_says_whether_it_was_edited(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "package"
    (package / "records").mkdir(parents=True)
    (package / "code.py").write_text("1")
    monkeypatch.setattr(runs, "__file__", str(package / "records" / "runs.py"))
    assert commit.__wrapped__() == "unknown"  # where there is no checkout

    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", tmp_path / "checkout", *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q"), git("add", "-A"), git("commit", "-qm", "all")
    (tmp_path / "checkout" / "notes").write_text("beside the package")
    assert commit.__wrapped__() == git("rev-parse", "HEAD")
    (package / "code.py").write_text("2")
    assert commit.__wrapped__() == git("rev-parse", "HEAD") + "+changes"


def test_line_ends_of_what_is_no_text_count(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"1\r\n2")
    seal(folder / "run.json", {})
    with unsealed(folder, "run.json", "recorded run") as (where, about):
        assert where == folder and list(about) == ["files", "checksum"]
    (folder / "weights.safetensors").write_bytes(b"1\n2")
    damaged = pytest.raises(InputError, match="weights.safetensors is damaged .its checksum differs.")
    with damaged, unsealed(folder, "run.json", "recorded run"):
        pass


def test_a_network_that_is_kept_stays_in_its_mode(data_set, tmp_path):
    trainer = Engine(build_model("resnet8"), data_set.train, RECIPE, "cpu")
    fit(trainer)
    assert trainer.model.training
    save_run(tmp_path / "run", Run({}, pd.DataFrame(trainer.history)), trainer)
    assert trainer.model.training and all(module.training for module in trainer.model.modules())


def test_an_exercises_record_is_brought_back_and_not_made_anew(data_folder):
    name = "compare-20-cifar10-jpeg-250-steps-seed-0"
    flags = "--depth 20 --data cifar10-jpeg --steps 250 --seed 0"
    for place, step in (
        (name, f"`resnet56 compare {flags}` makes it"),
        (f"exercises/depth-20/{name}", "`git checkout -- PATH`"),
    ):
        with pytest.raises(InputError, match=re.escape(step)):
            load_comparison(place)


# --- Processes that are killed ----------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from resnet56.records.files import lock, new_folder, write_file
kind, path = sys.argv[1], Path(sys.argv[2])
def die(file=None):
    (file or open(path / "run.json", "w")).write(b"{}" if file else "{}")
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
if kind == "folder":
    with new_folder(path, *map(Path, sys.argv[4:])) as path:
        die()
with lock(path):
    write_file(path, die)
"""


def killed(kind: str, *arguments) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, kind, *map(str, arguments)], cwd=ROOT).returncode < 0


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_killed_while_writing_a_record(tmp_path, number):
    record, scratch = tmp_path / "runs" / "suite" / "run", tmp_path / "tmp"
    killed("folder", record, number, scratch)
    assert len(list(scratch.iterdir())) == 1 and not list((tmp_path / "runs").rglob("run.json"))
    killed("folder", record, number)
    assert not find_runs(tmp_path) and len(list(record.parent.iterdir())) == 1
    with new_folder(tmp_path / "runs" / "other", scratch) as folder:
        assert list(scratch.iterdir()) == [folder]  # what was left is gone, whatever was to be written
        with new_folder(record, scratch) as second:
            assert set(scratch.iterdir()) == {folder, second}  # but not what is in use
            (second / "file").write_text("")
    with new_folder(record.with_name("run2")), new_folder(tmp_path / "x"):
        pass
    assert not list(scratch.iterdir()) and (record / "file").exists()


def test_killed_while_writing_a_file(tmp_path):
    path = tmp_path / "checkpoints" / "run.pt"
    killed("file", path, "SIGKILL")
    assert len(list(path.parent.iterdir())) == 2 and not path.exists()  # the lock, and half a file
    with lock(path), pytest.raises(InProgress, match="run.pt is being trained by another process"), lock(path):
        pass
    (path.parent / ".run.pt.mine").write_text("")
    write_file(path, lambda file: file.write(b"whole"))
    assert sorted(file.name for file in path.parent.iterdir()) == [".run.pt.mine", "run.pt"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, f=original, n=name: (calls.append(n), f(*a))[1])
    write_file(tmp_path / "file", lambda file: file.write(b"whole"))
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "one").write_text("1")
        (folder / "inner").mkdir()
        (folder / "inner" / "two").write_text("2")
    assert calls == ["fsync"] * 4 + ["rename"] * ("rename" in calls) + ["fsync"]


def test_a_lock_on_a_file_that_is_taken_away_meanwhile_is_none(tmp_path, monkeypatch):
    original = files.fcntl.flock

    def late(handle, how):
        (tmp_path / ".run.lock").unlink()  # as its last holder does, between our opening and locking it
        (tmp_path / ".run.lock").write_text("")
        original(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with pytest.raises(InProgress), lock(tmp_path / "run"):
        pass


def test_a_lock_whose_file_was_taken_away_is_none(tmp_path):
    with lock(tmp_path / "run"):
        (tmp_path / ".run.lock").unlink()
        with lock(tmp_path / "run"), pytest.raises(InProgress), lock(tmp_path / "run"):
            pass


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EACCES, "make that writable, or .* RESNET56_HOME"),
        (errno.ENOTDIR, "move"),
    ],
)
def test_what_cannot_be_written_is_said_with_a_step(tmp_path, number, step):
    def fail(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(InputError, match=f"cannot write {tmp_path}/file: {os.strerror(number)}; {step}"):
        write_file(tmp_path / "file", fail)
