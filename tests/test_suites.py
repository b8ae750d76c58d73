"""Suites: planned, interrupted, continued, recorded; and the records that are committed."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from resnet56 import (
    Engine,
    InputError,
    Recipe,
    build_model,
    cli,
    evaluate,
    find_runs,
    fit,
    hold_out,
    load_comparison,
    load_pretrained,
    load_run,
    pixel_mean,
)
from resnet56.data import normalise
from resnet56.devices import fast_precision
from resnet56.instruments.diagnosis import diagnosis
from resnet56.progress import OutOfTime
from resnet56.recipe import LAPTOP
from resnet56.records import suites
from resnet56.records.files import lock
from resnet56.records.measurement import load_measurement
from resnet56.records.runs import Run, find_pretrained, reference_logits, runs_table, save_run, seal, summarise
from resnet56.records.suites import SUITES, TREATMENTS, Suite, plan, reproduce, select

RECORDS = Path(__file__).parent.parent / "data" / "runs"
PRECISION = fast_precision(torch.device("cpu"))
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
    with pytest.raises(InputError, match="unknown suite 'papers': use paper, fast, laptop, ingredients, rates"):
        plan("papers", data_set)


def test_a_trained_network_is_loaded_in_one_line(data_set, data_folder):
    records, _ = run(data_set, data_folder)
    model, mean = load_pretrained("resnet8")
    assert not model.training
    about = load_run(records[1]).about
    assert evaluate(model, data_set.test, mean).error == pytest.approx(about["final"]["test_error"])
    assert torch.allclose(reference_logits(model, mean), torch.tensor(about["logits"]), atol=1e-4)


def edited(source: Path, target: Path, **changes) -> Path:
    """Copy a record, with other values: ``final``, ``recipe`` and ``data`` are dicts of changes, the rest replaced."""
    run = load_run(source)
    about = {
        key: value | changes.pop(key, {}) if isinstance(value, dict) else value for key, value in run.about.items()
    }
    save_run(target, Run(about | changes, run.history))
    return target


def test_all_runs_in_a_table_and_their_spread_over_seeds(data_set, tmp_path):
    records, _ = run(data_set, tmp_path)
    for seed, error in ((0, 40.0), (1, 43.0), (2, 52.0)):
        edited(records[1], tmp_path / "new" / f"r{seed}", recipe={"seed": seed}, final={"test_error": error})
    edited(records[0], tmp_path / "new" / "plain", final={"test_error": 70.0})
    table = runs_table(tmp_path / "new")
    assert list(table.index) == ["plain", "r0", "r1", "r2"]
    row = summarise(table).set_index("family").loc["resnet"]
    assert (row["depth"], row["seeds"]) == (8, 3)
    assert row["test_error"] == 45 and row["test_error_std"] == pytest.approx(math.sqrt((25 + 4 + 49) / 2))
    assert summarise(table).set_index("family").loc["plain", "test_error"] == 70
    assert sorted(runs_table(tmp_path / "runs").index) == sorted(f"tiny-noise/{path.name}" for path in records)
    row = table.loc["r1"]
    assert (row["arch"], row["family"], row["seed"], row["data"]) == ("resnet8", "resnet", 1, "noise")
    assert row["fingerprint"] == "0" * 64 and row["steps"] == 9 and row["seconds"] == row["run"].about["seconds"]
    assert row["processor_seconds"] == row["run"].about["processor_seconds"] > 0
    assert row["hardware"] == row["run"].about["hardware"]["name"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"fingerprint": "2" * 64}}, "two data sets called noise .00000000, 22222222."),
        (
            {"data": {"fingerprint": "2" * 64, "name": "other"}},
            "these runs are of 2 data sets: noise .00000000., noise",
        ),
        ({"recipe": {"lr": 0.3, "seed": 1}}, "b, a|a, b are of several recipes"),
        ({"steps": 20, "recipe": {"seed": 1}}, "are of several recipes"),
        ({"shortcut": "B", "recipe": {"seed": 1}}, "are of several recipes"),
        ({"data": {"validation_images": 0}, "recipe": {"seed": 1}}, "are of several recipes"),
        ({}, "have one seed"),
    ],
)
def test_what_does_not_belong_together_is_not_averaged(data_set, tmp_path, changes, words):
    records, _ = run(data_set, tmp_path, only="resnet8-seed-0")
    edited(records[0], tmp_path / "new" / "a")
    edited(records[0], tmp_path / "new" / "b", **changes)
    with pytest.raises(InputError, match=words) as error:
        summarise(runs_table(tmp_path / "new"))
    assert "\n" not in str(error.value)


def test_runs_of_several_precisions_are_seeds_of_one_recipe(data_set, tmp_path):
    records, _ = run(data_set, tmp_path, only="resnet8-seed-0")
    edited(records[0], tmp_path / "new" / "a")
    edited(records[0], tmp_path / "new" / "b", recipe={"seed": 1, "precision": "bf16"})
    assert summarise(runs_table(tmp_path / "new"))["seeds"].tolist() == [2]


def test_what_is_missing_is_named_with_the_command_that_makes_it(data_set, data_folder, tmp_path, monkeypatch):
    run(data_set, data_folder, only="plain8-seed-0")
    assert list(runs_table("tiny-noise").index) == ["plain8-seed-0"]
    command = "`resnet56 reproduce tiny --data noise --only resnet8-seed-0` makes it"
    for call in (lambda: load_run("tiny-noise/resnet8-seed-0"), lambda: load_pretrained("resnet8", "tiny-noise")):
        with pytest.raises(InputError, match="resnet8") as error:
            call()
        assert str(error.value).endswith(command) and "\n" not in str(error.value)
    for call, command in (
        (lambda: runs_table("fast-cifar10"), "`resnet56 reproduce fast --data cifar10` makes it"),
        (
            lambda: runs_table("fast-cifar10-7-steps"),
            "`resnet56 reproduce fast --data cifar10 --iterations 7` makes it",
        ),
        (lambda: load_pretrained("resnet56"), "`resnet56 reproduce laptop --only resnet56-seed-0` makes it"),
        (
            lambda: load_pretrained("resnet56", "paper-cifar10"),
            "`resnet56 reproduce paper --data cifar10 --only resnet56",
        ),
        (lambda: load_pretrained("plain44"), "`resnet56 reproduce laptop --only plain44-seed-0` makes it"),
        (lambda: load_pretrained("resnet110"), "`resnet56 reproduce paper --only resnet110-seed-0` makes it"),
        (lambda: load_pretrained("resnet14"), "no suite keeps them; `resnet56 train --arch resnet14` trains one"),
        (lambda: load_pretrained("resnet9"), "no network of depth 9"),
        (
            lambda: load_measurement("laptop-cifar10/measurements/paths"),
            "`resnet56 measure laptop --data cifar10` makes it",
        ),
        (
            lambda: load_comparison("compare-56-cifar10-250-steps-seed-0"),
            "--data cifar10 --steps 250 --seed 0` makes it",
        ),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert command in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv("RESNET56_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="a run; `resnet56 reproduce laptop` and `resnet56 compare` make some"):
        runs_table()


def test_of_several_trained_networks_the_longest_is_loaded(data_set, data_folder):
    records, _ = run(data_set, data_folder, only="resnet8-seed-0")
    for name, steps in (("b", 20), ("a", 20), ("c", 19)):
        copy = shutil.copytree(records[0], data_folder / "runs" / name)
        about = json.loads((copy / "run.json").read_text()) | {"steps": steps}
        (copy / "run.json").unlink()
        seal(copy / "run.json", about)
    assert find_pretrained("ResNet-8")[1].name == "a" and find_pretrained("resnet8", "c")[1].name == "c"


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


# --- Which images, which seed, which hardware -----------------------------------------------------------


@pytest.fixture
def learned(learnable, tmp_path, monkeypatch):
    """A recorded suite of two seeds on images where each split has an error of its own."""
    recipe = Recipe(iterations=60, batch_size=20, lr=0.05)
    runs = {f"resnet8-seed-{seed}": ("resnet8", dataclasses.replace(recipe, seed=seed)) for seed in (0, 1)}
    monkeypatch.setitem(SUITES, "tiny", Suite(runs))
    return run(learnable, tmp_path)


def test_a_suite_trains_on_what_is_not_held_out_and_reports_each_error_as_what_it_is(learned, learnable, tmp_path):
    records, lines = learned
    rest, held_out = hold_out(learnable.train, 20)
    for record in records:
        about, history = load_run(record).about, load_run(record).history
        assert about["final"]["test_error"] == pytest.approx(42, abs=3) and about["final"]["train_error"] < 10
        assert history["validation_error"].iloc[-1] == pytest.approx(30, abs=6)
        assert (about["data"]["training_images"], about["data"]["validation_images"]) == (180, 20)
        assert f"{record.name}: test error {about['final']['test_error']:.2f} %" in lines
    model, mean = load_pretrained("resnet8", str(records[0].parent))
    assert torch.equal(mean, pixel_mean(rest))
    about = load_run(records[0]).about
    assert evaluate(model, learnable.test, mean, PRECISION).error == about["final"]["test_error"]
    assert evaluate(model, held_out, mean, PRECISION).error == load_run(records[0]).history["validation_error"].iloc[-1]


def test_a_suite_honours_the_seeds_of_its_runs(learned, learnable):
    rest, _ = hold_out(learnable.train, 20)
    losses = []
    for seed, record in enumerate(learned[0]):
        torch.manual_seed(seed)
        recipe = Recipe(iterations=60, batch_size=20, lr=0.05, seed=seed, precision=PRECISION)
        history = fit(Engine(build_model("resnet8"), rest, recipe, "cpu"))
        losses.append(load_run(record).history["train_loss"].tolist())
        assert losses[-1] == pytest.approx(history["train_loss"].tolist(), rel=1e-4)
    assert losses[0] != losses[1]


def test_a_run_goes_on_elsewhere_and_says_on_what_each_part_ran(data_set, tmp_path, monkeypatch):
    whole, _ = run(data_set, tmp_path / "whole", only="plain8-seed-0")
    names = ["here", "there", "here"]
    for part, name in enumerate(names):
        hardware = {"type": "cpu", "name": name, "threads": 1}
        monkeypatch.setattr("resnet56.devices.hardware", lambda device, hardware=hardware: hardware)
        try:
            records, _ = run(data_set, tmp_path, only="plain8-seed-0", time_limit=0)
        except OutOfTime:
            assert part < 2
    about = load_run(records[0]).about
    assert [part["hardware"]["name"] for part in about["parts"]] == names
    assert [part["steps"] for part in about["parts"]] == [4, 4, 1]  # an epoch, an epoch, the rest
    assert about["processor_seconds"] == round(sum(part["processor_seconds"] for part in about["parts"]), 1)
    assert about["seconds"] == round(sum(part["seconds"] for part in about["parts"]), 1)
    assert runs_table(records[0].parent)["hardware"].tolist() == ["here, then there"]
    assert "on here, then there" in load_run(records[0]).label()
    assert without_times(records[0]) == without_times(whole[0])


def test_a_checkpoint_from_before_hardware_was_recorded_goes_on(data_set, tmp_path):
    whole, _ = run(data_set, tmp_path / "whole", only="resnet8-seed-0")
    with pytest.raises(OutOfTime):
        run(data_set, tmp_path, only="resnet8-seed-0", time_limit=0)
    (path,) = tmp_path.glob("checkpoints/*/resnet8-seed-0.pt")
    content = torch.load(path, weights_only=True)
    content.pop("extended", None)
    content["trainer"]["seconds"] = 100.0 + 0 * len(content["trainer"].pop("parts"))
    torch.save(content, path)
    records, _ = run(data_set, tmp_path, only="resnet8-seed-0")
    about = load_run(records[0]).about
    assert [(part["hardware"] is None, part["steps"]) for part in about["parts"]] == [(True, 4), (False, 5)]
    assert about["seconds"] > 100 and about["processor_seconds"] is None
    assert without_times(records[0]) == without_times(whole[0])
    assert load_run(records[0]).gradients.equals(load_run(whole[0]).gradients)
    assert (records[0] / "weights.safetensors").read_bytes() == (whole[0] / "weights.safetensors").read_bytes()
    row = runs_table(records[0].parent).iloc[0]
    assert math.isnan(row["processor_seconds"]) and row["hardware"].startswith("hardware not recorded, then ")


def test_another_data_set_of_the_same_name_is_refused(data_set, tmp_path):
    run(data_set, tmp_path, only="plain8-seed-0")
    with pytest.raises(OutOfTime):
        run(data_set, tmp_path, only="resnet8-seed-0", time_limit=0)
    other = dataclasses.replace(data_set, fingerprint="3" * 64)
    with pytest.raises(
        InputError, match="plain8-seed-0 is of another data set: sha256 is 00000000 there, 33333333 here;"
    ):
        run(other, tmp_path)
    with pytest.raises(InputError, match="is of another run: fingerprint is 0000"):
        run(other, tmp_path, only="resnet8-seed-0")
    larger = dataclasses.replace(data_set, train=data_set.train[torch.arange(200) % 100])
    with pytest.raises(InputError, match="is of another recipe: validation_images is 10 there, 20 here"):
        run(larger, tmp_path, only="plain8*")


# --- Several processes ----------------------------------------------------------------------------------


def test_only_some_runs(data_set, tmp_path):
    records, lines = run(data_set, tmp_path, only="resnet8-seed-1, plain*")
    assert [path.name for path in records] == ["plain8-seed-0", "resnet8-seed-1"]
    assert lines[0] == "Suite tiny on noise: 0 of 2 runs are recorded."
    for only in ("resnet9*", "plain*,resnet", ""):
        with pytest.raises(InputError, match="no run is called '.*'; the runs are plain8-seed-0, resnet8-seed-0, "):
            run(data_set, tmp_path, only=only)


def test_a_name_that_begins_another_stands_for_itself():
    jobs = plan("ingredients", _Named("cifar10"))
    assert [job.name for job in select(jobs, "decay")] == ["decay"]
    assert [job.name for job in select(jobs, "decay*,paper")] == ["paper", "decay-all", "decay"]


def test_the_time_left_is_that_of_so_many_layers_and_images(data_set, tmp_path, monkeypatch):
    runs = {"short": ("plain8", 9), "long": ("resnet14", 18)}
    runs = {name: (arch, Recipe(iterations=steps, batch_size=20)) for name, (arch, steps) in runs.items()}
    monkeypatch.setitem(SUITES, "tiny", Suite(runs, keep=False))
    clock, train_group = [0.0], suites._train

    def take_ten_minutes(*arguments, **options):
        train_group(*arguments, **options)
        clock[0] += 600

    monkeypatch.setattr(suites, "_train", take_ten_minutes)
    monkeypatch.setattr(suites, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    _, lines = run(data_set, tmp_path)
    assert f"About {10 * 14 * 18 // (8 * 9)} minutes to go." in lines and len(lines) == 4


def test_what_another_process_trains_is_left_to_it(data_set, tmp_path):
    jobs = plan("tiny", data_set, out=tmp_path)
    with lock(jobs[0].checkpoint), lock(jobs[2].checkpoint):
        records, lines = run(data_set, tmp_path, at_once=2)
        assert [path.name for path in records] == ["resnet8-seed-0"]
        assert lines[-1] == "Other processes are training plain8-seed-0, resnet8-seed-1; nothing is left to do here."
        with pytest.raises(InputError, match="plain8-seed-0.pt is being trained by another process; wait for it"):
            lock(jobs[0].checkpoint).__enter__()
    records, _ = run(data_set, tmp_path)
    assert len(records) == 3 and not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert not list((tmp_path / "tmp").iterdir())


def test_what_a_process_left_that_was_killed_after_recording_goes(data_set, tmp_path, monkeypatch):
    records, _ = run(data_set, tmp_path)
    checkpoint = plan("tiny", data_set, out=tmp_path)[0].checkpoint
    checkpoint.write_bytes(b"of the recorded run")
    monkeypatch.setattr("resnet56.records.suites.Engine", None)  # training would fail
    assert run(data_set, tmp_path)[0] == records and not checkpoint.exists()


def test_errors_are_said_before_they_are_written(data_set, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    lines = []
    monkeypatch.setattr("resnet56.records.suites.save_run", full)
    with pytest.raises(InputError, match="cannot write .*plain8-seed-0: No space left on device; make room there"):
        reproduce("tiny", data=data_set, device="cpu", out=tmp_path, progress=False, say=lines.append)
    assert lines[-1].startswith("plain8-seed-0: test error ")
    monkeypatch.undo()
    monkeypatch.setitem(SUITES, "tiny", tiny_suite(lr=0.05))
    monkeypatch.setattr(Engine, "take_step", None)  # it need not train again
    assert run(data_set, tmp_path, only="plain8*")[0][0].name == "plain8-seed-0"


def test_threads_and_some_runs_on_the_command_line(data_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_data", lambda name: data_set)
    threads = torch.get_num_threads()
    command = ["reproduce", "rates", "--device", "cpu", "--out", str(tmp_path), "--iterations", "1"]
    monkeypatch.setitem(SUITES, "rates", Suite({"a": ("resnet8", Recipe(epochs=1, batch_size=20))}, keep=False))
    assert cli.main([*command, "--only", "a", "--threads", "3"]) == 0
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    capsys.readouterr()
    assert cli.main([*command, "--only", "b"]) == 2
    assert capsys.readouterr().err == "resnet56: error: no run is called 'b'; the runs are a\n"


def test_a_warmup_that_would_do_nothing_is_refused():
    with pytest.raises(InputError, match="warmup must be 0 for a one-cycle schedule, which starts low, not 5"):
        Recipe(epochs=1, schedule="one-cycle", warmup=5)


def test_the_suite_of_learning_rates():
    jobs = plan("rates", _Named("cifar10"))
    rates = (0.003, 0.01, 0.03, 0.06, 0.1, 0.3)
    archs = ("plain20", "plain56", "resnet20", "resnet56")
    assert [job.name for job in jobs] == [f"{arch}-lr-{lr}" for lr in rates for arch in archs]
    for job in jobs:
        assert job.recipe == Recipe(epochs=2, schedule="one-cycle", lr=float(job.name.split("-")[-1])) and not job.keep


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
    fingerprint = load_run(RECORDS / folder / "paper").about["data"]["fingerprint"]
    data, lines = dataclasses.replace(data_set, name="cifar10-jpeg", fingerprint=fingerprint), []
    data = dataclasses.replace(data, train=data.train[torch.arange(50_000) % 100])
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


def test_treated_runs_are_trained_with_their_treatment_and_diagnosed_before_and_after(data_set, tmp_path, monkeypatch):
    recipe = Recipe(iterations=8, batch_size=20, lr=0.05, schedule="one-cycle")
    archs = {"untreated": "plain14", "dirac": "plain14", "strength-0.5": "resnet14"}
    runs = {f"{name}-seed-0": (arch, recipe) for name, arch in archs.items()}
    monkeypatch.setitem(SUITES, "tiny", Suite(runs, keep=False, treated=True))
    with pytest.raises(OutOfTime):
        run(data_set, tmp_path, time_limit=0)  # the diagnosis at the start survives an interruption
    records, _ = run(data_set, tmp_path)
    found = {load_run(record).about["treatment"]: load_run(record).about for record in records}
    assert list(found) == list(archs)
    rest, _ = hold_out(data_set.train, 10)
    for name, arch in archs.items():
        torch.manual_seed(0)
        precise = dataclasses.replace(recipe, precision=PRECISION)
        trainer = Engine(build_model(arch), rest, precise, "cpu", TREATMENTS[name][1]())
        images = normalise(rest.pixels, trainer.batches.mean), rest.labels  # fewer than a probe batch: all of them
        start, before = diagnosis(trainer.model, *images), trainer.model.conv1.weight.detach().clone().flatten()
        trainer.take_step()
        turned = [trainer.model.conv1.weight.detach().clone().flatten()]
        fit(trainer)
        end = diagnosis(trainer.model, *images)
        turned.append(trainer.model.conv1.weight.detach().flatten())
        for when, expected, after in (("start", start, turned[0]), ("end", end, turned[1])):
            recorded = found[name]["diagnosis"][when]
            angle = math.degrees(math.acos(torch.cosine_similarity(before.double(), after.double(), dim=0)))
            assert recorded.pop("angle") == pytest.approx(angle, rel=1e-3)
            assert recorded == pytest.approx(expected, rel=1e-4)
        score = evaluate(trainer.model, data_set.test, trainer.batches.mean, PRECISION)
        assert found[name]["final"]["test_loss"] == pytest.approx(score.loss)
    assert found["dirac"]["diagnosis"]["start"]["identity_distance"] < 0.1
    assert found["untreated"]["diagnosis"]["start"]["identity_distance"] > 0.5


def test_the_suite_of_treatments_has_all_of_them_twice():
    jobs = SUITES["treatments"].runs
    assert len(jobs) == 2 * len(TREATMENTS) and SUITES["treatments"].treated
    for name, (arch, changes) in (("clip", ("plain56", {})), ("adam", ("plain56", {"lr": 0.001, "momentum": 0.0}))):
        assert jobs[f"{name}-seed-1"] == (arch, dataclasses.replace(LAPTOP, seed=1, **changes))
