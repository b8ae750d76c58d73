"""The command line: ``python -m resnet56`` or ``resnet56``; ``--help`` on each command."""

import contextlib
import dataclasses
import math
import os
import re
import signal
import sys
from pathlib import Path

import pandas as pd
import torch
from torch.distributed import is_torchelastic_launched

from .comparison import compare, default_recipe
from .data import DataSet, Split, hold_out
from .datasets import import_images, load_data, survey_data
from .devices import fast_precision, hardware, has_compiler, pick_device
from .errors import InputError, NonFiniteLoss
from .fast import Engine, fit_together
from .fast.distributed import first_process_first, process_group, rank, world_size
from .flags import COMMANDS, DEEPEST, build_parser, check_numbers, command, useless
from .model import build_model, parse_arch
from .observe import evenly
from .progress import Interrupted, OutOfTime
from .recipe import PRESETS, Recipe
from .records.checkpoint import Checkpoint, extend, find_record, load_checkpoint, resume
from .records.files import check_writable, data_dir, lock, new_folder, write_file
from .records.foreign import Network, classify, load_network, read_image
from .records.published import beside_published
from .records.runs import Run, describe_run, find_pretrained, runs_table, save_run, summarise
from .records.suites import SUITES, reproduce
from .streams import Stream
from .train import evaluate

