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
import subprocess
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
        recipe, hardware = self.about["recipe"], self.about["hardware"]
        return (
            f"{self.about['data']['title']}, {self.about['steps']:,} steps of {recipe['batch_size']} images, "
            f"seed {recipe['seed']}, {recipe['precision']} on {hardware['name']}"
        )


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
    about = {**about, "files": {path.name: sha256(path) for path in sorted(folder.iterdir())}}
    about["checksum"] = checksum(about)
    (folder / "run.json").write_text(json.dumps(about, indent=2) + "\n")


@torch.no_grad()
def reference_logits(model: nn.Module, mean: Tensor) -> Tensor:
    """Return the logits of the first four test images of ``shapes10``, ``(4, 10)``: do weights and model code still agree?"""
    pixels, _ = shapes10.draw(4, seed=1)
    return model.eval()(normalise(torch.from_numpy(pixels), mean))


def load_run(folder: str | Path) -> Run:
    """Load a recorded run.

    Raises:
        InputError: if there is none in ``folder``, or one of its files is damaged or missing.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "run.json").read_text())
        if about["checksum"] != checksum(about):
            raise InputError(f"recorded run {folder.name}: run.json is damaged (its checksum differs); get it again")
        for name, digest in about["files"].items():
            if sha256(folder / name) != digest:
                raise InputError(f"recorded run {folder.name}: {name} is damaged (its checksum differs); get it again")
        history = pd.read_csv(folder / "history.csv")
        gradients = _load_gradients(folder / "gradients.npz") if "gradients.npz" in about["files"] else None
        return Run(about, history, gradients)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"recorded run {folder.name} cannot be read ({error}); get it again") from error


def load_pretrained(arch: str, suite: str | None = None) -> tuple[nn.Module, Tensor]:
    """Load a recorded network with its trained weights.

    Args:
        arch: the architecture, such as ``"resnet56"``.
        suite: folder in ``data/runs/``; if None, the one of the longest run of this network.

    Returns:
        The network, in evaluation mode, and the mean image of its training images, ``(3, 32, 32)``.

    Raises:
        InputError: if there is none, or it is damaged.

    Example:
        >>> model, mean = load_pretrained("resnet56")
        >>> evaluate(model, data.test, mean)
    """
    folder = data_dir() / "runs" / (suite or "")
    found = [(load_run(path.parent), path) for path in sorted(folder.rglob("weights.safetensors"))]
    found = [(run, path) for run, path in found if run.arch == arch]
    if not found:
        raise InputError(f"no trained weights of {arch!r} in {folder}; `resnet56 reproduce` makes them")
    run, path = max(found, key=lambda pair: pair[0].about["steps"])
    weights = load_file(path)
    mean = weights.pop(MEAN)
    model = build_model(arch, run.about["shortcut"] or "A")
    model.load_state_dict(weights)
    return model.eval(), mean


def runs_table(folder: str | Path | None = None) -> pd.DataFrame:
    """Load all recorded runs under ``folder``, as for :func:`find_runs`, into a table, a row per run.

    Columns: ``run`` (a :class:`Run`), ``arch``, ``family`` (``plain`` or ``resnet``), ``depth``, ``seed``, ``data``
    (title of the data set), ``steps``, ``train_loss`` (nats) and ``train_error`` (percent), means of the last five rows of
    the history (of up to 50 steps), ``test_error`` (percent), ``seconds`` (of training), ``hardware``; the index is the name.

    Raises:
        InputError: if one is damaged; the message names it.
    """
    rows = {}
    for name, path in find_runs(folder).items():
        run = load_run(path)
        family, depth = parse_arch(run.arch)
        last = run.history.tail(5)
        rows[name] = {
            "run": run,
            "arch": run.arch,
            "family": family,
            "depth": depth,
            "seed": run.about["recipe"]["seed"],
            "data": run.about["data"]["title"],
            "steps": run.about["steps"],
            "train_loss": last["train_loss"].mean(),
            "train_error": last["train_error"].mean(),
            "test_error": run.about["final"]["test_error"],
            "seconds": run.about["seconds"],
            "hardware": run.about["hardware"]["name"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds: a row per network of a table that :func:`runs_table` gave.

    Columns: ``family``, ``depth``, ``seeds`` (how many), and ``train_error``, ``train_error_std``, ``test_error``,
    ``test_error_std`` (percent; the standard deviation is the sample's, not a number for one seed).
    """
    groups = runs.groupby(["family", "depth"])
    table = groups.agg(
        seeds=("seed", "count"),
        train_error=("train_error", "mean"),
        train_error_std=("train_error", "std"),
        test_error=("test_error", "mean"),
        test_error_std=("test_error", "std"),
    )
    return table.reset_index()


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


def find_runs(folder: str | Path | None = None) -> dict[str, Path]:
    """Find all recorded runs under ``folder``, as a dict from name to path.

    Args:
        folder: a folder, or the name of one in ``data/runs/``; all of that if None.
    """
    folder = Path(folder) if folder and Path(folder).is_dir() else data_dir() / "runs" / (folder or "")
    return {path.parent.relative_to(folder).as_posix(): path.parent for path in sorted(folder.rglob("run.json"))}


def sha256(path: Path) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checksum(about: dict) -> str:
    """Return the sha256 of everything in ``about`` but its own ``checksum``."""
    rest = {key: value for key, value in about.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout this package runs from, ``+changes`` if it was edited; None outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", here) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
