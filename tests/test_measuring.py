"""The study: what it records is what the instruments give; it goes on where it stopped."""

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch

from resnet56 import InputError, Recipe, hold_out, load_pretrained, pixel_mean
from resnet56.data import normalise
from resnet56.instruments.landscape import loss_landscape
from resnet56.instruments.responses import layer_responses
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
    counts = {"gradient-growth": 128, "branch-variances": 128, "shattering": 128, "paths": 32}
    for path in paths:
        found = load_measurement(path)
        assert found.about["data"]["title"] == "learnable" and found.about["measurement"] == path.name
        assert found.about["images"] == counts.get(path.name, 10)
        assert len(found.table) and found.table.notna().all(axis=None)
    assert len(load_measurement(paths[-1]).table) == 2 * 3 * 3 and len(load_measurement(paths[-2]).table) == 2 * 7
    assert set(load_measurement(paths[3]).table["arch"]) == {"plain56", "resnet56"}  # there are no shallow ones
    again, lines = measure(learnable, recorded)
    assert again == paths and lines == ["All 9 measurements are recorded."]
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
    about = load_measurement(paths[4]).about
    shutil.rmtree(paths[4])
    save_measurement(paths[4], Measurement({**about, "data": {"fingerprint": "6" * 64}}, pd.DataFrame({"x": [1]})))
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
