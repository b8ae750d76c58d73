"""The study: every instrument on the networks of a recorded suite, by one command."""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import DataSet, Split, hold_out, normalise
from ..devices import pick_device
from ..errors import InputError
from ..instruments.diagnosis import diagnosis, layer_responses
from ..instruments.initialisation import branch_variances, calibrate
from ..instruments.landscape import loss_landscape
from ..instruments.lesions import lesion_each, lesion_random
from ..instruments.paths import path_lengths
from ..instruments.shattering import autocorrelation, brown_noise, input_gradients, line, white_noise
from ..layers import stage_of, weighted_layers
from ..model import build_model
from ..observe import evenly, output_gradient_norms
from .files import check_writable, data_dir, lock
from .measurement import Measurement, load_measurement, save_measurement
from .runs import circumstances, find_pretrained, load_pretrained

DEEP, SHALLOW = ("plain56", "resnet56"), ("plain20", "resnet20")
SHATTERED = [f"{family}{depth}" for family in ("plain", "resnet") for depth in (8, 20, 56)]
GROWING = [f"{family}{depth}" for family in ("plain", "resnet") for depth in (8, 14, 20, 32, 44, 56, 80, 110)]
LAGS = 15  # of the autocorrelation of input gradients
BATCH = 128  # training images for measurements on one batch
PATHS = 32  # of them for path lengths
RECALIBRATION = 1000  # training images for the batch normalisation of what a lesion leaves


def _each(measure: Callable[[str], pd.DataFrame], names: Iterable[str], column: str = "arch") -> pd.DataFrame:
    """Return what is measured for each name as one table, whose first column is the name."""
    return pd.concat({name: measure(name) for name in names}, names=[column]).reset_index(column)


