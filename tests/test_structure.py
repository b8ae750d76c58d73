"""The house: who imports whom."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "resnet56"
CORE = ["model", "layers", "data", "recipe", "train", "comparison", "gradients", "treatments"]  # README says to read
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")}


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports when it is loaded, itself left out."""
    home = name.split(".")[:-1]
    found = set()
    for node in ast.parse(FILES[name].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = home[: len(home) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                names = (".".join(target) for target in ([*base, alias.name], base, [*base, "__init__"]))
                found.add(next(target for target in names if target in FILES))
    return found - {name}


def reach(name: str) -> set[str]:
    """All modules that a module needs, directly or not."""
    seen, todo = set(), [name]
    while todo:
        todo += imports(module := todo.pop()) - seen
        seen.add(module)
    return seen - {name}


@pytest.mark.parametrize("name", FILES)
def test_no_module_needs_itself(name):
    assert all(name not in reach(other) for other in imports(name))


@pytest.mark.parametrize(
    ("names", "strangers"),
    [
        (("model", "layers", "data", "recipe"), ("train", "fast", "records", "plots", "cli", "datasets", "progress")),
        (("train", "treatments"), ("fast", "records", "plots", "cli", "datasets", "comparison", "gradients")),
        (("gradients", "comparison"), ("plots", "cli")),
        (tuple(name for name in FILES if name.startswith(("instruments", "records", "fast"))), ("plots", "cli")),
    ],
)
def test_dependencies_point_one_way(names, strangers):
    for name in names:
        assert not [other for other in reach(name) if other.split(".")[0] in strangers], name


def test_the_core_is_read_in_one_sitting():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)\.py` \|", readme, re.M)[: len(CORE)] == CORE
    assert sum(len(FILES[name].read_text(encoding="utf-8").splitlines()) for name in CORE) <= 1000


def test_the_package_only_becomes_smaller():
    """It is to have 5,000 lines; whoever takes some out lowers this number."""
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES.values()) <= 6470


def test_each_module_says_what_it_is():
    for name, path in FILES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name
