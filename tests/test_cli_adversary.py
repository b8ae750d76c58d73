"""Every command against every bad input: one line, status 2, nothing written, and before any work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnet56 import InputError, build_model, cli
from resnet56.records.files import data_dir

NUMBERS = {
    "lr": ["nan", "inf", "-inf", "0", "-0.1", "1e300", "1e-300"],
    "epochs": ["nan", "inf", "0", "-1", "1e300", "1e-300"],
    "iterations": ["0", "-5", str(10**30), str(2**63)],
    "steps": ["0", "-5", str(10**30)],
    "batch-size": ["0", "-1", str(10**30)],
    "validation": ["-1", "-10", "7", "49999", str(10**30)],
    "depth": ["-8", "0", "7", "1000000", str(10**30)],
    "warmup": ["-1", str(10**30)],
    "seed": ["-1", str(2**40), str(10**30)],
    "rounds": ["0", "-1", str(10**30)],
    "images": ["0", "-1", str(10**30)],
    "points": ["0", "1", "-3", "4", str(10**30)],
    "at-once": ["0", "-1", str(10**30)],
    "time-limit": ["nan", "inf", "0", "-1", "1e300"],
}
TAKES = {
    "train": ["lr", "epochs", "iterations", "batch-size", "validation", "warmup", "seed"],
    "compare": ["lr", "epochs", "steps", "batch-size", "depth", "warmup", "seed"],
    "bench": ["batch-size", "rounds"],
    "reproduce laptop": ["iterations", "at-once", "time-limit"],
    "measure laptop": ["images", "points"],
    "inspect nowhere.pt": ["images"],
}
CASES = [(command, flag, value) for command, flags in TAKES.items() for flag in flags for value in NUMBERS[flag]]


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Whoever gets as far as loading data is late."""

    def late(*arguments):
        raise AssertionError("data were loaded")

    monkeypatch.setattr(cli, "load_data", late)


def refused(arguments: list[str], capsys, data_folder) -> str:
    """Run a command that must be refused, and return its one line."""
    before = sorted(path for path in data_folder.rglob("*") if path.is_file())
    assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("resnet56: error: ") and error.count("\n") == 1 and len(error) < 500, error
    assert sorted(path for path in data_folder.rglob("*") if path.is_file()) == before
    return error


@pytest.mark.parametrize(("command", "flag", "value"), CASES)
def test_numbers_that_cannot_work(command, flag, value, capsys, data_folder):
    assert f"--{flag}" in refused([*command.split(), f"--{flag}={value}"], capsys, data_folder)


USELESS = {
    "train --arch plain20 --shortcut A": "a plain network has none",
    "train --arch plain-20 --shortcut B": "a plain network has none",
    "train --preset fast --warmup 5": "--warmup would do nothing",
    "train --preset laptop --warmup 0": "--warmup would do nothing",
    "train --epochs 3 --iterations 5": "leave one of them out",
    "train --preset fast --epochs 3 --iterations 5": "leave one of them out",
    "compare --epochs 3 --steps 5": "leave one of them out",
    "train --device cpu --deterministic": "--deterministic would do nothing",
    "train --arch resnet1000000000004": "at most",
    "train --arch resnet-": "unknown architecture",
    "train --arch resnet56 --shortcut b": "unknown shortcut option 'b'",
    "train --device cuda:7": "unknown device",
    "bench --device tpu": "unknown device",
    "evaluate nowhere.pt": "no checkpoint at nowhere.pt",
    "inspect .": "that is a folder, give a file in it",
    "evaluate /dev/null": "no checkpoint at /dev/null",
    "train --resume .": "that is a folder",
    "predict nowhere.png": "nowhere.png cannot be read as an image",
    "bench --out .": "--out . is not a file",
    "bench --out /dev/null": "--out /dev/null is not a file",
    "inspect nowhere.pt --out /dev/null": "--out /dev/null is not a file",
    "predict .": "cannot be read as an image",
}


@pytest.mark.parametrize("command", USELESS)
def test_what_does_nothing_or_is_not_there(command, capsys, data_folder):
    assert USELESS[command] in refused(command.split(), capsys, data_folder)


