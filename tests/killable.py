"""A training run that goes on from its checkpoint, to be killed: ``python killable.py CHECKPOINT``."""

import sys
from pathlib import Path

import torch
from conftest import random_split

from resnet56 import Engine, Recipe, build_model, fit, fit_together
from resnet56.fast import together
from resnet56.records.checkpoint import Checkpoint, resume

RECIPE = Recipe(iterations=400, batch_size=20, lr=0.02, seed=1)


def start(path: Path | None) -> Engine:
    torch.set_num_threads(1)
    torch.manual_seed(RECIPE.seed)
    trainer = Engine(build_model("resnet8"), random_split(100), RECIPE, "cpu")
    if path is None:
        fit(trainer, progress=False)
        return trainer
    checkpoint = Checkpoint(path, arch="resnet8", shortcut="A", data="noise", fingerprint="0" * 64, validation=0)
    if path.exists():
        resume(trainer, checkpoint)
    print(trainer.step, flush=True)  # from here on it may be killed
    together.SAVE_EVERY = 0  # after each ten steps, so that many kills fall into the saving
    fit_together({"run": trainer}, checkpoints={"run": checkpoint}, progress=False)
    return trainer


if __name__ == "__main__":
    start(Path(sys.argv[1]))
