"""The study: every instrument on the networks of a recorded suite, by one command."""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import DataSet, Split, hold_out, normalise
from ..devices import hardware, pick_device, versions
from ..errors import InputError
from ..instruments.initialisation import branch_variances
from ..instruments.landscape import loss_landscape
from ..instruments.lesions import lesion_each, lesion_random
from ..instruments.modes import calibrate
from ..instruments.paths import path_lengths
from ..instruments.responses import layer_responses
from ..instruments.shattering import autocorrelation, brown_noise, input_gradients, line, white_noise
from ..layers import stage_of, weighted_layers
from ..model import build_model
from ..observe import evenly, output_gradient_norms
from .files import check_writable, data_dir, lock
from .measurement import Measurement, load_measurement, save_measurement
from .runs import Run, commit, find_pretrained, load_pretrained

DEEP = ("plain56", "resnet56")
SHALLOW = ("plain20", "resnet20")
DEPTHS = (8, 20, 56)  # of shattered gradients
ALL_DEPTHS = (8, 14, 20, 32, 44, 56, 80, 110)  # of networks before training
LAGS = 15  # of the autocorrelation of input gradients
BATCH = 128  # training images for measurements on one batch
PATHS = 32  # of them for path lengths


@dataclass(frozen=True)
class Study:
    """What the instruments are applied to, and at what scale.

    Attributes:
        suite: folder of the suite's records.
        data: the data set.
        train: the images that its networks were trained on, without those held out.
        device: where to measure.
        images: images for each evaluation: of the test set for lesions, of the training images for the landscape.
        points: along each side of the loss surface; the line has twice as many, and one.
        partials: folder for what is not finished.
        progress: show progress bars.
    """

    suite: Path
    data: DataSet
    train: Split
    device: torch.device
    images: int
    points: int
    partials: Path
    progress: bool = True

    def trained(self, arch: str) -> tuple[nn.Module, Tensor]:
        """Return a trained network of the suite and its mean image, on the device."""
        model, mean = load_pretrained(arch, str(self.suite))
        return model.to(self.device, memory_format=torch.channels_last), mean.to(self.device)

    def fresh(self, arch: str) -> nn.Module:
        """Return an untrained network, of seed 0, on the device."""
        torch.manual_seed(0)
        return build_model(arch).to(self.device)

    def batch(self, count: int = BATCH) -> tuple[Tensor, Tensor]:
        """Return a batch of training images as a network of 56 layers sees them, and their labels."""
        images = evenly(self.train, BATCH)[:count].to(self.device)
        return normalise(images.pixels, self.trained("resnet56")[1]), images.labels

    def some(self, split: Split) -> Split:
        """Return as many of the images as an evaluation uses, on the device."""
        return evenly(split, self.images).to(self.device)


def gradient_growth(study: Study) -> pd.DataFrame:
    """Measure the gradient at the output of each layer of untrained networks."""
    batch = study.batch()

    def measure(arch: str) -> pd.DataFrame:
        model = study.fresh(arch)
        layers = [name for name, _ in weighted_layers(model)]
        norms = output_gradient_norms(model, *batch).tolist()
        stages = [stage_of(name) for name in layers]
        depths = range(1, len(layers) + 1)
        return pd.DataFrame({"depth": depths, "layer": layers, "stage": stages, "output_gradient_norm": norms})

    return _by_arch(measure, [f"{family}{depth}" for family in ("plain", "resnet") for depth in ALL_DEPTHS])


def variances(study: Study) -> pd.DataFrame:
    """Measure the variance of branch and shortcut in residual networks, untrained and trained."""
    images, _ = study.batch()
    tables = [
        _by_arch(lambda arch: branch_variances(study.fresh(arch), images), ("resnet20", "resnet56", "resnet110")),
        _by_arch(lambda arch: branch_variances(study.trained(arch)[0], images), ("resnet56",)),
    ]
    return pd.concat(tables, keys=["fresh", "trained"], names=["state"]).reset_index("state")


