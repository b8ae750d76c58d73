"""The stored notebooks: executed, without errors, paths of a machine or litter, with assertions and described plots."""

import json
import re
import statistics
from pathlib import Path

import cells
import pdf
import pytest

from resnet56 import find_runs, load_run
from resnet56.plots import display_name
from resnet56.records.runs import runs_table

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"0[1-7]_", path.name)]  # the eighth asks questions of another kind


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_chapter_of_the_table_of_contents_exists_and_none_is_left_out():
    paths = [*NOTEBOOKS, *(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("api/*.md")]
    there = {path.relative_to(ROOT).with_suffix("").as_posix() for path in paths}
    assert set(pdf.page_names()) == there and NOTEBOOKS


def test_every_module_of_the_package_is_on_one_api_page_and_in_the_overview():
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "resnet56").rglob("*.py")]
    modules = {".".join(path.parts) for path in files if path.name not in ("__init__", "__main__", "cli")}
    pages = "".join(path.read_text() for path in (ROOT / "book" / "api").glob("*.md"))
    listed = re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", pages, re.MULTILINE)
    overview = re.findall(r"^   (resnet56\S+)$", (ROOT / "book" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(overview) == sorted(modules)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_clean(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "execute it anew, from top to bottom: make notebooks"
    for cell in code_cells(path):
        source, outputs = "".join(cell["source"]), cell["outputs"]
        assert not [output for output in outputs if output["output_type"] == "error"], source
        assert not [output for output in outputs if output.get("name") == "stderr"], (
            f"warnings or progress bars: {source}"
        )
        text = json.dumps(outputs)
        assert len(text) < 300_000, f"{len(text):,} bytes of output: {source}"
        assert not re.search(r"/(home|root|Users|tmp)/|[A-Z]:\\\\", re.sub(r'"image/png": "[^"]*"', "", text)), source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_path_of_a_machine_anywhere_in_a_notebook(path):
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())
    assert not re.search(r"/(home|root|Users|tmp|work)/|[A-Z]:\\\\", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_says_where_and_when_it_was_executed(path):
    about = json.loads(path.read_text())["metadata"]["execution"]
    assert about["data"] and about["hardware"] and about["python"] and about["torch"]
    assert about["seconds"] >= 0 and re.fullmatch(r"20\d\d-\d\d-\d\d", about["date"])


def test_the_status_page_shows_the_latest_executions():
    outputs = [output for cell in code_cells(ROOT / "book" / "status.ipynb") for output in cell["outputs"]]
    shown = "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    for path in NOTEBOOKS:
        if path.stem != "status":
            about = json.loads(path.read_text())["metadata"]["execution"]
            row = rf"<td>{path.stem}</td>\s*<td>{about['date']}</td>\s*<td>{about['seconds']}</td>"
            assert re.search(row, shown), f"{path.stem} ran since: python book/execute.py book/status.ipynb"


def test_every_notebook_begins_with_the_same_hidden_cell():
    first = {path.stem: code_cells(path)[0] for path in NOTEBOOKS}
    assert {name for name, cell in first.items() if cell["metadata"].get("tags") != ["remove-cell"]} == set()
    assert {"".join(cell["source"]) for cell in first.values()} == {cells.FIRST_CELL}, "python book/cells.py"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_asks_lets_predict_and_has_exercises_with_solutions(path):
    chapter = json.loads(path.read_text())["cells"]
    assert "**The question.**" in "".join(chapter[0]["source"])
    events = []  # classes of admonitions, and tags of code cells, in order
    for cell in chapter:
        if cell["cell_type"] == "markdown":
            source = "".join(cell["source"])
            events += re.findall(r"^(?:`{3,}|:{3,})\{admonition\}.*\n:class: (.*)$", source, re.MULTILINE)
        else:
            events.append("solution" if "hide-cell" in cell["metadata"].get("tags", []) else "code")
    assert "tip predict" in events
    exercises = [index for index, event in enumerate(events) if "exercise" in event.split()]
    assert len(exercises) >= 3
    for index in exercises:
        answer = events[index + 1] if index + 1 < len(events) else "nothing"
        assert answer == "solution" or {"dropdown", "solution"} <= set(answer.split()), f"after it: {answer}"


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
        assert len(images) == 1 and about["image"]["alt"] and about["figure"]["caption"] and about["figure"]["name"], (
            source
        )
        # nbval does not look at pictures, so the cell prints numbers of what it shows
        assert "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream").strip(), source


def test_readme_quotes_the_recorded_comparison():
    readme = (ROOT / "README.md").read_text()
    for arch in ("plain56", "resnet56"):
        run = load_run(ROOT / "data" / "runs" / "compare-56-cifar10-jpeg-250-steps-seed-0" / arch)
        final = run.about["final"]
        row = (
            f"| {display_name(arch)} | {run.about['parameters']:,} | {final['train_loss']:.2f} "
            f"| {final['train_error']:.1f} % | {final['test_error']:.1f} % | {run.about['seconds']:.0f} |"
        )
        assert row in readme, f"README should have: {row}"
        assert run.label() in readme


def test_readme_quotes_the_recorded_suite():
    readme = (ROOT / "README.md").read_text()
    suite = re.search(r"\]\(data/runs/([\w-]+)/figure\.png\)", readme)[1]
    runs = runs_table(ROOT / "data" / "runs" / suite)
    for arch, members in runs.groupby("arch"):
        columns = [display_name(arch), str(len(members))]
        for errors in (members["train_error"].tolist(), members["test_error"].tolist()):
            spread = f" ± {statistics.stdev(errors):.1f}" if len(errors) > 1 else ""
            columns.append(f"{statistics.mean(errors):.1f}{spread}")
        row = f"| {' | '.join(columns)} |"
        assert row in readme, f"README should have: {row}"
    about = runs["run"].iloc[0].about
    for fact in (
        about["data"]["title"],
        f"{about['steps']:,} steps",
        about["recipe"]["precision"],
        about["hardware"]["name"],
    ):
        assert fact in readme


def test_committed_records_load():
    records = find_runs(ROOT / "data" / "runs")
    assert records
    for path in records.values():
        assert load_run(path).about["data"]["title"]
