"""What the command line takes: its commands and flags, and which values can work."""

import argparse
from pathlib import Path

from .datasets import NAMES
from .devices import DEVICES
from .errors import InputError
from .recipe import PRECISIONS, PRESETS
from .records.foreign import NORMALISATIONS
from .records.suites import SUITES

#: Numbers that flags take, from the least, whose type is the flag's, to the greatest.
LIMITS = {
    "at_once": (1, 1000),
    "batch_size": (1, 10**6),
    "depth": (8, 1202),
    "epochs": (1e-6, 1e6),
    "images": (1, 10**6),
    "iterations": (1, 10**9),
    "lr": (1e-30, 1e3),
    "points": (3, 1001),
    "rounds": (1, 1000),
    "seed": (0, 2**32 - 1),
    "steps": (1, 10**9),
    "threads": (1, 1024),
    "time_limit": (1e-3, 1e6),
    "validation": (0, 10**6),
    "warmup": (0, 10**9),
}
CHOICES = {"normalise": NORMALISATIONS, "precision": PRECISIONS, "preset": PRESETS}
SWITCHES = ("compile", "deterministic")
PATHS = ("out", "resume", "weights")

RECIPE_FLAGS = {
    "batch_size": "images a step, of all processes together (default: 128; preset fast: 512)",
    "lr": "learning rate (default: the recipe's)",
    "warmup": "first steps of a step schedule at a tenth of the rate (default: 0; the paper: 400 for depth 110)",
    "seed": "of initial weights, data order and augmentation (default: 0)",
    "precision": "default: bf16 where the device has it, else fp32",
}
DATA_FLAGS = {
    "data": f"{', '.join(NAMES)} (default: RESNET56_DATA, or auto)",
    "device": f"{', '.join(DEVICES)} (default: auto)",
}
NETWORK_FLAGS = {
    "arch": "of weights of others: plainN or resnetN (default: the residual network that they fit)",
    "normalise": "of weights of others (default: imagenet where the last layer is called linear, else cifar10)",
}
NETWORK = "a checkpoint made by train, a record's weights, or weights of others (.pt, .th, .safetensors)"
FOLDERS = "folder for checkpoints/ and runs/ (default: RESNET56_HOME, or the project's data/)"


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an error with one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their flags."""
    about = "Plain and residual networks for CIFAR-10 (He et al. 2015), trained and measured."
    parser = _Parser(prog="resnet56", description=about)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _describe_training(commands)
    _describe_networks(commands)
    _describe_suites(commands)
    data = commands.add_parser("data", help="List data sets, or import a copy of CIFAR-10.", description="Data sets.")
    commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "data list", "List the data sets that can be used without a download.")
    sub = _command(commands, "data import", "Import CIFAR-10: its official files, or a copy kept as images.")
    forms = (
        "folder, .tar(.gz, .xz) or .zip: the official files (Python or binary), or train/<class>/*.png|jpg and test/..."
    )
    sub.add_argument("path", type=Path, metavar="PATH", help=forms)
    return parser


def _command(commands, name: str, summary: str, flags: dict[str, str] | None = None) -> argparse.ArgumentParser:
    """Add a command; ``flags`` maps the names of its flags to their help, and the tables above say what they take."""
    parser = commands.add_parser(
        name.split()[-1], help=summary, description=summary, argument_default=argparse.SUPPRESS
    )
    parser.set_defaults(command=name)
    for flag, text in (flags or {}).items():
        takes = {"type": type(LIMITS[flag][0]) if flag in LIMITS else Path if flag in PATHS else str}
        takes = {"action": "store_true"} if flag in SWITCHES else takes | {"choices": CHOICES.get(flag)}
        parser.add_argument("--" + flag.replace("_", "-"), help=text, **takes)
    return parser


def _describe_training(commands) -> None:
    summary = (
        "Train one network; by default with the paper's recipe. With --resume PATH and a larger --epochs or "
        "--iterations a finished run is made longer: it goes on at the last learning rate of its step schedule, from a "
        "checkpoint and with a record of its own."
    )
    flags = {
        "arch": "plainN or resnetN, N = 6n+2 (default: resnet56)",
        "shortcut": "shortcut option A or B of a residual network (default: A, the paper's for CIFAR-10)",
        "preset": "recipe to start from (default: paper)",
        "epochs": "length of the run in epochs (default: the preset's)",
        "iterations": "length of the run in steps, instead of --epochs",
        **RECIPE_FLAGS,
        "validation": "training images held out for validation, a multiple of 10 (default: 5000; 0 for none)",
        **DATA_FLAGS,
        "compile": "merge kernels with PyTorch's compiler, which takes a while first",
        "deterministic": "the same bits again on the same GPU; slower (CPUs always do)",
        "out": FOLDERS,
        "resume": "go on with the run saved in this checkpoint, as it was begun",
    }
    _command(commands, "train", summary, flags)
    summary = "Train plain-56 and ResNet-56 side by side; write a record and a figure."
    flags = {
        "depth": "another depth 6n+2 (default: 56)",
        "steps": "steps for each net (default: a few minutes' worth)",
        "epochs": "epochs for each net, instead of --steps",
        **RECIPE_FLAGS,
        **DATA_FLAGS,
        "out": "folder for the record (default: runs/ in RESNET56_HOME, or in the project's data/)",
    }
    _command(commands, "compare", summary, flags)
    summary = "Measure how fast training is here, one trick at a time; write the table as JSON."
    flags = {
        "arch": "plainN or resnetN (default: resnet56)",
        "batch_size": "images a step (default: 128)",
        "rounds": "how often each loop is measured; the median counts (default: 5)",
        **DATA_FLAGS,
        "out": "the file (default: data/bench.json)",
    }
    _command(commands, "bench", summary, flags)


def _describe_networks(commands) -> None:
    summary = "Measure a network on the test images of the data set it was trained on."
    sub = _command(commands, "evaluate", summary, NETWORK_FLAGS | DATA_FLAGS)
    sub.add_argument("checkpoint", type=Path, metavar="PATH", help=NETWORK)
    summary = (
        "Apply the instruments to a network: responses, gradients, dead filters of each layer, lesions of each block."
    )
    images = {"images": "test images for each measurement (default: 500)"}
    out = {"out": "write the table to this new file, as CSV"}
    sub = _command(commands, "inspect", summary, images | NETWORK_FLAGS | DATA_FLAGS | out)
    sub.add_argument("checkpoint", type=Path, metavar="PATH", help=NETWORK)
    weights = {"weights": f"{NETWORK} (default: the longest recorded run of ResNet-56)"}
    sub = _command(commands, "predict", "Classify an image of your own.", weights | NETWORK_FLAGS)
    sub.add_argument("image", type=Path, metavar="IMAGE", help="an image file of any size")


def _describe_suites(commands) -> None:
    flags = {
        "only": "names of runs, separated by commas; * stands for anything (default: all; a wrong name lists them)",
        "threads": "threads of the processor (default: as many as are free for this process)",
        "time_limit": "stop and save after so many minutes",
        "at_once": "networks trained at the same time (default: 8 on a GPU, else 1)",
        "iterations": "a rehearsal: so many steps for each run",
        **DATA_FLAGS,
        "out": FOLDERS,
    }
    summary = "Train and record the book's runs; goes on where it stopped."
    sub = _command(commands, "reproduce", summary, flags)
    about = (
        "paper (the whole table, on a GPU), fast (the fast preset), laptop (two CPU cores, an evening), "
        "ingredients (of the fast preset, on ResNet-8), rates (validation error against learning rate), treatments "
        "(what cures plain-56). Several processes may work on one suite at once."
    )
    sub.add_argument("suite", choices=SUITES, metavar="SUITE", help=about)
    flags = {
        "images": "for each evaluation of lesions and landscape (default: 10000 on a GPU, else 500)",
        "points": "along each side of the loss surface, odd (default: 51 on a GPU, else 11)",
        **DATA_FLAGS,
        "out": "folder that holds runs/ (default: RESNET56_HOME, or the project's data/)",
    }
    sub = _command(commands, "measure", "Apply every instrument to the networks of a recorded suite.", flags)
    with_weights = [name for name, suite in SUITES.items() if suite.keep]
    sub.add_argument("suite", choices=with_weights, metavar="SUITE", help=", ".join(with_weights))


def check_numbers(given: dict) -> None:
    """Refuse numbers that cannot work, before anything else is done."""
    for name, (low, high) in LIMITS.items():
        if name in given and not low <= given[name] <= high:  # as "not a number" is not
            raise InputError(f"--{name.replace('_', '-')} must be from {low:,} to {high:,}, not {given[name]}")
    if given.get("validation", 0) % 10:
        raise InputError(
            f"cannot hold out {given['validation']} images of ten classes: --validation is a multiple of 10"
        )
    if given.get("points", 1) % 2 == 0:
        raise InputError(f"--points must be odd, so that one lies in the centre, not {given['points']}")
    if "epochs" in given and given.keys() & {"iterations", "steps"}:
        raise InputError(
            "the length of a run is given either by --epochs or by a number of steps; leave one of them out"
        )


def refuse(given: dict, flags, why: str) -> None:
    """Refuse flags that would do nothing."""
    for flag in flags:
        if flag in given:
            raise InputError(f"--{flag.replace('_', '-')} would do nothing: {why}; leave it out")
