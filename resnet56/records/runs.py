"""Recorded runs: what was trained, how, on what, where, and what came of it.

A run is a folder with ``run.json`` (everything about it), ``history.csv`` (losses and errors by step) and, where
gradients were recorded, ``gradients.npz`` (``steps`` (T,), ``layers`` (L,), ``stages`` (L,), and one (T, L) for each
quantity, such as ``gradient_norm``). Of some the trained network is kept, in ``weights.safetensors``.
"""

import copy
import dataclasses
import functools
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
from .store import UNKNOWN, how_to_get, place, seal, unsealed

MEAN = "mean image"  # its name beside the weights


@dataclass(frozen=True)
class Run:
    """A recorded run."""

    about: dict  #: what ``run.json`` says
    history: pd.DataFrame  #: losses and errors by step, the columns of :class:`resnet56.train.Trainer`
    #: By step and layer, the columns of :meth:`resnet56.gradients.GradientRecorder.table`; None if not recorded.
    gradients: pd.DataFrame | None = None

    @property
    def arch(self) -> str:
        """The architecture, such as ``"resnet56"``."""
        return self.about["arch"]

    @property
    def hardware(self) -> str:
        """What it was trained on, in words; of a run that went on elsewhere, one after the other."""
        parts = [part["hardware"] or {"name": "hardware not recorded"} for part in self.about.get("parts", [])]
        return ", then ".join(dict.fromkeys(part["name"] for part in parts or [self.about["hardware"]]))

    @property
    def identity(self) -> dict:
        """What :func:`identity` gives for this run."""
        about, data = self.about, self.about["data"]
        return identity(self.arch, about["shortcut"], data["fingerprint"], data["validation_images"], about["recipe"])

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


def identity(arch: str, shortcut: str | None, fingerprint: str, validation: int, recipe: dict) -> dict:
    """Return what tells a run from others, by name: its recipe, network, data set and number of images held out."""
    settings = {"arch": arch, "shortcut": shortcut if arch.startswith("resnet") else None}
    settings |= {"sha256": fingerprint[:8], "validation_images": validation}
    return recipe | {"milestones": list(recipe["milestones"])} | settings


def differences(there: dict, here: dict) -> str:
    """Say which values ``here`` are others ``there``; nothing if none is."""
    return "; ".join(
        f"{key} is {there.get(key)} there, {here[key]} here" for key in here if there.get(key) != here[key]
    )


def circumstances(data: DataSet, device: torch.device) -> dict:
    """Return what a record says of its data set, and of when, where and by which code it was made."""
    return {
        "data": {"name": data.name, "title": data.title, "fingerprint": data.fingerprint},
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
    }


def describe_run(trainer: Trainer, *, arch: str, shortcut: str, data: DataSet, validation: int, test: Score) -> dict:
    """Collect what ``run.json`` holds of a finished run, with ``validation`` training images held out."""
    about, last = circumstances(data, trainer.device), trainer.history[-1]
    about["data"]["training_images"] = len(data.train) - validation
    about["data"] |= {"validation_images": validation, "test_images": len(data.test)}
    final = {key: last[key] for key in ("train_loss", "train_error")}
    times = [part["processor_seconds"] for part in trainer.parts]  # None before that was measured
    return {
        "arch": arch,
        "shortcut": shortcut if arch.startswith("resnet") else None,
        "parameters": count_parameters(trainer.model),
        "recipe": dataclasses.asdict(trainer.recipe),
        "steps": trainer.step,
        "final": final | {"test_loss": test.loss, "test_error": test.error},
        "how": trainer.how,
        "seconds": round(trainer.seconds, 1),
        "processor_seconds": None if None in times else round(sum(times), 1),
        "parts": trainer.parts,
        **about,
    }