@pytest.mark.parametrize("command", ["train", "compare", "reproduce laptop", "bench", "inspect {file} --out {file}"])
def test_out_that_cannot_be_written(command, capsys, data_folder, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    command = command.format(file=file).split()
    error = refused([*command, *(["--out", str(file)] if "--out" not in command else [])], capsys, data_folder)
    assert str(file) in error and file.read_text() == "kept"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that nobody can write to")
@pytest.mark.parametrize("command", ["train", "compare", "reproduce laptop", "bench", "inspect nowhere.pt"])
def test_out_on_a_read_only_file_system(command, capsys, data_folder):
    assert "/proc" in refused([*command.split(), "--out", "/proc/self/nowhere/a"], capsys, data_folder)


def write(path: Path, kind: str) -> None:
    """Write a file of some kind that is not a checkpoint of a run."""
    if kind in ("text", "empty"):
        path.write_text("x = 1\n" * (kind == "text"))
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 40)
    elif kind == "image":
        Image.new("RGB", (32, 32)).save(path, "PNG")
    elif kind == "half safetensors":
        path.write_bytes(b"\xff\0\0\0\0\0\0\0{" + b"a" * 20)
    elif kind == "folder":
        path.mkdir()
    else:
        weights = build_model("resnet8").state_dict()
        content = {
            "tensor": torch.ones(3),
            "list": [1, 2],
            "another edition": {"format": "resnet56 checkpoint 9"},
            "format of a list": {"format": [1]},
            "no content": {"format": "resnet56 checkpoint 3"},
            "nonsense": {
                "format": "resnet56 checkpoint 3",
                "arch": "resnet8",
                "shortcut": "A",
                "trainer": 3,
                "recipe": {"a": 1},
            },
            "numbers as names": {1: 2, 3: 4},
            "weights of others": {"state_dict": {"layer9.weight": weights["fc.weight"]}},
        }
        torch.save(content[kind], path)


KINDS = ["text", "empty", "binary", "image", "half safetensors", "folder", "tensor", "list", "another edition"]
KINDS += ["format of a list", "no content", "nonsense", "numbers as names", "weights of others"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["train --resume {}", "evaluate {}", "inspect {}", "predict {png} --weights {}"])
def test_files_that_are_no_checkpoint(command, kind, capsys, data_folder, tmp_path):
    write(tmp_path / "file.pt", kind)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    error = refused(command.format(tmp_path / "file.pt", png=tmp_path / "a.png").split(), capsys, data_folder)
    assert "file.pt" in error and "delete" not in error and ("give" in error or "use" in error or "save" in error)


def test_names_with_line_ends_stay_in_one_line(capsys, data_folder):
    refused(["evaluate", "a\nb.pt"], capsys, data_folder)
    refused(["train", "--arch", "a\nb"], capsys, data_folder)


@pytest.mark.parametrize("arguments", [["train", "--threads", "0"], ["train", "a\nb"], ["train", "--lr", "1\n2"], []])
def test_the_parsers_own_refusals_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and "--help" in error


def test_out_of_memory_and_trouble_with_files_are_one_line(monkeypatch, capsys, data_folder):
    for error, status, words in (
        (MemoryError(), 1, "a smaller --batch-size needs less"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "a smaller --batch-size needs less"),
        (PermissionError(13, "Permission denied", "/a/b"), 2, "cannot use /a/b: Permission denied"),
        (InputError("a\nb"), 2, "error: a b"),
    ):

        def fail(name, error=error):
            raise error

        monkeypatch.setattr(cli, "load_data", fail)
        assert cli.main(["compare", "--device", "cpu"]) == status
        assert words in (line := capsys.readouterr().err) and line.count("\n") == 1
    for fault in (ZeroDivisionError, RuntimeError("expected another memory format")):

        def fail(name, fault=fault):
            raise fault

        monkeypatch.setattr(cli, "load_data", fail)
        with pytest.raises((ZeroDivisionError, RuntimeError)):  # a fault of ours is shown whole
            cli.main(["compare", "--device", "cpu"])


# --- The scripts of the book ---------------------------------------------------------------------------------


def test_build_on_a_read_only_checkout_is_one_line(monkeypatch, capsys, tmp_path):
    import build

    (tmp_path / "_build").write_text("a file where the folder should be: it cannot be written to")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "BUILT", tmp_path / "_build")
    monkeypatch.setattr(sys, "argv", ["build.py"])
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it was built"))
    assert build.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("book: error: cannot write") and "copy the project" in error and error.count("\n") == 1


def test_build_without_jupyter_book_is_one_line(monkeypatch, capsys, tmp_path):
    import build

    monkeypatch.setattr(build, "BUILT", tmp_path / "_build")
    monkeypatch.setattr(sys, "argv", ["build.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert build.main() == 2
    error = capsys.readouterr().err
    assert "requirements.txt" in error and error.count("\n") == 1


def test_execute_on_a_read_only_checkout_is_refused_before_anything_runs(monkeypatch, capsys, tmp_path):
    import execute
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(notebook, tmp_path / "a.ipynb")

    def unwritable(folder):
        raise InputError(f"cannot write {folder}: Read-only file system")

    monkeypatch.setattr(execute, "check_writable", unwritable)
    monkeypatch.setattr(execute, "load_data", lambda: pytest.fail("data were loaded"))
    assert execute.main([str(tmp_path / "a.ipynb")]) == 2
    error = capsys.readouterr().err
    assert "Read-only" in error and "--out FOLDER" in error and error.count("\n") == 1


def test_home(data_folder):
    assert data_dir() == data_folder
