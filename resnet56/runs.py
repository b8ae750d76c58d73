"""Recorded runs: what was trained, how, on what, where, and what came of it.

A run is a folder with ``run.json`` (everything about it), ``history.csv`` (losses and errors by step) and,
where gradients were recorded, ``gradients.npz`` (arrays named ``steps`` (T,), ``layers`` (L,), ``stages`` (L,),
``gradient_norm`` and ``weight_norm``, both (T, L)). No pickle anywhere.
"""

import dataclasses
import hashlib
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from .data import DataSet
from .devices import hardware, versions
from .errors import InputError
from .files import data_dir
from .model import count_parameters
from .train import Score, Trainer

NORMS = ("gradient_norm", "weight_norm")


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        about: what ``run.json`` says, a dict.
        history: losses and errors by step, the columns of :class:`resnet56.train.Trainer`.
        gradients: norms by step and layer, the columns of
            :meth:`resnet56.hooks.GradientRecorder.table`; None where they were not recorded.
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


def describe_run(
    trainer: Trainer, *, arch: str, shortcut: str, data: DataSet, validation: int, test: Score
) -> dict:
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
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(trainer.device),
        "versions": versions(),
        "commit": commit(),
    }


def save_run(folder: Path, run: Run) -> None:
    """Write a run into an empty ``folder``; use :func:`resnet56.files.new_folder` to make that atomic."""
    folder.mkdir(parents=True, exist_ok=True)
    run.history.to_csv(folder / "history.csv", index=False, float_format="%.6g")
    if run.gradients is not None:
        layers = run.gradients.drop_duplicates("depth")
        arrays = {name: run.gradients.pivot(index="step", columns="depth", values=name) for name in NORMS}
        np.savez_compressed(
            folder / "gradients.npz",
            steps=arrays[NORMS[0]].index.to_numpy(),
            layers=layers["layer"].to_numpy(dtype=str),
            stages=layers["stage"].to_numpy(dtype=str),
            **{name: array.to_numpy(dtype=np.float32) for name, array in arrays.items()},
        )
    about = {**run.about, "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())}}
    about["checksum"] = _checksum(about)
    (folder / "run.json").write_text(json.dumps(about, indent=2) + "\n")


def load_run(folder: str | Path) -> Run:
    """Load a recorded run.

    Raises:
        InputError: if there is none in ``folder``, or one of its files is damaged or missing.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "run.json").read_text())
        if about["checksum"] != _checksum(about):
            raise InputError(f"recorded run {folder.name}: run.json is damaged (its checksum differs); get it again")
        for name, digest in about["files"].items():
            if _sha256(folder / name) != digest:
                raise InputError(f"recorded run {folder.name}: {name} is damaged (its checksum differs); get it again")
        history = pd.read_csv(folder / "history.csv")
        gradients = _load_gradients(folder / "gradients.npz") if "gradients.npz" in about["files"] else None
        return Run(about, history, gradients)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"recorded run {folder.name} cannot be read ({error}); get it again") from error


def _load_gradients(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        steps, layers = arrays["steps"], arrays["layers"]
        return pd.DataFrame(
            {
                "step": np.repeat(steps, len(layers)),
                "depth": np.tile(np.arange(1, len(layers) + 1), len(steps)),
                "layer": np.tile(layers, len(steps)),
                "stage": np.tile(arrays["stages"], len(steps)),
                **{name: arrays[name].ravel() for name in NORMS},
            }
        )


def find_runs(folder: str | Path | None = None) -> dict[str, Path]:
    """Find all recorded runs under ``folder`` (``data/runs/`` if None), as a dict from name to path."""
    folder = Path(folder) if folder else data_dir() / "runs"
    return {path.parent.relative_to(folder).as_posix(): path.parent for path in sorted(folder.rglob("run.json"))}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checksum(about: dict) -> str:
    """Return the sha256 of everything in ``about`` but its own ``checksum``."""
    rest = {key: value for key, value in about.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def commit() -> str | None:
    """Return the commit of the checkout this package runs from, ``+changes`` if it was edited; None outside one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", here) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
