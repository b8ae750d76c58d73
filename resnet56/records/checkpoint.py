"""Checkpoints: a run, saved whole so that it can go on exactly where it stopped."""

import dataclasses
import io
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
from .runs import differences, identity, load_run

FORMAT = "resnet56 checkpoint 3"
BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError)  # what contents of the wrong kind raise


@dataclass(frozen=True)
class Checkpoint:
    """What is trained on what, and the file that the run is saved to."""

    path: Path
    arch: str  #: as for :func:`resnet56.model.build_model`, and the shortcut option
    shortcut: str
    data: str  #: name of the data set, and its fingerprint
    fingerprint: str
    validation: int  #: how many training images are held out
    extended: tuple[int, ...] = ()  #: the steps at which the run was finished, and then made longer by :func:`extend`

    def about(self) -> dict:
        """Return everything but the path."""
        return {key: value for key, value in vars(self).items() if key != "path"}

    def save(self, trainer: Trainer) -> None:
        """Save the run, whole or not at all: the previous checkpoint stays until the new one is complete."""
        content = {"format": FORMAT, **self.about(), "recipe": dataclasses.asdict(trainer.recipe)}
        content |= {"mean": trainer.batches.mean, "versions": versions(), "trainer": trainer.state_dict()}
        buffer = io.BytesIO()  # torch.save reports a full disk in an error of its own; a plain write does not
        torch.save(content, buffer)
        write_file(self.path, lambda file: file.write(buffer.getbuffer()))


def read_tensors(path: str | Path) -> dict:
    """Read a file of ``torch.save`` or safetensors, onto the CPU, without running any code stored in it."""
    path = Path(path)
    if not path.is_file():
        step = "that is a folder, give a file in it" if path.is_dir() else "give the path that `resnet56 train` printed"
        raise InputError(f"no checkpoint at {path}; {step}")
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
    """Read what :meth:`Checkpoint.save` wrote, onto the CPU, without running any code stored in it.

    If the file is missing, damaged or not a checkpoint of this package, that is an ``InputError``.
    """
    content = read_tensors(path)
    theirs = str(content.get("format"))
    if theirs != FORMAT and theirs.startswith("resnet56 checkpoint"):
        raise InputError(f"{path} is a {theirs}, of another edition of this package, which reads {FORMAT!r}; use that")
    if theirs != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint made by `resnet56 train`, which alone can go on; "
            "to use weights of others: resnet56 evaluate, inspect or predict"
        )
    content.setdefault("extended", ())
    try:
        state = content["trainer"]
        if "parts" not in state:  # made before a run's hardware was recorded
            part = dict(hardware=None, steps=state["step"], seconds=state.pop("seconds"), processor_seconds=None)
            state["parts"] = [part]
        Recipe(**content["recipe"])
        load_model(content)
        content["mean"].view(3, 32, 32)
        Checkpoint(path, **{field.name: content[field.name] for field in dataclasses.fields(Checkpoint)[1:]})
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
    """Put ``trainer`` where the run saved in ``checkpoint.path`` stopped, whose recipe is its own or ``recipe``.

    If the file is one of another network, data set or recipe, that is an ``InputError`` which names each difference.
    """
    content = load_checkpoint(checkpoint.path)
    here = checkpoint.about() | dataclasses.asdict(recipe or trainer.recipe)
    if found := differences(content | content["recipe"], here):
        raise InputError(f"{checkpoint.path} is of another run: {found}; go on as it was begun, or move it away")
    try:
        trainer.load_state_dict(content["trainer"])
    except BROKEN as error:
        raise _damaged(checkpoint.path, error) from error


def extend(recipe: Recipe, longer: Recipe, images: int) -> Recipe:
    """Return the recipe of a finished run that is made longer: its learning rate stays the last of its step schedule.

    Milestones are fractions of a run; the new ones are the same steps as before. So a run that was extended has taken
    the very steps of one that had this recipe from the beginning. ``longer`` is ``recipe`` with the new length; if that
    is none, or the schedule ends at zero, that is an ``InputError``.
    """
    before, after = recipe.total_steps(images), longer.total_steps(images)
    if recipe.schedule == "one-cycle":
        raise InputError(
            "a one-cycle run ends at a learning rate of zero and cannot be extended; train a longer one from the start"
        )
    if after <= before:
        raise InputError(f"the run has taken {before:,} steps already, and {after:,} are no more; ask for a longer run")
    return dataclasses.replace(longer, milestones=tuple(m * before / after for m in recipe.milestones))


def find_record(path: Path, checkpoint: Checkpoint, recipe: Recipe) -> Path:
    """Return the record of this very run among ``path``, ``path-2``, ...; if none is, the first of them not there."""
    here = identity(checkpoint.arch, checkpoint.shortcut, checkpoint.fingerprint, checkpoint.validation, vars(recipe))
    record, number = path, 1
    while record.exists() and differences(load_run(record).identity, here):
        number += 1
        record = path.with_name(f"{path.name}-{number}")
    return record
