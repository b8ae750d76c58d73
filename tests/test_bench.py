"""The benchmark: what it counts, not how fast it is."""

import json

import pytest
import torch

from resnet56 import cli
from resnet56.errors import InputError
from resnet56.fast import bench as bench_module
from resnet56.fast.bench import Textbook, bench, load_bench, loops, matmul_gflops
from resnet56.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Shorter blocks, and no compiler."""

    def some_loops(*arguments):
        return {name: make for name, make in loops(*arguments).items() if name != "+ compiled"}

    monkeypatch.setattr(bench_module, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(bench_module, "loops", some_loops)


def test_every_loop_is_measured_against_the_textbook(quick, data_set):
    result = bench(data_set, arch="resnet8", batch_size=20, device=CPU, rounds=1, progress=False)
    table = result.table()
    assert table.index[0] == "textbook" and len(table) >= 4
    assert (table[["step", "end_to_end"]] > 0).all(axis=None)
    assert table["ratio"].tolist() == pytest.approx((table["end_to_end"] / table["end_to_end"].iloc[0]).tolist())
    convolutions = 9 * (1024 * 16 * (3 + 16 + 16) + 256 * 32 * (16 + 32) + 64 * 64 * (32 + 64))  # positions, out, in
    assert result.about["image_gflop"] == pytest.approx(3 * 2 * (convolutions + 64 * 10) / 1e9)


def test_the_command_prints_and_saves_the_table(quick, data_set, data_folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    (data_folder / "runs").mkdir()
    out = data_folder / "runs" / "mine.json"
    arguments = ["bench", "--arch", "resnet8", "--batch-size", "20", "--rounds", "1", "--device", "cpu"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "textbook" in printed and "GFLOP/s" in printed and "64,000 steps" in printed
    assert load_bench("mine").rows == json.loads(out.read_text())["rows"]
    with pytest.raises(InputError, match="not a table"):
        load_bench("yours")


def test_the_textbook_loop_learns_what_the_others_learn(data_set):
    """It shows the same images, in other crops, and takes the same kind of step."""
    torch.manual_seed(0)
    textbook = Textbook(data_set, "resnet8", Recipe(iterations=1, batch_size=50, lr=0.01), CPU)
    labels = sorted(label for _ in range(2) for label in next(textbook.batches)[1].tolist())
    assert labels == sorted(data_set.train.labels.tolist())  # an epoch
    textbook.take_step()
    assert textbook.running_loss > 0 and textbook.model.conv1.weight.grad.norm() > 0
    textbook.fix_batch()
    assert next(textbook.batches)[0] is next(textbook.batches)[0]


def test_the_arithmetic_ceiling_is_that_of_a_matrix_product():
    assert matmul_gflops(CPU, "fp32", size=64) > 0
