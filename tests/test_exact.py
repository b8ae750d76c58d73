"""Runs that are killed, and disks that are full."""

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killable import RUNS, start, work

from resnet56 import Engine, InputError, Recipe, build_model, find_runs, fit_together, load_run
from resnet56.records.checkpoint import Checkpoint, load_checkpoint

KILLABLE = Path(__file__).with_name("killable.py")
KILLS = 20


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    path = tmp_path / "run.pt"
    chance = random.Random(0)
    steps = []
    while True:
        run = subprocess.Popen([sys.executable, KILLABLE, path], stdout=subprocess.PIPE, text=True)
        steps.append(int(run.stdout.readline()))
        if len(steps) > KILLS:
            break
        time.sleep(chance.uniform(0, 0.4))
        run.kill()
        assert run.wait() == -signal.SIGKILL, "it ended before it was killed often enough; make it longer"
    assert run.wait() == 0
    assert steps == sorted(steps) and steps[-1] > steps[0]
    threads = torch.get_num_threads()
    whole = start(None)
    torch.set_num_threads(threads)
    state = load_checkpoint(path)["trainer"]
    for one, other in zip(state["model"].values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert state["history"] == whole.history


@pytest.mark.slow
def test_two_processes_share_a_suite_and_are_killed_again_and_again(tmp_path):
    """Killed at random and started again by the same command, they end with each run recorded once, bit for bit."""
    chance = random.Random(0)
    shared = tmp_path / "shared"

    def begin() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, KILLABLE, "suite", shared], stdout=subprocess.PIPE, text=True)

    workers, kills = [begin(), begin()], 0
    while kills < KILLS // 2 and len(list(shared.glob("runs/*/*"))) < len(RUNS):
        place = chance.randrange(2)
        assert workers[place].stdout.readline().startswith("Suite killed on learnable: ")
        time.sleep(chance.uniform(0, 2))
        workers[place].kill()
        workers[place].communicate()
        kills += workers[place].returncode == -signal.SIGKILL
        workers[place] = begin()
    for worker in [*workers, begin()]:
        worker.communicate()
        assert worker.returncode == 0
    begin().communicate()  # what a killed one left, if the others did not see that it was free
    assert kills >= 3
    threads = torch.get_num_threads()
    whole = work(tmp_path / "whole", say=lambda line: None)
    torch.set_num_threads(threads)
    assert sorted(find_runs(shared)) == sorted(f"runs/killed-learnable/{name}" for name in RUNS)
    for record in whole:
        one, other = load_run(record), load_run(shared / "runs" / "killed-learnable" / record.name)
        assert one.history.equals(other.history) and one.gradients.equals(other.gradients)
        assert one.about["final"] == other.about["final"] and one.about["logits"] == other.about["logits"]
        assert one.about["files"] == other.about["files"]
        assert sum(part["steps"] for part in other.about["parts"]) == 40
    assert not [path for path in shared.rglob("*") if path.suffix in (".pt", ".partial")]


@pytest.fixture(params=["file-size limit", "full disk"])
def small_disk(request, tmp_path):
    """A folder, and a function after whose call nothing more fits into it."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "full disk":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip("may not mount a small disk here")
        yield folder, lambda: (folder / "ballast").write_bytes(bytes(1_000_000))
        subprocess.run(["umount", folder], check=True)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_stays(split, small_disk):
    folder, fill = small_disk
    trainer = Engine(build_model("resnet8"), split, Recipe(iterations=3, batch_size=20), "cpu")
    checkpoint = Checkpoint(folder / "run.pt", arch="resnet8", shortcut="A", data="noise", fingerprint="", validation=0)
    trainer.take_step()
    checkpoint.save(trainer)
    fill()
    with pytest.raises(InputError, match="cannot write .*run.pt: (No space left on device|File too large)"):
        fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
    assert load_checkpoint(checkpoint.path)["trainer"]["step"] == 1
    assert {path.name for path in folder.iterdir()} <= {"run.pt", "ballast"}  # and nothing half-written


def test_a_checkpoint_whose_contents_are_of_the_wrong_kind_is_damaged(split, tmp_path):
    path = tmp_path / "run.pt"
    trainer = Engine(build_model("resnet8"), split, Recipe(iterations=3, batch_size=20), "cpu")
    Checkpoint(path, arch="resnet8", shortcut="A", data="noise", fingerprint="", validation=0).save(trainer)
    whole = torch.load(path, weights_only=True)
    for name, value in (
        ("mean", whole["mean"][:2]),
        ("mean", "mean"),
        ("recipe", {"lr": 0.1, "iterations": 3, "speed": 9}),
        ("recipe", [1]),
        ("arch", "plain14"),
        ("trainer", {"step": 3}),
        ("trainer", None),
    ):
        torch.save(whole | {name: value}, path)
        with pytest.raises(InputError, match=r"run.pt is damaged \(\w+: .*\); train again, or give an intact copy"):
            load_checkpoint(path)
    for name in ("fingerprint", "validation", "data", "shortcut"):
        torch.save({key: value for key, value in whole.items() if key != name}, path)
        with pytest.raises(InputError, match=rf"run.pt is damaged \(KeyError: '{name}'\)"):
            load_checkpoint(path)
