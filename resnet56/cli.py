"""The command line: ``python -m resnet56`` or ``resnet56``; ``--help`` on each command."""

import argparse
import contextlib
import dataclasses
import math
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import torch

from .comparison import compare, default_recipe
from .data import DataSet, Split, hold_out
from .datasets import import_images, load_data, survey_data
from .devices import fast_precision, hardware, pick_device
from .errors import InputError, NonFiniteLoss
from .fast import Engine, fit_together
from .fast.distributed import first_process_first, process_group, rank, under_torchrun, world_size
from .flags import LIMITS, RECIPE_FLAGS, build_parser, check_numbers, refuse
from .model import build_model, parse_arch
from .observe import evenly
from .progress import Interrupted, OutOfTime
from .recipe import PRESETS, Recipe
from .records.checkpoint import Checkpoint, extend, find_record, load_checkpoint, resume
from .records.files import check_writable, data_dir, lock, new_folder, unused, write_file
from .records.foreign import Network, classify, load_network, read_image
from .records.published import beside_published
from .records.runs import Run, describe_run, find_pretrained, runs_table, save_run, summarise
from .records.suites import SUITES, reproduce
from .streams import Stream
from .train import evaluate


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed), 2 (bad input), 130 or 143 (interrupted)."""
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status, words = _run(build_parser().parse_args(arguments))
        if out.failure and not status:
            status, words = 2, f"error: cannot print: {out.failure}"
        if words:
            print("resnet56:", *words.splitlines(), file=err)  # one line, whatever an error brought along
    return status


def _run(options: argparse.Namespace) -> tuple[int, str]:
    """Run a command; return its exit status, and what there is to say of it."""
    try:
        check_numbers(vars(options))
        if under_torchrun() and options.command != "train":
            raise InputError("several processes can only train; run this command without torchrun")
        _check_out(options.command, vars(options).get("out"))
        COMMANDS[options.command](options)
    except InputError as error:
        return 2, f"error: {error}"
    except NonFiniteLoss as error:
        return 1, f"stopped: {error}"
    except Interrupted as interruption:
        return 128 + interruption.signum, str(interruption)
    except KeyboardInterrupt:
        return 130, ""
    except OSError as error:
        return 2, f"error: cannot use {error.filename or 'a file'}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("(out of|allocate) memory", str(error)):
            raise
        return 1, "stopped: out of memory; a smaller --batch-size needs less"
    return 0, ""


def _check_out(command: str, out: Path | None) -> None:
    """Refuse an --out that cannot be written, before anything else is done."""
    if out and command in ("bench", "inspect"):
        if out.exists() and not out.is_file():
            raise InputError(f"--out {out} is not a file; give the name of one")
        check_writable(out.parent)
    elif out and command != "measure":  # which writes beside what it reads
        check_writable(out)


def _replace(recipe: Recipe, given: dict) -> Recipe:
    """Return the recipe with the flags that were given."""
    changes = {flag: given[flag] for flag in RECIPE_FLAGS if flag in given}
    if given.keys() & {"epochs", "iterations", "steps"}:
        changes |= {"epochs": given.get("epochs"), "iterations": given.get("iterations", given.get("steps"))}
    if recipe.schedule == "one-cycle":
        refuse(given, ["warmup"], "this recipe's schedule starts low by itself")
    return dataclasses.replace(recipe, **changes)


# --- Commands -----------------------------------------------------------------------------------------


def run_train(options: argparse.Namespace) -> None:
    """Train one network, with checkpoints, and record it."""
    given = vars(options)
    device = pick_device(given.get("device", "auto"))
    if device.type == "cpu":
        refuse(given, ["deterministic"], "a processor always computes the same bits")
    if "deterministic" in given:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks
        torch.use_deterministic_algorithms(True)
    if "compile" in given and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "c++", "cl"))):
        raise InputError("--compile needs a C++ compiler; install one (g++), or leave --compile out")
    saved = load_checkpoint(given["resume"]) if "resume" in given else None
    with process_group(device) as device:
        _train(given, saved, device)


def _train(given: dict, saved: dict | None, device: torch.device) -> None:
    settings, recipe = _settings(given, saved, device)
    torch.manual_seed(recipe.seed)
    model = build_model(settings["arch"], settings["shortcut"])
    out = _folder(given)
    with first_process_first():
        data = load_data(settings["data"])
    train, validation = hold_out(data.train, settings["validation"])
    longer = _extended(given, saved, recipe, len(train)) if saved else recipe
    trainer = Engine(model, train, longer, device, compiled="compile" in given)

    shortcut = "-B" if settings["shortcut"] == "B" and settings["arch"].startswith("resnet") else ""
    name = f"{settings['arch']}{shortcut}-{data.name}-{trainer.total_steps}-steps-seed-{recipe.seed}"
    checkpoint = Checkpoint(
        out / "checkpoints" / f"{name}.pt", **settings | {"data": data.name}, fingerprint=data.fingerprint
    )
    begun = dataclasses.replace(checkpoint, path=given["resume"], extended=saved["extended"]) if saved else None
    if saved and longer == recipe:
        checkpoint = begun
    elif saved:
        checkpoint = dataclasses.replace(checkpoint, extended=(*saved["extended"], recipe.total_steps(len(train))))
    with lock(checkpoint.path) if rank() == 0 else contextlib.nullcontext():
        record = find_record(out / "runs" / name, checkpoint, longer)
        if checkpoint is not begun and checkpoint.path.exists():
            raise InputError(f"{checkpoint.path} is there already; go on with --resume {checkpoint.path}, or delete it")
        if checkpoint is not begun and record:
            raise InputError(f"this run is recorded already, in {record}; give another --seed or --out")
        if saved:
            resume(trainer, begun, recipe)
        unsaved = _fit(trainer, checkpoint, validation, data)
        if rank() == 0:
            _report(trainer, checkpoint, data, unsaved, record or unused(out / "runs" / name))


def _settings(given: dict, saved: dict | None, device: torch.device) -> tuple[dict, Recipe]:
    """Return what is trained on what, and the recipe: as saved, or as given."""
    settings = {"arch": "resnet56", "shortcut": "A", "validation": 5000, "data": None}
    if saved:
        refuse(given, [*settings, "preset", *RECIPE_FLAGS], "the run that goes on has its own")
        return {key: saved[key] for key in settings}, Recipe(**saved["recipe"])
    settings |= {key: given[key] for key in settings if key in given}
    family, depth = parse_arch(settings["arch"])
    if depth > LIMITS["depth"][1]:
        raise InputError(f"--arch can have {LIMITS['depth'][1]:,} layers at most, not {depth}")
    if family == "plain":
        refuse(given, ["shortcut"], "a plain network has none")
    recipe = dataclasses.replace(PRESETS[given.get("preset", "paper")], precision=fast_precision(device))
    return settings | {"arch": f"{family}{depth}"}, _replace(recipe, given)


def _folder(given: dict) -> Path:
    """Return the folder for ``checkpoints/`` and ``runs/``, which can be written: as given, or where the run began."""
    out = given.get("out")
    if out is None and "resume" in given and given["resume"].resolve().parent.name == "checkpoints":
        out = given["resume"].resolve().parent.parent
    out = out or data_dir()
    for name in ("checkpoints", "runs"):
        check_writable(out / name)
    return out


def _extended(given: dict, saved: dict, recipe: Recipe, images: int) -> Recipe:
    """Return the recipe of a run that goes on: its own, or where a length is given, that of a longer run."""
    if not given.keys() & {"epochs", "iterations"}:
        return recipe
    if left := recipe.total_steps(images) - saved["trainer"]["step"]:
        raise InputError(f"this run has {left:,} steps to go; finish it first, with --resume {given['resume']} alone")
    return extend(recipe, _replace(recipe, given), images)


def _fit(trainer: Engine, checkpoint: Checkpoint, validation: Split | None, data: DataSet) -> InputError | None:
    """Train to the end; return what kept the last checkpoint from being written, such as a full disk."""
    if trainer.finished:
        _say(f"This run is finished, after {trainer.step:,} steps.")
        return None
    processes = f", {world_size()} processes" * (world_size() > 1)
    _say(
        f"{checkpoint.arch} on {data.title}: {trainer.total_steps:,} steps of {trainer.recipe.batch_size} images, seed "
        f"{trainer.recipe.seed}, {trainer.recipe.precision} on {hardware(trainer.device)['name']}{processes}"
    )
    if trainer.step:
        _say(f"Going on at step {trainer.step:,}.")
    try:
        fit_together({"training": trainer}, validation=validation, checkpoints={"training": checkpoint})
    except Interrupted:
        _say(f"Saved at step {trainer.step:,}. Go on with: resnet56 train --resume {checkpoint.path}", file=sys.stderr)
        raise
    except InputError as error:
        if not trainer.finished:
            raise
        return error
    return None


def _report(trainer: Engine, checkpoint: Checkpoint, data: DataSet, unsaved: InputError | None, record: Path) -> None:
    """Print what came of a run, and only then write its record, if there is none."""
    test = evaluate(trainer.model, data.test, trainer.batches.mean, trainer.recipe.precision)
    print(f"Test error {test.error:.2f} % on {data.title}, after {trainer.seconds:,.0f} s of training.")
    if unsaved:
        raise unsaved
    if not record.exists():
        settings = {"arch": checkpoint.arch, "shortcut": checkpoint.shortcut, "validation": checkpoint.validation}
        about = describe_run(trainer, data=data, test=test, **settings)
        about |= {"extended_at": list(checkpoint.extended)} if checkpoint.extended else {}
        with new_folder(record) as folder:
            save_run(folder, Run(about, pd.DataFrame(trainer.history)))
    print(f"Record: {record}\nCheckpoint: {checkpoint.path}")


def _network_and_data(given: dict, path: Path) -> tuple[Network, DataSet]:
    """Load a network, and the data set it was trained on; for weights of others, the one that is asked for."""
    network = load_network(path, given.get("arch"), given.get("normalise"))
    if network.data:
        refuse(given, ["data"], f"{path} says itself what it was trained on, {network.data}")
    data = load_data(network.data or given.get("data"))
    if network.fingerprint not in (None, data.fingerprint):
        raise InputError(f"{path} was trained on another version of {data.title}; use that one")
    return network, data


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a network on the test images."""
    device = pick_device(vars(options).get("device", "auto"))
    network, data = _network_and_data(vars(options), options.checkpoint)
    score = evaluate(network.model.to(device), data.test, network.mean, network.precision)
    print(
        f"{network.title} on {data.title}: test loss {score.loss:.4f}, test error {score.error:.2f} %, "
        f"test accuracy {score.accuracy:.2f} %"
    )


