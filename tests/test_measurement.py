"""Measurements come back as they were saved, or not at all; long ones go on where they stopped."""

import json
import math
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from resnet56.errors import InputError
from resnet56.instruments.points import digest, measure_each
from resnet56.progress import Interrupted
from resnet56.records.measurement import Measurement, load_measurement, save_measurement

ABOUT = {"arch": "resnet56", "images": 1000, "error by seed": {2: 6.5, 10: 7.25}}
TABLE = pd.DataFrame(
    {
        "removed": ["", "None", "layer1.0"],
        "loss": [0.125, math.inf, math.nan],
        "error": [7.5, 90.0, -math.inf],
        "count": [0, 1, 2],
        "residual": [True, False, True],
    }
)


@pytest.fixture
def saved(tmp_path):
    save_measurement(tmp_path / "lesions", Measurement(ABOUT, TABLE))
    return tmp_path / "lesions"


def test_a_measurement_comes_back_as_it_was(saved):
    loaded = load_measurement(saved)
    pd.testing.assert_frame_equal(loaded.table, TABLE)
    assert loaded.about["arch"] == "resnet56" and loaded.about["images"] == 1000
    assert loaded.about["error by seed"] == {"2": 6.5, "10": 7.25}
    save_measurement(saved.parent / "again", loaded)
    assert load_measurement(saved.parent / "again").about == loaded.about


def test_numbers_keep_six_significant_digits(tmp_path):
    table = pd.DataFrame({"loss": [0.123456789, 17715.3456, 1.5e-12]})
    save_measurement(tmp_path / "losses", Measurement({}, table))
    assert (tmp_path / "losses" / "table.csv").read_text().split() == ["loss", "0.123457", "17715.3", "1.5e-12"]


def test_a_measurement_is_found_by_its_name(saved, data_folder, monkeypatch):
    save_measurement(data_folder / "runs" / "landscape", Measurement(ABOUT, TABLE))
    assert load_measurement("landscape").about["arch"] == "resnet56"


def test_a_measurement_overwrites_nothing(saved):
    with pytest.raises(InputError, match="lesions"):
        save_measurement(saved, Measurement({}, TABLE))
    assert load_measurement(saved).about["arch"] == "resnet56"
    assert [path.name for path in saved.parent.iterdir() if path.name != "data"] == ["lesions"]


