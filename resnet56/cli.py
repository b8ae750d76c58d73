"""The command line: ``python -m resnet56`` or ``resnet56``; ``--help`` on each command."""

import argparse
import dataclasses
import math
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import torch

from .comparison import compare, default_recipe
from .data import split_train
from .datasets import NAMES, available_data, import_images, load_data
from .devices import DEVICES, fast_precision, hardware, pick_device
from .errors import InputError
from .fast import Engine, fit_together
from .fast.distributed import first_process_first, process_group, rank, under_torchrun, world_size
from .model import build_model, parse_arch
from .progress import Interrupted, OutOfTime
from .recipe import PRECISIONS, PRESETS, Recipe
from .records.checkpoint import Checkpoint, load_checkpoint, load_model, resume
from .records.files import check_writable, data_dir, new_folder, unused, write_file
from .records.published import beside_published
from .records.runs import Run, describe_run, runs_table, save_run, summarise
from .records.suites import SUITES, reproduce
from .train import NonFiniteLoss, evaluate

RECIPE_FLAGS = ("epochs", "iterations", "batch_size", "lr", "warmup", "seed", "precision")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed), 2 (bad input), 130 or 143 (interrupted)."""
    options = build_parser().parse_args(arguments)
    try:
        if under_torchrun() and options.run is not run_train:
            raise InputError("several processes can only train; run this command without torchrun")
        options.run(options)
        return 0
    except InputError as error:
        print(f"resnet56: error: {error}", file=sys.stderr)
        return 2
    except NonFiniteLoss as error:
        print(f"resnet56: stopped: {error}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"resnet56: {interruption}", file=sys.stderr)
        return 128 + interruption.signum
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers an error with one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their flags."""
    parser = _Parser(
        prog="resnet56", description="Plain and residual networks for CIFAR-10 (He et al. 2015), trained and measured."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str, within=commands) -> argparse.ArgumentParser:
        sub = within.add_parser(name, help=summary, description=summary, argument_default=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub

    sub = command("train", run_train, "Train one network; by default with the paper's recipe.")
    sub.add_argument("--arch", help="plainN or resnetN, N = 6n+2 (default: resnet56)")
    sub.add_argument("--shortcut", help="shortcut option A or B (default: A, the paper's for CIFAR-10)")
    sub.add_argument("--preset", choices=PRESETS, help="recipe to start from (default: paper)")
    sub.add_argument("--epochs", type=float, help="length of the run in epochs (default: the preset's)")
    sub.add_argument("--iterations", type=int, help="length of the run in steps, instead of --epochs")
    _add_recipe_flags(sub)
    sub.add_argument(
        "--validation", type=int, help="training images held out for validation (default: 5000; 0 for none)"
    )
    _add_data_flag(sub)
    _add_device_flag(sub)
    sub.add_argument(
        "--compile", action="store_true", help="merge kernels with PyTorch's compiler, which takes a while first"
    )
    sub.add_argument(
        "--deterministic", action="store_true", help="the same bits again on the same GPU; slower (CPUs always do)"
    )
    sub.add_argument("--out", type=Path, help="folder for checkpoints/ and runs/ (default: the project's data/)")
    sub.add_argument("--resume", type=Path, metavar="PATH", help="go on with the run saved in this checkpoint")

    sub = command(
        "evaluate", run_evaluate, "Measure a checkpoint on the test images of the data set it was trained on."
    )
    sub.add_argument("checkpoint", type=Path, metavar="PATH", help="a checkpoint made by train")
    _add_device_flag(sub)

    sub = command("compare", run_compare, "Train plain-56 and ResNet-56 side by side; write a record and a figure.")
    sub.add_argument("--depth", type=int, help="another depth 6n+2 (default: 56)")
    sub.add_argument("--steps", dest="iterations", type=int, help="steps for each net (default: a few minutes' worth)")
    sub.add_argument("--epochs", type=float, help="epochs for each net, instead of --steps")
    _add_recipe_flags(sub)
    _add_data_flag(sub)
    _add_device_flag(sub)
    sub.add_argument("--out", type=Path, help="folder for the record (default: the project's data/runs/)")

    sub = command(
        "bench", run_bench, "Measure how fast training is here, one trick at a time; write the table as JSON."
    )
    sub.add_argument("--arch", help="plainN or resnetN (default: resnet56)")
    sub.add_argument("--batch-size", type=int, help="images a step (default: 128)")
    sub.add_argument("--rounds", type=int, help="how often each loop is measured; the median counts (default: 5)")
    _add_data_flag(sub)
    _add_device_flag(sub)
    sub.add_argument("--out", type=Path, help="the file (default: data/bench.json)")

    sub = command("reproduce", run_reproduce, "Train and record the book's runs; goes on where it stopped.")
    sub.add_argument(
        "suite",
        choices=SUITES,
        metavar="SUITE",
        help="paper (the whole table, on a GPU), fast (the fast preset), laptop (two CPU cores, an evening), "
        "ingredients (of the fast preset, on ResNet-8)",
    )
    sub.add_argument("--time-limit", type=float, metavar="MINUTES", help="stop and save after so many minutes")
    sub.add_argument(
        "--at-once", type=int, metavar="N", help="networks trained at the same time (default: 8 on a GPU, else 1)"
    )
    sub.add_argument("--iterations", type=int, help="a rehearsal: so many steps for each run")
    _add_data_flag(sub)
    _add_device_flag(sub)
    sub.add_argument("--out", type=Path, help="folder for checkpoints/ and runs/ (default: the project's data/)")

    sub = command("measure", run_measure, "Apply every instrument to the networks of a recorded suite.")
    with_weights = [name for name, suite in SUITES.items() if suite.keep]
    sub.add_argument("suite", choices=with_weights, metavar="SUITE", help=", ".join(with_weights))
    sub.add_argument(
        "--images", type=int, help="for each evaluation of lesions and landscape (default: 10000 on a GPU, else 500)"
    )
    sub.add_argument(
        "--points", type=int, help="along each side of the loss surface, odd (default: 51 on a GPU, else 11)"
    )
    _add_data_flag(sub)
    _add_device_flag(sub)
    sub.add_argument("--out", type=Path, help="folder that holds runs/ (default: the project's data/)")

    data = commands.add_parser("data", help="List data sets, or import a copy of CIFAR-10.", description="Data sets.")
    data_commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command("list", run_data_list, "List the data sets that can be used without a download.", data_commands)
    sub = command("import", run_data_import, "Import a copy of CIFAR-10 kept as image files.", data_commands)
    sub.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="folder with train/<class>/*.png|jpg and test/..., or a .tar, .tar.gz or .tar.xz of one",
    )
    return parser


