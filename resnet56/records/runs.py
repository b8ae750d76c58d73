"""Recorded runs: what was trained, how, on what, where, and what came of it.

A run is a folder with ``run.json`` (everything about it), ``history.csv`` (losses and errors by step) and,
where gradients were recorded, ``gradients.npz`` (arrays named ``steps`` (T,), ``layers`` (L,), ``stages`` (L,), and one
(T, L) for each quantity, such as ``gradient_norm``). Of some runs the trained network is kept, in
``weights.safetensors``. No pickle anywhere.
"""

import copy
import dataclasses
import functools
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..data import DataSet, normalise
from ..datasets import shapes10
from ..devices import hardware, versions
from ..errors import InputError
from ..layers import count_parameters
from ..model import build_model, parse_arch
from ..train import Score, Trainer
from .files import data_dir

MEAN = "mean image"  # its name beside the weights
UNKNOWN = "unknown"  # the commit, where git does not tell


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        about: what ``run.json`` says, a dict.
        history: losses and errors by step, the columns of :class:`resnet56.train.Trainer`.
        gradients: what was recorded by step and layer, the columns of
            :meth:`resnet56.gradients.GradientRecorder.table`; None where they were not recorded.
    """

    about: dict
    history: pd.DataFrame
    gradients: pd.DataFrame | None = None

    @property
    def arch(self) -> str:
        """The architecture, such as ``"resnet56"``."""
        return self.about["arch"]

    def by_layer(self, quantity: str = "gradient_norm") -> pd.DataFrame:
        """Return a recorded quantity with a row per step and a column per layer, from input to output."""
        table = self.gradients.pivot(index="step", columns="layer", values=quantity)
        return table[self.gradients["layer"].unique()]

    def label(self) -> str:
        """Return the run's conditions in one line, as captions and printouts give them."""
        recipe = self.about["recipe"]
        return (
            f"{self.about['data']['title']}, {self.about['steps']:,} steps of {recipe['batch_size']} images, "
            f"seed {recipe['seed']}, {recipe['precision']} on {self.hardware}"
        )

    @property
    def hardware(self) -> str:
        """What it was trained on, in words; of a run that went on elsewhere, one after the other."""
        parts = [part["hardware"] or {"name": "hardware not recorded"} for part in self.about.get("parts", [])]
        return ", then ".join(dict.fromkeys(part["name"] for part in parts or [self.about["hardware"]]))


def describe_run(trainer: Trainer, *, arch: str, shortcut: str, data: DataSet, validation: int, test: Score) -> dict:
    """Collect everything about a finished run that ``run.json`` holds.

    Args:
        trainer: the finished run.
        arch: the architecture.
        shortcut: the shortcut option.
        data: the data set trained on.
        validation: how many training images were held out.
        test: the final network's score on the test set.
    """
    last = trainer.history[-1]
    return {
        "arch": arch,
        "shortcut": shortcut if arch.startswith("resnet") else None,
        "parameters": count_parameters(trainer.model),
        "recipe": dataclasses.asdict(trainer.recipe),
        "steps": trainer.step,
        "data": {
            "name": data.name,
            "title": data.title,
            "fingerprint": data.fingerprint,
            "training_images": len(data.train) - validation,
            "validation_images": validation,
            "test_images": len(data.test),
        },
        "final": {
            "train_loss": last["train_loss"],
            "train_error": last["train_error"],
            "test_loss": test.loss,
            "test_error": test.error,
        },
        "how": trainer.how,
        "seconds": round(trainer.seconds, 1),
        "processor_seconds": _processor_seconds(trainer.parts),
        "parts": trainer.parts,
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(trainer.device),
        "versions": versions(),
        "commit": commit(),
    }


def _processor_seconds(parts: list[dict]) -> float | None:
    """Return the processor time of a whole run; None if a part of it was trained before that was measured."""
    times = [part["processor_seconds"] for part in parts]
    return None if None in times else round(sum(times), 1)


