"""How fast training is here: a textbook loop against the plain loop and the engine, one trick at a time.

Only ratios within one table mean something: all loops are measured in one run, in turn, over several rounds. Speeds of
different machines, or of one machine on different days, are not to be compared.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from tqdm import tqdm

from ..data import DataSet, Split
from ..devices import affinity, explain_threads, fast_precision, hardware, has_compiler, versions
from ..errors import InputError
from ..gradients import GradientRecorder
from ..layers import count_macs
from ..model import build_model
from ..recipe import Recipe
from ..records.files import data_dir, write_file
from ..records.runs import commit
from ..train import Trainer
from . import fit_together
from .engine import Engine

BLOCK_SECONDS = 2.0  # how long one loop runs before it is the next one's turn
EVERY = 50  # steps between two recorded gradients, where the cost of recording is measured
COMPILED = "+ compiled"
NO_COMPILER = "there is no C++ compiler here (g++ or clang++, or the one that the variable CXX names)"


@dataclass(frozen=True)
class Bench:
    """A table of speeds and the conditions it was measured under.

    Attributes:
        about: architecture, batch size, data set, hardware, versions, commit, number of rounds; ``matmul_gflops``: the
            speed of a large matrix product here, in GFLOP/s; ``image_gflop``: what one training image takes
            (multiplications and additions of forward and backward pass); ``recording_percent``: the time added by
            recording gradients each 50 steps; ``threads``: how many, and why; ``beside_others``: the share of its speed
            that the last loop keeps beside a busy process on every processor, by number of threads; ``left_out``: which
            loop was not measured, and why.
        rows: one dict per loop: ``loop``, ``step`` and ``end_to_end`` (images per second, on a fixed batch and with the
            making of the batches), ``ratio`` (end to end, to the first row).
    """

    about: dict
    rows: list[dict]

    def table(self) -> pd.DataFrame:
        """Return the rows as a table."""
        return pd.DataFrame(self.rows).set_index("loop")[["step", "end_to_end", "ratio"]]

    def report(self) -> str:
        """Return the table in words and numbers, to be printed."""
        about, table, whole = self.about, self.table().rename_axis(None), "{:,.0f}".format
        best, bound = table["end_to_end"].max(), about["matmul_gflops"] / about["image_gflop"]
        shown = table.rename(columns={"end_to_end": "end to end"})
        formats = {"step": whole, "end to end": whole, "ratio": "{:.2f}".format}
        beside = about.get("beside_others", {}).items()  # which older records lack
        kept = ", ".join(f"{100 * share:.0f} % on {n} thread{'s' * (n != '1')}" for n, share in beside)
        lines = [
            f"{about['arch']}, batches of {about['batch_size']}, {about['hardware']['name']}; images per second, "
            f"medians of {about['rounds']} rounds\n\n{shown.to_string(formatters=formats, na_rep='-')}\n",
            about.get("left_out"),
            f"A large {about['precision']} matrix product runs at {whole(about['matmul_gflops'])} GFLOP/s here; "
            f"an image takes {about['image_gflop']:.2f} GFLOP.",
            f"That bounds any loop to {whole(bound)} images per second; "
            f"the fastest one reaches {100 * best / bound:.0f} % of it.",
            f"The paper's 64,000 steps of 128 images would take it {whole(64_000 * 128 / best / 60)} minutes.",
            f"Recording gradients each 50 steps adds {about['recording_percent']:.1f} %.",
            about.get("threads"),
            kept and f"Beside a busy process on every processor, the last loop keeps of its speed {kept}.",
        ]
        return "\n".join(filter(None, lines))

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        content = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        write_file(path, lambda file: file.write(content.encode()))


def load_bench(name: str) -> Bench:
    """Load a recorded table by the name of its file in ``data/runs/``.

    Raises:
        InputError: if there is none of that name, or it is damaged.
    """
    path = data_dir() / "runs" / f"{name}.json"
    try:
        return Bench(**json.loads(path.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no table of speeds ({error}); `resnet56 bench --out {path}` makes one") from error


# --- The loops ----------------------------------------------------------------------------------------


class Textbook:
    """The loop of most tutorials: images one by one through torchvision's transforms, the loss read at every step.

    It has the methods that :func:`bench` needs of :class:`resnet56.train.Trainer`.
    """

    def __init__(self, data: DataSet, arch: str, recipe: Recipe, device: torch.device):
        self.device = device
        self.model = build_model(arch).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        scaled = data.train.pixels[::10].double() / 255
        normalise = transforms.Normalize(scaled.mean(dim=(0, 2, 3)).tolist(), scaled.std(dim=(0, 2, 3)).tolist())
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        images = _ImageList(data.train, transforms.Compose([*augment, normalise]))
        self.loader = DataLoader(
            images, recipe.batch_size, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
        )
        self.batches = self._forever()

    def _forever(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def take_step(self) -> None:
        images, labels = next(self.batches)
        images, labels = images.to(self.device), labels.to(self.device)
        self.model.train()
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.running_loss = loss.item()
        self.running_error = (logits.argmax(dim=1) != labels).float().mean().item()

    def fix_batch(self) -> None:
        batch = tuple(part.to(self.device) for part in next(self.batches))
        self.batches = iter(lambda: batch, None)


class _ImageList:
    """The training images as torchvision's data sets hold them: PIL images, transformed one by one."""

    def __init__(self, split: Split, transform: Callable):
        self.arrays = split.pixels.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def loops(data: DataSet, arch: str, batch_size: int, device: torch.device) -> dict[str, Callable]:
    """Return what makes each loop that ``device`` can run, by the name of the trick that it adds to the one before."""
    recipe = Recipe(iterations=10**9, batch_size=batch_size, lr=0.01)
    bf16 = dataclasses.replace(recipe, precision="bf16")
    best = bf16 if fast_precision(device) == "bf16" else recipe
    off = dict(channels_last=False, fused=False, graphed=False)

    def engine(recipe: Recipe, **tricks) -> Callable:
        return lambda: Engine(build_model(arch), data.train, recipe, device, **tricks)

    makers = {
        "textbook": lambda: Textbook(data, arch, recipe, device),
        "plain: data on the device, nothing read": lambda: Trainer(build_model(arch), data.train, recipe, device),
        "+ channels-last": engine(recipe, **off | dict(channels_last=True)),
        "+ fused optimizer": engine(recipe, graphed=False),
    }
    if best is bf16:
        makers["+ bf16"] = engine(bf16, graphed=False)
    if device.type == "cuda":
        makers["+ CUDA graph"] = engine(best)
    makers[COMPILED] = engine(best, compiled=True)
    return makers


