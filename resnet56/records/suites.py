"""Suites: the recorded runs of the book, planned, trained, continued and recorded by one command."""

import copy
import fnmatch
import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from .. import treatments
from ..data import DataSet, Split, hold_out, normalise
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
from .checkpoint import Checkpoint, resume
from .files import InProgress, check_writable, data_dir, lock, new_folder
from .runs import Run, commit, describe_run, differences, identity, load_run, save_run

VALIDATION = 5000  # training images held out, as in the paper: they make the curves, and choose nothing
RECORDED_STEPS = 70  # steps of a run at which gradients are recorded, about
PROBE = 128  # images of the probe batch
RATES = (0.003, 0.01, 0.03, 0.06, 0.1, 0.3)  # the highest of a run

Runs = dict[str, tuple[str, Recipe]]  # architecture and recipe by name


@dataclass(frozen=True)
class Suite:
    """Runs that belong together."""

    runs: Runs  #: in the order in which they are wanted
    keep: bool = True  #: whether gradients and weights are kept, of seed 0
    treated: bool = False  #: whether each is called by its treatment, which is diagnosed before and after training


def _each(recipe: Recipe, *archs: str) -> Runs:
    return {arch: (arch, recipe) for arch in archs}


def _seeded(seeds: Iterable[int], runs: Runs) -> Runs:
    return {
        f"{name}-seed-{seed}": (arch, replace(recipe, seed=seed))
        for seed in seeds
        for name, (arch, recipe) in runs.items()
    }


def faded(progress: float) -> float:
    """Return 1 at the start, 0 from three fifths of the run on, a straight line in between."""
    return max(0.0, 1 - progress / 0.6)


def switched_on(progress: float) -> float:
    """Return 0 in the first fifth of the run, then 1."""
    return float(progress >= 0.2)


#: By the name of each treatment, the network that is treated, the treatment, and what else its recipe needs.
TREATMENTS = {
    "untreated": ("plain56", treatments.Treatment, {}),
    "warmup": ("plain56", treatments.Warmup, {}),
    "clip": ("plain56", treatments.Clip, {}),
    "layerwise": ("plain56", treatments.LayerwiseSteps, {}),
    "keep-length": ("plain56", treatments.KeepLength, {}),
    "adam": ("plain56", treatments.Adam, {"lr": 0.001, "momentum": 0.0}),
    "dirac": ("plain56", treatments.Dirac, {}),
    "dirac-clip": ("plain56", treatments.DiracAndClip, {}),
    **{f"strength-{s}": ("resnet56", lambda s=s: treatments.Shortcuts(s), {}) for s in (0.0, 0.25, 0.5, 0.75, 1.0)},
    **{f"only-{stage}": ("resnet56", lambda stage=stage: treatments.Shortcuts(1.0, (stage,)), {}) for stage in STAGES},
    "faded": ("resnet56", lambda: treatments.Shortcuts(faded), {}),
    "switched-on": ("resnet56", lambda: treatments.Shortcuts(switched_on), {}),
    "zero-gain": ("resnet56", lambda: treatments.BranchGain(0.0), {}),
    "gain-3": ("resnet56", lambda: treatments.BranchGain(3.0), {}),
    "gain-10": ("resnet56", lambda: treatments.BranchGain(10.0), {}),
    "delta-orthogonal": ("plain56", treatments.DeltaOrthogonal, {"lr": 0.01}),
    "plain20": ("plain20", treatments.Treatment, {}),
    "resnet20": ("resnet20", treatments.Treatment, {}),
}


def _ingredients() -> Runs:
    """Return the trials that chose the fast preset: each adds something to the one before, the last three to decay."""
    recipes = {"paper": Recipe(epochs=5)}
    recipes["one-cycle"] = replace(recipes["paper"], schedule="one-cycle", lr=0.2)
    recipes["nesterov"] = replace(recipes["one-cycle"], nesterov=True)
    recipes["decay-all"] = replace(recipes["nesterov"], weight_decay=5e-4)
    decay = recipes["decay"] = replace(recipes["decay-all"], decay_all=False)
    recipes["smoothing"] = replace(decay, label_smoothing=0.1)
    recipes |= {f"large-batch-{lr}": replace(decay, batch_size=512, lr=lr) for lr in (0.8, 1.6)}
    return {name: ("resnet8", recipe) for name, recipe in recipes.items()}


