"""Suites: the recorded runs of the book, planned, trained, continued and recorded by one command."""

import copy
import dataclasses
import fnmatch
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ..data import DataSet, Split, hold_out, normalise
from ..datasets import load_data
from ..devices import fast_precision, pick_device
from ..errors import InputError
from ..fast import fit_together
from ..fast.engine import Engine
from ..gradients import GradientRecorder
from ..instruments.diagnosis import diagnosis, turning_angles
from ..layers import STAGES
from ..model import build_model, parse_arch
from ..observe import evenly
from ..recipe import FAST, LAPTOP, PAPER, Recipe
from ..train import evaluate
from ..treatments import (
    Adam,
    BranchGain,
    Clip,
    DeltaOrthogonal,
    Dirac,
    DiracAndClip,
    KeepLength,
    LayerwiseSteps,
    Shortcuts,
    Treatment,
    Warmup,
)
from .checkpoint import Checkpoint, resume
from .files import InProgress, check_writable, data_dir, lock, new_folder
from .runs import Run, commit, describe_run, load_run, save_run

VALIDATION = 5000  # training images held out, as in the paper: they make the curves, and choose nothing
RECORDED_STEPS = 70  # steps of a run at which gradients are recorded, about
PROBE = 128  # images of the probe batch
RATES = (0.003, 0.01, 0.03, 0.06, 0.1, 0.3)  # the highest of a run


@dataclass(frozen=True)
class Suite:
    """Runs that belong together.

    Attributes:
        runs: architecture and recipe by name, in the order in which they are wanted.
        keep: whether gradients and weights are kept, of seed 0.
        treated: whether each run is called by its treatment, which is diagnosed before and after training.
    """

    runs: dict[str, tuple[str, Recipe]]
    keep: bool = True
    treated: bool = False


def _seeds(recipe: Recipe, archs: tuple[str, ...], seeds: range, **others: Recipe) -> dict[str, tuple[str, Recipe]]:
    """Return runs of each network with each seed; ``others`` are the recipes of networks that need one of their own."""
    return {
        f"{arch}-seed-{seed}": (arch, dataclasses.replace(others.get(arch, recipe), seed=seed))
        for seed in seeds
        for arch in archs
    }


def faded(progress: float) -> float:
    """Return 1 at the start, 0 from three fifths of the run on, a straight line in between."""
    return max(0.0, 1 - progress / 0.6)


def switched_on(progress: float) -> float:
    """Return 0 in the first fifth of the run, then 1."""
    return float(progress >= 0.2)


