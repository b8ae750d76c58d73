"""The study: what it records is what the instruments give; it goes on where it stopped."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch

from resnet56 import InputError, Recipe, build_model, hold_out, load_pretrained, pixel_mean
from resnet56.data import normalise
from resnet56.instruments.diagnosis import diagnosis, layer_responses
from resnet56.instruments.landscape import loss_landscape
from resnet56.instruments.lesions import lesion_each
from resnet56.observe import evenly
from resnet56.records import measuring as module
from resnet56.records.files import InProgress, lock
from resnet56.records.measurement import Measurement, load_measurement, save_measurement
from resnet56.records.measuring import MEASUREMENTS, measure_suite
from resnet56.records.runs import seal
from resnet56.records.suites import SUITES, Suite, reproduce


@pytest.fixture
def recorded(learnable, tmp_path, monkeypatch):
    """A suite of the smallest networks, trained for two steps, in place of those of 56 layers."""
    recipe = Recipe(iterations=2, batch_size=20, lr=0.01)
    monkeypatch.setitem(SUITES, "tiny", Suite({f"{arch}-seed-0": (arch, recipe) for arch in ("plain8", "resnet8")}))
    reproduce("tiny", data=learnable, device="cpu", out=tmp_path, progress=False, say=lambda line: None)

    def smallest(function):
        return lambda arch, *options: function(arch.rstrip("0123456789") + "8", *options)

    for name in ("load_pretrained", "find_pretrained", "build_model"):
        monkeypatch.setattr(module, name, smallest(getattr(module, name)))
    random_ones = module.lesion_random
    monkeypatch.setattr(module, "lesion_random", lambda *a, **o: random_ones(*a, **o, counts=(1,), repeats=1))
    return tmp_path


def measure(data, out, **options):
    lines = []
    options = {"images": 10, "points": 3} | options
    paths = measure_suite("tiny", data, device="cpu", out=out, progress=False, say=lines.append, **options)
    return paths, lines


def test_every_instrument_is_recorded_once(learnable, recorded):
    paths, lines = measure(learnable, recorded)
    assert [path.name for path in paths] == list(MEASUREMENTS) and len(lines) == len(paths) + 1
    counts = {"gradient-growth": 128, "branch-variances": 128, "shattering": 128, "diagnosis": 128, "paths": 32}
    for path in paths:
        found = load_measurement(path)
        assert found.about["data"]["title"] == "learnable" and found.about["measurement"] == path.name
        assert found.about["images"] == counts.get(path.name, 10)
        table = found.table.drop(columns="gradient_growth", errors="ignore")  # a stage of one block has none
        assert len(table) and table.notna().all(axis=None)
    tables = {path.name: load_measurement(path).table for path in paths}
    assert len(tables["loss-surface"]) == 2 * 3 * 3 and len(tables["loss-line"]) == 2 * 7
    assert set(tables["responses"]["arch"]) == {"plain56", "resnet56"}  # there are no shallow ones
    again, lines = measure(learnable, recorded)
    assert again == paths and lines == ["All 11 measurements are recorded."]
    left = [path for folder in ("tmp", "checkpoints") for path in (recorded / folder).rglob("*") if path.is_file()]
    assert not left and not list((recorded / "checkpoints" / "tiny-learnable").iterdir())
    for options, words in (
        ({"images": 11}, "responses is recorded, with 10 images; move it away to measure anew, or leave --images out"),
        ({"points": 5}, "loss-line is recorded, with 3 points; move it away to measure anew, or leave --points out"),
    ):
        with pytest.raises(InputError, match=words):
            measure(learnable, recorded, **options)
    assert measure(learnable, recorded, images=None, points=None)[0] == paths
    other = dataclasses.replace(learnable, fingerprint="5" * 64)
    with pytest.raises(
        InputError, match="plain8 was trained on another data set called learnable .sha256 11111111 there"
    ):
        measure(other, recorded)
    path = next(path for path in paths if path.name == "paths")
    about = load_measurement(path).about
    shutil.rmtree(path)
    save_measurement(path, Measurement({**about, "data": {"fingerprint": "6" * 64}}, pd.DataFrame({"x": [1]})))
    with pytest.raises(InputError, match="paths was measured on another data set called learnable; move it away"):
        measure(learnable, recorded)


def test_what_is_recorded_is_what_the_instrument_gives(learnable, recorded, monkeypatch):
    only(monkeypatch, "responses")
    ((path,), _) = measure(learnable, recorded)
    table = load_measurement(path).table
    model, mean = load_pretrained("resnet8", str(recorded / "runs" / "tiny-learnable"))
    direct = layer_responses(model, normalise(evenly(learnable.test, 10).pixels, mean))
    found = table[table["arch"] == "resnet56"].drop(columns="arch").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, direct, rtol=1e-4, check_dtype=False)
    assert torch.is_tensor(mean)


def test_controls_further_directions_and_the_diagnosis_are_those_of_the_instruments(learnable, recorded, monkeypatch):
    only(monkeypatch, "lesions-each", "loss-surfaces", "diagnosis", "loss-line")
    paths, _ = measure(learnable, recorded)
    lesions, surfaces, diagnoses, lines = (load_measurement(path).table for path in paths)
    rest, _ = hold_out(learnable.train, 20)
    model, mean = load_pretrained("plain8", str(recorded / "runs" / "tiny-learnable"))
    some, test, every = evenly(rest, 10), evenly(learnable.test, 10), normalise(rest.pixels, pixel_mean(rest))
    quiet = dict(progress=False)

    def check(table, direct, arch="plain56"):
        found = table[table["arch"] == arch].drop(columns=["arch"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(found[direct.columns], direct, rtol=1e-4, check_dtype=False)

    check(lesions, lesion_each(model, test, mean, recalibrate=every, **quiet))  # of 1000 images there are 180
    assert (lesions["loss_recalibrated"] != lesions["loss"]).all()
    check(surfaces, loss_landscape(model, some, mean, points=3, seeds=(1, 2), **quiet))
    check(lines, loss_landscape(model, some, mean, axes=1, points=7, **quiet))
    batch = evenly(rest, 128)
    batch = normalise(batch.pixels, pixel_mean(rest)), batch.labels
    torch.manual_seed(0)
    for state, network in (("fresh", build_model("plain8")), ("trained", model)):
        check(diagnoses[diagnoses["state"] == state], pd.DataFrame([diagnosis(network, *batch)]))
    assert diagnoses[["state", "arch"]].apply(tuple, axis=1).tolist() == [
        (state, arch) for state in ("fresh", "trained") for arch in ("plain56", "resnet56")
    ]


def test_fresh_networks_are_of_every_depth_and_calibrated_beside_noise(learnable, recorded, monkeypatch):
    only(monkeypatch, "gradient-growth", "shattering")
    paths, _ = measure(learnable, recorded)
    growth, table = (load_measurement(path).table for path in paths)
    depths = (8, 14, 20, 32, 44, 56, 80, 110)
    assert growth["arch"].unique().tolist() == [f"{family}{n}" for family in ("plain", "resnet") for n in depths]
    assert (
        growth.groupby("arch")["depth"]
        .apply(list)
        .eq(pd.Series({arch: [*range(1, 9)] for arch in growth["arch"]}))
        .all()
    )
    archs = {state: rows["arch"].unique().tolist() for state, rows in table.groupby("state")}
    assert archs["fresh"] == [f"{family}{n}" for family in ("plain", "resnet") for n in (8, 20, 56)]
    assert archs["trained"] == ["plain56", "resnet56"] and archs["noise"] == ["white", "brown"]
    curves = table.set_index(["state", "arch", "lag"])["autocorrelation"]
    assert abs(curves["noise", "white", 1]) < 0.1 and curves["noise", "brown", 1] > 0.8

    rest, _ = hold_out(learnable.train, 20)
    images = normalise(evenly(rest, 128).pixels, pixel_mean(rest))
    torch.manual_seed(0)
    model = build_model("plain8").train()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0  # one pass sets the statistics to those of this batch
    model(images)
    model.eval()
    path = torch.stack([torch.lerp(images[0], images[-1], share) for share in torch.linspace(0, 1, 256)])
    (gradients,) = torch.autograd.grad(model(path.requires_grad_())[:, 0].sum(), path)
    gradients = gradients.flatten(1).double()
    gradients = gradients - gradients.mean(dim=0)
    for lag in (1, 15):
        expected = (gradients[:-lag] * gradients[lag:]).sum() / gradients.square().sum()
        assert curves["fresh", "plain56", lag] == pytest.approx(expected.item(), abs=1e-3)


def only(monkeypatch, *names):
    """Let these be all the measurements there are."""
    monkeypatch.setattr(module, "MEASUREMENTS", {name: MEASUREMENTS[name] for name in names})


def test_training_images_are_those_that_the_network_was_trained_on(learnable, recorded, monkeypatch):
    only(monkeypatch, "paths", "lesions-each", "loss-line")
    seen = {}

    def noted(name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **o: (seen.setdefault(name, a), original(*a, **o))[1])

    noted("loss_landscape"), noted("path_lengths"), noted("lesion_each")
    paths, _ = measure(learnable, recorded, images=1000)
    rest, _ = hold_out(learnable.train, 20)
    assert torch.equal(seen["loss_landscape"][1].pixels, rest.pixels) and torch.equal(
        seen["lesion_each"][1].pixels, learnable.test.pixels
    )
    assert torch.equal(seen["path_lengths"][1], normalise(evenly(rest, 128).pixels[:32], pixel_mean(rest)))
    assert [load_measurement(path).about["images"] for path in paths] == [32, 50, 180]
    assert torch.equal(seen["path_lengths"][2], evenly(rest, 128).labels[:32])
    assert measure(learnable, recorded, images=1000, points=None)[0] == paths  # the same command once more
    path = recorded / "runs" / "tiny-learnable" / "plain8-seed-0"
    about = json.loads((path / "run.json").read_text())
    about["data"]["validation_images"] = 0
    (path / "run.json").unlink()
    seal(path / "run.json", about)
    with pytest.raises(InputError, match="were trained on different images"):
        measure(learnable, recorded, images=None)


def test_what_was_measured_is_not_measured_again_when_the_next_is_killed(learnable, recorded, monkeypatch):
    only(monkeypatch, "loss-surface")
    original, calls = module.loss_landscape, []

    def killed_at(call):
        def instrument(*arguments, **options):
            calls.append(options["points"])
            if len(calls) == call:
                raise ZeroDivisionError
            return original(*arguments, **options)

        monkeypatch.setattr(module, "loss_landscape", instrument)

    killed_at(2)
    with pytest.raises(ZeroDivisionError):
        measure(learnable, recorded)
    for options in ({"points": 5}, {"images": 11}):
        with pytest.raises(
            InputError, match="loss-surface-plain56 holds part of another measurement; give its --images"
        ):
            measure(learnable, recorded, **options)
    (path,), _ = measure(learnable, recorded)
    assert calls == [3, 3, 3]
    whole = loss_landscape(
        *(lambda model, mean: (model, evenly(hold_out(learnable.train, 20)[0], 10), mean))(
            *load_pretrained("plain8", str(path.parent.parent))
        ),
        points=3,
        progress=False,
    )
    found = load_measurement(path).table.query("arch == 'plain56'").drop(columns="arch").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, whole, rtol=1e-4, check_dtype=False)


def test_what_cannot_be_measured_is_refused_at_the_start(learnable, recorded, monkeypatch):
    monkeypatch.setattr(module, "find_pretrained", None)
    for points in (4, 1, 0, -3):
        with pytest.raises(InputError, match=f"{points} points have no centre: give an odd number, at least 3"):
            measure(learnable, recorded, points=points)


def test_a_full_disk_loses_no_result_from_the_screen(learnable, recorded, monkeypatch):
    only(monkeypatch, "paths")

    def full(*arguments):
        raise InputError("cannot write")

    lines = []
    monkeypatch.setattr(module, "save_measurement", full)
    with pytest.raises(InputError, match="cannot write"):
        measure_suite("tiny", learnable, device="cpu", out=recorded, progress=False, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith("paths: ")


def test_one_process_measures_at_a_time(learnable, recorded):
    with (
        lock(recorded / "checkpoints" / "tiny-learnable" / "measurements"),
        pytest.raises(InProgress, match="measurements is being made by another process"),
    ):
        measure(learnable, recorded)


def test_without_records_there_is_nothing_to_measure(data_set, tmp_path):
    with pytest.raises(
        InputError, match="no trained weights of 'plain56' in .*; `resnet56 reproduce laptop --only plain56"
    ):
        measure_suite("tiny", data_set, device="cpu", out=tmp_path, progress=False)
