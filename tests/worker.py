"""What each process does in test_distributed.py: ``torchrun ... worker.py OUT [arguments of resnet56 train]``."""

import sys
from pathlib import Path

import torch
from conftest import random_split

from resnet56 import Engine, Recipe, build_model, cli, evaluate
from resnet56.data import DataSet
from resnet56.fast.distributed import any_process, process_group, rank, world_size

RECIPE = Recipe(iterations=6, batch_size=21, lr=0.05, seed=1)  # 21 images: unequal shares for two processes


def measure() -> dict:
    """Take steps in evaluation mode, where batch normalisation couples no images, and evaluate."""
    torch.manual_seed(RECIPE.seed)
    model = build_model("resnet8")
    model.train(mode=True)(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    trainer = Engine(model, random_split(105), RECIPE, "cpu")
    start = [parameter.detach().clone() for parameter in model.parameters()]
    model.train = lambda mode=True: torch.nn.Module.train(model, False)
    shares = []
    views = trainer.batches.views
    trainer.batches.views = lambda draw: (shares.append(draw[0].tolist()), views(draw))[1]
    for _ in range(RECIPE.iterations):
        trainer.take_step()
    score = evaluate(model, random_split(51, seed=1), trainer.batches.mean, batch_size=10)
    return {
        "moved": [parameter.detach() - before for parameter, before in zip(model.parameters(), start, strict=True)],
        "score": [score.loss, score.error],
        "history": trainer.history,
        "shares": shares,
        "any": [any_process(rank() == number, torch.device("cpu")) for number in range(3)],
    }


def main(out: Path, arguments: list[str]) -> int:
    torch.set_num_threads(1)
    if arguments:
        noise = DataSet(
            "shapes10", "shapes10", tuple("abcdefghij"), random_split(100), random_split(51, seed=1), "0" * 64
        )
        cli.load_data = lambda name: noise
        return cli.main(["train", "--out", str(out), *arguments])
    with process_group(torch.device("cpu")):
        torch.save(measure(), out / f"{rank()}-of-{world_size()}.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
