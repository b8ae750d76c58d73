"""The study: every instrument on the networks of a recorded suite, by one command."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import DataSet, Split, evenly, normalise
from ..devices import hardware, pick_device, versions
from ..gradients import output_gradient_norms
from ..instruments.initialisation import branch_variances
from ..instruments.landscape import loss_line, loss_surface
from ..instruments.lesions import lesion_each, lesion_random
from ..instruments.modes import calibrate
from ..instruments.paths import path_lengths
from ..instruments.responses import layer_responses
from ..instruments.shattering import autocorrelation, brown_noise, input_gradients, line, white_noise
from ..layers import stage_of, weighted_layers
from ..model import build_model
from .files import check_writable, data_dir
from .measurement import Measurement, save_measurement
from .runs import commit, load_pretrained

DEEP = ("plain56", "resnet56")
DEPTHS = (8, 20, 56)  # of shattered gradients
ALL_DEPTHS = (8, 14, 20, 32, 44, 56, 80, 110)  # of networks before training
LAGS = 15  # of the autocorrelation of input gradients
BATCH = 128  # training images for measurements on one batch


@dataclass(frozen=True)
class Study:
    """What the instruments are applied to, and at what scale.

    Attributes:
        suite: folder of the suite's records.
        data: the data set.
        device: where to measure.
        images: images for each evaluation: of the test set for lesions, of the training set for the landscape.
        points: along each side of the loss surface; the line has twice as many, and one.
        partials: folder for what is not finished.
        progress: show progress bars.
    """

    suite: Path
    data: DataSet
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

    def batch(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of training images as a network sees them, and their labels."""
        images = evenly(self.data.train, BATCH).to(self.device)
        return normalise(images.pixels, mean), images.labels

    def some(self, split: Split) -> Split:
        """Return as many of the images as an evaluation uses, on the device."""
        return evenly(split, self.images).to(self.device)

    def partial(self, name: str) -> Path:
        """Return the file for an unfinished measurement."""
        return self.partials / f"{name}.json"


def _gradient_growth(study: Study) -> pd.DataFrame:
    batch = study.batch(study.trained("plain56")[1])

    def measure(arch: str) -> pd.DataFrame:
        model = study.fresh(arch)
        layers = [name for name, _ in weighted_layers(model)]
        norms = output_gradient_norms(model, *batch).tolist()
        stages = [stage_of(name) for name in layers]
        depths = range(1, len(layers) + 1)
        return pd.DataFrame({"depth": depths, "layer": layers, "stage": stages, "output_gradient_norm": norms})

    return _by_arch(measure, [f"{family}{depth}" for family in ("plain", "resnet") for depth in ALL_DEPTHS])


def _branch_variances(study: Study) -> pd.DataFrame:
    images, _ = study.batch(study.trained("resnet56")[1])
    tables = [
        _by_arch(lambda arch: branch_variances(study.fresh(arch), images), ("resnet20", "resnet56", "resnet110")),
        _by_arch(lambda arch: branch_variances(study.trained(arch)[0], images), ("resnet56",)),
    ]
    return pd.concat(tables, keys=["fresh", "trained"], names=["state"]).reset_index("state")


def _shattering(study: Study) -> pd.DataFrame:
    images, _ = study.batch(study.trained("plain56")[1])
    path = line(images[0], images[-1])

    def curve(series: Tensor) -> pd.DataFrame:
        return pd.DataFrame({"lag": range(LAGS + 1), "autocorrelation": autocorrelation(series, LAGS).tolist()})

    def fresh(arch: str) -> pd.DataFrame:
        model = study.fresh(arch)
        calibrate(model, images)
        return curve(input_gradients(model, path))

    tables = {
        "fresh": _by_arch(fresh, [f"{family}{depth}" for family in ("plain", "resnet") for depth in DEPTHS]),
        "trained": _by_arch(lambda arch: curve(input_gradients(study.trained(arch)[0], path)), DEEP),
        "noise": pd.concat(
            [
                curve(white_noise(len(path), images[0].numel())).assign(arch="white"),
                curve(brown_noise(len(path), images[0].numel())).assign(arch="brown"),
            ]
        ),
    }
    return pd.concat(tables, names=["state"]).reset_index("state")