#: By the name of each treatment, the network that is treated, the treatment, and what else its recipe needs.
TREATMENTS = {
    "untreated": ("plain56", Treatment, {}),
    "warmup": ("plain56", Warmup, {}),
    "clip": ("plain56", Clip, {}),
    "layerwise": ("plain56", LayerwiseSteps, {}),
    "keep-length": ("plain56", KeepLength, {}),
    "adam": ("plain56", Adam, {"lr": 0.001, "momentum": 0.0}),
    "dirac": ("plain56", Dirac, {}),
    "dirac-clip": ("plain56", DiracAndClip, {}),
    **{f"strength-{s}": ("resnet56", lambda s=s: Shortcuts(s), {}) for s in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{f"only-{stage}": ("resnet56", lambda stage=stage: Shortcuts(1.0, (stage,)), {}) for stage in STAGES},
    "faded": ("resnet56", lambda: Shortcuts(faded), {}),
    "switched-on": ("resnet56", lambda: Shortcuts(switched_on), {}),
    "zero-gain": ("resnet56", lambda: BranchGain(0.0), {}),
    "gain-3": ("resnet56", lambda: BranchGain(3.0), {}),
    "gain-10": ("resnet56", lambda: BranchGain(10.0), {}),
    "delta-orthogonal": ("plain56", DeltaOrthogonal, {"lr": 0.01}),
    "plain20": ("plain20", Treatment, {}),
    "resnet20": ("resnet20", Treatment, {}),
}


def _ingredients() -> dict[str, tuple[str, Recipe]]:
    """Return the trials that chose the fast preset: what is new in each, on top of one before it."""
    paper = Recipe(epochs=5)
    one_cycle = dataclasses.replace(paper, schedule="one-cycle", lr=0.2)
    nesterov = dataclasses.replace(one_cycle, nesterov=True)
    decay_all = dataclasses.replace(nesterov, weight_decay=5e-4)
    decay = dataclasses.replace(decay_all, decay_all=False)
    recipes = {
        "paper": paper,
        "one-cycle": one_cycle,
        "nesterov": nesterov,
        "decay-all": decay_all,
        "decay": decay,
        "smoothing": dataclasses.replace(decay, label_smoothing=0.1),
        "large-batch-0.8": dataclasses.replace(decay, batch_size=512, lr=0.8),
        "large-batch-1.6": dataclasses.replace(decay, batch_size=512, lr=1.6),
    }
    return {name: ("resnet8", recipe) for name, recipe in recipes.items()}


def _rates() -> dict[str, tuple[str, Recipe]]:
    """Return shallow and deep networks at several learning rates: does a plain one do better with another?"""
    return {
        f"{arch}-lr-{lr:g}": (arch, dataclasses.replace(LAPTOP, epochs=2, lr=lr))
        for lr in RATES
        for arch in ("plain20", "plain56", "resnet20", "resnet56")
    }


def _treatments() -> dict[str, tuple[str, Recipe]]:
    """Return every treatment, under the recipe of the suite ``laptop`` but for what it needs of its own."""
    return {
        f"{name}-seed-{seed}": (arch, dataclasses.replace(LAPTOP, seed=seed, **changes))
        for seed in range(2)
        for name, (arch, _, changes) in TREATMENTS.items()
    }


SUITES = {
    "paper": Suite(
        _seeds(PAPER, ("plain56", "resnet56"), range(5))
        | _seeds(
            PAPER,
            ("plain20", "resnet20", "plain32", "resnet32", "plain44", "resnet44", "resnet110"),
            range(3),
            resnet110=dataclasses.replace(PAPER, warmup=400),  # as in the paper, section 4.2
        )
    ),
    "fast": Suite(_seeds(FAST, ("plain56", "resnet56"), range(5))),
    "laptop": Suite(
        _seeds(LAPTOP, ("resnet56", "plain56", "plain20", "resnet20"), range(1))
        | _seeds(LAPTOP, ("plain44", "resnet44", "plain32", "resnet32"), range(1))
        | _seeds(LAPTOP, ("resnet56", "plain56", "plain20", "resnet20"), range(1, 2))
    ),
    "ingredients": Suite(_ingredients(), keep=False),
    "rates": Suite(_rates(), keep=False),
    "treatments": Suite(_treatments(), keep=False, treated=True),
}


@dataclass(frozen=True)
class Job:
    """One run of a suite.

    Attributes:
        arch: what is trained.
        recipe: how.
        record: the folder that its record takes.
        checkpoint: the file that it is saved to until then.
        keep: whether its gradients and weights are kept.
        treatment: a name in ``TREATMENTS``; None for none.
    """

    arch: str
    recipe: Recipe
    record: Path
    checkpoint: Path
    keep: bool
    treatment: str | None = None

    @property
    def name(self) -> str:
        """The name of the run in its suite, such as ``"resnet56-seed-0"``."""
        return self.record.name


def plan(
    suite: str, data: DataSet, *, out: Path | None = None, precision: str = "fp32", iterations: int | None = None
) -> list[Job]:
    """List the runs of a suite, in order.

    Args:
        suite: a name in ``SUITES``.
        data: the data set.
        out: folder for ``runs/`` and ``checkpoints/``; ``data/`` if None.
        precision: of all runs.
        iterations: steps of each run instead of the recipe's, for a rehearsal.

    Raises:
        InputError: if there is no suite of that name.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}: use {', '.join(SUITES)}")
    out = out or data_dir()
    folder = f"{suite}-{data.name}" + (f"-{iterations}-steps" if iterations else "")
    length = {"iterations": iterations, "epochs": None} if iterations else {}
    jobs = []
    for name, (arch, recipe) in SUITES[suite].runs.items():
        recipe = dataclasses.replace(recipe, precision=precision, **length)
        keep = SUITES[suite].keep and recipe.seed == 0
        record, checkpoint = out / "runs" / folder / name, out / "checkpoints" / folder / f"{name}.pt"
        treatment = name.rsplit("-seed-", 1)[0] if SUITES[suite].treated else None
        jobs.append(Job(arch, recipe, record, checkpoint, keep, treatment))
    return jobs


def select(jobs: list[Job], only: str) -> list[Job]:
    """Return those of the jobs whose names are listed in ``only``, separated by commas; ``*`` stands for anything.

    Raises:
        InputError: if something listed is the name of none.
    """
    wanted = [pattern.strip() for pattern in only.split(",")]
    for pattern in wanted:
        if not fnmatch.filter([job.name for job in jobs], pattern):
            raise InputError(f"no run is called {pattern!r}; the runs are {', '.join(job.name for job in jobs)}")
    return [job for job in jobs if any(fnmatch.fnmatchcase(job.name, pattern) for pattern in wanted)]


def reproduce(
    suite: str,
    *,
    data: DataSet | None = None,
    device: str | torch.device = "auto",
    out: Path | None = None,
    only: str = "*",
    at_once: int | None = None,
    time_limit: float = math.inf,
    iterations: int | None = None,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Train the runs of a suite that are not recorded yet, and record each as it completes.

    What was interrupted goes on from its checkpoint, which is deleted when the record is there. Several processes may
    work on one suite at once: each takes the next run that is missing and that no other has, and does not wait for
    those that others still train.

    Args:
        suite, out, iterations: as for :func:`plan`.
        data: the data set; the first that is available if None.
        device: where to train.
        only: as for :func:`select`.
        at_once: how many networks are trained at the same time; if None, 8 on an NVIDIA GPU, of which one network
            leaves most idle, and 1 elsewhere.
        time_limit: seconds after which to stop and save.
        progress: show a bar per network.
        say: called with each line of the report.

    Returns:
        The folders of the records that were asked for, as far as they are there.

    Raises:
        InputError: if the suite or the device cannot be had, or a record or checkpoint is damaged or of another run.
        Interrupted: on SIGINT or SIGTERM, when all is saved.
        OutOfTime: at the time limit, when all is saved.
    """
    deadline = time.monotonic() + time_limit
    commit()  # of the code that trains, before anyone edits it
    device = pick_device(device) if isinstance(device, str) else device
    data = data or load_data()
    out = out or data_dir()
    jobs = select(plan(suite, data, out=out, precision=fast_precision(device), iterations=iterations), only)
    for folder in (jobs[0].record.parent, jobs[0].checkpoint.parent):
        check_writable(folder)
    count = min(VALIDATION, len(data.train) // 10)
    recorded = sum(_is_recorded(job, data, count) for job in jobs)
    say(f"Suite {suite} on {data.title}: {recorded} of {len(jobs)} runs are recorded.")
    train, validation = (split.to(device) for split in hold_out(data.train, count))
    at_once = at_once or (8 if device.type == "cuda" else 1)
    begun, work = time.monotonic(), 0.0
    while True:
        with ExitStack() as locks:
            group = _take_missing(jobs, at_once, locks)
            if not group:
                break
            if work:
                left = sum(_work(job) for job in jobs if not job.record.exists())
                say(f"About {(time.monotonic() - begun) / work * left / 60:,.0f} minutes to go.")
            _train(group, data, train, validation, device, deadline, progress, say, out / "tmp")
            work += sum(map(_work, group))
    if others := [job.name for job in jobs if not job.record.exists()]:
        say(f"Other processes are training {', '.join(others)}; nothing is left to do here.")
    return [job.record for job in jobs if job.record.exists()]


def _take_missing(jobs: list[Job], count: int, locks: ExitStack) -> list[Job]:
    """Lock and return the next jobs, ``count`` at most, that are not recorded and that no other process has."""
    taken = []
    for job in jobs:
        if len(taken) == count:
            break
        with ExitStack() as held:
            try:
                held.enter_context(lock(job.checkpoint))
            except InProgress:
                continue
            if job.record.exists():
                job.checkpoint.unlink(missing_ok=True)  # of a process that was killed before it could
            else:
                locks.push(held.pop_all())
                taken.append(job)
    return taken


def _work(job: Job) -> float:
    """Return the cost of a run, up to a factor: its depth times its images."""
    recipe = job.recipe
    images = recipe.epochs if recipe.epochs else recipe.iterations * recipe.batch_size
    return parse_arch(job.arch)[1] * images


def _is_recorded(job: Job, data: DataSet, validation: int) -> bool:
    """Tell whether a run is recorded; what it was trained on, and how, must be what is asked for."""
    if not job.record.exists():
        return False
    about = load_run(job.record).about
    here = dataclasses.asdict(job.recipe) | {"milestones": list(job.recipe.milestones)}
    here |= {"arch": job.arch, "sha256": data.fingerprint[:8], "validation_images": validation}
    there = about["recipe"] | about["data"] | {"arch": about["arch"], "sha256": about["data"]["fingerprint"][:8]}
    differences = [
        f"{key} is {there[key]} there, {value} here"
        for key, value in here.items()
        if there[key] != value and key != "precision"
    ]
    if differences:
        what = "data set" if there["sha256"] != here["sha256"] else "recipe"
        raise InputError(f"{job.record} is of another {what}: {'; '.join(differences)}; move it away, or give --out")
    return True


def _train(
    jobs: list[Job],
    data: DataSet,
    train: Split,
    validation: Split,
    device: torch.device,
    deadline: float,
    progress: bool,
    say: Callable[[str], object],
    scratch: Path,
) -> None:
    """Train some networks at once, from their checkpoints where there are any, say how well, and record them."""
    trainers, recorders, checkpoints = {}, {}, {}
    with ExitStack() as stack:
        for job in jobs:
            trainer = _begin(job, train, device)
            if job.keep:
                images = evenly(train, PROBE)
                probe = normalise(images.pixels, trainer.batches.mean), images.labels
                every = max(1, trainer.total_steps // RECORDED_STEPS)
                recorders[job.name] = stack.enter_context(GradientRecorder(trainer, every, probe))
            checkpoint = Checkpoint(job.checkpoint, job.arch, "A", data.name, data.fingerprint, len(validation))
            if checkpoint.path.exists():
                resume(trainer, checkpoint)
            trainers[job.name], checkpoints[job.name] = trainer, checkpoint
        fit_together(trainers, validation=validation, checkpoints=checkpoints, deadline=deadline, progress=progress)
    for job in jobs:
        trainer = trainers[job.name]
        test = evaluate(trainer.model, data.test.to(device), trainer.batches.mean, job.recipe.precision)
        say(f"{job.name}: test error {test.error:.2f} %")
        about = describe_run(trainer, arch=job.arch, shortcut="A", data=data, validation=len(validation), test=test)
        if job.treatment:
            about |= {"treatment": job.treatment, "diagnosis": _diagnose(job, trainer, train)}
        gradients = recorders[job.name].table() if job.keep else None
        with new_folder(job.record, scratch) as folder:
            save_run(folder, Run(about, pd.DataFrame(trainer.history), gradients), trainer if job.keep else None)
        job.checkpoint.unlink()


def _begin(job: Job, train: Split, device: torch.device) -> Engine:
    """Return the trainer of a run, before its first step."""
    torch.manual_seed(job.recipe.seed)
    treatment = TREATMENTS[job.treatment][1]() if job.treatment else None
    return Engine(build_model(job.arch), train, job.recipe, device, treatment)


def _diagnose(job: Job, trained: Engine, train: Split) -> dict[str, dict[str, float]]:
    """Diagnose a treated network at the ``start`` and at the ``end``, on the images of the probe batch.

    Beside what :func:`resnet56.instruments.diagnosis.diagnosis` tells: ``angle``, by how many degrees the first layer
    has turned, at the start by the first step, at the end by all.
    """
    fresh = _begin(job, train, trained.device)
    images = evenly(train, PROBE)
    batch = normalise(images.pixels, trained.batches.mean), images.labels
    found = {"start": diagnosis(fresh.model, *batch), "end": diagnosis(trained.model, *batch)}
    initial = copy.deepcopy(fresh.model.state_dict())
    fresh.take_step()
    for when, model in (("start", fresh.model), ("end", trained.model)):
        found[when]["angle"] = turning_angles(initial, model.state_dict())["angle"].iloc[0]
    return found
