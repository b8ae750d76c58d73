"""What train, compare, evaluate and inspect say is true: on images where each split has an error of its own."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import coloured
from PIL import Image

from resnet56 import InputError, Recipe, build_model, cli, evaluate, hold_out, load_run
from resnet56.data import DataSet, Split, normalise
from resnet56.datasets.loading import CIFAR10_CLASSES
from resnet56.instruments.diagnosis import dead_filters
from resnet56.plots import plot_degradation
from resnet56.recipe import PRESETS
from resnet56.records import files
from resnet56.records.checkpoint import load_checkpoint
from resnet56.records.foreign import load_network
from resnet56.records.suites import SUITES, Suite

VALIDATION, TEST = 25.0, 42.0  # the errors that a network makes that has learned the training images
QUICK = ["--batch-size", "20", "--data", "shapes10", "--device", "cpu", "--precision", "fp32"]
STEPS = 60
TRAIN = ["train", "--arch", "resnet8", "--iterations", str(STEPS), "--lr", "0.05", "--validation", "20", *QUICK]
NAME = f"resnet8-shapes10-{STEPS}-steps-seed-0"


def separated() -> DataSet:
    """Make a data set where training, validation and test images have errors of 0, 25 and 42 %."""
    index = Split(torch.arange(200).view(-1, 1, 1, 1), torch.arange(200) % 10)
    held_out = hold_out(index, 20)[1].pixels.flatten()
    classes = tuple("abcdefghij")
    return DataSet(
        "shapes10", "colours", classes, coloured(200, held_out[:5]), coloured(50, torch.arange(21)), "5" * 64
    )


@pytest.fixture(autouse=True)
def data(monkeypatch):
    data = separated()
    monkeypatch.setattr("resnet56.datasets.loading._load_shapes10", lambda: data)
    return data


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A folder with a finished run, and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr("resnet56.datasets.loading._load_shapes10", separated)
        assert cli.main([*TRAIN, "--out", str(folder)]) == 0
    return folder, out.getvalue()


@pytest.fixture
def trained(trained_once, data_folder):
    """A finished run: its record, its checkpoint, and what was printed."""
    folder, out = trained_once
    shutil.copytree(folder, data_folder, dirs_exist_ok=True)
    out = out.replace(str(folder), str(data_folder))
    return data_folder / "runs" / NAME, data_folder / "checkpoints" / f"{NAME}.pt", out


def test_train_reports_the_error_on_the_test_images(trained):
    record, checkpoint, out = trained
    run = load_run(record)
    assert run.about["final"]["test_error"] == pytest.approx(TEST) and f"Test error {TEST:.2f} % on colours" in out
    assert run.history["validation_error"].iloc[-1] == pytest.approx(VALIDATION)
    assert run.about["final"]["train_error"] < 5 and run.about["steps"] == STEPS
    assert run.about["data"] == {
        "name": "shapes10",
        "title": "colours",
        "fingerprint": "5" * 64,
        "training_images": 180,
        "validation_images": 20,
        "test_images": 50,
    }
    assert f"Record: {record}\n" in out and f"Checkpoint: {checkpoint}\n" in out
    assert "extended_at" not in run.about


def test_evaluate_and_inspect_report_the_error_on_the_test_images(trained, capsys, tmp_path):
    _, checkpoint, _ = trained
    assert cli.main(["evaluate", str(checkpoint), "--device", "cpu"]) == 0
    assert f"resnet8 after {STEPS} steps on colours: " in (out := capsys.readouterr().out) and "error 42.00 %" in out
    table = tmp_path / "tables" / "inspected.csv"
    command = ["inspect", str(checkpoint), "--device", "cpu", "--out", str(table)]
    assert cli.main([*command, "--images", "50"]) == 0
    assert "error 42.00 % on 50 test images of colours" in (out := capsys.readouterr().out)
    rows = pd.read_csv(table)
    assert rows["layer"].tolist()[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"] and len(rows) == 8
    assert rows["lesion"].notna().tolist() == [False, False, True, False, True, False, True, False]
    assert (rows["std"] > 0).all() and (rows["gradient"] > 0).all() and rows["lesion"].max() > 42
    assert all(word in out for word in ("layer3.0.conv2", "std", "gradient", "dead", "lesion", str(table)))
    assert cli.main(command) == 2  # what is there stays
    assert "is there already" in capsys.readouterr().err


def test_inspect_takes_as_many_images_as_asked_for_from_the_test_set(trained, capsys, data):
    _, checkpoint, _ = trained
    assert cli.main(["inspect", str(checkpoint), "--device", "cpu", "--images", "10"]) == 0
    assert "on 10 test images" in capsys.readouterr().out


def test_inspect_measures_the_gradient_on_training_images_and_all_else_on_test_images(trained, monkeypatch, data):
    seen = []

    def look(model, mean, train, test):
        seen.extend([train, test])
        raise InputError("enough")

    monkeypatch.setattr("resnet56.instruments.diagnosis.inspect_network", look)
    assert cli.main(["inspect", str(trained[1]), "--device", "cpu", "--images", "20"]) == 2
    for given, source, count in zip(seen, (data.train, data.test), (128, 20), strict=True):
        shown = {image.numpy().tobytes() for image in source.pixels}
        assert len(given) == count and all(image.numpy().tobytes() in shown for image in given.pixels)


def test_a_network_is_evaluated_in_the_precision_it_was_trained_in(trained, monkeypatch, capsys):
    asked = []

    def look(model, split, mean, precision="fp32"):
        asked.append(precision)
        return evaluate(model, split, mean, precision)

    saved = load_checkpoint(trained[1])
    monkeypatch.setattr(cli, "evaluate", look)
    for precision in ("fp32", "bf16"):
        saved["recipe"]["precision"] = precision
        torch.save(saved, trained[1])
        assert cli.main(["evaluate", str(trained[1]), "--device", "cpu"]) == 0
    assert asked == ["fp32", "bf16"]


def test_a_recorded_weights_file_is_evaluated_as_its_run(trained, data, tmp_path, capsys):
    from resnet56 import Engine
    from resnet56.records.runs import Run, describe_run, save_run

    saved = load_checkpoint(trained[1])
    model = build_model("plain8")
    trainer = Engine(model, data.train, Recipe(iterations=2, batch_size=20), "cpu")
    trainer.take_step(), trainer.take_step()
    score = evaluate(model, data.test, trainer.batches.mean)
    about = describe_run(trainer, arch="plain8", shortcut="A", data=data, validation=0, test=score)
    save_run(tmp_path / "run", Run(about, pd.DataFrame(trainer.history)), trainer)
    assert cli.main(["evaluate", str(tmp_path / "run" / "weights.safetensors"), "--device", "cpu"]) == 0
    assert f"plain8 after 2 steps on colours: test loss {score.loss:.4f}" in capsys.readouterr().out
    network = load_network(trained[1])
    assert torch.equal(network.mean, saved["mean"]) and network.classes == cli.load_network(trained[1]).classes


def test_another_version_of_the_data_is_refused(trained, monkeypatch, capsys, data):
    other = DataSet(*list(vars(data).values())[:5], "6" * 64)
    monkeypatch.setattr("resnet56.datasets.loading._load_shapes10", lambda: other)
    for command in (
        ["evaluate", str(trained[1])],
        ["train", "--resume", str(trained[1])],
        ["inspect", str(trained[1])],
    ):
        assert cli.main([*command, "--device", "cpu"]) == 2
        assert "another" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(trained[1]), "--iterations", "100", "--device", "cpu"]) == 2


def test_compare_trains_on_all_training_images_and_evaluates_on_the_test_images(data_folder, capsys):
    assert cli.main(["compare", "--depth", "8", "--steps", "60", "--lr", "0.05", "--seed", "3", *QUICK]) == 0
    out = capsys.readouterr().out
    for arch in ("plain8", "resnet8"):
        about = load_run(data_folder / "runs" / "compare-8-shapes10-60-steps-seed-3" / arch).about
        assert about["final"]["test_error"] == pytest.approx(TEST, abs=4) and about["data"]["training_images"] == 200
        assert about["recipe"]["seed"] == 3 and about["recipe"]["batch_size"] == 20 and about["recipe"]["lr"] == 0.05
        assert f"{100 - about['final']['test_error']:.1f} %" in out


FLAGS = {
    "--lr": ("0.03", "lr", 0.03),
    "--seed": ("7", "seed", 7),
    "--batch-size": ("10", "batch_size", 10),
    "--warmup": ("2", "warmup", 2),
    "--precision": ("bf16", "precision", "bf16"),
    "--iterations": ("4", "iterations", 4),
    "--epochs": ("0.5", "epochs", 0.5),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_the_recipe_arrives(flag, data_folder):
    value, name, expected = FLAGS[flag]
    command = ["train", "--arch", "resnet8", "--data", "shapes10", "--device", "cpu", "--validation", "0", flag, value]
    if flag not in ("--iterations", "--epochs"):
        command += ["--iterations", "3"]
    assert cli.main(command) == 0
    (record,) = (data_folder / "runs").iterdir()
    recipe = load_run(record).about["recipe"]
    assert recipe[name] == expected and (recipe["epochs"] is None) != (recipe["iterations"] is None)
    assert f"seed-{recipe['seed']}" in record.name


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_arrive(preset, data_folder):
    command = ["train", "--arch", "resnet8", "--data", "shapes10", "--device", "cpu", "--validation", "10"]
    assert cli.main([*command, "--preset", preset, "--iterations", "2", "--batch-size", "10"]) == 0
    (record,) = (data_folder / "runs").iterdir()
    recipe = load_run(record).about["recipe"]
    for name in ("lr", "schedule", "nesterov", "weight_decay", "label_smoothing", "decay_all"):
        assert recipe[name] == getattr(PRESETS[preset], name)


def test_option_b_is_trained_and_named(data_folder):
    assert cli.main([*TRAIN, "--iterations", "2", "--shortcut", "B"]) == 0
    (record,) = (data_folder / "runs").iterdir()
    about = load_run(record).about
    assert record.name == "resnet8-B-shapes10-2-steps-seed-0" and about["shortcut"] == "B"
    assert about["parameters"] == sum(p.numel() for p in build_model("resnet8", "B").parameters())


# --- One run, one record -----------------------------------------------------------------------------------


def test_a_finished_run_is_not_recorded_twice(trained, capsys, data_folder):
    record, checkpoint, _ = trained
    before = {path: path.read_bytes() for path in data_folder.rglob("*") if path.is_file()}
    for _ in range(2):
        assert cli.main(["train", "--resume", str(checkpoint)]) == 0
        out = capsys.readouterr().out
        assert f"finished, after {STEPS} steps" in out and "Test error 42.00 %" in out and str(record) in out
    assert before == {path: path.read_bytes() for path in data_folder.rglob("*") if path.is_file()}

    checkpoint.unlink()
    assert cli.main(TRAIN) == 2  # it would be the same once more, and count as another
    assert f"recorded already, in {record}; give another --seed or --out" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--lr", "0.01"]) == 0  # another recipe is another run
    assert sorted(path.name for path in (data_folder / "runs").iterdir()) == [NAME, f"{NAME}-2"]


def test_a_finished_run_whose_record_is_lost_is_recorded_again(trained, tmp_path, capsys):
    record, checkpoint, _ = trained
    record.rename(tmp_path / "elsewhere")
    assert cli.main(["train", "--resume", str(checkpoint)]) == 0
    first, second = load_run(tmp_path / "elsewhere"), load_run(record)
    assert first.about["final"] == second.about["final"] and first.history.equals(second.history)


def test_a_run_in_progress_is_locked(data_folder, capsys):
    checkpoint = data_folder / "checkpoints" / f"{NAME}.pt"
    with files.lock(checkpoint):
        assert cli.main(TRAIN) == 2
    assert f"{checkpoint} is being trained by another process; wait for it" in capsys.readouterr().err
    assert not list((data_folder / "runs").iterdir())
    assert cli.main(TRAIN) == 0
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]  # no lock is left


def test_results_are_printed_though_they_cannot_be_written(data_folder, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "chmod"):  # of the checkpoint, of the record
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, full)
            assert cli.main([*TRAIN, "--iterations", "12"]) == 2
        out, error = capsys.readouterr()
        assert "Test error" in out and "No space left on device" in error.splitlines()[-1] and "Record" not in out
    assert not [path for path in (data_folder / "runs").rglob("*") if path.is_file()]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "chmod", full)
        assert cli.main(["compare", "--depth", "8", "--steps", "2", *QUICK]) == 2
    assert "test accuracy" in capsys.readouterr().out


def test_what_came_of_a_run_is_printed_before_its_checkpoint_fails(data_folder, monkeypatch, capsys):
    def full(path, write):
        raise InputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("resnet56.records.checkpoint.write_file", full)
    assert cli.main([*TRAIN, "--iterations", "2"]) == 2
    out, error = capsys.readouterr()
    assert "Test error" in out and error.splitlines()[-1].startswith("resnet56: error: cannot write")
    assert "Record" not in out and not list((data_folder / "runs").iterdir())


def test_a_suite_is_reported_by_means_over_its_seeds_and_a_figure_of_seed_0(data_folder, monkeypatch, capsys):
    shown = []

    def draw(runs):
        shown.extend(runs)
        return plot_degradation(runs)

    runs = {
        f"{arch}-seed-{seed}": (arch, Recipe(iterations=1, batch_size=10, seed=seed))
        for seed in (0, 1)
        for arch in ("resnet20", "plain20")
    }
    monkeypatch.setitem(SUITES, "tiny", Suite(runs))
    monkeypatch.setattr("resnet56.plots.plot_degradation", draw)
    assert cli.main(["reproduce", "tiny", "--data", "shapes10", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    folder = data_folder / "runs" / "tiny-shapes10"
    finals = {name: load_run(folder / name).about["final"]["test_error"] for name in runs}
    for family in ("plain", "resnet"):
        (line,) = [line for line in out.splitlines() if line.split()[:3] == [family, "20", "2"] and "±" not in line]
        mean = (finals[f"{family}20-seed-0"] + finals[f"{family}20-seed-1"]) / 2
        assert float(line.split()[5]) == pytest.approx(mean, abs=0.01)
    assert [(run.arch, run.about["recipe"]["seed"]) for run in shown] == [("plain20", 0)]
    assert f"Figure: {folder / 'figure.png'}" in out and Image.open(folder / "figure.png").size[0] > 500


# --- Longer runs -----------------------------------------------------------------------------------------


def test_an_extended_run_goes_on_at_its_last_rate_as_if_it_had_been_so_from_the_start(
    trained, data_folder, data, capsys
):
    _, checkpoint, _ = trained
    before = checkpoint.read_bytes()
    assert cli.main(["train", "--resume", str(checkpoint), "--iterations", "80"]) == 0
    assert "Going on at step 60." in capsys.readouterr().out
    name = "resnet8-shapes10-80-steps-seed-0"
    about = load_run(data_folder / "runs" / name).about
    assert about["steps"] == 80 and about["extended_at"] == [60] and about["recipe"]["iterations"] == 80
    history = load_run(data_folder / "runs" / name).history.set_index("step")["lr"]
    assert history[30] == pytest.approx(0.05) and history[31:45].eq(0.005).all() and history[46:].eq(0.0005).all()
    assert checkpoint.read_bytes() == before and len(list((data_folder / "runs").iterdir())) == 2

    torch.manual_seed(0)  # the same by hand
    trainer = cli.Engine(build_model("resnet8"), hold_out(data.train, 20)[0], Recipe(**about["recipe"]), "cpu")
    for _ in range(80):
        trainer.take_step()
    saved = load_checkpoint(data_folder / "checkpoints" / f"{name}.pt")
    assert saved["extended"] == (60,) and saved["trainer"]["step"] == 80
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, saved["trainer"]["model"][key])

    assert cli.main(["train", "--resume", str(checkpoint), "--iterations", "80"]) == 2  # once is enough
    assert "is there already" in capsys.readouterr().err
    longer = str(data_folder / "checkpoints" / f"{name}.pt")
    assert cli.main(["train", "--resume", longer]) == 0 and "finished, after 80 steps" in capsys.readouterr().out
    assert cli.main(["train", "--resume", longer, "--epochs", "10"]) == 0  # of 180 images
    assert load_run(data_folder / "runs" / "resnet8-shapes10-90-steps-seed-0").about["extended_at"] == [60, 80]


def test_what_cannot_be_extended_says_why(trained, data_folder, capsys):
    _, checkpoint, _ = trained
    for length in ("60", "12"):
        assert cli.main(["train", "--resume", str(checkpoint), "--iterations", length]) == 2
        assert f"has taken 60 steps already, and {length} are no more" in capsys.readouterr().err
    saved = load_checkpoint(checkpoint)
    saved["trainer"]["step"] = 50
    torch.save(saved, data_folder / "checkpoints" / "half.pt")
    assert cli.main(["train", "--resume", str(data_folder / "checkpoints" / "half.pt"), "--iterations", "80"]) == 2
    assert "10 steps to go; finish it first" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--preset", "laptop", "--iterations", "2"]) == 0
    one_cycle = str(data_folder / "checkpoints" / "resnet8-shapes10-2-steps-seed-0.pt")
    assert cli.main(["train", "--resume", one_cycle, "--iterations", "80"]) == 2
    assert "ends at a learning rate of zero and cannot be extended" in capsys.readouterr().err
    assert len(list((data_folder / "runs").iterdir())) == 2


# --- Foreign weights, images -----------------------------------------------------------------------------


def test_weights_of_others_are_evaluated_and_inspected(tmp_path, data, capsys):
    torch.manual_seed(1)
    model = build_model("resnet8", "B").eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "a.pt")
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)
    with torch.no_grad():
        wrong = model((data.test.pixels / 255 - mean) / std).argmax(dim=1) != data.test.labels
    error = f"error {100 * wrong.float().mean():.2f} %"
    flags = ["--data", "shapes10", "--device", "cpu"]
    assert cli.main(["evaluate", str(tmp_path / "a.pt"), *flags]) == 0 and error in capsys.readouterr().out
    assert cli.main(["inspect", str(tmp_path / "a.pt"), *flags]) == 0 and error in capsys.readouterr().out


def test_predict(trained, tmp_path, data, capsys):
    image = data.test.pixels[-1].permute(1, 2, 0).numpy()  # of the last class, and its colour
    Image.fromarray(image).save(tmp_path / "a.png")
    assert cli.main(["predict", str(tmp_path / "a.png"), "--weights", str(trained[1])]) == 0
    out = capsys.readouterr().out.splitlines()
    network = load_network(trained[1])
    with torch.no_grad():
        probabilities = network.model(normalise(data.test.pixels[-1:], network.mean)).softmax(dim=1)[0]
    best = probabilities.argsort(descending=True)[:3]
    assert out[1:] == [f"{100 * probabilities[k]:5.1f} %  {network.classes[k]}" for k in best] and best[0] == 9
    assert (
        len(out) == 4
        and out[0] == f"a.png, by resnet8 after {STEPS} steps on shapes10:"
        and network.classes != CIFAR10_CLASSES
    )
    Image.fromarray(image).resize((64, 48)).save(tmp_path / "b.png")
    assert cli.main(["predict", str(tmp_path / "b.png"), "--weights", str(trained[1])]) == 0
    assert "Of 64x48 pixels the largest square in the middle was scaled to 32x32." in capsys.readouterr().out
    assert cli.main(["predict", str(tmp_path / "a.png")]) == 2  # nothing is recorded here
    assert "no trained weights of" in (error := capsys.readouterr().err) and "resnet56 reproduce" in error


@pytest.mark.skipif(
    not list((Path(__file__).parent.parent / "data/runs").rglob("weights.safetensors")), reason="no weights"
)
def test_predict_by_the_recorded_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESNET56_HOME", str(Path(__file__).parent.parent / "data"))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    assert cli.main(["predict", str(tmp_path / "a.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "by resnet56 after" in lines[0] and all(line.split()[-1] in CIFAR10_CLASSES for line in lines[1:])


def test_dead_filters_are_counted():
    torch.manual_seed(0)
    model = build_model("resnet8")
    images = torch.randn(20, 3, 32, 32)
    assert dead_filters(model, images) == [0] * 8
    with torch.no_grad():
        model.bn1.bias[:3] = -100  # behind ReLU nothing is left of three,
        model.layer1[0].bn2.bias[:5] = -100  # nor of these, whatever the shortcut adds,
        model.layer2[0].bn2.bias[8:] = -1  # but of these, to which the shortcut adds more
    training = model.training
    assert dead_filters(model, images) == [3, 0, 5, 0, 0, 0, 0, 0] and model.training == training
    plain = build_model("plain8")
    with torch.no_grad():
        plain.layer1[0].bn2.bias[:5] = -100
    assert dead_filters(plain, images)[2] == 5


# --- Pipes, terminals, and processes -----------------------------------------------------------------------


def shell(command: str, data_folder, **environment) -> subprocess.CompletedProcess:
    where = {
        "RESNET56_HOME": str(data_folder),
        "PYTHONPATH": str(Path(cli.__file__).parent.parent),
        "PY": sys.executable,
    }
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | where | environment)


@pytest.mark.parametrize("command", ["data list", "train --help"])
def test_a_reader_who_leaves_is_no_error(command, data_folder):
    run = shell(f'"$PY" -m resnet56 {command} | true; exit "${{PIPESTATUS[0]}}"', data_folder)
    assert run.returncode in (0, 141) and run.stderr == ""


def test_closed_and_full_standard_streams(data_folder):
    for closed in (">&-", ">&- 2>&- <&-"):
        run = shell(f'"$PY" -m resnet56 data list {closed}', data_folder)
        assert run.returncode == 0 and run.stderr == ""
    run = shell('"$PY" -m resnet56 data list > /dev/full', data_folder)
    assert run.returncode == 2 and run.stderr == "resnet56: error: cannot print: No space left on device\n"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_ascii_terminals(environment, data_folder, tmp_path):
    run = shell('"$PY" -m resnet56 evaluate é/日本.pt', data_folder, **environment)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "no checkpoint at" in run.stderr
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    torch.save(build_model("resnet8").state_dict(), tmp_path / "日本.pt")
    run = shell(f'"$PY" -m resnet56 predict {tmp_path}/a.png --weights {tmp_path}/日本.pt', data_folder, **environment)
    assert run.returncode == 0 and run.stdout.isascii() and "normalised" in run.stdout, run.stderr


def test_the_same_command_twice_at_once_trains_one(data_folder, tmp_path):
    """The second comes while the first trains, in another process."""
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\n"
        "import test_cli_runs as tests\n"
        "from resnet56 import cli\n"
        "import resnet56.datasets.loading as loading\n"
        "loading._load_shapes10 = tests.separated\n"
        "sys.exit(cli.main([*tests.TRAIN, '--iterations', '100000']))\n"
    )
    here = {
        "PYTHONPATH": f"{Path(cli.__file__).parent.parent}:{Path(__file__).parent}",
        "RESNET56_HOME": str(data_folder),
    }
    first = subprocess.Popen([sys.executable, script], env=os.environ | here, stdout=subprocess.PIPE, text=True)
    try:
        assert "100,000 steps" in first.stdout.readline()
        second = subprocess.run([sys.executable, script], env=os.environ | here, capture_output=True, text=True)
        assert second.returncode == 2 and "is being trained by another process" in second.stderr
        assert second.stderr.count("\n") == 1
        time.sleep(0.5)
    finally:
        first.terminate()
        assert first.wait(60) == 143
    assert not list((data_folder / "runs").iterdir())


def test_a_lock_is_an_input_error_and_passes_errors_on(tmp_path):
    first, second = files.lock(tmp_path / "a" / "run.pt"), files.lock(tmp_path / "a" / "run.pt")
    with first, pytest.raises(InputError, match="another process"), second:
        raise AssertionError
    with pytest.raises(OSError, match="of the run itself"), files.lock(tmp_path / "a" / "run.pt"):
        raise OSError("of the run itself")
    assert not list((tmp_path / "a").iterdir())


def test_json_of_records_is_what_was_printed(trained):
    record, _, out = trained
    about = json.loads((record / "run.json").read_text())
    assert f"Test error {about['final']['test_error']:.2f} %" in out
