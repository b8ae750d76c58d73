"""The command line: its work, and one clear line with status 2 for each bad input."""

import json
import os
import signal

import pytest
import torch

from resnet56 import cli, data, load_run
from resnet56.records.checkpoint import load_checkpoint
from resnet56.records.files import lock

QUICK = ["--batch-size", "20", "--data", "shapes10", "--device", "cpu", "--precision", "fp32"]
TRAIN = ["train", "--arch", "resnet8", "--iterations", "12", "--lr", "0.05", "--validation", "20", *QUICK]


@pytest.fixture(autouse=True)
def small_data(monkeypatch, data_set):
    """Answer to the name shapes10 with a hundred images of noise."""
    noise = data.DataSet("shapes10", "shapes10", *list(vars(data_set).values())[2:])
    monkeypatch.setattr("resnet56.datasets.loading._load_shapes10", lambda: noise)


def test_train_evaluate_and_resume(data_folder, capsys):
    assert cli.main(TRAIN) == 0
    name = "resnet8-shapes10-12-steps-seed-0"
    run = load_run(data_folder / "runs" / name)
    assert run.about["steps"] == 12 and run.about["data"]["training_images"] == 80
    assert run.history["epoch"].iloc[-1] == 3  # 12 steps of 20 of these 80 images
    assert run.history["validation_error"].notna().tolist() == [step % 4 == 0 for step in run.history["step"]]
    checkpoint = data_folder / "checkpoints" / f"{name}.pt"
    capsys.readouterr()

    assert cli.main(["evaluate", str(checkpoint)]) == 0
    assert f"test error {run.about['final']['test_error']:.2f} %" in capsys.readouterr().out

    assert cli.main(TRAIN) == 2  # it would overwrite the run
    assert "is there already; go on with --resume" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "is finished, after 12 steps" in out and f"Test error {run.about['final']['test_error']:.2f} %" in out
    assert [path.name for path in (data_folder / "runs").iterdir()] == [name]  # one run, one record


def test_interrupted_and_resumed_from_the_command_line(data_folder, monkeypatch, capsys, tmp_path):
    assert cli.main([*TRAIN, "--out", str(tmp_path / "whole")]) == 0
    take_step = cli.Engine.take_step

    def take_step_and_interrupt(trainer):
        take_step(trainer)
        if trainer.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(cli.Engine, "take_step", take_step_and_interrupt)
        assert cli.main([*TRAIN, "--out", str(tmp_path / "parts")]) == 143
    name = "resnet8-shapes10-12-steps-seed-0"
    checkpoint = tmp_path / "parts" / "checkpoints" / f"{name}.pt"
    assert f"Saved at step 7. Go on with: resnet56 train --resume {checkpoint}" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "runs" / name).exists()
    assert cli.main(["train", "--resume", str(checkpoint)]) == 0
    assert (tmp_path / "parts" / "runs" / name / "run.json").exists()
    states = [load_checkpoint(tmp_path / part / "checkpoints" / f"{name}.pt")["trainer"] for part in ("whole", "parts")]
    for one, other in zip(states[0]["model"].values(), states[1]["model"].values(), strict=True):
        assert torch.equal(one, other)
    assert states[0]["history"] == states[1]["history"]