@dataclass(frozen=True)
class Study:
    """Every instrument, and what it is applied to at what scale."""

    suite: Path  #: folder of the suite's records
    data: DataSet
    train: Split  #: the images that its networks were trained on, without those held out
    device: torch.device
    images: int  #: for each evaluation, of the test set for lesions, of the training images for the landscape
    points: int  #: along each side of the loss surface; the line has twice as many, and one
    partials: Path  #: folder for what is not finished
    progress: bool

    def trained(self, arch: str) -> tuple[nn.Module, Tensor]:
        """Return a trained network of the suite and its mean image, on the device."""
        model, mean = load_pretrained(arch, str(self.suite))
        return model.to(self.device, memory_format=torch.channels_last), mean.to(self.device)

    def fresh(self, arch: str) -> nn.Module:
        """Return an untrained network, of seed 0, on the device."""
        torch.manual_seed(0)
        return build_model(arch).to(self.device)

    def batch(self, count: int = BATCH) -> tuple[Tensor, Tensor]:
        """Return training images as a network of 56 layers sees them, and their labels."""
        images = evenly(self.train, count).to(self.device)
        return normalise(images.pixels, self.trained("resnet56")[1]), images.labels

    def some(self, kind: str) -> Split:
        """Return as many ``"test"`` or ``"train"`` images as an evaluation uses, on the device."""
        return evenly(self.data.test if kind == "test" else self.train, self.images).to(self.device)

    def by_state(self, measure: Callable[[nn.Module], pd.DataFrame], **archs: Iterable[str]) -> pd.DataFrame:
        """Measure networks, those listed as ``fresh`` and those as ``trained``."""
        networks = {"fresh": self.fresh, "trained": lambda arch: self.trained(arch)[0]}

        def measure_all(state: str) -> pd.DataFrame:
            return _each(lambda arch: measure(networks[state](arch)), archs[state])

        return _each(measure_all, archs, "state")

    def resumed(self, name: str, instrument: Callable, kind: str, **options) -> pd.DataFrame:
        """Apply an instrument that can be resumed to both deep networks; what the first gave is kept until the end."""
        images = self.some(kind)

        def measure(arch: str) -> pd.DataFrame:
            kept = self.partials / f"{name}-{arch}"
            network = find_pretrained(arch, str(self.suite))[0].about["checksum"]
            about = {"network": network, "images": len(images), "points": options.get("points")}
            if kept.exists():
                found = load_measurement(kept)
                if any(found.about[key] != value for key, value in about.items()):
                    raise InputError(
                        f"{kept} holds part of another measurement; give its --images and --points, or delete it"
                    )
                return found.table
            model, mean = self.trained(arch)
            partial = self.partials / f"{name}-{arch}.json"
            table = instrument(model, images, mean, progress=self.progress, partial=partial, **options)
            save_measurement(kept, Measurement(about, table))
            return table

        return _each(measure, DEEP)

    def gradient_growth(self) -> pd.DataFrame:
        """Measure the gradient at the output of each layer of untrained networks."""
        batch = self.batch()

        def measure(arch: str) -> pd.DataFrame:
            model = self.fresh(arch)
            names = [name for name, _ in weighted_layers(model)]
            table = pd.DataFrame({"depth": range(1, len(names) + 1), "layer": names, "stage": map(stage_of, names)})
            return table.assign(output_gradient_norm=output_gradient_norms(model, *batch).tolist())

        return _each(measure, GROWING)

    def variances(self) -> pd.DataFrame:
        """Measure the variance of branch and shortcut in residual networks, untrained and trained."""
        images, _ = self.batch()
        archs = {"fresh": ("resnet20", "resnet56", "resnet110"), "trained": ("resnet56",)}
        return self.by_state(lambda model: branch_variances(model, images), **archs)

    def shattering(self) -> pd.DataFrame:
        """Measure how input gradients along a line between two images agree, beside white and brown noise."""
        images, _ = self.batch()
        path = line(images[0], images[-1])

        def curve(series: Tensor) -> pd.DataFrame:
            return pd.DataFrame({"lag": range(LAGS + 1), "autocorrelation": autocorrelation(series, LAGS).tolist()})

        def calibrated(model: nn.Module) -> pd.DataFrame:
            calibrate(model, images)
            return curve(input_gradients(model, path))

        noises = {"white": white_noise, "brown": brown_noise}
        noise = _each(lambda name: curve(noises[name](len(path), images[0].numel())), noises)
        trained = self.by_state(lambda model: curve(input_gradients(model, path)), trained=DEEP)
        return pd.concat([self.by_state(calibrated, fresh=SHATTERED), trained, noise.assign(state="noise")])

    def diagnoses(self) -> pd.DataFrame:
        """Diagnose the deep networks, untrained and trained."""
        batch = self.batch()
        return self.by_state(lambda model: pd.DataFrame([diagnosis(model, *batch)]), fresh=DEEP, trained=DEEP)

    def responses(self) -> pd.DataFrame:
        """Measure the responses of all layers of trained networks, shallow ones too where the suite has them."""
        pixels = self.some("test").pixels

        def measure(arch: str) -> pd.DataFrame:
            model, mean = self.trained(arch)
            return layer_responses(model, normalise(pixels, mean))

        return _each(measure, [*(arch for arch in SHALLOW if (self.suite / f"{arch}-seed-0").exists()), *DEEP])

    def paths(self) -> pd.DataFrame:
        """Measure the gradient through paths of each length of the trained residual network."""
        return path_lengths(self.trained("resnet56")[0], *(part[:PATHS] for part in self.batch()))

    def lesions(self, name: str, instrument: Callable) -> pd.DataFrame:
        """Take blocks out of the trained networks, as they are left and with batch normalisation estimated again."""
        return self.resumed(name, instrument, "test", recalibrate=self.batch(RECALIBRATION)[0])

    def landscape(self, name: str, **options) -> pd.DataFrame:
        """Measure the loss around the trained weights; on a CPU one point at a time is fastest."""
        options = {"points": self.points, "at_once": 8 if self.device.type == "cuda" else 1} | options
        return self.resumed(name, loss_landscape, "train", **options)