#: What a run is trained on besides its recipe, where nothing else is asked for.
SETTINGS = {"arch": "resnet56", "shortcut": "A", "validation": 5000, "data": None}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed), 2 (bad input), 130 or 143 (interrupted)."""
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status, words = _run(**vars(build_parser().parse_args(arguments)))
        if out.failure and not status:
            status, words = 2, f"error: cannot print: {out.failure}"
        if words:
            print("resnet56:", *words.splitlines(), file=err)  # one line, whatever an error brought along
    return status


def _run(command: str, **given) -> tuple[int, str]:
    """Run a command; return its exit status, and what there is to say of it."""
    try:
        check_numbers(given)
        if is_torchelastic_launched() and command != "train":
            raise InputError("several processes can only train; run this command without torchrun")
        function, _ = COMMANDS[command]
        function(**given)
    except InputError as error:
        return 2, f"error: {error}"
    except NonFiniteLoss as error:
        return 1, f"stopped: {error}"
    except KeyboardInterrupt as interruption:
        return 128 + getattr(interruption, "signum", signal.SIGINT), str(interruption)
    except OSError as error:
        return 2, f"error: cannot use {error.filename or 'a file'}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("(out of|allocate) memory", str(error)):
            raise
        return 1, "stopped: out of memory; a smaller --batch-size needs less"
    return 0, ""


def _check_new_file(out: Path) -> None:
    """Refuse a file that is there already or cannot be written, before anything else is done."""
    if out.exists():
        why = f"{out} is there already" if out.is_file() else f"--out {out} is not a file"
        raise InputError(f"{why}; give the name of a new file with --out")
    check_writable(out.parent)


@command(
    "train",
    "arch shortcut preset epochs iterations batch_size lr warmup seed precision validation data device compile "
    "deterministic out resume",
)
def run_train(*, device="auto", compile=False, deterministic=False, out: Path | None = None, **given) -> None:
    """Train one network; by default with the paper's recipe. With --resume and a larger --epochs or --iterations a
    finished run is made longer: it goes on at the last rate of its schedule, and has a checkpoint and record again."""
    device = pick_device(device)
    if deterministic and device.type == "cpu":
        raise useless("deterministic", "a processor always computes the same bits")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks
        torch.use_deterministic_algorithms(True)
    if compile and not has_compiler():
        raise InputError("--compile needs a C++ compiler; install one (g++), or leave --compile out")
    begun = given.pop("resume", None)
    saved = load_checkpoint(begun) if begun else None
    with process_group(device) as device:
        _train(given, begun, saved, out, device, compile)


def _train(given: dict, begun: Path | None, saved: dict | None, out: Path | None, device: torch.device, compiled: bool):
    """Train as given, or go on with what is saved in ``begun``, and record the finished run."""
    settings, recipe = _settings(given, saved, device)
    torch.manual_seed(recipe.seed)
    model = build_model(settings["arch"], settings["shortcut"])
    if not out and begun and begun.resolve().parent.name == "checkpoints":
        out = begun.resolve().parent.parent
    out = out or data_dir()
    for folder in ("checkpoints", "runs"):
        check_writable(out / folder)
    with first_process_first():
        data = load_data(settings["data"])
    train, validation = hold_out(data.train, settings["validation"])
    longer = recipe
    if saved and given:
        if left := recipe.total_steps(len(train)) - saved["trainer"]["step"]:
            raise InputError(f"this run has {left:,} steps to go; finish it first, with --resume {begun} alone")
        longer = extend(recipe, _replace(recipe, given), len(train))
    trainer = Engine(model, train, longer, device, compiled=compiled)

    shortcut = "-B" if settings["shortcut"] == "B" and settings["arch"].startswith("resnet") else ""
    name = f"{settings['arch']}{shortcut}-{data.name}-{trainer.total_steps}-steps-seed-{recipe.seed}"
    settings |= {"data": data.name, "fingerprint": data.fingerprint}
    old = Checkpoint(begun, **settings, extended=saved["extended"]) if saved else None
    extended = (*saved["extended"], recipe.total_steps(len(train))) if saved else ()
    new = Checkpoint(out / "checkpoints" / f"{name}.pt", **settings, extended=extended)
    checkpoint = old if saved and not given else new
    with lock(checkpoint.path) if rank() == 0 else contextlib.nullcontext():
        recorded = find_record(out / "runs" / name, checkpoint, longer)
        if checkpoint is new and new.path.exists():
            raise InputError(f"{new.path} is there already; go on with --resume {new.path}, or delete it")
        if checkpoint is new and recorded.exists():
            raise InputError(f"this run is recorded already, in {recorded}; give another --seed or --out")
        if saved:
            resume(trainer, old, recipe)
        unsaved = _fit(trainer, checkpoint, validation, data)
        if rank() == 0:
            _report(trainer, checkpoint, data, unsaved, find_record(out / "runs" / name, checkpoint, longer))


def _settings(given: dict, saved: dict | None, device: torch.device) -> tuple[dict, Recipe]:
    """Return what is trained on what, and the recipe: as saved, or as given."""
    if saved:
        for name in given:
            if name not in ("epochs", "iterations"):
                raise useless(name, "the run that goes on has its own")
        return {key: saved[key] for key in SETTINGS}, Recipe(**saved["recipe"])
    settings = {key: given.get(key, default) for key, default in SETTINGS.items()}
    family, depth = parse_arch(settings["arch"])
    if depth > DEEPEST:
        raise InputError(f"--arch can have {DEEPEST:,} layers at most, not {depth}")
    if family == "plain" and "shortcut" in given:
        raise useless("shortcut", "a plain network has none")
    recipe = dataclasses.replace(PRESETS[given.get("preset", "paper")], precision=fast_precision(device))
    return settings | {"arch": f"{family}{depth}"}, _replace(recipe, given)


def _replace(recipe: Recipe, given: dict) -> Recipe:
    """Return the recipe with what of it was given."""
    if recipe.schedule == "one-cycle" and "warmup" in given:
        raise useless("warmup", "this recipe's schedule starts low by itself")
    if given.keys() & {"epochs", "iterations"}:
        given = {"epochs": None, "iterations": None} | given
    return dataclasses.replace(recipe, **{key: given[key] for key in vars(recipe) if key in given})


def _fit(trainer: Engine, checkpoint: Checkpoint, validation: Split | None, data: DataSet) -> InputError | None:
    """Train to the end; return what kept the last checkpoint from being written, such as a full disk."""
    say = print if rank() == 0 else lambda *words, **options: None  # once, however many processes there are
    if trainer.finished:
        return say(f"This run is finished, after {trainer.step:,} steps.")
    processes = f", {world_size()} processes" * (world_size() > 1)
    say(
        f"{checkpoint.arch} on {data.title}: {trainer.total_steps:,} steps of {trainer.recipe.batch_size} images, seed "
        f"{trainer.recipe.seed}, {trainer.recipe.precision} on {hardware(trainer.device)['name']}{processes}"
    )
    if trainer.step:
        say(f"Going on at step {trainer.step:,}.")
    try:
        fit_together({"training": trainer}, validation=validation, checkpoints={"training": checkpoint})
    except Interrupted:
        say(f"Saved at step {trainer.step:,}. Go on with: resnet56 train --resume {checkpoint.path}", file=sys.stderr)
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


@command("compare", "depth steps epochs batch_size lr warmup seed precision data device out")
def run_compare(*, depth=56, data=None, device="auto", out: Path | None = None, **given) -> None:
    """Train plain-56 and ResNet-56 side by side; write a record and a figure."""
    from .plots import plot_comparison  # imported here: the other commands draw nothing

    device = pick_device(device)
    if "steps" in given:
        given["iterations"] = given["steps"]
    recipe = _replace(default_recipe(device), given)
    build_model(f"resnet{depth}")  # a wrong depth fails here, before anything else
    runs = data_dir() / "runs"
    out = out or runs
    check_writable(out)
    data = load_data(data)
    record = out / f"compare-{depth}-{data.name}-{recipe.total_steps(len(data.train))}-steps-seed-{recipe.seed}"
    scratch = data_dir() / "tmp" if out.resolve() == runs.resolve() else out / ".tmp"
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


@command("bench", "arch batch_size rounds data device out")
def run_bench(*, data=None, device="auto", out: Path | None = None, **settings) -> None:
    """Measure how fast training is here, one trick at a time; write the table as JSON."""
    from .fast.bench import bench  # imported here: the other commands need no textbook loop

    device = pick_device(device)
    out = out or data_dir() / "bench.json"
    _check_new_file(out)
    result = bench(load_data(data), device=device, **settings)
    print(f"\n{result.report()}")
    result.save(out)
    print(f"Table: {out}")


@command("evaluate", "PATH arch normalise data device")
def run_evaluate(path: Path, *, device="auto", **given) -> None:
    """Measure a network on the test images of the data set it was trained on."""
    device = pick_device(device)
    network, data = _network_and_data(path, **given)
    score = evaluate(network.model.to(device), data.test, network.mean, network.precision)
    print(
        f"{network.title} on {data.title}: test loss {score.loss:.4f}, test error {score.error:.2f} %, "
        f"test accuracy {score.accuracy:.2f} %"
    )


def _network_and_data(path: Path, data=None, arch=None, normalise=None) -> tuple[Network, DataSet]:
    """Load a network, and the data set it was trained on; for weights of others, the one that is asked for."""
    network = load_network(path, arch, normalise)
    if network.data and data:
        raise useless("data", f"{path} says itself what it was trained on, {network.data}")
    data = load_data(network.data or data)
    if network.fingerprint not in (None, data.fingerprint):
        raise InputError(f"{path} was trained on another version of {data.title}; use that one")
    return network, data


@command("inspect", "PATH images arch normalise data device out")
def run_inspect(path: Path, *, images=500, device="auto", out: Path | None = None, **given) -> None:
    """Apply the instruments to a network: responses, gradients, dead filters of each layer, lesions of each block."""
    from .instruments.diagnosis import inspect_network  # imported here: training needs no instruments

    device = pick_device(device)
    if out:
        _check_new_file(out)
    network, data = _network_and_data(path, **given)
    train, test = evenly(data.train, 128).to(device), evenly(data.test, images).to(device)
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


@command("predict", "IMAGE weights arch normalise")
def run_predict(image: Path, *, weights: Path | None = None, arch=None, normalise=None) -> None:
    """Classify an image of your own."""
    pixels, (width, height) = read_image(image)
    network = load_network(weights or find_pretrained("resnet56")[1] / "weights.safetensors", arch, normalise)
    if (width, height) != (32, 32):
        print(f"Of {width}x{height} pixels the largest square in the middle was scaled to 32x32.")
    print(f"{image.name}, by {network.title}{f' on {network.data}' if network.data else ''}:")
    for name, probability in classify(network, pixels):
        print(f"{100 * probability:5.1f} %  {name}")


@command("reproduce", "SUITE only threads time_limit at_once iterations data device out")
def run_reproduce(suite, *, data=None, device="auto", threads=None, time_limit=math.inf, out=None, **settings) -> None:
    """Train and record the book's runs; goes on where it stopped."""
    device = pick_device(device)
    check_writable(out or data_dir())
    if threads:
        if device.type != "cpu":
            raise useless("threads", f"training is on {device.type}")
        torch.set_num_threads(threads)
    data = load_data(data)
    try:
        records = reproduce(suite, data=data, device=device, out=out, time_limit=60 * time_limit, **settings)
    except OutOfTime:
        print("Out of time; all is saved. The same command goes on from here.", file=sys.stderr)
        return
    if records:
        _report_suite(suite, records, data)


