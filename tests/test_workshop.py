"""The workshop: what is imported is declared and pinned; notebooks are folded alike; prose is spelt right."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import cells
import nbformat
import pytest
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
SCRIPTS = [*(ROOT / "book").glob("*.py"), *(ROOT / "tests").glob("*.py")]
OURS = {"resnet56", *(path.stem for path in SCRIPTS)}

# What is installed


def requirements(path):
    """Map the name of each package that a file of requirements lists to what its lines say of it."""
    listed = {}
    for line in (ROOT / path).read_text().splitlines():
        if line and line[0] not in "#-":
            name, rest = re.fullmatch(r"([\w.-]+)(.*)", line).groups()
            listed.setdefault(name, []).append(rest)
    return listed


def dependencies():
    """What the package itself needs."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {re.match(r"[\w-]+", line)[0] for line in listed}


def imported(source):
    """The packages of others that a piece of Python imports, by their names on PyPI."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module.split(".")[0])
    distributions = packages_distributions()
    return {distributions[module][0].lower() for module in modules - sys.stdlib_module_names - OURS}


def imported_by_notebooks():
    all_cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    return imported("\n".join(cell.source for cell in all_cells if cell.cell_type == "code"))


def test_every_version_is_pinned_and_the_lock_has_it():
    pins, lock = requirements("requirements.txt"), requirements("requirements.lock")
    assert pins and lock
    for name, rest in pins.items():
        assert len(rest) == 1 and re.fullmatch(r"==[\w.]+", rest[0]), f"requirements.txt: {name}"
        assert lock.get(name) == rest, f"requirements.lock has another {name}: make lock"
    for name, rest in lock.items():
        assert all(re.fullmatch(r"==[\w.]+( ; .+)?", version) for version in rest), f"requirements.lock: {name}"
    assert dependencies() <= pins.keys()


def test_the_lock_names_no_index():
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_what_the_package_imports_is_among_its_dependencies():
    sources = [path.read_text() for path in (ROOT / "resnet56").rglob("*.py")]
    assert sources and set().union(*map(imported, sources)) <= dependencies()


def test_what_scripts_tests_and_notebooks_import_is_in_the_requirements():
    needed = set().union(imported_by_notebooks(), *(imported(path.read_text()) for path in SCRIPTS))
    assert needed <= requirements("requirements.txt").keys()


def test_binder_installs_what_the_notebooks_need_and_no_more():
    listed = requirements(".binder/requirements.txt").keys()
    assert imported_by_notebooks() - {"ipython"} <= listed | dependencies()  # ipykernel brings ipython
    assert listed <= requirements("requirements.txt").keys()
    assert listed - imported_by_notebooks() == {"ipykernel", "jupyterlab-myst"}


# Spelling


@pytest.mark.parametrize("where", ["source", "outputs"])
def test_spelling_of_prose_counts_and_that_of_outputs_does_not(where, tmp_path):
    path = tmp_path / "a.ipynb"
    wrong = "t" + "eh\n"  # in two pieces, for this file is checked too
    cell = {"cell_type": "code", "source": [], "outputs": []}
    output = {"name": "stdout", "output_type": "stream", "text": [wrong]}
    both = [{**cell, where: [output if where == "outputs" else wrong]}, {**cell, "source": ["right\n"]}]
    path.write_text(json.dumps({"cells": both}, indent=1))
    command = [Path(sys.executable).with_name("codespell"), "--toml", ROOT / "pyproject.toml", path]
    assert subprocess.run(command, capture_output=True).returncode == (65 if where == "source" else 0)


# Notebooks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_the_common_first_cell_and_are_folded_as_their_tags_say(path):
    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    cells.share(notebook)
    assert nbformat.writes(notebook) + "\n" == before, "python book/cells.py"


def test_what_is_folded():
    cell = new_code_cell("1", metadata={"tags": ["nbval-skip", "hide-cell"], "mystnb": {"a": 1}})
    before = dict(cell.metadata)
    cells.fold(cell)
    folded = {"jupyter": {"source_hidden": True, "outputs_hidden": True}, "cellView": "form"}
    assert cell.metadata == {**before, **folded}
    cell.metadata["tags"] = ["hide-input"]
    cells.fold(cell)
    assert cell.metadata["jupyter"] == {"source_hidden": True}
    cell.metadata["tags"] = ["nbval-skip"]
    cells.fold(cell)
    assert cell.metadata == {"tags": ["nbval-skip"], "mystnb": {"a": 1}}
