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
from killable import start

from resnet56 import Engine, InputError, Recipe, build_model, fit_together
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