def _add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-size", type=int, help="images a step, of all processes together (default: 128)")
    parser.add_argument("--lr", type=float, help="learning rate (default: the recipe's)")
    parser.add_argument(
        "--warmup", type=int, help="first steps at a tenth of the rate (default: 0; the paper: 400 for depth 110)"
    )
    parser.add_argument("--seed", type=int, help="of initial weights, data order and augmentation (default: 0)")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: bf16 where the device has it, else fp32")


def _add_data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help=f"{', '.join(NAMES)} (default: RESNET56_DATA, or auto)")


def _add_device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help=f"{', '.join(DEVICES)} (default: auto)")


# --- Commands -----------------------------------------------------------------------------------------


def run_train(options: argparse.Namespace) -> None:
    """Train one network, with checkpoints, and record it."""
    given = vars(options)
    if "deterministic" in given:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks
        torch.use_deterministic_algorithms(True)
    if "compile" in given and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "c++", "cl"))):
        raise InputError("--compile needs a C++ compiler; install one (g++), or leave --compile out")
    with process_group(pick_device(given.get("device", "auto"))) as device:
        _train(given, device)


def _train(given: dict, device: torch.device) -> None:
    settings = {"arch": "resnet56", "shortcut": "A", "validation": 5000, "data": None}
    recipe = dataclasses.replace(PRESETS[given.get("preset", "paper")], precision=fast_precision(device))
    if "resume" in given:
        saved = load_checkpoint(given["resume"])
        settings = {key: saved[key] for key in settings}
        if "preset" not in given:
            recipe = Recipe(**saved["recipe"])
    settings |= {key: given[key] for key in settings if key in given}
    family, depth = parse_arch(settings["arch"])
    settings["arch"] = f"{family}{depth}"
    recipe = _replace(recipe, given)

    torch.manual_seed(recipe.seed)
    model = build_model(settings["arch"], settings["shortcut"])
    out = given.get("out", data_dir())
    if "resume" in given and "out" not in given and given["resume"].resolve().parent.name == "checkpoints":
        out = given["resume"].resolve().parent.parent  # where the run began
    for folder in (out / "checkpoints", out / "runs"):
        check_writable(folder)
    with first_process_first():
        data = load_data(settings["data"])
    train, validation = split_train(data, settings["validation"])
    trainer = Engine(model, train, recipe, device, compiled="compile" in given)

    shortcut = "-B" if settings["shortcut"] == "B" and family == "resnet" else ""
    name = f"{settings['arch']}{shortcut}-{data.name}-{trainer.total_steps}-steps-seed-{recipe.seed}"
    checkpoint = Checkpoint(
        path=given.get("resume", out / "checkpoints" / f"{name}.pt"),
        **settings | {"data": data.name, "fingerprint": data.fingerprint},
    )
    if "resume" in given:
        resume(trainer, checkpoint)
    elif checkpoint.path.exists():
        raise InputError(f"{checkpoint.path} is there already; go on with --resume {checkpoint.path}, or delete it")

    processes = f", {world_size()} processes" * (world_size() > 1)
    _say(
        f"{settings['arch']} on {data.title}: {trainer.total_steps:,} steps of {recipe.batch_size} images, "
        f"seed {recipe.seed}, {recipe.precision} on {hardware(device)['name']}{processes}"
    )
    if trainer.step:
        _say(f"Going on at step {trainer.step:,}.")
    try:
        fit_together({"training": trainer}, validation=validation, checkpoints={"training": checkpoint})
    except Interrupted:
        _say(f"Saved at step {trainer.step:,}. Go on with: resnet56 train --resume {checkpoint.path}", file=sys.stderr)
        raise
    if rank() > 0:
        return
    test = evaluate(trainer.model, data.test, trainer.batches.mean, recipe.precision)
    about = describe_run(
        trainer,
        arch=settings["arch"],
        shortcut=settings["shortcut"],
        data=data,
        validation=settings["validation"],
        test=test,
    )
    record = unused(out / "runs" / name)
    with new_folder(record) as folder:
        save_run(folder, Run(about, pd.DataFrame(trainer.history)))
    print(f"Test error {test.error:.2f} % on {data.title}, after {trainer.seconds:,.0f} s of training.")
    print(f"Record: {record}\nCheckpoint: {checkpoint.path}")


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint."""
    device = pick_device(vars(options).get("device", "auto"))
    saved = load_checkpoint(options.checkpoint)
    data = load_data(saved["data"])
    if data.fingerprint != saved["fingerprint"]:
        raise InputError(f"{options.checkpoint} was trained on another version of {data.title}; use that one")
    model = load_model(saved).to(device)
    score = evaluate(model, data.test, saved["mean"], saved["recipe"]["precision"])
    print(
        f"{saved['arch']} after {saved['trainer']['step']:,} steps on {data.title}: "
        f"test loss {score.loss:.4f}, test error {score.error:.2f} %, test accuracy {score.accuracy:.2f} %"
    )


def run_compare(options: argparse.Namespace) -> None:
    """Train a plain and a residual network side by side, and record both."""
    from .plots import plot_comparison  # imported here: the other commands draw nothing

    given = vars(options)
    device = pick_device(given.get("device", "auto"))
    recipe = _replace(default_recipe(device), given)
    depth = given.get("depth", 56)
    build_model(f"resnet{depth}")  # a wrong depth fails here, before anything else
    out = given.get("out", data_dir() / "runs")
    check_writable(out)
    data = load_data(given.get("data"))
    name = f"compare-{depth}-{data.name}-{recipe.total_steps(len(data.train))}-steps-seed-{recipe.seed}"

    result = compare(data, recipe, depth=depth, device=device)
    record = unused(out / name)
    with new_folder(record) as folder:
        for run in (result.plain, result.residual):
            save_run(folder / run.arch, run)
        plot_comparison([result.plain, result.residual]).savefig(folder / "figure.png")
    print(f"\n{result.plain.label()}\n")
    print(_format_table(result.table()))
    print(f"\nRecord: {record}\nFigure: {record / 'figure.png'}")


def run_bench(options: argparse.Namespace) -> None:
    """Measure speeds, and print them."""
    from .fast.bench import bench  # imported here: the other commands need no textbook loop

    given = vars(options)
    device = pick_device(given.get("device", "auto"))
    settings = {key: given[key] for key in ("arch", "batch_size", "rounds") if key in given}
    for key in ("batch_size", "rounds"):
        if settings.get(key, 1) < 1:
            raise InputError(f"--{key.replace('_', '-')} must be at least 1, not {settings[key]}")
    out = given.get("out", data_dir() / "bench.json")
    check_writable(out.parent)
    result = bench(load_data(given.get("data")), device=device, **settings)
    print(f"\n{result.report()}")
    result.save(out)
    print(f"Table: {out}")


def run_reproduce(options: argparse.Namespace) -> None:
    """Train the runs of a suite, print their errors, and draw those of plain-20, plain-56 and ResNet-56."""
    given = vars(options)
    for key in ("at_once", "iterations", "time_limit"):
        if given.get(key, 1) <= 0:
            raise InputError(f"--{key.replace('_', '-')} must be positive, not {given[key]}")
    settings = {key: given[key] for key in ("device", "out", "at_once", "iterations") if key in given}
    data = load_data(given.get("data"))
    try:
        records = reproduce(given["suite"], data=data, time_limit=60 * given.get("time_limit", math.inf), **settings)
    except OutOfTime:
        print("Out of time; all is saved. The same command goes on from here.", file=sys.stderr)
        return
    folder = records[0].parent
    runs = runs_table(folder)
    shown = runs[(runs["seed"] == 0) & runs["arch"].isin(["plain20", "plain56", "resnet56"])].sort_values("depth")
    if shown.empty:  # trials of recipes, which a figure or a mean would mix up
        runs["validation_error"] = [run.history["validation_error"].iloc[-1] for run in runs["run"]]
        table = runs.loc[[record.name for record in records], ["arch", "train_error", "validation_error"]]
        print(f"\nErrors in percent on {data.title}\n\n{table.round(2).to_string()}\n\nRecords: {folder}")
        return
    from .plots import plot_degradation  # imported here: the other commands draw nothing

    figure = plot_degradation(list(shown["run"]))
    write_file(folder / "figure.png", lambda file: figure.savefig(file, dpi=150))
    table = summarise(runs)
    print(f"\nErrors in percent on {data.title}\n\n{table.round(2).to_string(index=False, na_rep='-')}")
    print(
        f"\nTest errors beside those published for the full recipe on the official CIFAR-10\n\n"
        f"{beside_published(table).to_string(index=False)}\n\n"
        f"Records: {folder}\nFigure: {folder / 'figure.png'}"
    )


def run_measure(options: argparse.Namespace) -> None:
    """Apply the instruments."""
    from .records.measuring import measure_suite  # imported here: training needs no instruments

    given = vars(options)
    for key in ("images", "points"):
        if given.get(key, 1) <= 0:
            raise InputError(f"--{key} must be positive, not {given[key]}")
    settings = {key: given[key] for key in ("device", "out", "images", "points") if key in given}
    paths = measure_suite(given["suite"], load_data(given.get("data")), **settings)
    print(f"Measurements: {paths[0].parent}")


def run_data_list(options: argparse.Namespace) -> None:
    """List the data sets at hand."""
    for name in available_data():
        print(name)


def run_data_import(options: argparse.Namespace) -> None:
    """Import a copy of CIFAR-10."""
    data = import_images(options.path)
    print(f"{data.title}: {len(data.train):,} training and {len(data.test):,} test images, sha256 {data.fingerprint}")
    print(f"Use it with --data {data.name} or RESNET56_DATA={data.name}.")


def _say(*words, **options) -> None:
    """Print, once, however many processes there are."""
    if rank() == 0:
        print(*words, **options)


def _replace(recipe: Recipe, given: dict) -> Recipe:
    """Return the recipe with the flags that were given."""
    changes = {flag: given[flag] for flag in RECIPE_FLAGS if flag in given}
    if "epochs" in changes and "iterations" not in changes:
        changes["iterations"] = None
    elif "iterations" in changes and "epochs" not in changes:
        changes["epochs"] = None
    return dataclasses.replace(recipe, **changes)


def _format_table(table: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "train loss": table["train loss"].map("{:.3f}".format),
            "test accuracy": table["test accuracy"].map("{:.1f} %".format),
            "seconds": table["seconds"].map("{:,.0f}".format),
        }
    )
    return shown.to_string()