#: Each measurement with its images, so many training images, or as many as asked for of "test" or "train".
MEASUREMENTS: dict[str, tuple[Callable[[Study], pd.DataFrame], int | str]] = {
    "gradient-growth": (Study.gradient_growth, BATCH),
    "branch-variances": (Study.variances, BATCH),
    "shattering": (Study.shattering, BATCH),
    "diagnosis": (Study.diagnoses, BATCH),
    "responses": (Study.responses, "test"),
    "paths": (Study.paths, PATHS),
    "lesions-each": (lambda study: study.lesions("lesions-each", lesion_each), "test"),
    "lesions-random": (lambda study: study.lesions("lesions-random", lesion_random), "test"),
    "loss-line": (lambda study: study.landscape("loss-line", axes=1, points=2 * study.points + 1), "train"),
    "loss-surface": (lambda study: study.landscape("loss-surface"), "train"),
    "loss-surfaces": (lambda study: study.landscape("loss-surfaces", seeds=(1, 2)), "train"),  # in other directions
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
        suite, data: of the networks, whose records must be there.
        device, progress, say: as for :func:`resnet56.records.suites.reproduce`.
        out: folder that holds ``runs/``; ``data/`` if None.
        images: for each evaluation of responses, lesions and landscape; if None, 10,000 on an NVIDIA GPU, else 500.
        points: along each side of the loss surface, an odd number; if None, 51 on an NVIDIA GPU, else 11.

    Returns:
        The folders of the measurements.

    Raises:
        InputError: if the trained networks are not there or of other data, another process measures them, or what is
            recorded already was measured otherwise than is asked for.
        Interrupted: on SIGINT or SIGTERM; a later call goes on from there.
    """
    device = pick_device(device)
    if points is not None and (points < 3 or points % 2 == 0):
        raise InputError(f"{points} points have no centre: give an odd number, at least 3")
    out = out or data_dir()
    folder = out / "runs" / f"{suite}-{data.name}"
    partials = out / "checkpoints" / folder.name
    held_out = set()
    for arch in DEEP:
        run = find_pretrained(arch, str(folder))[0]
        there = run.about["data"]
        if there["fingerprint"] != data.fingerprint:
            raise InputError(
                f"{run.arch} was trained on another data set called {data.name} (sha256 {there['fingerprint'][:8]} "
                f"there, {data.fingerprint[:8]} here); measure it on that one"
            )
        held_out.add(there["validation_images"])
    if len(held_out) > 1:
        raise InputError(f"the networks in {folder} were trained on different images; measure those of one suite")
    train, _ = hold_out(data.train, held_out.pop())
    usual = (10_000, 51) if device.type == "cuda" else (500, 11)
    study = Study(folder, data, train, device, images or usual[0], points or usual[1], partials, progress)
    found = {name: folder / "measurements" / name for name in MEASUREMENTS}
    for path in found.values():
        if path.exists():
            _check_recorded(path, study, images, points)
    check_writable(folder)
    check_writable(partials)
    with lock(partials / "measurements", "made"):
        for name, path in found.items():
            if not path.exists():
                _record(study, suite, name, path, out / "tmp", say)
    say(f"All {len(found)} measurements are recorded.")
    return list(found.values())


def _check_recorded(path: Path, study: Study, images: int | None, points: int | None) -> None:
    """Refuse options that would do nothing, since a measurement is recorded, and measurements on other data."""
    measurement = load_measurement(path)
    if measurement.about["data"]["fingerprint"] != study.data.fingerprint:
        raise InputError(
            f"{path} was measured on another data set called {study.data.name}; move it away, or give --out"
        )
    _, kind = MEASUREMENTS[path.name]
    values = {}  # recorded and asked for
    if isinstance(kind, str):
        values["images"] = measurement.about["images"], images and len(study.some(kind))
    if kind == "train":
        count = measurement.table["x"].nunique()
        values["points"] = count if "y" in measurement.table else (count - 1) // 2, points
    for option, (there, asked) in values.items():
        if asked not in (None, there):
            raise InputError(
                f"{path} is recorded, with {there} {option}; move it away to measure anew, or leave --{option} out"
            )


def _record(study: Study, suite: str, name: str, path: Path, scratch: Path, say: Callable[[str], object]) -> None:
    measure, kind = MEASUREMENTS[name]
    started = time.monotonic()
    table = measure(study)
    count = len(study.some(kind)) if isinstance(kind, str) else min(kind, len(study.train))
    about = {"measurement": name, "suite": suite, "images": count, "seconds": round(time.monotonic() - started, 1)}
    say(f"{name}: {len(table):,} rows, {about['seconds']:,.0f} s")
    save_measurement(path, Measurement(about | circumstances(study.data, study.device), table), scratch)
    for arch in DEEP:
        shutil.rmtree(study.partials / f"{name}-{arch}", ignore_errors=True)