def test_a_second_interruption_is_no_error_of_ours(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_data", interrupted)
    assert cli.main(["compare", "--device", "cpu"]) == 130
    assert capsys.readouterr() == ("", "")


def test_compile_without_a_compiler_is_refused_at_the_start(monkeypatch, capsys, data_folder):
    monkeypatch.setattr(cli, "has_compiler", lambda: False)
    assert cli.main([*TRAIN, "--compile"]) == 2
    assert "--compile needs a C++ compiler; install one (g++)" in capsys.readouterr().err
    assert not list(data_folder.iterdir())


def test_deterministic_training_is_asked_of_torch(monkeypatch, capsys):
    """On a GPU, which there may be none of here, so nothing is trained."""
    asked = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(cli, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(cli, "load_data", lambda name: 1 / 0)
    monkeypatch.setattr(cli, "fast_precision", lambda device: "fp32")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    for flags in ([], ["--deterministic"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(["train", "--arch", "resnet8", *flags])
        assert asked == [True] * len(flags) and ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == bool(flags)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_a_time_limit_is_in_minutes(monkeypatch, data_set):
    asked = []
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    monkeypatch.setattr(cli, "reproduce", lambda suite, **settings: asked.append(settings["time_limit"]) or [])
    for flags in ([], ["--time-limit", "1.5"]):
        assert cli.main(["reproduce", "laptop", "--device", "cpu", *flags]) == 0
    assert asked == [float("inf"), 90.0]


def test_under_torchrun_only_train_runs(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some run")
    assert cli.main(["compare"]) == 2
    assert "several processes can only train" in capsys.readouterr().err


def test_compare_writes_a_record_and_a_figure(data_folder, capsys):
    assert cli.main(["compare", "--depth", "8", "--steps", "12", "--lr", "0.05", *QUICK]) == 0
    folder = data_folder / "runs" / "compare-8-shapes10-12-steps-seed-0"
    assert sorted(path.name for path in folder.iterdir()) == ["figure.png", "plain8", "resnet8"]
    out = capsys.readouterr().out
    for arch in ("plain8", "resnet8"):
        final = load_run(folder / arch).about["final"]
        assert f"{final['train_loss']:.3f}" in out and f"{100 - final['test_error']:.1f} %" in out
    assert "shapes10, 12 steps of 20 images, seed 0, fp32" in out


def test_a_second_comparison_replaces_nothing_and_is_refused_at_the_start(data_folder, capsys, monkeypatch):
    command = ["compare", "--depth", "8", "--steps", "2", *QUICK]
    record = data_folder / "runs" / "compare-8-shapes10-2-steps-seed-0"
    with lock(record, "made", data_folder / "tmp"):
        assert cli.main(command) == 2
    assert f"{record} is being made by another process; wait for it" in capsys.readouterr().err
    assert cli.main(command) == 0
    monkeypatch.setattr(cli, "compare", None)  # training would fail
    assert cli.main([*command, "--lr", "0.05"]) == 2
    assert f"{record} is there already and stays" in capsys.readouterr().err
    assert load_run(record / "plain8").about["recipe"]["lr"] == 0.02
    assert [path.name for path in (data_folder / "runs").iterdir()] == [record.name]


def test_names_are_normalised(data_folder):
    assert cli.main(["train", "--arch", "Plain-8", "--iterations", "2", "--validation", "0", *QUICK]) == 0
    about = load_run(data_folder / "runs" / "plain8-shapes10-2-steps-seed-0").about
    assert about["arch"] == "plain8" and about["shortcut"] is None


BAD = {
    "unknown arch": (["train", "--arch", "vgg16", *QUICK], "unknown architecture 'vgg16'"),
    "depth 57": (["train", "--arch", "resnet57", *QUICK], "no network of depth 57"),
    "compare depth 57": (["compare", "--depth", "57", *QUICK], "no network of depth 57"),
    "shortcut": (["train", "--shortcut", "C", *QUICK], "unknown shortcut option 'C'"),
    "negative lr": (["train", "--lr", "-0.1", *QUICK], "--lr must be from 1e-30 to 1,000, not -0.1"),
    "epochs and iterations": (
        ["train", "--epochs", "1", "--iterations", "5", *QUICK],
        "either by --epochs or by a number of steps",
    ),
    "seed": (["train", "--seed", "99999999999999999999", *QUICK], "--seed must be from 0 to 4,294,967,295"),
    "no steps": (["compare", "--steps", "0", *QUICK], "--steps must be from 1 to"),
    "unknown data": (["train", "--data", "mnist"], "unknown data set 'mnist'"),
    "not imported": (["compare", "--data", "cifar10-jpeg"], "no imported data set"),
    "unknown device": (["train", "--device", "tpu"], "unknown device 'tpu'"),
    "validation": (["train", "--validation", "15", "--arch", "resnet8", *QUICK], "cannot hold out 15"),
    "missing checkpoint": (["evaluate", "nowhere.pt"], "no checkpoint at nowhere.pt"),
    "missing resume": (
        ["train", "--resume", "nowhere.pt"],
        "no checkpoint at nowhere.pt; give the path that `resnet56 train` printed",
    ),
    "missing archive": (["data", "import", "nowhere.tar"], "nowhere.tar does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(case, capsys, data_folder):
    arguments, words = BAD[case]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("resnet56: error: ") and error.count("\n") == 1
    assert not [path for path in data_folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["train", "--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["train", "--colour", "red"], "unrecognized arguments: --colour red"),
        (["evaluate"], "required: PATH"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and words in error and "--help" in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_one(capsys):
    assert cli.main([*TRAIN[:3], "--device", "cuda"]) == 2
    assert "no cuda device on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("command", [TRAIN, ["compare", "--depth", "8", *QUICK]])
def test_unwritable_output_folder(command, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert cli.main([*command, "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_resume_with_another_recipe_is_refused(data_folder, capsys):
    assert cli.main(TRAIN) == 0
    checkpoint = next((data_folder / "checkpoints").iterdir())
    before = checkpoint.read_bytes()
    capsys.readouterr()
    for flag, value in (("lr", "0.2"), ("arch", "plain8"), ("data", "shapes10"), ("validation", "20"), ("seed", "0")):
        assert cli.main(["train", "--resume", str(checkpoint), f"--{flag}", value]) == 2
        assert f"--{flag} would do nothing: the run that goes on has its own" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before


def test_divergence_is_reported_with_status_1(capsys, data_folder):
    assert cli.main([*TRAIN[:3], "--iterations", "200", "--lr", "1000", "--validation", "0", *QUICK]) == 1
    assert "no longer finite" in capsys.readouterr().err
    for path in (data_folder / "checkpoints").iterdir():
        state = load_checkpoint(path)["trainer"]["model"]
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize(
    "command", [[], ["train"], ["evaluate"], ["compare"], ["data"], ["data", "import"], ["data", "list"]]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0 and "usage:" in capsys.readouterr().out


def test_data_list(capsys):
    assert cli.main(["data", "list"]) == 0
    assert capsys.readouterr() == ("shapes10\n", "")


def test_data_list_names_what_is_damaged(data_folder, capsys):
    (data_folder / "cifar-10-python.tar.gz").write_bytes(b"cut")
    assert cli.main(["data", "list"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "shapes10\n" and printed.err.startswith("not usable: ")
    assert "cifar-10-python.tar.gz" in printed.err and printed.err.count("\n") == 1


def test_records_are_plain_json(data_folder):
    assert cli.main(TRAIN) == 0
    about = json.loads(next((data_folder / "runs").rglob("run.json")).read_text())
    assert about["recipe"]["momentum"] == 0.9 and about["versions"]["torch"] == str(torch.__version__)
    assert about["parameters"] == 269_722 - 2 * 97_216 and about["hardware"]["type"] == "cpu"