def save_run(folder: Path, run: Run, trainer: Trainer | None = None) -> None:
    """Write a run into an empty ``folder``; use :func:`resnet56.records.files.new_folder` to make that atomic.

    Args:
        folder: where.
        run: the run.
        trainer: if given, its network is kept too, with the mean image that it was trained with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run.history.to_csv(folder / "history.csv", index=False, float_format="%.6g")
    if run.gradients is not None:
        layers = run.gradients.drop_duplicates("depth")
        quantities = run.gradients.columns.drop(["step", "depth", "layer", "stage"])
        arrays = {name: run.gradients.pivot(index="step", columns="depth", values=name) for name in quantities}
        np.savez_compressed(
            folder / "gradients.npz",
            steps=run.gradients["step"].unique(),
            layers=layers["layer"].to_numpy(dtype=str),
            stages=layers["stage"].to_numpy(dtype=str),
            **{name: array.to_numpy(dtype=np.float32) for name, array in arrays.items()},
        )
    about = dict(run.about)
    if trainer is not None:
        about["logits"] = reference_logits(copy.deepcopy(trainer.model).cpu(), trainer.batches.mean.cpu()).tolist()
        weights = {**trainer.model.state_dict(), MEAN: trainer.batches.mean}
        content = save({name: value.cpu().contiguous() for name, value in weights.items()})
        (folder / "weights.safetensors").write_bytes(content)
    seal(folder / "run.json", about)


@torch.no_grad()
def reference_logits(model: nn.Module, mean: Tensor) -> Tensor:
    """Return the logits of four test images of ``shapes10``, ``(4, 10)``: do weights and model code still agree?"""
    pixels, _ = shapes10.draw(4, seed=1)
    return model.eval()(normalise(torch.from_numpy(pixels), mean))


def load_run(folder: str | Path) -> Run:
    """Load a recorded run, by its folder or by the name of its folder in ``data/runs/``.

    Raises:
        InputError: if there is none, or one of its files is damaged or missing.
    """
    folder = Path(folder) if Path(folder).is_dir() else data_dir() / "runs" / folder
    about = unseal(folder / "run.json", "recorded run")
    try:
        history = pd.read_csv(folder / "history.csv")
        gradients = _load_gradients(folder / "gradients.npz") if "gradients.npz" in about["files"] else None
        return Run(about, history, gradients)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"recorded run {folder.name} cannot be read ({error}); {how_to_get(folder)}") from error


@dataclass(frozen=True)
class Comparison:
    """The runs of a plain and a residual network that were trained alike."""

    plain: Run
    residual: Run

    def table(self) -> pd.DataFrame:
        """Return a row per network: training loss (nats), training error, test error, test accuracy (%), seconds.

        The training figures are means over the augmented batches of the last few steps.
        """
        table = pd.DataFrame({run.arch: run.about["final"] for run in (self.plain, self.residual)}).T
        table["test accuracy"] = 100 - table["test_error"]
        table["seconds"] = [run.about["seconds"] for run in (self.plain, self.residual)]
        table = table.drop(columns="test_loss").rename(columns=lambda name: name.replace("_", " "))
        return table.rename_axis("network")


def load_comparison(name: str) -> Comparison:
    """Load a recorded comparison by the name of its folder in ``data/runs/``.

    Raises:
        InputError: if there is none of that name, or it is damaged, incomplete or of two data sets.
    """
    folder = data_dir() / "runs" / name
    runs = {run.arch.rstrip("0123456789"): run for run in map(load_run, find_runs(folder).values())}
    if set(runs) != {"plain", "resnet"}:
        raise InputError(f"no complete comparison at {folder}; {how_to_get(folder)}")
    if len({run.about["data"]["fingerprint"] for run in runs.values()}) > 1:
        raise InputError(f"the networks at {folder} were trained on two data sets; compare them on one")
    return Comparison(runs["plain"], runs["resnet"])


def load_pretrained(arch: str, suite: str | None = None) -> tuple[nn.Module, Tensor]:
    """Load a recorded network with its trained weights.

    Args:
        arch: the architecture, such as ``"resnet56"``.
        suite: folder in ``data/runs/``; if None, all of them are searched.

    Returns:
        The network, in evaluation mode, and the mean image of its training images, ``(3, 32, 32)``. Where several runs
        of this network kept their weights, those of the longest; of equally long ones, the first by name.

    Raises:
        InputError: if there is none, or it is damaged.

    Example:
        >>> model, mean = load_pretrained("resnet56")
        >>> evaluate(model, data.test, mean)
    """
    run, path = find_pretrained(arch, suite)
    weights = load_file(path / "weights.safetensors")
    mean = weights.pop(MEAN)
    model = build_model(run.arch, run.about["shortcut"] or "A")
    model.load_state_dict(weights)
    return model.eval(), mean


def find_pretrained(arch: str, suite: str | None = None) -> tuple[Run, Path]:
    """Return the run whose weights :func:`load_pretrained` takes, and its folder."""
    arch = "{}{}".format(*parse_arch(arch))
    folder = data_dir() / "runs" / (suite or "")
    paths = [path for path in find_runs(folder).values() if (path / "weights.safetensors").exists()]
    found = [(run, path) for run, path in zip(map(load_run, paths), paths, strict=True) if run.arch == arch]
    if not found:
        raise InputError(f"no trained weights of {arch!r} in {folder}; {how_to_train(arch, folder)}")
    return max(found, key=lambda pair: pair[0].about["steps"])


def how_to_train(arch: str, folder: Path) -> str:
    """Say which command makes weights of ``arch`` in a folder of records, or what does instead."""
    from .suites import SUITES  # imported here: suites record runs

    named = [name for name in SUITES if folder.name.startswith(f"{name}-")]
    for name in named or ("laptop", "paper", "fast"):
        for run, (trained, recipe) in SUITES[name].runs.items():
            if trained == arch and SUITES[name].keep and recipe.seed == 0:
                return how_to_get(folder / run if named else data_dir() / "runs" / name / run)
    return (
        f"no suite keeps them; `resnet56 train --arch {arch}` trains one, and "
        "load_model(load_checkpoint(path)) of resnet56.records.checkpoint loads it"
    )


def how_to_get(path: Path) -> str:
    """Say which step brings a missing or damaged record, whose place in ``data/runs/`` is ``path``."""
    from .suites import SUITES  # imported here: suites record runs

    there = f"move {path} away, and " if path.exists() else ""
    for folder in (path, *path.parents[:2]):
        suite, data, _, steps = re.fullmatch(r"([^-]*)-?(.*?)(-(\d+)-steps)?", folder.name).groups()
        if suite in SUITES:
            flags = f" --data {data}" * bool(data) + f" --iterations {steps}" * bool(steps)
            if path.parent.name == "measurements":
                return f"{there}`resnet56 measure {suite}{flags}` makes it anew"
            flags += f" --only {path.name}" * (path.name in SUITES[suite].runs)
            return f"{there}`resnet56 reproduce {suite}{flags}` makes it{' anew' * bool(there)}"
    match = re.fullmatch(r"compare-(\d+)-([\w-]+)-(\d+)-steps-seed-(\d+)", path.name)
    if match and "exercises" not in path.parts:
        command = "resnet56 compare --depth {} --data {} --steps {} --seed {}".format(*match.groups())
        return f"{there}`{command}` makes it{' anew' * bool(there)}"
    return "bring it back with `git checkout -- PATH` if it is one of the book's, or choose another"


def find_runs(folder: str | Path | None = None) -> dict[str, Path]:
    """Find all recorded runs under ``folder``, as a dict from name to path; what is hidden is left out.

    Args:
        folder: a folder, or the name of one in ``data/runs/``; all of that if None.
    """
    folder = Path(folder) if folder and Path(folder).is_dir() else data_dir() / "runs" / (folder or "")
    paths = [path.parent.relative_to(folder) for path in sorted(folder.rglob("run.json"))]
    return {path.as_posix(): folder / path for path in paths if not any(part.startswith(".") for part in path.parts)}


def runs_table(folder: str | Path | None = None, need: Iterable[str] = ()) -> pd.DataFrame:
    """Load all recorded runs under ``folder``, as for :func:`find_runs`, into a table, a row per run.

    Columns: ``run`` (a :class:`Run`), ``arch``, ``family`` (``plain`` or ``resnet``), ``depth``, ``seed``, ``data``
    (title of the data set), ``fingerprint`` (of the data set), ``steps``, ``train_loss`` (nats) and ``train_error``
    (percent), of the :func:`last_steps`, ``test_error`` (percent), ``seconds`` (of training, by the clock),
    ``processor_seconds`` (of all threads: the cost, whatever else the machine did; not a number where it was not
    recorded), ``hardware``; the index is the name.

    Args:
        folder: as for :func:`find_runs`.
        need: names of runs that must be there.

    Raises:
        InputError: if there is none, one of ``need`` is missing, one is damaged, or a folder holds runs on two data
            sets of one name; the message names it.
    """
    found = find_runs(folder)
    place = Path(folder) if folder and Path(folder).is_dir() else data_dir() / "runs" / (folder or "")
    missing = [name for name in need if name not in found]
    if missing or not found:
        what = ", ".join(missing) or "a run"
        first = place / missing[0] if len(missing) == 1 else place
        make = how_to_get(first) if folder else "`resnet56 reproduce laptop` and `resnet56 compare` make some"
        raise InputError(f"not recorded in {place}: {what}; {make}")
    rows, fingerprints = {}, {}
    for name, path in found.items():
        run = load_run(path)
        about, data = run.about, run.about["data"]
        first = fingerprints.setdefault((path.parent, data["name"]), (data["fingerprint"], name))
        if first[0] != data["fingerprint"]:
            raise InputError(
                f"{first[1]} and {name} in {place} were trained on two data sets called {data['name']} "
                f"({first[0][:8]}, {data['fingerprint'][:8]}); move one of them to another folder"
            )
        family, depth = parse_arch(run.arch)
        rows[name] = {
            "run": run,
            "arch": run.arch,
            "family": family,
            "depth": depth,
            "seed": about["recipe"]["seed"],
            "data": data["title"],
            "fingerprint": data["fingerprint"],
            "steps": about["steps"],
            **last_steps(run.history),
            "test_error": about["final"]["test_error"],
            "seconds": about["seconds"],
            "processor_seconds": about.get("processor_seconds"),
            "hardware": run.hardware,
        }
    return pd.DataFrame.from_dict(rows, orient="index").astype({"processor_seconds": float})


def last_steps(history: pd.DataFrame, steps: int = 50) -> dict[str, float]:
    """Return ``train_loss`` and ``train_error`` of a history, means over the last steps of the run.

    A row of the history is a mean over the steps since the row before, ten or, at the end of an epoch, fewer. It counts
    here as often as steps of it are among the last ones; of a row that only partly is, its mean stands for that part.

    Args:
        history: of a run.
        steps: how many; all, if there are no more.
    """
    ends = history["step"].to_numpy()
    begins = np.maximum(np.concatenate([[0], ends[:-1]]), ends[-1] - steps)
    weights = np.maximum(ends - begins, 0)
    return {name: float(np.average(history[name], weights=weights)) for name in ("train_loss", "train_error")}


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds: a row per network of a table that :func:`runs_table` gave.

    Columns: ``family``, ``depth``, ``seeds`` (how many), and ``train_error``, ``train_error_std``, ``test_error``,
    ``test_error_std`` (percent; the standard deviation is the sample's, not a number for one seed).

    Raises:
        InputError: if runs are of two data sets, or those of a network differ in more than their seeds.
    """
    sets = runs.drop_duplicates("fingerprint")
    if len(sets) > 1:
        listed = ", ".join(f"{row['data']} ({row['fingerprint'][:8]})" for _, row in sets.iterrows())
        raise InputError(f"these runs are of {len(sets)} data sets: {listed}; summarise those of one")
    groups = runs.groupby(["family", "depth"])
    for _, group in groups:
        kinds = {json.dumps(_kind(run), sort_keys=True) for run in group["run"]}
        if len(kinds) > 1 or group["seed"].duplicated().any():
            what = "are of several recipes" if len(kinds) > 1 else "have one seed"
            raise InputError(
                f"{', '.join(group.index)} {what}, so a mean would mix them up; summarise one recipe's seeds"
            )
    table = groups.agg(
        seeds=("seed", "count"),
        train_error=("train_error", "mean"),
        train_error_std=("train_error", "std"),
        test_error=("test_error", "mean"),
        test_error_std=("test_error", "std"),
    )
    return table.reset_index()


