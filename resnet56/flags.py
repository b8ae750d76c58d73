"""What the command line takes: its commands, their arguments, and which values can work."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .datasets import NAMES
from .devices import DEVICES
from .errors import InputError
from .recipe import PRECISIONS, PRESETS, RANGES
from .records.foreign import NORMALISATIONS
from .records.suites import SUITES

DEEPEST = 1202  # layers of a network
NETWORK = "a checkpoint made by train, a record's weights, or weights of others (.pt, .th, .safetensors)"
TRAINED = [name for name, suite in SUITES.items() if suite.keep]  # suites whose networks are kept

#: What each argument takes (a type, numbers from the least to the greatest, or choices), and its help. Where
#: a command is named first, that one alone. Arguments in capitals are given without their names.
ARGUMENTS = {
    "arch": (str, "plainN or resnetN, N = 6n+2 (default: resnet56; of weights of others: the residual one they fit)"),
    "at_once": ((1, 1000), "networks trained at the same time (default: 8 on a GPU, else 1)"),
    "batch_size": (RANGES["batch_size"], "images a step, of all processes together (default: 128; preset fast: 512)"),
    "compile": (bool, "merge kernels with PyTorch's compiler, which takes a while first"),
    "data": (str, f"{', '.join(NAMES)} (default: RESNET56_DATA, or auto)"),
    "depth": ((8, DEEPEST), "another depth 6n+2 (default: 56)"),
    "deterministic": (bool, "the same bits again on the same GPU; slower (CPUs always do)"),
    "device": (str, f"{', '.join(DEVICES)} (default: auto)"),
    "epochs": (RANGES["epochs"], "length of the run in epochs, instead of steps (default: the recipe's)"),
    "images": ((1, 10**6), "images for each measurement (default: 500; of a suite on a GPU: 10000)"),
    "iterations": (RANGES["iterations"], "length of the run in steps, instead of --epochs"),
    "lr": (RANGES["lr"], "learning rate (default: the recipe's)"),
    "normalise": (NORMALISATIONS, "of weights of others (default: imagenet if a layer is called linear, else cifar10)"),
    "only": (str, "names of runs, separated by commas; * stands for anything (default: all; a wrong name lists them)"),
    "out": (Path, "folder for checkpoints/ and runs/ (default: RESNET56_HOME, or the project's data/)"),
    "points": ((3, 1001), "along each side of the loss surface, odd (default: 51 on a GPU, else 11)"),
    "precision": ([*PRECISIONS], "default: bf16 where the device has it, else fp32"),
    "preset": (PRESETS, "recipe to start from (default: paper)"),
    "resume": (Path, "go on with the run saved in this checkpoint, as it was begun"),
    "rounds": ((1, 1000), "how often each loop is measured; the median counts (default: 5)"),
    "seed": (RANGES["seed"], "of initial weights, data order and augmentation (default: 0)"),
    "shortcut": (str, "shortcut option A or B of a residual network (default: A, the paper's for CIFAR-10)"),
    "steps": (RANGES["iterations"], "length of each run in steps (default: a few minutes' worth)"),
    "threads": ((1, 1024), "threads of the processor (default: as many as are free for this process)"),
    "time_limit": ((1e-3, 1e6), "stop and save after so many minutes"),
    "validation": ((0, 10**6), "training images held out, a multiple of 10 (default: 5000; 0 for none)"),
    "warmup": (RANGES["warmup"], "first steps of a step schedule at a tenth of the rate (default: 0; ResNet-110: 400)"),
    "weights": (Path, f"{NETWORK} (default: the longest recorded run of ResNet-56)"),
    "IMAGE": (Path, "an image file of any size"),
    "PATH": (Path, NETWORK),
    "SUITE": (SUITES, "paper and fast (on a GPU), laptop (an evening), ingredients, rates, treatments; see README"),
    "bench out": (Path, "the table, a new file (default: data/bench.json)"),
    "compare out": (Path, "folder for the record (default: runs/ in RESNET56_HOME, or in the project's data/)"),
    "data import PATH": (Path, "folder or archive: the official files, or images in train/<class>/ and test/<class>/"),
    "inspect out": (Path, "write the table to this new file, as CSV"),
    "measure out": (Path, "folder that holds runs/ (default: RESNET56_HOME, or the project's data/)"),
    "measure SUITE": (TRAINED, ", ".join(TRAINED)),
    "reproduce iterations": (RANGES["iterations"], "a rehearsal: so many steps for each run"),
}
COMMANDS: dict[str, tuple[Callable, dict[str, tuple]]] = {}
GROUPS = {"data": "List data sets, or import a copy of CIFAR-10."}


def command(name: str, arguments: str = "") -> Callable[[Callable], Callable]:
    """Register a function as a command: its docstring is the summary, ``arguments`` names what it takes.

    It is called with what was given, by name, so the defaults are its own.
    """
    takes = {key: ARGUMENTS.get(f"{name} {key}") or ARGUMENTS[key] for key in arguments.split()}

    def register(function: Callable) -> Callable:
        COMMANDS[name] = function, takes
        return function

    return register


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an error with one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their arguments."""
    about = "Plain and residual networks for CIFAR-10 (He et al. 2015), trained and measured."
    parser = _Parser(prog="resnet56", description=about)
    groups = {"": parser.add_subparsers(title="commands", required=True, metavar="COMMAND")}
    for name, (function, takes) in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        if group not in groups:
            sub = groups[""].add_parser(group, help=GROUPS[group], description=GROUPS[group])
            groups[group] = sub.add_subparsers(title="commands", required=True, metavar="COMMAND")
        summary = {"help": function.__doc__, "description": function.__doc__}
        sub = groups[group].add_parser(word, **summary, argument_default=argparse.SUPPRESS)
        sub.set_defaults(command=name)
        for argument, (kind, text) in takes.items():
            names = {"metavar": argument} if argument.isupper() else {}
            sub.add_argument(argument.lower() if names else flag(argument), **names, **_values(kind), help=text)
    return parser


def _values(kind: type | tuple | list | dict) -> dict:
    """Return what argparse calls what an argument takes."""
    if kind is bool:
        return {"action": "store_true"}
    if isinstance(kind, (type, tuple)):
        return {"type": type(kind[0]) if isinstance(kind, tuple) else kind}
    return {"choices": kind}


def flag(name: str) -> str:
    """Return the flag of an argument, such as ``"--batch-size"``."""
    return "--" + name.replace("_", "-")


def check_numbers(given: dict) -> None:
    """Refuse numbers that cannot work, before anything else is done."""
    for name, value in given.items():
        kind, _ = ARGUMENTS.get(name, (None, ""))
        if isinstance(kind, tuple) and not kind[0] <= value <= kind[1]:  # as "not a number" is not
            raise InputError(f"{flag(name)} must be from {kind[0]:,} to {kind[1]:,}, not {value}")
    if given.get("validation", 0) % 10:
        count = given["validation"]
        raise InputError(f"cannot hold out {count} images of ten classes: --validation is a multiple of 10")
    if given.get("points", 1) % 2 == 0:
        raise InputError(f"--points must be odd, so that one lies in the centre, not {given['points']}")
    if "epochs" in given and given.keys() & {"iterations", "steps"}:
        raise InputError(
            "the length of a run is given either by --epochs or by a number of steps; leave one of them out"
        )


def useless(name: str, why: str) -> InputError:
    """Return what refuses a flag that would do nothing."""
    return InputError(f"{flag(name)} would do nothing: {why}; leave it out")
