"""Checkpoints: a run, saved whole so that it can go on exactly where it stopped."""

import dataclasses
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..devices import versions
from ..errors import InputError
from ..model import build_model
from ..train import Trainer
from .files import write_file

FORMAT = "resnet56 checkpoint 3"


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
    """

    path: Path
    arch: str
    shortcut: str
    data: str
    fingerprint: str
    validation: int

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


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint, onto the CPU, without running any code stored in it.

    Returns:
        The dict that :meth:`Checkpoint.save` wrote.

    Raises:
        InputError: if the file is missing, damaged or not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(f"{path} is damaged or not a checkpoint; delete it, or give another one") from error
    expected = {field.name for field in dataclasses.fields(Checkpoint)} - {"path"} | {"recipe", "mean", "trainer"}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not expected <= content.keys():
        raise InputError(f"{path} is not a checkpoint made by `resnet56 train`; give one that is")
    state = content["trainer"]
    if "parts" not in state:  # made before a run's hardware was recorded
        state["parts"] = [
            {"hardware": None, "steps": state["step"], "seconds": state.pop("seconds"), "processor_seconds": None}
        ]
    return content


def load_model(content: dict) -> nn.Module:
    """Build the network a checkpoint holds, with its weights, on the CPU, in evaluation mode."""
    model = build_model(content["arch"], content["shortcut"])
    model.load_state_dict(content["trainer"]["model"])
    return model.eval()


def resume(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put ``trainer`` where the run saved in ``checkpoint.path`` stopped.

    Raises:
        InputError: if the file is not a checkpoint, or is one of another network, data set or recipe; the
            message names each difference.
    """
    content = load_checkpoint(checkpoint.path)
    here = {**checkpoint.about(), **dataclasses.asdict(trainer.recipe)}
    there = {**{key: content[key] for key in checkpoint.about()}, **content["recipe"]}
    differences = [f"{key} is {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
    if differences:
        raise InputError(f"{checkpoint.path} is of another run: {'; '.join(differences)}")
    trainer.load_state_dict(content["trainer"])