MAIN = ("resnet56", "plain56", "plain20", "resnet20")
BETWEEN = ("plain44", "resnet44", "plain32", "resnet32")
SUITES = {
    "paper": Suite(
        _seeded(range(5), _each(PAPER, "plain56", "resnet56"))
        | _seeded(
            range(3),
            _each(PAPER, "plain20", "resnet20", "plain32", "resnet32", "plain44", "resnet44")
            | _each(replace(PAPER, warmup=400), "resnet110"),  # as in the paper, section 4.2
        )
    ),
    "fast": Suite(_seeded(range(5), _each(FAST, "plain56", "resnet56"))),
    "laptop": Suite(_seeded([0], _each(LAPTOP, *MAIN, *BETWEEN)) | _seeded([1], _each(LAPTOP, *MAIN))),
    "ingredients": Suite(_ingredients(), keep=False),
    "rates": Suite(  # does a plain network do better at another rate?
        {
            f"{arch}-lr-{lr:g}": (arch, replace(LAPTOP, epochs=2, lr=lr))
            for lr in RATES
            for arch in ("plain20", "plain56", "resnet20", "resnet56")
        },
        keep=False,
    ),
    "treatments": Suite(
        _seeded(range(2), {name: (arch, replace(LAPTOP, **own)) for name, (arch, _, own) in TREATMENTS.items()}),
        keep=False,
        treated=True,
    ),
}


@dataclass(frozen=True)
class Job:
    """One run of a suite."""

    arch: str
    recipe: Recipe
    record: Path  #: the folder that its record takes
    checkpoint: Path  #: the file that it is saved to until then
    keep: bool  #: whether its gradients and weights are kept
    treatment: str | None  #: a name in ``TREATMENTS``

    @property
    def name(self) -> str:
        """The name of the run in its suite, such as ``"resnet56-seed-0"``."""
        return self.record.name

    @property
    def cost(self) -> float:
        """Return its time up to a factor, depth times images."""
        images = self.recipe.epochs or self.recipe.iterations * self.recipe.batch_size
        return parse_arch(self.arch)[1] * images