# --- Measuring ----------------------------------------------------------------------------------------


def bench(
    data: DataSet,
    *,
    arch: str = "resnet56",
    batch_size: int = 128,
    device: torch.device,
    rounds: int = 5,
    progress: bool = True,
) -> Bench:
    """Measure every loop of :func:`loops`, in turn, ``rounds`` times over; the medians count.

    Raises:
        InputError: if there is no such architecture.
    """
    if batch_size > len(data.train):
        count = len(data.train)
        raise InputError(f"a batch of {batch_size} is larger than the training set: use up to {count}")
    makers = loops(data, arch, batch_size, device)
    with tqdm(total=(2 * rounds + 1) * len(makers), desc="bench", disable=not progress, dynamic_ncols=True) as bar:
        workers, left_out = _start(device, makers, bar)
        end_to_end = _measure(device, workers, rounds, bar)
        last, _ = list(workers.values())[-1]
        recording = _recording_percent(device, last, rounds)
        beside_others = _beside_others(device, last, min(rounds, 3)) if device.type == "cpu" else {}
        for worker, _ in workers.values():
            _fix_batch(worker)
            _time(device, worker, 2)
        step_alone = _measure(device, workers, rounds, bar)

    speeds = {name: (step_alone[name] * batch_size, speed * batch_size) for name, speed in end_to_end.items()}
    if device.type == "cuda":
        speeds |= {f"{n} networks at once": (None, _several(data, arch, batch_size, device, n)) for n in (2, 4, 8)}
    first = next(iter(speeds.values()))[1]
    rows = [
        {"loop": name, "step": step, "end_to_end": whole, "ratio": whole / first}
        for name, (step, whole) in speeds.items()
    ]
    precision = fast_precision(device)
    about = {
        "arch": arch,
        "batch_size": batch_size,
        "rounds": rounds,
        "data": data.title,
        "precision": precision,
        "image_gflop": 3 * 2 * count_macs(build_model(arch)) / 1e9,
        "matmul_gflops": matmul_gflops(device, precision),
        "recording_percent": recording,
        "threads": explain_threads(),
        "beside_others": beside_others,
        "left_out": left_out,
        "hardware": hardware(device),
        "versions": versions(),
        "commit": commit(),
    }
    return Bench(about, rows)


