"""Interactive figures: what a page is given is what was recorded."""

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from resnet56 import InputError, load_run
from resnet56.plots import interactive_curves, interactive_depths, interactive_heatmaps, plot_gradient_heatmaps
from resnet56.plots.interactive import Interactive

ROOT = Path(__file__).parent.parent
SUITE = ROOT / "data" / "runs" / "laptop-cifar10-jpeg"
ARCHS = ("plain20", "plain56", "resnet20", "resnet56")


class Script(HTMLParser):
    """What a browser sees of an HTML text: a tag with its attributes, and the text inside it."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def data_in(shown):
    """The data as the page's script gets it, through HTML and JSON."""
    return json.loads(Script(shown._repr_html_()).text)


def recorded(arch):
    return load_run(SUITE / f"{arch}-seed-0")


def history(arch):
    """The rows of a record's ``history.csv``, read without the package."""
    with open(SUITE / f"{arch}-seed-0" / "history.csv", newline="") as file:
        return [{key: float(value) if value else None for key, value in row.items()} for row in csv.DictReader(file)]


def growth(depths, families=("plain", "resnet")):
    """A made-up table for the walk: layer n of a network of depth d has the value 1000 d + n; output first."""
    nets = [(family, depth) for family in families for depth in depths]
    rows = [(f"{family}{depth}", n, 1000 * depth + n) for family, depth in nets for n in range(depth, 0, -1)]
    return pd.DataFrame(rows, columns=["arch", "depth", "norm"])


# --- Data -----------------------------------------------------------------------------------------------


def test_heatmaps_hold_the_recorded_norms():
    data = data_in(interactive_heatmaps("fig-heat", [recorded("plain56"), recorded("resnet56")]))
    for network, arch in zip(data["networks"], ("plain56", "resnet56"), strict=True):
        with np.load(SUITE / f"{arch}-seed-0" / "gradients.npz") as arrays:
            assert data["steps"] == arrays["steps"].tolist() and data["layers"] == arrays["layers"].tolist()
            np.testing.assert_allclose(np.array(network["values"]), arrays["gradient_norm"], rtol=0.0051)
    assert [network["name"] for network in data["networks"]] == ["plain-56", "ResNet-56"]
    assert [network["family"] for network in data["networks"]] == ["plain", "resnet"]
    assert data["stages"] == [[2, 19], [20, 37], [38, 55]]
    assert data["places"][:2] == ["the first layer", "stage 1, block 1 of 9, first convolution"]
    assert data["places"][20] == "stage 2, block 1 of 9, second convolution"
    assert data["places"][-2:] == ["stage 3, block 9 of 9, second convolution", "the last layer, fully connected"]
    assert data["quantity"].endswith("(nats)") and data["conditions"].startswith("CIFAR-10 (JPEG copy), 1,755 steps")


def test_heatmaps_have_the_colours_of_the_still_figure():
    runs = [recorded("plain20"), recorded("resnet20")]
    data = data_in(interactive_heatmaps("fig-heat", runs))
    mesh = plot_gradient_heatmaps(runs).axes[0].collections[0]
    assert data["scale"] == pytest.approx([mesh.norm.vmin, mesh.norm.vmax], rel=0.0051)
    shares = np.linspace(0, 1, len(data["colours"]))
    expected = np.round(255 * mesh.cmap(shares)[:, :3])
    found = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in data["colours"]]
    assert len(found) == 256
    np.testing.assert_array_equal(found, expected)
    plt.close("all")


def test_what_a_colour_scale_cannot_show_is_zero_or_null():
    runs = [recorded("plain20"), recorded("resnet20")]
    gradients = runs[0].gradients.copy()
    gradients.loc[[3, 4, 5], "gradient_norm"] = [0, np.inf, np.nan]
    data = data_in(interactive_heatmaps("fig-heat", [dataclasses.replace(runs[0], gradients=gradients), runs[1]]))
    assert data["networks"][0]["values"][0][3:6] == [0, None, None]
    assert 0 < data["scale"][0] < data["scale"][1] < 1000


def test_curves_hold_the_recorded_errors():
    data = data_in(interactive_curves("fig-suite", [recorded(arch) for arch in reversed(ARCHS)]))
    assert [run["name"] for run in data["runs"]] == ["plain-20", "plain-56", "ResNet-20", "ResNet-56"]
    assert data["steps_per_epoch"] == 351  # whole batches of 128 in 45,000 images
    for run, arch in zip(data["runs"], ARCHS, strict=True):
        rows = history(arch)
        assert run["steps"] == [row["step"] for row in rows]
        for index, error in enumerate(run["train"]):
            window = [row["train_error"] for row in rows[max(0, index - 4) : index + 1]]
            assert error == pytest.approx(sum(window) / len(window), rel=0.0051)
        validated = [(row["step"], row["validation_error"]) for row in rows if row["validation_error"] is not None]
        assert run["validation"][0] == [step for step, _ in validated] and len(validated) == 5
        assert run["validation"][1] == pytest.approx([error for _, error in validated], rel=0.0051)
        about = json.loads((SUITE / f"{arch}-seed-0" / "run.json").read_text())
        assert run["test"] == pytest.approx(about["final"]["test_error"], rel=0.0051)


