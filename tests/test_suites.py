"""Suites: planned, interrupted, continued, recorded; and the records that are committed."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from resnet56 import InputError, Recipe, cli, evaluate, find_runs, load_pretrained, load_run
from resnet56.progress import OutOfTime
from resnet56.records.runs import reference_logits, runs_table, summarise
from resnet56.records.suites import SUITES, Suite, plan, reproduce

RECORDS = Path(__file__).parent.parent / "data" / "runs"
RUNS = (("plain8", 0), ("resnet8", 0), ("resnet8", 1))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SUITES, "tiny", tiny_suite(lr=0.05))


def tiny_suite(lr: float) -> Suite:
    recipe = Recipe(iterations=9, batch_size=20, lr=lr)
    return Suite({f"{arch}-seed-{seed}": (arch, dataclasses.replace(recipe, seed=seed)) for arch, seed in RUNS})


def run(data_set, out, **options):
    lines = []
    records = reproduce("tiny", data=data_set, device="cpu", out=out, progress=False, say=lines.append, **options)
    return records, lines


def without_times(folder: Path) -> dict:
    about = load_run(folder).about
    return {key: about[key] for key in ("arch", "recipe", "final", "logits") if key in about}


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_suite_interrupted_again_and_again_ends_as_one_that_was_not(data_set, tmp_path, monkeypatch, at_once):
    whole, lines = run(data_set, tmp_path / "whole", at_once=at_once)
    assert [path.name for path in whole] == [f"{arch}-seed-{seed}" for arch, seed in RUNS]
    assert lines[0] == "Suite tiny on noise: 0 of 3 runs are recorded."
    for _ in range(20):
        try:
            pieces, lines = run(
                data_set, tmp_path / "pieces", at_once=at_once, time_limit=0
            )  # an epoch a time, four steps
            break
        except OutOfTime:
            assert list(tmp_path.glob("pieces/checkpoints/*/*.pt"))
    assert not list(tmp_path.glob("pieces/checkpoints/*/*.pt"))
    for one, other in zip(whole, pieces, strict=True):
        assert without_times(one) == without_times(other)
        assert load_run(one).history.equals(load_run(other).history)
        for file in ("gradients.npz", "weights.safetensors"):
            assert (one / file).exists() == (other / file).exists() == one.name.endswith("seed-0")
        if one.name.endswith("seed-0"):
            assert load_run(one).gradients.equals(load_run(other).gradients)
            assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()


def test_what_is_recorded_is_not_trained_again(data_set, tmp_path, monkeypatch):
    records, _ = run(data_set, tmp_path)
    before = [path.stat().st_mtime_ns for path in records]
    monkeypatch.setattr("resnet56.records.suites.Engine", None)  # training would fail
    again, lines = run(data_set, tmp_path)
    assert again == records and before == [path.stat().st_mtime_ns for path in again]
    assert lines == ["Suite tiny on noise: 3 of 3 runs are recorded."]


def test_records_of_another_recipe_and_damaged_ones_are_refused_by_name(data_set, tmp_path, monkeypatch):
    records, _ = run(data_set, tmp_path)
    with monkeypatch.context() as context:
        context.setitem(SUITES, "tiny", tiny_suite(lr=0.1))
        with pytest.raises(InputError, match=r"plain8-seed-0 is of another recipe: lr is 0.05 there, 0.1 here"):
            run(data_set, tmp_path)
    weights = records[1] / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="resnet8-seed-0: weights.safetensors is damaged"):
        runs_table(tmp_path / "runs")
    with pytest.raises(InputError, match="unknown suite 'papers': use paper, fast, laptop, ingredients"):
        plan("papers", data_set)


def test_a_trained_network_is_loaded_in_one_line(data_set, data_folder):
    records, _ = run(data_set, data_folder)
    model, mean = load_pretrained("resnet8")
    assert not model.training
    about = load_run(records[1]).about
    assert evaluate(model, data_set.test, mean).error == pytest.approx(about["final"]["test_error"])
    assert torch.allclose(reference_logits(model, mean), torch.tensor(about["logits"]), atol=1e-4)
    with pytest.raises(InputError, match="no trained weights of 'resnet56'"):
        load_pretrained("resnet56")


def test_all_runs_in_a_table_and_their_spread_over_seeds(data_set, tmp_path):
    records, _ = run(data_set, tmp_path)
    table = runs_table(tmp_path / "runs")
    assert sorted(table.index) == sorted(f"tiny-noise/{path.name}" for path in records)
    errors = [json.loads((path / "run.json").read_text())["final"]["test_error"] for path in records]
    row = summarise(table).set_index("family").loc["resnet"]
    mean = (errors[1] + errors[2]) / 2
    spread = math.sqrt((errors[1] - mean) ** 2 + (errors[2] - mean) ** 2)  # of two: n - 1 is 1
    assert (row["depth"], row["seeds"]) == (8, 2)
    assert (row["test_error"], row["test_error_std"]) == pytest.approx((mean, spread))


def test_of_trials_of_recipes_nothing_is_kept_but_the_history(data_set, tmp_path, monkeypatch, capsys):
    """They are listed one by one, as means and the figure are not for them, and there is nothing to measure."""
    short, long = Recipe(iterations=3, batch_size=20, lr=0.05), Recipe(iterations=6, batch_size=20, lr=0.05)
    monkeypatch.setitem(SUITES, "trials", Suite({"short": ("resnet8", short), "long": ("resnet8", long)}, keep=False))
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    assert cli.main(["reproduce", "trials", "--device", "cpu", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "runs" / "trials-noise"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == ["long/history.csv", "long/run.json", "short/history.csv", "short/run.json"]
    *_, first, second, _, last = capsys.readouterr().out.splitlines()
    for line, name, steps in ((first, "short", 3), (second, "long", 6)):
        run = load_run(folder / name)
        error = run.history["validation_error"].iloc[-1]
        assert (
            run.about["steps"] == steps and line.split()[:2] == [name, "resnet8"] and float(line.split()[-1]) == error
        )
    assert last == f"Records: {folder}"
    for command in (["measure", "trials"], ["measure", "ingredients"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(command)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"invalid choice: '{command[1]}'" in error


def test_the_papers_suite_is_the_papers():
    jobs = {job.name: job for job in plan("paper", _Named("cifar10"))}
    assert len(jobs) == 31  # 2 networks of 5 seeds, 7 of 3
    for job in jobs.values():
        assert (job.recipe.iterations, job.recipe.batch_size, job.recipe.lr) == (64_000, 128, 0.1)
        assert job.recipe.warmup == (400 if job.arch == "resnet110" else 0)
        assert job.name == f"{job.arch}-seed-{job.recipe.seed}" and job.keep == (job.recipe.seed == 0)


class _Named:
    def __init__(self, name):
        self.name = name


# --- The records that are committed -------------------------------------------------------------------


def test_every_committed_record_loads_and_the_whole_is_small():
    assert find_runs(RECORDS)
    runs_table(RECORDS)
    assert sum(path.stat().st_size for path in RECORDS.rglob("*") if path.is_file()) < 40 * 2**20


def test_committed_weights_and_the_model_code_agree():
    """Weights that were trained must give today the logits they gave then."""
    paths = sorted(RECORDS.rglob("weights.safetensors"))
    for path in paths:
        about = load_run(path.parent).about
        model, mean = load_pretrained(about["arch"], str(path.parent))
        assert torch.allclose(reference_logits(model, mean), torch.tensor(about["logits"]), rtol=1e-3, atol=1e-3), path


@pytest.mark.parametrize(("suite", "count"), [("laptop", None), ("ingredients", 8)])
def test_committed_records_are_those_of_their_suite(suite, count):
    jobs = {job.name: job for job in plan(suite, _Named("cifar10-jpeg"), out=RECORDS.parent)}
    records = find_runs(RECORDS / f"{suite}-cifar10-jpeg")
    assert set(records) <= set(jobs) and len(records) == (count or len(records)) > 0
    for name, folder in records.items():
        about = load_run(folder).about
        recipe = about["recipe"] | {"milestones": tuple(about["recipe"]["milestones"])}
        recipe = dataclasses.replace(Recipe(**recipe), precision=jobs[name].recipe.precision)
        assert (about["arch"], recipe, folder) == (jobs[name].arch, jobs[name].recipe, jobs[name].record)
        assert (folder / "weights.safetensors").exists() == (folder / "gradients.npz").exists() == jobs[name].keep


def test_the_ingredients_are_recorded_and_not_trained_again(data_set, tmp_path, monkeypatch):
    folder = "ingredients-cifar10-jpeg"
    shutil.copytree(RECORDS / folder, tmp_path / "runs" / folder)
    monkeypatch.setattr("resnet56.records.suites.Engine", None)  # training would fail
    data, lines = dataclasses.replace(data_set, name="cifar10-jpeg"), []
    records = reproduce("ingredients", data=data, device="cpu", out=tmp_path, progress=False, say=lines.append)
    assert lines == ["Suite ingredients on noise: 8 of 8 runs are recorded."]
    assert [path.name for path in records] == [
        "paper",
        "one-cycle",
        "nesterov",
        "decay-all",
        "decay",
        "smoothing",
        "large-batch-0.8",
        "large-batch-1.6",
    ]