def plan(
    suite: str, data: DataSet, *, out: Path | None = None, precision: str = "fp32", iterations: int | None = None
) -> list[Job]:
    """List the runs of a suite, a name in ``SUITES``, in order; an ``InputError`` if there is none.

    Folders for ``runs/`` and ``checkpoints/`` are in ``out``, or in ``data/``. With ``iterations`` each run has so many
    steps instead of the recipe's, for a rehearsal.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}: use {', '.join(SUITES)}")
    out = out or data_dir()
    folder = f"{suite}-{data.name}" + (f"-{iterations}-steps" if iterations else "")
    length = {"iterations": iterations, "epochs": None} if iterations else {}
    jobs = []
    for name, (arch, recipe) in SUITES[suite].runs.items():
        recipe = replace(recipe, precision=precision, **length)
        record, checkpoint = out / "runs" / folder / name, out / "checkpoints" / folder / f"{name}.pt"
        treatment = name.rsplit("-seed-", 1)[0] if SUITES[suite].treated else None
        jobs.append(Job(arch, recipe, record, checkpoint, SUITES[suite].keep and recipe.seed == 0, treatment))
    return jobs


def select(jobs: list[Job], only: str) -> list[Job]:
    """Return the jobs whose names are listed in ``only``, separated by commas; ``*`` stands for anything.

    If something listed is the name of none, that is an ``InputError``.
    """
    wanted = [pattern.strip() for pattern in only.split(",")]
    for pattern in wanted:
        if not fnmatch.filter([job.name for job in jobs], pattern):
            raise InputError(f"no run is called {pattern!r}; the runs are {', '.join(job.name for job in jobs)}")
    return [job for job in jobs if any(fnmatch.fnmatchcase(job.name, pattern) for pattern in wanted)]


def reproduce(
    suite: str,
    data: DataSet,
    *,
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
        suite, data, out, iterations: as for :func:`plan`.
        device: where to train.
        only: as for :func:`select`.
        at_once: how many networks are trained at the same time; if None, 8 on an NVIDIA GPU, of which one network
            leaves most idle, and 1 elsewhere.
        time_limit: seconds after which to stop and save, with an ``OutOfTime``.
        progress: show a bar per network.
        say: called with each line of the report.

    Returns:
        The folders of the records that were asked for, as far as they are there.

    Raises:
        InputError: if the suite or the device cannot be had, or a record or checkpoint is damaged or of another run.
        Interrupted: on SIGINT or SIGTERM, when all is saved.
    """
    deadline = time.monotonic() + time_limit
    commit()  # of the code that trains, before anyone edits it
    device = pick_device(device)
    out = out or data_dir()
    jobs = select(plan(suite, data, out=out, precision=fast_precision(device), iterations=iterations), only)
    for folder in (jobs[0].record.parent, jobs[0].checkpoint.parent):
        check_writable(folder)
    count = min(VALIDATION, len(data.train) // 10)
    recorded = sum(_is_recorded(job, data, count) for job in jobs)
    say(f"Suite {suite} on {data.title}: {recorded} of {len(jobs)} runs are recorded.")
    splits = [split.to(device) for split in hold_out(data.train, count)]
    at_once = at_once or (8 if device.type == "cuda" else 1)
    begun, done = time.monotonic(), 0.0
    while True:
        with ExitStack() as locks:
            group = _take_missing(jobs, at_once, locks)
            if not group:
                break
            if done:
                left = sum(job.cost for job in jobs if not job.record.exists())
                say(f"About {(time.monotonic() - begun) / done * left / 60:,.0f} minutes to go.")
            _train(group, data, *splits, say, out / "tmp", deadline=deadline, progress=progress)
            done += sum(job.cost for job in group)
    if others := [job.name for job in jobs if not job.record.exists()]:
        say(f"Other processes are training {', '.join(others)}; nothing is left to do here.")
    return [job.record for job in jobs if job.record.exists()]


def _is_recorded(job: Job, data: DataSet, validation: int) -> bool:
    """Tell whether a run is recorded; what it was trained on, and how, must be what is asked for."""
    if not job.record.exists():
        return False
    there = load_run(job.record).identity | {"precision": job.recipe.precision}
    here = identity(job.arch, "A", data.fingerprint, validation, vars(job.recipe))
    if found := differences(there, here):
        what = "data set" if there["sha256"] != here["sha256"] else "recipe"
        raise InputError(f"{job.record} is of another {what}: {found}; move it away, or give --out")
    return True


def _take_missing(jobs: list[Job], count: int, locks: ExitStack) -> list[Job]:
    """Lock and return the next jobs, ``count`` at most, that are not recorded and that no other process has."""
    taken = []
    for job in jobs:
        if len(taken) == count:
            break
        with suppress(InProgress):
            locks.enter_context(lock(job.checkpoint))
            if job.record.exists():
                job.checkpoint.unlink(missing_ok=True)  # of a process that was killed before it could
            else:
                taken.append(job)
    return taken


def _train(jobs: list[Job], data: DataSet, train: Split, validation: Split, say: Callable, scratch: Path, **options):
    """Train some networks at once, from their checkpoints where there are any, say how well, and record them."""
    trainers, recorders, checkpoints = {}, {}, {}
    with ExitStack() as stack:
        for job in jobs:
            trainer = trainers[job.name] = _begin(job, train)
            if job.keep:
                recorder = GradientRecorder(trainer, max(1, trainer.total_steps // RECORDED_STEPS), _probe(trainer))
                recorders[job.name] = stack.enter_context(recorder)
            checkpoint = Checkpoint(job.checkpoint, job.arch, "A", data.name, data.fingerprint, len(validation))
            if checkpoint.path.exists():
                resume(trainer, checkpoint)
            checkpoints[job.name] = checkpoint
        fit_together(trainers, validation=validation, checkpoints=checkpoints, **options)
    for job in jobs:
        trainer = trainers[job.name]
        test = evaluate(trainer.model, data.test.to(trainer.device), trainer.batches.mean, job.recipe.precision)
        say(f"{job.name}: test error {test.error:.2f} %")
        about = describe_run(trainer, arch=job.arch, shortcut="A", data=data, validation=len(validation), test=test)
        if job.treatment:
            about |= {"treatment": job.treatment, "diagnosis": _diagnose(job, trainer, train)}
        gradients = recorders[job.name].table() if job.keep else None
        with new_folder(job.record, scratch) as folder:
            save_run(folder, Run(about, pd.DataFrame(trainer.history), gradients), trainer if job.keep else None)
        job.checkpoint.unlink()


def _begin(job: Job, train: Split) -> Engine:
    """Return the trainer of a run, before its first step, on the device of its images."""
    torch.manual_seed(job.recipe.seed)
    treatment = TREATMENTS[job.treatment][1]() if job.treatment else None
    return Engine(build_model(job.arch), train, job.recipe, train.labels.device, treatment)


def _probe(trainer: Engine) -> tuple[Tensor, Tensor]:
    """Return a batch of training images as the network sees them, and their labels."""
    images = evenly(trainer.batches.split, PROBE)
    return normalise(images.pixels, trainer.batches.mean), images.labels


def _diagnose(job: Job, trained: Engine, train: Split) -> dict[str, dict[str, float]]:
    """Diagnose a treated network at the ``start`` and at the ``end``, on the images of the probe batch.

    Beside what :func:`resnet56.instruments.diagnosis.diagnosis` tells: ``angle``, by how many degrees the first layer
    has turned, at the start by the first step, at the end by all.
    """
    fresh, batch = _begin(job, train), _probe(trained)
    found = {"start": diagnosis(fresh.model, *batch), "end": diagnosis(trained.model, *batch)}
    initial = copy.deepcopy(fresh.model.state_dict())
    fresh.take_step()
    for when, model in (("start", fresh.model), ("end", trained.model)):
        found[when]["angle"] = turning_angles(initial, model.state_dict())["angle"].iloc[0]
    return found
