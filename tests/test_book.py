"""The stored notebooks: executed, without errors, machine paths or litter, each with an assertion and described figures."""

import json
import re
from pathlib import Path

import pytest
import yaml

from resnet56 import find_runs, load_run
from resnet56.plots import display_name

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_chapter_of_the_table_of_contents_exists_and_none_is_left_out():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {toc["root"]} | {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    there = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "book").glob("*.*") if path.suffix in (".md", ".ipynb")}
    assert listed == there and NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_clean(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "execute it anew, from top to bottom: make notebooks"
    for cell in code_cells(path):
        source, outputs = "".join(cell["source"]), cell["outputs"]
        assert not [output for output in outputs if output["output_type"] == "error"], source
        assert not [output for output in outputs if output.get("name") == "stderr"], f"warnings or progress bars: {source}"
        text = json.dumps(outputs)
        assert len(text) < 300_000, f"{len(text):,} bytes of output: {source}"
        assert not re.search(r"/(home|root|Users|tmp)/|[A-Z]:\\\\", re.sub(r'"image/png": "[^"]*"', "", text)), source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_chapter_asserts_its_claims(path):
    assert any(re.search(r"^\s*assert ", "".join(cell["source"]), re.MULTILINE) for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_an_alternative_text_and_numbers(path):
    for cell in code_cells(path):
        images = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        about = cell["metadata"].get("mystnb")
        if not images and about is None:
            continue
        source = "".join(cell["source"])
        assert len(images) == 1 and about["image"]["alt"] and about["figure"]["caption"] and about["figure"]["name"], source
        # nbval does not look at pictures, so the cell prints numbers of what it shows
        assert "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream").strip(), source


def test_the_packages_versions_are_all_pinned():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[a-z-]+==[\w.]+", line) for line in lines)


def test_readme_quotes_the_recorded_figures():
    readme = (ROOT / "README.md").read_text()
    name = re.search(r"data/runs/([\w-]+)/figure\.png", readme)[1]
    for arch in ("plain56", "resnet56"):
        run = load_run(ROOT / "data" / "runs" / name / arch)
        final = run.about["final"]
        row = (
            f"| {display_name(arch)} | {run.about['parameters']:,} | {final['train_loss']:.2f} "
            f"| {final['train_error']:.1f} % | {final['test_error']:.1f} % | {run.about['seconds']:.0f} |"
        )
        assert row in readme, f"README should have: {row}"
        assert run.label() in readme


def test_readme_quotes_the_recorded_suite():
    readme = (ROOT / "README.md").read_text()
    for arch in ("plain20", "plain56", "resnet20", "resnet56"):
        final = load_run(ROOT / "data" / "runs" / "laptop-cifar10-jpeg" / f"{arch}-seed-0").about["final"]
        row = f"| {display_name(arch)} | {final['train_loss']:.2f} | {final['train_error']:.1f} % | {final['test_error']:.1f} % |"
        assert row in readme, f"README should have: {row}"


def test_committed_records_load():
    records = find_runs(ROOT / "data" / "runs")
    assert records
    for path in records.values():
        assert load_run(path).about["data"]["title"]