def _start(device: torch.device, makers: dict[str, Callable], bar: tqdm) -> tuple[dict, str]:
    """Return each loop that runs here with its steps for a block of time, and what to say of one that does not."""
    workers, left_out = {}, ""
    for name, make in makers.items():
        bar.set_postfix_str(name)
        try:
            worker = make()
            workers[name] = worker, _steps_per_block(device, worker)
        except Exception as error:
            if name != COMPILED:
                raise
            why = f"PyTorch could not compile it ({type(error).__name__})" if has_compiler() else NO_COMPILER
            left_out = f'"{name}" is left out: {why}.'
        bar.update()
    return workers, left_out


def _measure(device: torch.device, workers: dict, rounds: int, bar: tqdm) -> dict[str, float]:
    """Return the speed of each loop in steps per second, the median of rounds in which each has its turn."""
    speeds = {name: [] for name in workers}
    for _ in range(rounds):
        for name, (worker, steps) in workers.items():
            bar.set_postfix_str(name)
            speeds[name].append(steps / _time(device, worker, steps))
            bar.update()
    return {name: median(values) for name, values in speeds.items()}


def matmul_gflops(device: torch.device, precision: str, size: int = 2048) -> float:
    """Return the speed of a large matrix product, in GFLOP/s: what the device's arithmetic can do at best."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size *= 4 if device.type == "cuda" else 1
    matrix = torch.randn(size, size, dtype=dtype, device=device)

    def multiply() -> float:
        _wait(device)
        started = time.perf_counter()
        matrix @ matrix
        _wait(device)
        return time.perf_counter() - started

    multiply()
    return 2 * size**3 / median(multiply() for _ in range(5)) / 1e9


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _time(device: torch.device, worker, steps: int) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        worker.take_step()
    _wait(device)
    return time.perf_counter() - started


def _steps_per_block(device: torch.device, worker) -> int:
    _time(device, worker, 2)  # warm up; the first steps set things up
    return max(1, round(BLOCK_SECONDS * 2 / _time(device, worker, 2)))


def _fix_batch(worker) -> None:
    """Let a loop see one ready batch from now on."""
    if isinstance(worker, Textbook):
        worker.fix_batch()
        return
    draw, batch = worker.batches.draw(0).clone(), worker.batches[0]
    worker.batches.draw = lambda step: draw
    worker.batches.views = lambda draw: batch
    if isinstance(worker, Engine):
        worker._graph = None  # its graph makes batches: record another


def _recording_percent(device: torch.device, trainer: Trainer, rounds: int) -> float:
    """Return the time that recording one step in ``EVERY`` adds to a loop, in percent."""
    recorder = GradientRecorder(trainer, probe=trainer.batches[0])
    plain, recorded = [], []
    for _ in range(rounds + 1):
        plain.append(_time(device, trainer, 1))
        with recorder:
            recorded.append(_time(device, trainer, 1))
    return 100 * (median(recorded[1:]) / median(plain[1:]) - 1) / EVERY


def _several(data: DataSet, arch: str, batch_size: int, device: torch.device, count: int) -> float:
    """Return the images per second of ``count`` graphed networks at once, all added up."""
    recipe = Recipe(iterations=400, batch_size=batch_size, lr=0.01, precision=fast_precision(device))
    trainers = {str(index): Engine(build_model(arch), data.train, recipe, device) for index in range(count)}
    for trainer in trainers.values():
        trainer.take_step()
    _wait(device)
    started = time.perf_counter()
    fit_together(trainers, progress=False)
    _wait(device)
    return count * (recipe.iterations - 1) * batch_size / (time.perf_counter() - started)


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keep every processor that this process may run on busy, as others do on a shared machine: a process for each."""
    spin = "import os; parent = os.getppid(); print(flush=True)\nwhile os.getppid() == parent: pass"
    others = []
    try:
        for _ in range(affinity()):
            others.append(subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE))
        for other in others:
            other.stdout.readline()
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def _beside_others(device: torch.device, worker, rounds: int) -> dict[str, float]:
    """Return the share of its speed that a loop keeps beside :func:`busy_processors`, on all its threads and on one."""
    threads = torch.get_num_threads()
    shares = {str(count): [] for count in dict.fromkeys((threads, 1))}
    try:
        for _ in range(rounds):
            torch.set_num_threads(threads)
            alone = _time(device, worker, 1)
            with busy_processors():
                for count, values in shares.items():
                    torch.set_num_threads(int(count))
                    values.append(alone / _time(device, worker, 1))
    finally:
        torch.set_num_threads(threads)
    return {count: median(values) for count, values in shares.items()}