def save_run(folder: Path, run: Run, trainer: Trainer | None = None) -> None:
    """Write a run into an empty ``folder``; use :func:`resnet56.records.files.new_folder` to make that atomic.

    If its trainer is given, the network is kept too, with the mean image that it was trained with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run.history.to_csv(folder / "history.csv", index=False, float_format="%.6g")
    if run.gradients is not None:
        steps, layers = run.gradients["step"].unique(), run.gradients.drop_duplicates("depth")
        arrays = {f"{name}s": layers[name].to_numpy(dtype=str) for name in ("layer", "stage")}
        for name in run.gradients.columns.drop(["step", "depth", "layer", "stage"]):
            arrays[name] = run.gradients[name].to_numpy(dtype=np.float32).reshape(len(steps), len(layers))
        np.savez_compressed(folder / "gradients.npz", steps=steps, **arrays)
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
    """Load a recorded run, by its folder or by that folder's name in ``data/runs/``.

    If there is none, or one of its files is damaged or missing, that is an ``InputError``.
    """
    with unsealed(folder, "run.json", "recorded run") as (folder, about):
        history, gradients = pd.read_csv(folder / "history.csv"), None
        if "gradients.npz" in about["files"]:
            with np.load(folder / "gradients.npz", allow_pickle=False) as file:
                arrays = dict(file)
            steps, layers, stages = (arrays.pop(name) for name in ("steps", "layers", "stages"))
            gradients = pd.DataFrame({"step": np.repeat(steps, len(layers))})
            gradients["depth"] = np.tile(np.arange(1, len(layers) + 1), len(steps))
            gradients["layer"], gradients["stage"] = np.tile(layers, len(steps)), np.tile(stages, len(steps))
            for name, values in arrays.items():
                gradients[name] = values.ravel()
        return Run(about, history, gradients)


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
    folder = place(name)
    runs = {run.arch.rstrip("0123456789"): run for run in map(load_run, find_runs(folder).values())}
    if set(runs) != {"plain", "resnet"}:
        raise InputError(f"no complete comparison at {folder}; {how_to_get(folder)}")
    if len({run.about["data"]["fingerprint"] for run in runs.values()}) > 1:
        raise InputError(f"the networks at {folder} were trained on two data sets; compare them on one")
    return Comparison(runs["plain"], runs["resnet"])


def load_pretrained(arch: str, suite: str | None = None) -> tuple[nn.Module, Tensor]:
    """Load a recorded network with its trained weights, from the folder ``suite`` in ``data/runs/`` or from anywhere.

    Returns:
        The network, in evaluation mode, and the mean image of its training images, ``(3, 32, 32)``. Where several runs
        of this network kept their weights, those of the longest; of equally long ones, the first by name. If there is
        none, or it is damaged, that is an ``InputError``.
    """
    run, path = find_pretrained(arch, suite)
    weights = load_file(path / "weights.safetensors")
    mean = weights.pop(MEAN)
    model = build_model(run.arch, run.about["shortcut"] or "A")
    model.load_state_dict(weights)
    return model.eval(), mean


def find_pretrained(arch: str, suite: str | None = None) -> tuple[Run, Path]:
    """Return the run whose weights :func:`load_pretrained` takes, and its folder."""
    from .suites import SUITES  # imported here: suites record runs

    arch = "{}{}".format(*parse_arch(arch))
    folder = place(suite)
    paths = [path for path in find_runs(folder).values() if (path / "weights.safetensors").exists()]
    found = [(run, path) for run, path in zip(map(load_run, paths), paths, strict=True) if run.arch == arch]
    if found:
        return max(found, key=lambda pair: pair[0].about["steps"])
    name, run = folder.name.split("-")[0], f"{arch}-seed-0"  # whose weights suites keep
    places = {name: folder} if name in SUITES else {name: place() / name for name in ("laptop", "paper", "fast")}
    kept = [where / run for name, where in places.items() if run in SUITES[name].runs]
    step = (
        how_to_get(kept[0])
        if kept
        else (
            f"no suite keeps them; `resnet56 train --arch {arch}` trains one, and "
            "load_model(load_checkpoint(path)) of resnet56.records.checkpoint loads it"
        )
    )
    raise InputError(f"no trained weights of {arch!r} in {folder}; {step}")


def find_runs(folder: str | Path | None = None) -> dict[str, Path]:
    """Find all recorded runs under ``folder``, as a dict from name to path; what is hidden is left out.

    It may be the name of a folder in ``data/runs/``; all of that if None.
    """
    folder = place(folder)
    paths = [path.parent.relative_to(folder) for path in sorted(folder.rglob("run.json"))]
    return {path.as_posix(): folder / path for path in paths if not any(part.startswith(".") for part in path.parts)}


def runs_table(folder: str | Path | None = None, need: Iterable[str] = ()) -> pd.DataFrame:
    """Load all recorded runs under ``folder``, as for :func:`find_runs`, into a table, a row per run.

    Columns: ``run`` (a :class:`Run`), ``arch``, ``family`` (``plain`` or ``resnet``), ``depth``, ``seed``, ``data``
    (title of the data set), ``fingerprint`` (of the data set), ``steps``, ``train_loss`` (nats) and ``train_error``
    (percent), of the :func:`last_steps`, ``test_error`` (percent), ``seconds`` (of training, by the clock),
    ``processor_seconds`` (of all threads: the cost, whatever else the machine did; not a number where it was not
    recorded), ``hardware``; the index is the name.

    Raises:
        InputError: if there is none, one that ``need`` names is missing, one is damaged, or a folder holds runs on two
            data sets of one name.
    """
    found, where = find_runs(folder), place(folder)
    missing = [name for name in need if name not in found]
    if missing or not found:
        first = where / missing[0] if len(missing) == 1 else where
        make = how_to_get(first) if folder else "`resnet56 reproduce laptop` and `resnet56 compare` make some"
        raise InputError(f"not recorded in {where}: {', '.join(missing) or 'a run'}; {make}")
    rows, fingerprints = {}, {}
    for name, path in found.items():
        run = load_run(path)
        about, data = run.about, run.about["data"]
        first = fingerprints.setdefault((path.parent, data["name"]), (data["fingerprint"], name))
        if first[0] != data["fingerprint"]:
            raise InputError(
                f"{first[1]} and {name} in {where} were trained on two data sets called {data['name']} "
                f"({first[0][:8]}, {data['fingerprint'][:8]}); move one of them to another folder"
            )
        family, depth = parse_arch(run.arch)
        row = {"run": run, "arch": run.arch, "family": family, "depth": depth, "seed": about["recipe"]["seed"]}
        row |= {"data": data["title"], "fingerprint": data["fingerprint"], "steps": about["steps"]}
        row |= last_steps(run.history) | {"test_error": about["final"]["test_error"], "seconds": about["seconds"]}
        rows[name] = row | {"processor_seconds": about.get("processor_seconds"), "hardware": run.hardware}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"processor_seconds": float})


def last_steps(history: pd.DataFrame, steps: int = 50) -> dict[str, float]:
    """Return ``train_loss`` and ``train_error`` of a history, means over the last steps of the run, or over all.

    A row of the history is a mean over the steps since the row before, ten or, at the end of an epoch, fewer. It counts
    here as often as steps of it are among the last ones; of a row that only partly is, its mean stands for that part.
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
        InputError: if runs are of two data sets, or those of a network differ in more than their seeds and precisions.
    """
    sets = runs.drop_duplicates("fingerprint")
    if len(sets) > 1:
        listed = ", ".join(f"{row['data']} ({row['fingerprint'][:8]})" for _, row in sets.iterrows())
        raise InputError(f"these runs are of {len(sets)} data sets: {listed}; summarise those of one")
    groups = runs.groupby(["family", "depth"])
    for _, group in groups:
        kinds = [run.identity | {"seed": 0, "precision": "", "steps": run.about["steps"]} for run in group["run"]]
        several = any(kind != kinds[0] for kind in kinds)
        if several or group["seed"].duplicated().any():
            what = "are of several recipes" if several else "have one seed"
            raise InputError(
                f"{', '.join(group.index)} {what}, so a mean would mix them up; summarise one recipe's seeds"
            )
    table = groups.agg(seeds=("seed", "count"))
    for name in ("train_error", "test_error"):
        table[name], table[f"{name}_std"] = groups[name].mean(), groups[name].std()
    return table.reset_index()


@functools.cache
def commit() -> str:
    """Return the commit of the checkout this package runs from, ``+changes`` if it was edited; "unknown" without."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return UNKNOWN
    command = ["git", "-c", "safe.directory=*", "-C", package]  # whoever the checkout belongs to
    command += ["status", "--porcelain=2", "--branch", "--", package]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return lines[0].removeprefix("# branch.oid ") + "+changes" * any(not line.startswith("#") for line in lines)