def _responses(study: Study) -> pd.DataFrame:
    def measure(arch: str) -> pd.DataFrame:
        model, mean = study.trained(arch)
        return layer_responses(model, normalise(study.some(study.data.test).pixels, mean))

    shallow = [
        arch for arch in ("plain20", "resnet20") if (study.suite / f"{arch}-seed-0").exists()
    ]  # not in every suite
    return _by_arch(measure, (*shallow, *DEEP))


def _paths(study: Study) -> pd.DataFrame:
    model, mean = study.trained("resnet56")
    images, labels = study.batch(mean)
    return path_lengths(model, images[:32], labels[:32])


def _each(
    name: str, instrument: Callable, split: Callable[[Study], Split], **options
) -> Callable[[Study], pd.DataFrame]:
    """Return a measurement of both deep networks with one of the instruments that can be resumed."""

    def measure(study: Study) -> pd.DataFrame:
        return _by_arch(
            lambda arch: instrument(
                study.trained(arch)[0],
                study.some(split(study)),
                study.trained(arch)[1],
                progress=study.progress,
                partial=study.partial(f"{name}-{arch}"),
                **{key: value(study) for key, value in options.items()},
            ),
            DEEP,
        )

    return measure


def _by_arch(measure: Callable[[str], pd.DataFrame], archs) -> pd.DataFrame:
    tables = {arch: measure(arch) for arch in archs}
    return pd.concat(tables, names=["arch"]).reset_index("arch")


def _test(study: Study) -> Split:
    return study.data.test


def _train(study: Study) -> Split:
    return study.data.train


def _at_once(study: Study) -> int:
    """Return how many points of the landscape to evaluate together: on a CPU one is fastest."""
    return 8 if study.device.type == "cuda" else 1


MEASUREMENTS: dict[str, Callable[[Study], pd.DataFrame]] = {
    "gradient-growth": _gradient_growth,
    "branch-variances": _branch_variances,
    "shattering": _shattering,
    "responses": _responses,
    "paths": _paths,
    "lesions-each": _each("lesions-each", lesion_each, _test),
    "lesions-random": _each("lesions-random", lesion_random, _test),
    "loss-line": _each("loss-line", loss_line, _train, points=lambda study: 2 * study.points + 1, at_once=_at_once),
    "loss-surface": _each("loss-surface", loss_surface, _train, points=lambda study: study.points, at_once=_at_once),
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
        images: images for each evaluation of lesions and landscape; if None, 10,000 on an NVIDIA GPU, else 500.
        points: along each side of the loss surface, an odd number; if None, 51 on an NVIDIA GPU, else 11.
        progress: show progress bars.
        say: called with each line of the report.

    Returns:
        The folders of the measurements.

    Raises:
        InputError: if the trained networks are not there.
        Interrupted: on SIGINT or SIGTERM; a later call goes on from there.
    """
    device = pick_device(device)
    out = out or data_dir()
    folder = f"{suite}-{data.name}"
    on_gpu = device.type == "cuda"
    study = Study(
        suite=out / "runs" / folder,
        data=data,
        device=device,
        images=images or (10_000 if on_gpu else 500),
        points=points or (51 if on_gpu else 11),
        partials=out / "checkpoints" / folder,
        progress=progress,
    )
    for arch in DEEP:
        load_pretrained(arch, str(study.suite))
    check_writable(study.partials)
    paths = []
    for name, measure in MEASUREMENTS.items():
        path = study.suite / "measurements" / name
        paths.append(path)
        if path.exists():
            continue
        started = time.monotonic()
        table = measure(study)
        about = {
            "measurement": name,
            "suite": suite,
            "data": {"name": data.name, "title": data.title, "fingerprint": data.fingerprint},
            "images": study.images,
            "seconds": round(time.monotonic() - started, 1),
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "hardware": hardware(device),
            "versions": versions(),
            "commit": commit(),
        }
        save_measurement(path, Measurement(about, table))
        say(f"{name}: {len(table):,} rows, {about['seconds']:,.0f} s")
    return paths
