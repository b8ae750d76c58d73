"""Work that goes on where it stopped, to be killed: ``killable.py CHECKPOINT``, a run; ``... suite OUT``, a suite."""

import sys
from pathlib import Path

import torch
from conftest import learnable_data, random_split

from resnet56 import Engine, Recipe, build_model, fit, fit_together
from resnet56.fast import together
from resnet56.records.checkpoint import Checkpoint, resume
from resnet56.records.suites import SUITES, Suite, reproduce

RECIPE = Recipe(iterations=400, batch_size=20, lr=0.02, seed=1)
SHORT = Recipe(iterations=40, batch_size=20, lr=0.05)
RUNS = {
    f"{arch}-lr-{lr}": (arch, Recipe(**{**vars(SHORT), "lr": lr}))
    for arch in ("plain8", "resnet8")
    for lr in (0.1, 0.2)
}


def start(path: Path | None) -> Engine:
    torch.set_num_threads(1)
    torch.manual_seed(RECIPE.seed)
    trainer = Engine(build_model("resnet8"), random_split(100), RECIPE, "cpu")
    if path is None:
        fit(trainer)
        return trainer
    checkpoint = Checkpoint(path, arch="resnet8", shortcut="A", data="noise", fingerprint="0" * 64, validation=0)
    if path.exists():
        resume(trainer, checkpoint)
    print(trainer.step, flush=True)  # from here on it may be killed
    together.SAVE_EVERY = 0  # after each ten steps, so that many kills fall into the saving
    fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
    return trainer


def work(out: Path, say=lambda line: print(line, flush=True)) -> list[Path]:
    """Train a suite whose runs keep their weights."""
    torch.set_num_threads(1)
    together.SAVE_EVERY = 0
    SUITES["killed"] = Suite(RUNS)
    return reproduce("killed", data=learnable_data(), device="cpu", out=out, progress=False, say=say)


if __name__ == "__main__":
    work(Path(sys.argv[2])) if sys.argv[1] == "suite" else start(Path(sys.argv[1]))
