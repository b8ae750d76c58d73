"""The study: what it records is what the instruments give; it goes on where it stopped."""

import pandas as pd
import pytest
import torch

from resnet56 import InputError, Recipe, build_model, load_pretrained
from resnet56.data import evenly, normalise
from resnet56.instruments.lesions import lesion_random
from resnet56.instruments.responses import layer_responses
from resnet56.records import measuring as module
from resnet56.records.measurement import load_measurement
from resnet56.records.measuring import MEASUREMENTS, measure_suite
from resnet56.records.suites import SUITES, Suite, reproduce


@pytest.fixture
def recorded(data_set, tmp_path, monkeypatch):
    """A suite of the smallest networks, trained for a step, in place of those of 56 layers."""
    recipe = Recipe(iterations=1, batch_size=20, lr=0.01)
    monkeypatch.setitem(SUITES, "tiny", Suite({f"{arch}-seed-0": (arch, recipe) for arch in ("plain8", "resnet8")}))
    reproduce("tiny", data=data_set, device="cpu", out=tmp_path, progress=False, say=lambda line: None)
    original = load_pretrained

    def smallest(arch, suite):
        return original(arch.rstrip("0123456789") + "8", suite)

    def smallest_fresh(arch, *options):
        return build_model(arch.rstrip("0123456789") + "8", *options)

    def few(*arguments, **options):
        return lesion_random(*arguments, **options, counts=(1,), repeats=1)

    monkeypatch.setattr(module, "load_pretrained", smallest)
    monkeypatch.setattr(module, "build_model", smallest_fresh)
    monkeypatch.setitem(MEASUREMENTS, "lesions-random", module._each("lesions-random", few, module._test))
    return tmp_path


def measure(data_set, out):
    lines = []
    paths = measure_suite(
        "tiny", data_set, device="cpu", out=out, images=10, points=3, progress=False, say=lines.append
    )
    return paths, lines


def test_every_instrument_is_recorded_once(data_set, recorded):
    paths, lines = measure(data_set, recorded)
    assert [path.name for path in paths] == list(MEASUREMENTS) and len(lines) == len(paths)
    for path in paths:
        found = load_measurement(path)
        assert found.about["data"]["title"] == "noise" and found.about["measurement"] == path.name
        assert len(found.table) and found.table.notna().all(axis=None)
    assert len(load_measurement(paths[-1]).table) == 2 * 3 * 3 and len(load_measurement(paths[-2]).table) == 2 * 7
    again, lines = measure(data_set, recorded)
    assert again == paths and not lines


def test_what_is_recorded_is_what_the_instrument_gives(data_set, recorded):
    paths, _ = measure(data_set, recorded)
    table = load_measurement(next(path for path in paths if path.name == "responses")).table
    model, mean = load_pretrained("resnet8", str(recorded / "runs" / "tiny-noise"))
    direct = layer_responses(model, normalise(evenly(data_set.test, 10).pixels, mean))
    found = table[table["arch"] == "resnet56"].drop(columns="arch").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, direct, rtol=1e-4, check_dtype=False)
    assert torch.is_tensor(mean)


def test_without_records_there_is_nothing_to_measure(data_set, tmp_path):
    with pytest.raises(InputError, match="no trained weights of 'plain56'"):
        measure_suite("tiny", data_set, device="cpu", out=tmp_path, progress=False)


def test_a_suite_without_shallow_networks_is_measured_too(data_set, recorded):
    paths, _ = measure(data_set, recorded)
    table = load_measurement(next(path for path in paths if path.name == "responses")).table
    assert set(table["arch"]) == {"plain56", "resnet56"}
