"""Two processes against one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from worker import RECIPE, measure

from resnet56.records.checkpoint import load_checkpoint

WORKER = Path(__file__).with_name("worker.py")
TRAIN = ["--arch", "resnet8", "--iterations", "12", "--batch-size", "20", "--validation", "20", "--device", "cpu"]
NAME = "resnet8-shapes10-12-steps-seed-0"


def torchrun(*arguments, processes: int = 2) -> subprocess.Popen:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, WORKER, *arguments]
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    out = tmp_path_factory.mktemp("distributed")
    run = torchrun(out)
    assert run.wait(120) == 0, run.stderr.read()
    return [torch.load(out / f"{rank}-of-2.pt", weights_only=True) for rank in range(2)]


def test_two_processes_take_the_steps_of_one(two_processes):
    """With batch normalisation in evaluation mode, gradients are sums over images: the split must not matter.

    But for rounding, which differs by processor: a thousandth of the way that the weights of a layer travel. Shares
    that were weighted alike, 11 images as 10, would be off by some hundredths.
    """
    alone = measure()
    for part in two_processes:
        for one, other in zip(part["moved"], alone["moved"], strict=True):
            assert (one - other).norm() < 1e-3 * other.norm()
        assert part["history"][0] == pytest.approx(alone["history"][0], rel=1e-4)


def test_their_shares_of_a_batch_are_the_batch_without_overlap(two_processes):
    for step, whole in enumerate(measure()["shares"]):
        first, second = (part["shares"][step] for part in two_processes)
        assert sorted(first + second) == sorted(whole) and (len(first), len(second)) == (11, 10)
    assert len(two_processes[0]["shares"]) == RECIPE.iterations


def test_what_one_process_says_all_hear(two_processes):
    """Such as that a signal came: of processes 0, 1 and 2 the last one is not there."""
    assert measure()["any"] == [True, False, False]
    assert [part["any"] for part in two_processes] == [[True, True, False]] * 2


def test_metrics_are_summed_over_unequal_shares(two_processes):
    expected = measure()["score"]  # 51 images: 26 and 25
    for part in two_processes:
        assert part["score"] == pytest.approx(expected, rel=1e-4)


def test_training_is_resumed_by_another_number_of_processes(tmp_path):
    run = torchrun(tmp_path, *TRAIN, "--seed", "0")
    out, errors = run.communicate(timeout=180)
    assert run.returncode == 0, errors
    assert out.count("2 processes") == 1 and out.count("Test error") == 1  # only the first one speaks
    about = json.loads((tmp_path / "runs" / NAME / "run.json").read_text())
    assert about["how"]["processes"] == 2 and about["steps"] == 12
    checkpoint = tmp_path / "checkpoints" / f"{NAME}.pt"
    saved = load_checkpoint(checkpoint)
    assert len(saved["trainer"]["history"]) == 4  # epochs of 4 steps, and step 10

    (tmp_path / "runs" / NAME).rename(tmp_path / "first")
    saved["trainer"] |= {"step": 8, "history": saved["trainer"]["history"][:2]}  # as if it had been stopped there
    torch.save(saved, checkpoint)
    subprocess.run([sys.executable, WORKER, tmp_path, "--resume", checkpoint, "--device", "cpu"], check=True)
    about = json.loads((tmp_path / "runs" / NAME / "run.json").read_text())
    assert about["how"]["processes"] == 1 and about["steps"] == 12


def test_a_signal_stops_all_processes_at_the_same_step(tmp_path):
    run = torchrun(tmp_path, *TRAIN[:2], "--iterations", "100000", *TRAIN[4:])
    while "2 processes" not in run.stdout.readline():
        assert run.poll() is None, run.stderr.read()
    time.sleep(3)
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) != 0
    assert "Saved at step" in run.stderr.read()
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert load_checkpoint(checkpoint)["trainer"]["step"] > 0
