"""Execute notebooks in place: ``python book/execute.py [--out FOLDER] [NOTEBOOK ...]``; by default all of the book.

A notebook is written whole, and only after it ran without an error. Its metadata then say on what data, where, with
which versions, how long and when it ran; the page "Status" shows that. Exit status: 0, 1 (a cell failed), 2 (bad
input), 130 (Ctrl-C).
"""

import argparse
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import cells
import nbformat
import torch
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from resnet56 import InputError, load_data
from resnet56.devices import hardware, pick_device
from resnet56.records.files import check_writable, write_file

BOOK = Path(__file__).resolve().parent
CELL_SECONDS = 600  # time limit of one cell


class CellFailed(Exception):
    """A cell raised an error, ran out of time, or took the kernel down."""


def all_notebooks() -> list[Path]:
    """List the notebooks of the book in reading order; the page that shows when the others ran comes last."""
    toc = yaml.safe_load((BOOK.parent / "_toc.yml").read_text())
    pages = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    pages = [BOOK.parent / f"{page}.ipynb" for page in sorted(pages, key=lambda page: page == "book/status")]
    return [page for page in pages if page.exists()]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook, without what changes with the machine or the hour, and with what all have in common.

    Raises:
        InputError: if there is none.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat, json and jsonschema have their own
        raise InputError(f"{path} is not a notebook that can be read ({str(error).splitlines()[0]})") from error
    cells.share(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of single cells
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def execute(notebook: nbformat.NotebookNode) -> None:
    """Execute all cells, in ``book/``; outputs are stored in ``notebook``.

    Raises:
        CellFailed: at the first cell that fails; the message names it.
    """
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(BOOK)}},
        record_timing=False,
        coalesce_streams=True,  # else a slow cell's output comes in pieces that differ from run to run
        extra_arguments=["--log-level=CRITICAL"],  # what the kernel logs; cells' own warnings are outputs
    )
    client.reset_execution_trackers()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                first = next(filter(str.strip, cell.source.splitlines()))
                if isinstance(error, CellExecutionError):
                    what = f"{error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}"
                else:
                    what = f"more than {CELL_SECONDS} s" if isinstance(error, CellTimeoutError) else "the kernel died"
                raise CellFailed(f"cell {index + 1}, `{first.strip()}`: {what}") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="execute.py", description="Execute notebooks, in place.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of the book")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write them there and leave the originals alone")
    options = parser.parse_args(arguments)
    try:
        paths = options.notebooks or all_notebooks()
        notebooks = [read(path) for path in paths]
        try:
            for folder in {options.out} if options.out else {path.parent for path in paths}:
                check_writable(folder)
        except InputError as error:
            advice = "give a folder you can write to with --out FOLDER"
            raise InputError(f"{str(error).split(';')[0]}; {advice}") from error
        data = load_data()
        os.environ["RESNET56_DATA"] = data.name  # one data set for all of them
        conditions = {
            "data": data.title,
            "hardware": hardware(pick_device())["name"],
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        }
        del data
        for path, notebook in zip(paths, notebooks, strict=True):
            print(f"{path.name}: ", end="", flush=True)
            started = time.monotonic()
            execute(notebook)
            seconds = round(time.monotonic() - started)
            notebook.metadata["execution"] = {**conditions, "seconds": seconds, "date": date.today().isoformat()}
            target = options.out / path.name if options.out else path
            text = nbformat.writes(notebook) + "\n"
            write_file(target, lambda file, text=text: file.write(text.encode()))
            print(f"{seconds} s")
        return 0
    except InputError as error:
        print(f"execute.py: error: {error}", file=sys.stderr)
        return 2
    except CellFailed as error:
        print(f"\nexecute.py: {path}, {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nexecute.py: interrupted; what was not finished is as it was", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