def test_long_curves_are_thinned_and_keep_their_end():
    steps = np.arange(10, 64010, 10)
    long = pd.DataFrame({"step": steps, "epoch": steps / 351, "train_error": 0.0, "validation_error": steps / 1000})
    (run,) = data_in(interactive_curves("fig-suite", [dataclasses.replace(recorded("plain20"), history=long)]))["runs"]
    assert 100 < len(run["steps"]) == len(run["train"]) <= 200
    assert run["steps"][-1] == 64000 and set(np.diff(run["steps"])) == {320}
    assert run["validation"][0] == run["steps"] and run["validation"][1][-1] == 64
    assert set(run["train"]) == {0}  # on a linear axis zero is a value like any other


def test_the_walk_holds_the_depths_that_both_families_have():
    table = pd.concat([growth([56, 8, 20]), growth([110], ["plain"])])
    data = data_in(interactive_depths("fig-walk", table, "norm", "a norm (nats)"))
    assert [net["depth"] for net in data["walk"]] == [8, 20, 56] and data["label"] == "a norm (nats)"
    for net in data["walk"]:
        expected = [1000 * net["depth"] + layer for layer in range(1, net["depth"] + 1)]  # from input to output
        assert net["plain"] == pytest.approx(expected, rel=0.0051) and net["resnet"] == net["plain"]


# --- In the page ----------------------------------------------------------------------------------------


def test_the_page_gets_one_script_the_same_each_time_and_small():
    pair = [recorded("plain56"), recorded("resnet56")]
    script = (ROOT / "book" / "_static" / "figures.js").read_text()
    for make in (
        lambda: interactive_heatmaps("fig-x", pair),
        lambda: interactive_curves("fig-x", pair),
        lambda: interactive_depths("fig-x", growth([8, 110]), "norm", "a norm"),
    ):
        shown = make()
        page = shown._repr_html_()
        assert page == make()._repr_html_() and len(page) < 100_000
        about = {"type": "application/json", "class": "figure-data", "data-kind": shown.kind, "data-figure": "fig-x"}
        assert Script(page).tags == [("script", about)]
        assert f"function {shown.kind}(" in script
        assert repr(shown) == f"<interactive {shown.kind} for fig-x>"


def test_no_text_ends_the_script_or_an_attribute():
    words = '</script><b>&"<!--'
    page = Script(Interactive("depths", words, {"label": words})._repr_html_())
    assert [tag for tag, _ in page.tags] == ["script"] and page.tags[0][1]["data-figure"] == words
    assert json.loads(page.text) == {"label": words}


# --- What cannot be drawn -------------------------------------------------------------------------------


def test_what_was_not_recorded_is_named():
    plain, residual = recorded("plain20"), recorded("resnet20")
    with pytest.raises(InputError, match="^the run of resnet20 has no recorded gradients; .* records them$"):
        interactive_heatmaps("fig-x", [plain, dataclasses.replace(residual, gradients=None)])
    with pytest.raises(InputError, match="plain20 has not recorded 'colour'"):
        interactive_heatmaps("fig-x", [plain, residual], "colour")
    later = residual.gradients[residual.gradients["step"] > 0]
    for other in (recorded("resnet56"), dataclasses.replace(residual, gradients=later)):
        with pytest.raises(InputError, match=f"plain20 and {other.arch} differ in layers or recorded steps"):
            interactive_heatmaps("fig-x", [plain, other])


def test_curves_without_runs_or_validation_are_refused():
    with pytest.raises(InputError, match="no run to draw"):
        interactive_curves("fig-x", [])
    run = recorded("plain20")
    for history in (run.history.assign(validation_error=np.nan), run.history.drop(columns="validation_error")):
        with pytest.raises(InputError, match="the run of plain20 has no validation errors"):
            interactive_curves("fig-x", [dataclasses.replace(run, history=history)])


def test_a_walk_needs_its_columns_and_a_depth_of_both_families():
    with pytest.raises(InputError, match="no column 'size'"):
        interactive_depths("fig-x", growth([8]), "size", "a size")
    with pytest.raises(InputError, match="no depth of both"):
        interactive_depths("fig-x", pd.concat([growth([8], ["plain"]), growth([20], ["resnet"])]), "norm", "a norm")