def _kind(run: Run) -> list:
    """Return what runs have in common that differ only in their seed, and in what their hardware computes in."""
    recipe = {key: value for key, value in run.about["recipe"].items() if key not in ("seed", "precision")}
    return [run.about["steps"], run.about["shortcut"], run.about["data"]["validation_images"], recipe]


def _load_gradients(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        steps, layers = arrays["steps"], arrays["layers"]
        return pd.DataFrame(
            {
                "step": np.repeat(steps, len(layers)),
                "depth": np.tile(np.arange(1, len(layers) + 1), len(steps)),
                "layer": np.tile(layers, len(steps)),
                "stage": np.tile(arrays["stages"], len(steps)),
                **{name: arrays[name].ravel() for name in arrays if name not in ("steps", "layers", "stages")},
            }
        )


def sha256(path: Path) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits; of text, whatever line ends it was checked out with."""
    content = path.read_bytes()
    if path.suffix in (".csv", ".json"):
        content = content.replace(b"\r\n", b"\n")
    return hashlib.sha256(content).hexdigest()


def checksum(about: dict) -> str:
    """Return the sha256 of everything in ``about`` but its own ``checksum``."""
    rest = {key: value for key, value in about.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def seal(path: Path, about: dict) -> None:
    """Write ``about`` as JSON, with the checksums of itself and of all files beside it."""
    about = {**about, "files": {file.name: sha256(file) for file in sorted(path.parent.iterdir())}}
    about = json.loads(json.dumps(about))  # what it will be when loaded: a number as a key becomes a string
    about["checksum"] = checksum(about)
    path.write_text(json.dumps(about, indent=2) + "\n")


def unseal(path: Path, what: str) -> dict:
    """Read what :func:`seal` wrote, and check every file.

    Args:
        path: of the JSON.
        what: it is, for messages.

    Raises:
        InputError: if a file is missing or damaged.
    """
    folder = path.parent
    if not folder.exists():
        raise InputError(f"no {what} at {folder}; {how_to_get(folder)}")
    try:
        about = json.loads(path.read_text())
        damaged = [path.name] * (about["checksum"] != checksum(about))
        damaged += [name for name, digest in about["files"].items() if sha256(folder / name) != digest]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{what} {folder.name} cannot be read ({error}); {how_to_get(folder)}") from error
    if damaged:
        raise InputError(f"{what} {folder.name}: {damaged[0]} is damaged (its checksum differs); {how_to_get(folder)}")
    if about.get("commit", UNKNOWN) is None:  # as it was written once
        about["commit"] = UNKNOWN
    return about


@functools.cache
def commit() -> str:
    """Return the commit of the checkout this package runs from, ``+changes`` if it was edited.

    Without a checkout, or without git, it is "unknown".
    """
    here = Path(__file__).resolve().parent
    if not (here.parent.parent / ".git").exists():
        return UNKNOWN

    def git(*arguments: str) -> str:
        command = ["git", "-c", "safe.directory=*", "-C", here, *arguments]  # whoever the checkout belongs to
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", here.parent) else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