@pytest.mark.parametrize("name", ["table.csv", "measurement.json"])
def test_a_changed_byte_is_noticed(saved, name):
    content = bytearray((saved / name).read_bytes())
    for place in (content.index(b"r"), len(content) // 2, len(content) - 3):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (saved / name).write_bytes(damaged)
        with pytest.raises(InputError, match="measurement lesions"):
            load_measurement(saved)
    (saved / name).write_bytes(content)
    load_measurement(saved)


@pytest.mark.parametrize("name", ["table.csv", "measurement.json"])
def test_a_missing_file_is_noticed(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match="measurement lesions cannot be read"):
        load_measurement(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"checksum": 1, "files": 2}', "", "\x00"])
def test_something_else_is_refused(saved, content):
    (saved / "measurement.json").write_text(content)
    with pytest.raises(InputError, match="measurement lesions"):
        load_measurement(saved)


def test_a_missing_measurement_is_named(data_folder, monkeypatch):
    with pytest.raises(InputError, match="no measurement at .*nothing; bring it back"):
        load_measurement("nothing")


# --- Point by point -----------------------------------------------------------------------------------

POINTS = pd.DataFrame({"x": np.linspace(0, 1, 7), "name": list("abcdefg")}, index=range(10, 17))


class Meter:
    """Squares x; at 0.5 the result is infinite, at 1 not a number. Signals at its call number ``stop``."""

    def __init__(self, stop: int | None = None):
        self.stop = stop
        self.asked: list[list[str]] = []

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        self.asked.append(rows["name"].tolist())
        if len(self.asked) == self.stop:
            signal.raise_signal(signal.SIGINT)
        squares = np.where(rows["x"] == 0.5, np.inf, np.where(rows["x"] == 1, np.nan, rows["x"] ** 2))
        return pd.DataFrame({"square": squares, "length": len(rows)})


def test_every_point_is_measured_in_order():
    table = measure_each(POINTS, Meter(), progress=False)
    assert table.columns.tolist() == ["x", "name", "square", "length"] and table.index.tolist() == list(range(7))
    assert table["name"].tolist() == list("abcdefg") and table["length"].eq(1).all()
    np.testing.assert_allclose(table["square"], [0, 1 / 36, 1 / 9, np.inf, 4 / 9, 25 / 36, np.nan])


def test_several_at_once():
    meter = Meter()
    table = measure_each(POINTS, meter, at_once=3, progress=False)
    assert meter.asked == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert table["length"].tolist() == [3, 3, 3, 3, 3, 3, 1]
    with pytest.raises(InputError, match="at least 1"):
        measure_each(POINTS, meter, at_once=0, progress=False)


def test_an_interrupted_measurement_goes_on(tmp_path):
    partial = tmp_path / "new" / "partial.json"
    expected = measure_each(POINTS, Meter(), at_once=2, progress=False)
    with pytest.raises(Interrupted):
        measure_each(POINTS, Meter(stop=2), at_once=2, progress=False, partial=partial, key="k")
    meter = Meter()
    table = measure_each(POINTS, meter, at_once=2, progress=False, partial=partial, key="k")
    assert meter.asked == [["e", "f"], ["g"]]  # the interrupted chunk was finished, and infinity survived
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert not partial.exists()


def test_an_interruption_at_the_last_point_loses_nothing(tmp_path):
    partial = tmp_path / "partial.json"
    with pytest.raises(Interrupted):
        measure_each(POINTS, Meter(stop=7), progress=False, partial=partial)
    meter = Meter()
    table = measure_each(POINTS, meter, progress=False, partial=partial)
    pd.testing.assert_frame_equal(table, measure_each(POINTS, Meter(), progress=False))
    assert not meter.asked


def test_results_are_saved_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("resnet56.instruments.points.SAVE_EVERY", 0)
    partial = tmp_path / "partial.json"
    saved = []

    def measure(rows):
        saved.append(len(json.loads(partial.read_text())["results"]) if partial.exists() else 0)
        return Meter()(rows)

    measure_each(POINTS, measure, progress=False, partial=partial)
    assert saved == list(range(7))


def test_another_measurements_results_are_refused(tmp_path):
    partial = tmp_path / "partial.json"
    with pytest.raises(Interrupted):
        measure_each(POINTS, Meter(stop=1), progress=False, partial=partial, key="k")
    content = partial.read_text()
    for points, key in ((POINTS, "other"), (POINTS.assign(x=POINTS["x"] + 1e-12), "k")):
        with pytest.raises(InputError, match="another measurement"):
            measure_each(points, Meter(), progress=False, partial=partial, key=key)
    assert partial.read_text() == content
    for damaged in ("", "[]", content[:-5], "{}"):
        partial.write_text(damaged)
        with pytest.raises(InputError, match="damaged"):
            measure_each(POINTS, Meter(), progress=False, partial=partial, key="k")


def test_a_folder_that_cannot_be_written_is_noticed_first(tmp_path):
    (tmp_path / "file").write_text("")
    meter = Meter()
    with pytest.raises(InputError, match="cannot write"):
        measure_each(POINTS, meter, progress=False, partial=tmp_path / "file" / "partial.json")
    assert not meter.asked


def test_a_digest_tells_values_shapes_and_types_apart():
    tensors = [torch.zeros(4), torch.ones(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(())]
    assert len({digest(tensor) for tensor in tensors}) == len(tensors)
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert digest(image) == digest(image.contiguous(memory_format=torch.channels_last))
    assert digest(*tensors[:2]) != digest(*tensors[1::-1])