def shattering(study: Study) -> pd.DataFrame:
    """Measure how input gradients along a line between two images agree, beside white and brown noise."""
    images, _ = study.batch()
    path = line(images[0], images[-1])

    def curve(series: Tensor) -> pd.DataFrame:
        return pd.DataFrame({"lag": range(LAGS + 1), "autocorrelation": autocorrelation(series, LAGS).tolist()})

    def fresh(arch: str) -> pd.DataFrame:
        model = study.fresh(arch)
        calibrate(model, images)
        return curve(input_gradients(model, path))

    noises = {"white": white_noise, "brown": brown_noise}
    tables = {
        "fresh": _by_arch(fresh, [f"{family}{depth}" for family in ("plain", "resnet") for depth in DEPTHS]),
        "trained": _by_arch(lambda arch: curve(input_gradients(study.trained(arch)[0], path)), DEEP),
        "noise": _by_arch(lambda name: curve(noises[name](len(path), images[0].numel())), noises),
    }
    return pd.concat(tables, names=["state"]).reset_index("state")


def responses(study: Study) -> pd.DataFrame:
    """Measure the responses of all layers of trained networks, shallow ones too where the suite has them."""

    def measure(arch: str) -> pd.DataFrame:
        model, mean = study.trained(arch)
        return layer_responses(model, normalise(study.some(study.data.test).pixels, mean))

    shallow = [arch for arch in SHALLOW if (study.suite / f"{arch}-seed-0").exists()]
    return _by_arch(measure, (*shallow, *DEEP))


def paths(study: Study) -> pd.DataFrame:
    """Measure the gradient through paths of each length of the trained residual network."""
    return path_lengths(study.trained("resnet56")[0], *study.batch(PATHS))


def each_lesion(study: Study) -> pd.DataFrame:
    """Take each block out of the trained networks."""
    return _part_by_part(study, "lesions-each", lesion_each, study.data.test)


def random_lesions(study: Study) -> pd.DataFrame:
    """Take several blocks out of the trained networks."""
    return _part_by_part(study, "lesions-random", lesion_random, study.data.test)


def line_of_loss(study: Study) -> pd.DataFrame:
    """Measure the loss on a line through the trained weights."""
    options = dict(axes=1, points=2 * study.points + 1, at_once=_at_once(study))
    return _part_by_part(study, "loss-line", loss_landscape, study.train, **options)


def surface_of_loss(study: Study) -> pd.DataFrame:
    """Measure the loss on a square around the trained weights."""
    return _part_by_part(
        study, "loss-surface", loss_landscape, study.train, points=study.points, at_once=_at_once(study)
    )


def _at_once(study: Study) -> int:
    """Return how many points of the landscape to evaluate together: on a CPU one is fastest."""
    return 8 if study.device.type == "cuda" else 1


def _part_by_part(study: Study, name: str, instrument: Callable, split: Split, **options) -> pd.DataFrame:
    """Apply an instrument that can be resumed to both deep networks; what the first gave is kept until the end."""
    images = study.some(split)

    def measure(arch: str) -> pd.DataFrame:
        run, _ = find_pretrained(arch, str(study.suite))
        kept = study.partials / f"{name}-{arch}"
        about = {"network": run.about["checksum"], "images": len(images), "points": options.get("points")}
        if kept.exists():
            found = load_measurement(kept)
            if any(found.about[key] != value for key, value in about.items()):
                raise InputError(
                    f"{kept} holds part of another measurement; give its --images and --points, or delete it"
                )
            return found.table
        model, mean = study.trained(arch)
        partial = study.partials / f"{name}-{arch}.json"
        table = instrument(model, images, mean, progress=study.progress, partial=partial, **options)
        save_measurement(kept, Measurement(about, table))
        return table

    return _by_arch(measure, DEEP)


def _by_arch(measure: Callable[[str], pd.DataFrame], archs: Iterable[str]) -> pd.DataFrame:
    tables = {arch: measure(arch) for arch in archs}
    return pd.concat(tables, names=["arch"]).reset_index("arch")


#: Each measurement with its images, so many training images, or as many as asked for of "test" or "train".
MEASUREMENTS: dict[str, tuple[Callable[[Study], pd.DataFrame], int | str]] = {
    "gradient-growth": (gradient_growth, BATCH),
    "branch-variances": (variances, BATCH),
    "shattering": (shattering, BATCH),
    "responses": (responses, "test"),
    "paths": (paths, PATHS),
    "lesions-each": (each_lesion, "test"),
    "lesions-random": (random_lesions, "test"),
    "loss-line": (line_of_loss, "train"),
    "loss-surface": (surface_of_loss, "train"),
}