def run_inspect(options: argparse.Namespace) -> None:
    """Apply the instruments to one network."""
    from .instruments.inspection import inspect_network  # imported here: training needs no instruments

    given = vars(options)
    device = pick_device(given.get("device", "auto"))
    out = given.get("out")
    if out and out.exists():
        raise InputError(f"{out} is there already; give the name of a new file with --out")
    network, data = _network_and_data(given, options.checkpoint)
    train, test = evenly(data.train, 128).to(device), evenly(data.test, given.get("images", 500)).to(device)
    table = inspect_network(network.model.to(device), network.mean.to(device), train, test)
    print(f"{network.title}: error {table.attrs['error']:.2f} % on {len(test):,} test images of {data.title}\n")
    print(table.round(3).to_string(index=False, na_rep=""))
    print(
        "\nstd: of the layer's response. gradient: norm of the loss's gradient at its output, on 128 training images. "
        "dead: filters\nthat answer every image alike. lesion: error in percent without the block that ends there."
    )
    if out:
        write_file(out, lambda file: table.to_csv(file, index=False))
        print(f"Table: {out}")


def run_predict(options: argparse.Namespace) -> None:
    """Classify an image."""
    given = vars(options)
    pixels, (width, height) = read_image(options.image)
    weights = given.get("weights") or find_pretrained("resnet56")[1] / "weights.safetensors"
    network = load_network(weights, given.get("arch"), given.get("normalise"))
    if (width, height) != (32, 32):
        print(f"Of {width}x{height} pixels the largest square in the middle was scaled to 32x32.")
    print(f"{options.image.name}, by {network.title}{f' on {network.data}' if network.data else ''}:")
    for name, probability in classify(network, pixels):
        print(f"{100 * probability:5.1f} %  {name}")


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
    record = out / name
    scratch = data_dir() / "tmp" if out.resolve() == (data_dir() / "runs").resolve() else out / ".tmp"
    with lock(record, "made", scratch):
        if record.exists():
            raise InputError(f"{record} is there already and stays; move it away, or give another --seed or --out")
        result = compare(data, recipe, depth=depth, device=device)
        formats = {"train loss": "{:.3f}".format, "test accuracy": "{:.1f} %".format, "seconds": "{:,.0f}".format}
        print(f"\n{result.plain.label()}\n\n{result.table()[list(formats)].to_string(formatters=formats)}\n")
        figure = plot_comparison([result.plain, result.residual])
        with new_folder(record, scratch) as folder:
            for run in (result.plain, result.residual):
                save_run(folder / run.arch, run)
            figure.savefig(folder / "figure.png")
    print(f"Record: {record}\nFigure: {record / 'figure.png'}")


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
    settings = {key: given[key] for key in ("out", "at_once", "iterations", "only") if key in given}
    device = pick_device(given.get("device", "auto"))
    if "threads" in given:
        refuse(given, ["threads"] * (device.type != "cpu"), f"training is on {device.type}")
        torch.set_num_threads(given["threads"])
    suite, data, limit = given["suite"], load_data(given.get("data")), 60 * given.get("time_limit", math.inf)
    try:
        records = reproduce(suite, data=data, device=device, time_limit=limit, **settings)
    except OutOfTime:
        print("Out of time; all is saved. The same command goes on from here.", file=sys.stderr)
        return
    if not records:
        return
    folder = records[0].parent
    runs = runs_table(folder)
    if not SUITES[suite].keep:  # trials of recipes, which a figure or a mean would mix up
        runs["validation_error"] = [run.history["validation_error"].iloc[-1] for run in runs["run"]]
        table = runs.loc[[record.name for record in records], ["arch", "train_error", "validation_error"]]
        print(f"\nErrors in percent on {data.title}\n\n{table.round(2).to_string()}\n\nRecords: {folder}")
        return
    table = summarise(runs)
    print(f"\nErrors in percent on {data.title}\n\n{table.round(2).to_string(index=False, na_rep='-')}")
    print(
        f"\nTest errors beside those published for the full recipe on the official CIFAR-10\n\n"
        f"{beside_published(table).to_string(index=False)}\n\nRecords: {folder}"
    )
    shown = runs[(runs["seed"] == 0) & runs["arch"].isin(["plain20", "plain56", "resnet56"])].sort_values("depth")
    if len(shown):
        from .plots import plot_degradation  # imported here: the other commands draw nothing

        figure = plot_degradation(list(shown["run"]))
        write_file(folder / "figure.png", lambda file: figure.savefig(file, dpi=150))
        print(f"Figure: {folder / 'figure.png'}")