def _report_suite(suite: str, records: list[Path], data: DataSet) -> None:
    """Print the errors of a suite's runs, and draw those of plain-20, plain-56 and ResNet-56."""
    folder = records[0].parent
    runs, title = runs_table(folder), f"\nErrors in percent on {data.title}\n\n"
    if not SUITES[suite].keep:  # trials of recipes, which a figure or a mean would mix up
        runs["validation_error"] = [run.history["validation_error"].iloc[-1] for run in runs["run"]]
        table = runs.loc[[record.name for record in records], ["arch", "train_error", "validation_error"]]
        print(f"{title}{table.round(2).to_string()}\n\nRecords: {folder}")
        return
    table = summarise(runs)
    print(
        f"{title}{table.round(2).to_string(index=False, na_rep='-')}\n\n"
        f"Test errors beside those published for the full recipe on the official CIFAR-10\n\n"
        f"{beside_published(table).to_string(index=False)}\n\nRecords: {folder}"
    )
    shown = runs[(runs["seed"] == 0) & runs["arch"].isin(["plain20", "plain56", "resnet56"])].sort_values("depth")
    if len(shown):
        from .plots import plot_degradation  # imported here: the other commands draw nothing

        figure = plot_degradation(list(shown["run"]))
        write_file(folder / "figure.png", lambda file: figure.savefig(file, dpi=150))
        print(f"Figure: {folder / 'figure.png'}")


@command("measure", "SUITE images points data device out")
def run_measure(suite: str, *, data=None, **settings) -> None:
    """Apply every instrument to the networks of a recorded suite."""
    from .records.measuring import measure_suite  # imported here: training needs no instruments

    paths = measure_suite(suite, load_data(data), **settings)
    print(f"Measurements: {paths[0].parent}")


@command("data list")
def run_data_list() -> None:
    """List the data sets that can be used without a download."""
    names, problems = survey_data()
    print("\n".join(names))
    for problem in problems:
        print(f"not usable: {problem}", file=sys.stderr)


@command("data import", "PATH")
def run_data_import(path: Path) -> None:
    """Import CIFAR-10: its official files, or a copy kept as images."""
    data = import_images(path)
    print(f"{data.title}: {len(data.train):,} training and {len(data.test):,} test images, sha256 {data.fingerprint}")
    print(f"Use it with --data {data.name} or RESNET56_DATA={data.name}.")