def measure_suite(
    suite: str,
    data: DataSet,
    *,
    device: str = "auto",
    out: Path | None = None,
    images: int | None = None,
    points: int | None = None,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Apply every instrument to the networks of a recorded suite; what is recorded already is not measured again.

    Args:
        suite: name of the suite, whose records must be there.
        data: the data set they were trained on.
        device: where to measure.
        out: folder that holds ``runs/``; ``data/`` if None.
        images: for each evaluation of responses, lesions and landscape; if None, 10,000 on an NVIDIA GPU, else 500.
        points: along each side of the loss surface, an odd number; if None, 51 on an NVIDIA GPU, else 11.
        progress: show progress bars.
        say: called with each line of the report.

    Returns:
        The folders of the measurements.

    Raises:
        InputError: if the trained networks are not there or of other data, another process measures them, or what is
            recorded already was measured otherwise than is asked for.
        Interrupted: on SIGINT or SIGTERM; a later call goes on from there.
    """
    device = pick_device(device)
    on_gpu = device.type == "cuda"
    if points is not None and (points < 3 or points % 2 == 0):
        raise InputError(f"{points} points have no centre: give an odd number, at least 3")
    out = out or data_dir()
    folder = out / "runs" / f"{suite}-{data.name}"
    partials = out / "checkpoints" / folder.name
    validation = {_trained_on(find_pretrained(arch, str(folder))[0], data) for arch in DEEP}
    if len(validation) > 1:
        raise InputError(f"the networks in {folder} were trained on different images; measure those of one suite")
    found = {name: folder / "measurements" / name for name in MEASUREMENTS}
    for path in found.values():
        if path.exists():
            _check_recorded(path, data, images, points)
    train, _ = hold_out(data.train, validation.pop())
    study = Study(
        folder,
        data,
        train,
        device,
        images or (10_000 if on_gpu else 500),
        points or (51 if on_gpu else 11),
        partials,
        progress,
    )
    check_writable(folder)
    check_writable(partials)
    with lock(partials / "measurements", "made"):
        for name, path in found.items():
            if not path.exists():
                _record(study, suite, name, path, out / "tmp", say)
    say(f"All {len(found)} measurements are recorded.")
    return list(found.values())


def _trained_on(run: Run, data: DataSet) -> int:
    """Return how many training images were held out of a run, which must be of this very data set."""
    there = run.about["data"]
    if there["fingerprint"] != data.fingerprint:
        raise InputError(
            f"{run.arch} was trained on another data set called {there['name']} (sha256 {there['fingerprint'][:8]} "
            f"there, {data.fingerprint[:8]} here); measure it on that one"
        )
    return there["validation_images"]


def _check_recorded(path: Path, data: DataSet, images: int | None, points: int | None) -> None:
    """Refuse options that would do nothing, since a measurement is recorded, and measurements on other data."""
    measurement = load_measurement(path)
    if measurement.about["data"]["fingerprint"] != data.fingerprint:
        raise InputError(f"{path} was measured on another data set called {data.name}; move it away, or give --out")
    _, kind = MEASUREMENTS[path.name]
    there = {"images": measurement.about["images"]} if isinstance(kind, str) else {}
    if kind == "train":
        count = measurement.table["x"].nunique()
        there["points"] = count if path.name == "loss-surface" else (count - 1) // 2
    available = len(data.test if kind == "test" else data.train)
    asked = {"images": images and min(images, available), "points": points}
    for option, value in there.items():
        if asked[option] not in (None, value):
            raise InputError(
                f"{path} is recorded, with {value} {option}; move it away to measure anew, or leave --{option} out"
            )


def _record(study: Study, suite: str, name: str, path: Path, scratch: Path, say: Callable[[str], object]) -> None:
    measure, kind = MEASUREMENTS[name]
    started = time.monotonic()
    table = measure(study)
    splits = {"test": study.data.test, "train": study.train}
    count = min(study.images, len(splits[kind])) if kind in splits else min(kind, len(study.train))
    about = {
        "measurement": name,
        "suite": suite,
        "data": {"name": study.data.name, "title": study.data.title, "fingerprint": study.data.fingerprint},
        "images": count,
        "seconds": round(time.monotonic() - started, 1),
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(study.device),
        "versions": versions(),
        "commit": commit(),
    }
    say(f"{name}: {len(table):,} rows, {about['seconds']:,.0f} s")
    save_measurement(path, Measurement(about, table), scratch)
    for arch in DEEP:
        shutil.rmtree(study.partials / f"{name}-{arch}", ignore_errors=True)