def run_measure(options: argparse.Namespace) -> None:
    """Apply the instruments."""
    from .records.measuring import measure_suite  # imported here: training needs no instruments

    given = vars(options)
    settings = {key: given[key] for key in ("device", "out", "images", "points") if key in given}
    paths = measure_suite(given["suite"], load_data(given.get("data")), **settings)
    print(f"Measurements: {paths[0].parent}")


def run_data_list(options: argparse.Namespace) -> None:
    """List the data sets at hand."""
    names, problems = survey_data()
    print("\n".join(names))
    for problem in problems:
        print(f"not usable: {problem}", file=sys.stderr)


def run_data_import(options: argparse.Namespace) -> None:
    """Import a copy of CIFAR-10."""
    data = import_images(options.path)
    print(f"{data.title}: {len(data.train):,} training and {len(data.test):,} test images, sha256 {data.fingerprint}")
    print(f"Use it with --data {data.name} or RESNET56_DATA={data.name}.")


def _say(*words, **options) -> None:
    """Print, once, however many processes there are."""
    if rank() == 0:
        print(*words, **options)


COMMANDS = {
    "train": run_train,
    "evaluate": run_evaluate,
    "inspect": run_inspect,
    "predict": run_predict,
    "compare": run_compare,
    "bench": run_bench,
    "reproduce": run_reproduce,
    "measure": run_measure,
    "data list": run_data_list,
    "data import": run_data_import,
}
