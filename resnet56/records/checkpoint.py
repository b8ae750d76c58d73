"""Checkpoints: a run, saved whole so that it can go on exactly where it stopped."""

import dataclasses
import io
import itertools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from ..devices import versions
from ..errors import InputError
from ..model import build_model
from ..recipe import Recipe
from ..train import Trainer
from .files import write_file
from .runs import load_run

FORMAT = "resnet56 checkpoint 3"
BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # what contents of the wrong kind raise


@dataclass(frozen=True)
class Checkpoint:
    """What is trained on what, and the file that the run is saved to.

    Attributes:
        path: the file.
        arch: the architecture, as for ``build_model``.
        shortcut: the shortcut option.
        data: name of the data set, as for ``load_data``.
        fingerprint: the data set's.
        validation: how many training images are held out.
        extended: the steps at which the run was finished, and then made longer (see :func:`extend`).
    """

    path: Path
    arch: str
    shortcut: str
    data: str
    fingerprint: str
    validation: int
    extended: tuple[int, ...] = ()

    def about(self) -> dict:
        """Return everything but the path."""
        about = dataclasses.asdict(self)
        del about["path"]
        return about

    def save(self, trainer: Trainer) -> None:
        """Save the run, whole or not at all; the previous checkpoint stays until the new one is complete.

        Raises:
            InputError: if the file cannot be written.
        """
        content = {
            "format": FORMAT,
            **self.about(),
            "recipe": dataclasses.asdict(trainer.recipe),
            "mean": trainer.batches.mean,
            "versions": versions(),
            "trainer": trainer.state_dict(),
        }
        buffer = io.BytesIO()  # torch.save reports a full disk in an error of its own; a plain write does not
        torch.save(content, buffer)
        write_file(self.path, lambda file: file.write(buffer.getbuffer()))


def read_tensors(path: str | Path) -> dict:
    """Read a file of ``torch.save`` or safetensors, onto the CPU, without running any code stored in it.

    Raises:
        InputError: if the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}" + "; that is a folder, give a file in it" * path.is_dir())
    try:
        with open(path, "rb") as file:
            safe = file.read(9)[8:] == b"{"  # as safetensors begin
        with warnings.catch_warnings(action="ignore"):
            content = safetensors.torch.load_file(path) if safe else torch.load(path, "cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; ask its owner, or copy it") from error
    except Exception as error:  # a damaged file can raise nearly anything
        code = "GLOBAL" in str(error)  # torch names the class or function that it did not call
        why = ": it holds Python objects, which are not loaded; save its state_dict() alone" if code else ""
        raise InputError(f"{path} is damaged or not a checkpoint{why or '; give another one'}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint; save a model's state_dict()")
    return content


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint, onto the CPU, without running any code stored in it.

    Returns:
        The dict that :meth:`Checkpoint.save` wrote.

    Raises:
        InputError: if the file is missing, damaged or not a checkpoint of this package.
    """
    content = read_tensors(path)
    if content.get("format") != FORMAT:
        theirs = str(content.get("format"))
        if theirs.startswith("resnet56 checkpoint"):
            raise InputError(
                f"{path} is a {theirs}, of another edition of this package, which reads {FORMAT!r}; use that"
            )
        raise InputError(
            f"{path} is not a checkpoint made by `resnet56 train`, which alone can go on; "
            "to use weights of others: resnet56 evaluate, inspect or predict"
        )
    content.setdefault("extended", ())
    try:
        state = content["trainer"]
        if "parts" not in state:  # made before a run's hardware was recorded
            parts = {
                "hardware": None,
                "steps": state["step"],
                "seconds": state.pop("seconds"),
                "processor_seconds": None,
            }
            state["parts"] = [parts]
        Recipe(**content["recipe"])
        load_model(content)
        content["mean"].view(3, 32, 32)
        missing = {field.name for field in dataclasses.fields(Checkpoint)} - {"path"} - content.keys()
        if missing:
            raise KeyError(*missing)
    except BROKEN as error:
        raise _damaged(path, error) from error
    return content


def _damaged(path: str | Path, error: Exception) -> InputError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return InputError(f"{path} is damaged ({why[:200]}); train again, or give an intact copy")


def load_model(content: dict) -> nn.Module:
    """Build the network a checkpoint holds, with its weights, on the CPU, in evaluation mode."""
    model = build_model(content["arch"], content["shortcut"])
    model.load_state_dict(content["trainer"]["model"])
    return model.eval()


def resume(trainer: Trainer, checkpoint: Checkpoint, recipe: Recipe | None = None) -> None:
    """Put ``trainer`` where the run saved in ``checkpoint.path`` stopped.

    Args:
        trainer: of the same network and data.
        checkpoint: what should be in the file.
        recipe: what it should have been trained with; if None, the trainer's.

    Raises:
        InputError: if the file is not a checkpoint, or is one of another network, data set or recipe; the
            message names each difference.
    """
    content = load_checkpoint(checkpoint.path)
    here = {**checkpoint.about(), **dataclasses.asdict(recipe or trainer.recipe)}
    there = {**{key: content[key] for key in checkpoint.about()}, **content["recipe"]}
    differences = [f"{key} is {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
    if differences:
        raise InputError(
            f"{checkpoint.path} is of another run: {'; '.join(differences)}; go on as it was begun, or move it away"
        )
    try:
        trainer.load_state_dict(content["trainer"])
    except BROKEN as error:
        raise _damaged(checkpoint.path, error) from error


def extend(recipe: Recipe, longer: Recipe, images: int) -> Recipe:
    """Return the recipe of a finished run that is made longer: its learning rate stays the last of its step schedule.

    Milestones are fractions of a run; the new ones are the same steps as before. So a run that was extended has taken
    the very steps of one that had this recipe from the beginning.

    Args:
        recipe: of the finished run.
        longer: the same with the new length.
        images: how many it trains on.

    Raises:
        InputError: if the schedule ends at zero, or the new length is no longer than the old one.
    """
    before, after = recipe.total_steps(images), longer.total_steps(images)
    if recipe.schedule == "one-cycle":
        raise InputError(
            "a one-cycle run ends at a learning rate of zero and cannot be extended; train a longer one from the start"
        )
    if after <= before:
        raise InputError(f"the run has taken {before:,} steps already, and {after:,} are no more; ask for a longer run")
    return dataclasses.replace(longer, milestones=tuple(m * before / after for m in recipe.milestones))


def find_record(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> Path | None:
    """Return the record of this very run, among ``path``, ``path-2``, ...; None if there is none."""
    shortcut = checkpoint.shortcut if checkpoint.arch.startswith("resnet") else None
    here = [checkpoint.arch, shortcut, checkpoint.fingerprint, checkpoint.validation, dataclasses.asdict(recipe)]
    here = json.loads(json.dumps(here))  # as a record has it
    for number in itertools.count(1):
        record = path.with_name(path.name + f"-{number}" * (number > 1))
        if not record.exists():
            break
        about = load_run(record).about
        data = about["data"]
        if [about["arch"], about["shortcut"], data["fingerprint"], data["validation_images"], about["recipe"]] == here:
            return record
    return None
