"""Notebooks are executed whole or left alone; their first cell finds the package wherever they are opened."""

import functools
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cells
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
EXECUTE = ROOT / "book" / "execute.py"


@pytest.fixture(autouse=True)
def embedded_data(monkeypatch):
    monkeypatch.setenv("RESNET56_DATA", "shapes10")


def write(path, *sources):
    code = [new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)]
    nbformat.write(new_notebook(cells=code), path)
    return path.read_bytes()


@pytest.fixture
def execute(capsys):
    """The script's `main`, as a function of its arguments that returns exit status, output and errors."""
    spec = importlib.util.spec_from_file_location("execute", EXECUTE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load_data = lambda: SimpleNamespace(name="shapes10", title="shapes10")  # nothing needs its images here
    return lambda *arguments: (module.main([str(argument) for argument in arguments]), *capsys.readouterr())


def test_outputs_and_conditions_are_stored_and_a_second_run_changes_nothing_else(execute, tmp_path):
    path = tmp_path / "a.ipynb"
    figure = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])"
    slow = "import time\nprint(6 * 7)\ntime.sleep(0.5)\nprint(8)"
    write(path, slow, figure, "from pathlib import Path\nprint(Path.cwd().name)")
    stored = json.loads(path.read_text())
    stored["cells"][0]["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00"}
    path.write_text(json.dumps(stored))
    status, out, errors = execute(path)
    assert status == 0 and out.startswith("a.ipynb: "), errors

    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    assert [output.text for output in notebook.cells[0].outputs] == ["42\n8\n"], "one stream, however slow the cell"
    assert "image/png" in notebook.cells[1].outputs[0].data
    assert notebook.cells[2].outputs[0].text == "book\n"
    assert [cell.id for cell in notebook.cells] == ["cell-0", "cell-1", "cell-2"]
    assert not any(cell.metadata for cell in notebook.cells)
    about = notebook.metadata.execution
    assert about.data == "shapes10" and about.python.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert isinstance(about.seconds, int) and set(about) == {"data", "hardware", "python", "torch", "seconds", "date"}

    first = path.read_text()
    assert execute(path)[0] == 0
    changed = set(first.splitlines()) ^ set(path.read_text().splitlines())
    assert all('"seconds"' in line or '"date"' in line for line in changed), changed


def test_out_leaves_the_original_alone(execute, tmp_path):
    path = tmp_path / "a.ipynb"
    before = write(path, "print(1)")
    assert execute(path, "--out", tmp_path / "new" / "folder")[0] == 0
    assert path.read_bytes() == before
    assert nbformat.read(tmp_path / "new" / "folder" / "a.ipynb", as_version=4).cells[0].outputs[0].text == "1\n"


@pytest.mark.parametrize(
    "source, message",
    [("assert 1 == 2, 'no'\nprint(3)", "AssertionError: no"), ("import os\nos._exit(1)", "the kernel died")],
)
def test_a_failing_cell_is_named_in_one_line_and_the_file_is_left_alone(execute, tmp_path, source, message):
    path = tmp_path / "a.ipynb"
    before = write(path, "x = 1", f"\n{source}")
    status, _, errors = execute(path)
    assert status == 1
    lines = errors.strip().splitlines()
    assert len(lines) == 1 and lines[0] == f"execute.py: {path}, cell 2, `{source.splitlines()[0]}`: {message}"
    assert path.read_bytes() == before and list(tmp_path.glob("*.ipynb*")) + list(tmp_path.glob(".*")) == [path]


def test_what_cannot_be_read_is_refused_before_anything_runs(execute, tmp_path):
    good, bad, marker = tmp_path / "good.ipynb", tmp_path / "bad.ipynb", tmp_path / "ran"
    before = write(good, f"open({str(marker)!r}, 'w')")
    for content in (None, "not JSON"):
        if content:
            bad.write_text(content)
        status, _, errors = execute(good, bad)
        assert status == 2 and len(errors.splitlines()) == 1 and str(bad) in errors
        assert good.read_bytes() == before and not marker.exists()


def test_ctrl_c_leaves_the_file_alone(tmp_path):
    path, marker = tmp_path / "a.ipynb", tmp_path / "pid"
    before = write(path, f"import os, time\n_ = open({str(marker)!r}, 'w').write(str(os.getpid()))", "time.sleep(600)")
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    run = subprocess.Popen([sys.executable, EXECUTE, path], stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while not (marker.exists() and marker.read_text()):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and len(errors.strip().splitlines()) == 1, errors
    assert path.read_bytes() == before
    alive = Path("/proc", marker.read_text(), "stat")
    assert not alive.exists() or alive.read_text().rsplit(")", 1)[1].split()[0] == "Z", "its kernel is gone too"


# --- The first cell of every notebook -----------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A git repository with a package `resnet56`, as an address."""
    folder = tmp_path / "origin"
    (folder / "resnet56").mkdir(parents=True)
    (folder / "resnet56" / "__init__.py").write_text("here = __file__\n")
    commit = ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-q", "-m", "A"]
    for arguments in (["init", "-q"], ["add", "."], commit):
        subprocess.run(["git", "-C", folder, *arguments], check=True)
    return folder.as_uri()


def run_cell(source, folder):
    """Run the cell and import the package with a bare Python, which has nothing installed."""
    folder.mkdir(exist_ok=True)
    script = f"{source}\nimport resnet56\nprint(resnet56.here)"
    return subprocess.run([sys.executable, "-I", "-S", "-c", script], cwd=folder, capture_output=True, text=True)


def test_first_cell_does_nothing_where_the_package_is_installed(tmp_path, monkeypatch):
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.chdir(alone)
    before = list(sys.path)
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: pytest.fail("it ran a command"))
    exec(cells.FIRST_CELL, {})
    assert sys.path == before and not list(alone.iterdir())


def test_first_cell_takes_the_checkout_that_it_is_in(repository, tmp_path):
    done = run_cell(cells.FIRST_CELL, tmp_path / "origin" / "book")
    assert done.stdout.strip() == str(tmp_path / "origin" / "resnet56" / "__init__.py"), done.stderr
    assert not list((tmp_path / "origin" / "book").iterdir())


def test_first_cell_clones_the_repository_once(repository, tmp_path):
    filled = cells.FIRST_CELL.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"')
    assert filled != cells.FIRST_CELL, "the line that `make book` fills in"
    alone = tmp_path / "alone"
    for _ in range(2):  # the second time, the kernel was restarted
        done = run_cell(filled, alone)
        assert done.stdout.strip() == str(alone / "fifty-six-layers" / "resnet56" / "__init__.py"), done.stderr
        shutil.rmtree(tmp_path / "origin", ignore_errors=True)


def test_first_cell_says_what_to_do_where_the_address_is_unknown(tmp_path):
    done = run_cell(cells.FIRST_CELL, tmp_path / "alone")
    assert done.returncode == 1 and not list((tmp_path / "alone").iterdir())
    assert done.stderr.splitlines()[-1].startswith("ImportError: set REPOSITORY, in this cell, to the address")
