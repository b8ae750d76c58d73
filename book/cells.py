"""What the notebooks have in common: ``python book/cells.py`` gives it to all of them, without executing anything.

Each begins with the same cell, which finds the package. Code that the pages fold is folded in JupyterLab and Colab too.
"""

from pathlib import Path

import nbformat

BOOK = Path(__file__).resolve().parent

FIRST_CELL = """
# Finds the package `resnet56`. A notebook that was opened alone, as on Colab, fetches it first.
import importlib.util, pathlib, subprocess, sys

REPOSITORY = ""
if not importlib.util.find_spec("resnet56"):
    checkout = pathlib.Path(".." if pathlib.Path("../resnet56").exists() else "fifty-six-layers").resolve()
    if not checkout.exists() and subprocess.call(["git", "clone", "-q", "--depth=1", REPOSITORY, checkout]):
        raise ImportError("set REPOSITORY, in this cell, to the address of the book's git repository")
    sys.path.insert(0, str(checkout))
""".strip()

# What the tags of a cell, which Jupyter Book reads, hide in JupyterLab: its source, its outputs.
HIDDEN = {
    "remove-cell": {"source_hidden": True},
    "hide-input": {"source_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}


def fold(cell: nbformat.NotebookNode) -> None:
    """Set what JupyterLab and Colab read from a code cell's metadata to what its tags say."""
    hidden = next((HIDDEN[tag] for tag in cell.metadata.get("tags", []) if tag in HIDDEN), None)
    for name, value in {"jupyter": hidden, "cellView": "form" if hidden else None}.items():
        cell.metadata.pop(name, None)
        if value:
            cell.metadata[name] = value


def share(notebook: nbformat.NotebookNode) -> None:
    """Give a notebook the common first cell, and fold its cells."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            fold(cell)
            if "remove-cell" in cell.metadata.get("tags", []):
                cell.source = FIRST_CELL


def main() -> None:
    """Rewrite the notebooks of the book that this changes."""
    for path in sorted(BOOK.glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        share(notebook)
        after = nbformat.writes(notebook) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(path.name)


if __name__ == "__main__":
    main()
