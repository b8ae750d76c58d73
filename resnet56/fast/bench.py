"""How fast training is here: a textbook loop against the plain loop and the engine, one trick at a time (chapter 5).

Only ratios within one table mean something: all loops are measured in one run, in turn, over several rounds. Speeds of
different machines, or of one machine on different days, are not to be compared.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from ..data import DataSet, Split
from ..devices import affinity, explain_threads, fast_precision, hardware, has_compiler, versions
from ..errors import InputError
from ..layers import count_macs
from ..model import build_model
from ..recipe import Recipe
from ..records.files import data_dir, write_file
from ..records.runs import commit
from ..train import Trainer
from .engine import Engine

BLOCK_SECONDS = 2.0  # how long one loop runs before it is the next one's turn
COMPILED = "+ compiled"
NO_COMPILER = "there is no C++ compiler here (g++ or clang++, or the one that the variable CXX names)"


@dataclass(frozen=True)
class Bench:
    """A table of speeds and the conditions it was measured under.

    ``rows`` has a dict per loop, with ``loop``, ``end_to_end`` (images per second, with the making of the batches) and
    ``ratio`` (to the first row). ``about`` has, beside architecture, data, hardware and so on, ``matmul_gflops`` (the
    speed of a large matrix product here, in GFLOP/s), ``image_gflop`` (what a training image takes, multiplications and
    additions, both passes), ``threads`` (how many, and why), ``beside_others`` (the share of its speed that the
    last loop keeps beside a busy process on every processor, by number of threads) and ``left_out`` (which loop, why).
    """

    about: dict
    rows: list[dict]

    def table(self) -> pd.DataFrame:
        """Return the rows as a table."""
        return pd.DataFrame(self.rows).set_index("loop")[["end_to_end", "ratio"]]

    def report(self) -> str:
        """Return the table in words and numbers, to be printed."""
        about, table, whole = self.about, self.table().rename_axis(None), "{:,.0f}".format
        shown = table.to_string(header=["end to end", "ratio"], formatters=[whole, "{:.2f}".format])
        best, bound = table["end_to_end"].max(), about["matmul_gflops"] / about["image_gflop"]
        beside = about.get("beside_others", {}).items()  # which older records lack
        kept = ", ".join(f"{100 * share:.0f} % on {n} thread{'s' * (n != '1')}" for n, share in beside)
        lines = [
            f"{about['arch']}, batches of {about['batch_size']}, {about['hardware']['name']}; images per second, "
            f"medians of {about['rounds']} rounds\n\n{shown}\n",
            about.get("left_out"),
            f"A large {about['precision']} matrix product runs at {whole(about['matmul_gflops'])} GFLOP/s here; "
            f"an image takes {about['image_gflop']:.2f} GFLOP.",
            f"That bounds any loop to {whole(bound)} images per second; "
            f"the fastest one reaches {100 * best / bound:.0f} % of it.",
            f"The paper's 64,000 steps of 128 images would take it {whole(64_000 * 128 / best / 60)} minutes.",
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
        away = "move it away, then " if path.exists() else ""
        how = f"{away}`resnet56 bench --out {path}` makes one"
        raise InputError(f"{path} is no table of speeds ({error}); {how}") from error


class _Images(CIFAR10):
    """Training images as torchvision keeps them: cropped, flipped and normalised one by one, as PIL images."""

    def __init__(self, split: Split):
        self.data, self.targets = split.pixels.permute(0, 2, 3, 1).numpy(), split.labels.tolist()
        scaled = self.data[::10] / 255
        normalise = transforms.Normalize(scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2)))
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform, self.target_transform = transforms.Compose([*augment, normalise]), None


class Textbook(Trainer):
    """The loop of most tutorials: images one by one through torchvision's transforms, the loss read at every step."""

    def __init__(self, model: nn.Module, train: Split, recipe: Recipe, device: torch.device):
        super().__init__(model, train, recipe, device)
        loading = dict(shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)
        loader = DataLoader(_Images(train), recipe.batch_size, **loading)
        self.loaded = itertools.chain.from_iterable(itertools.repeat(loader))  # epoch after epoch
        self.batches.views = lambda draw: (part.to(self.device) for part in next(self.loaded))

    def _update(self, draw: Tensor, lr: float) -> Tensor:
        values = super()._update(draw, lr)
        values.tolist()  # the device is waited for
        return values


def loops(data: DataSet, arch: str, batch_size: int, device: torch.device) -> dict[str, Callable[[], Trainer]]:
    """Return what makes each loop that ``device`` can run, by the name of the trick that it adds to the one before."""
    fp32 = Recipe(iterations=10**9, batch_size=batch_size, lr=0.01)
    best = dataclasses.replace(fp32, precision=fast_precision(device))

    def loop(kind: type[Trainer], recipe: Recipe = fp32, **tricks) -> Callable[[], Trainer]:
        return lambda: kind(build_model(arch), data.train, recipe, device, **tricks)

    makers = {
        "textbook": loop(Textbook),
        "plain: data on the device, nothing read": loop(Trainer),
        "+ channels-last": loop(Engine, fused=False, graphed=False),
        "+ fused optimizer": loop(Engine, graphed=False),
    }
    if best.precision == "bf16":
        makers["+ bf16"] = loop(Engine, best, graphed=False)
    if device.type == "cuda":
        makers["+ CUDA graph"] = loop(Engine, best)
    return makers | {COMPILED: loop(Engine, best, compiled=True)}


def bench(data: DataSet, *, device: torch.device, arch="resnet56", batch_size=128, rounds=5, progress=True) -> Bench:
    """Measure every loop of :func:`loops`, in turn, ``rounds`` times over; the medians count.

    Raises:
        InputError: if a batch is larger than the training set.
    """
    if batch_size > (count := len(data.train)):
        raise InputError(f"a batch of {batch_size} is larger than the training set: use up to {count}")
    makers = loops(data, arch, batch_size, device)
    with tqdm(total=(rounds + 1) * len(makers), desc="bench", disable=not progress, dynamic_ncols=True) as bar:
        workers, left_out = _start(device, makers, bar)
        rates = {name: [] for name in workers}
        for name, (step, steps) in list(workers.items()) * rounds:
            bar.set_postfix_str(name)
            rates[name].append(steps * batch_size / _time(device, step, steps))
            bar.update()
    speeds = {name: median(values) for name, values in rates.items()}
    first, last = next(iter(speeds.values())), list(workers.values())[-1][0]
    rows = [{"loop": name, "end_to_end": speed, "ratio": speed / first} for name, speed in speeds.items()]

    precision = fast_precision(device)
    about = dict(arch=arch, batch_size=batch_size, rounds=rounds, data=data.title, precision=precision)
    about["image_gflop"] = 3 * 2 * count_macs(build_model(arch)) / 1e9  # backward takes twice what forward takes
    about["matmul_gflops"] = matmul_gflops(device, precision)
    about["beside_others"] = _beside_others(device, last, min(rounds, 3)) if device.type == "cpu" else {}
    about |= dict(threads=explain_threads(), left_out=left_out)
    about |= dict(hardware=hardware(device), versions=versions(), commit=commit())
    return Bench(about, rows)


def _start(device: torch.device, makers: dict[str, Callable[[], Trainer]], bar: tqdm) -> tuple[dict, str]:
    """Return the step of each loop that runs here with the steps of a block, and what to say of one that does not."""
    workers, left_out = {}, ""
    for name, make in makers.items():
        bar.set_postfix_str(name)
        try:
            step = make().take_step
            _time(device, step, 2)  # warm up; the first steps set things up
            workers[name] = step, max(1, round(2 * BLOCK_SECONDS / _time(device, step, 2)))
        except Exception as error:
            if name != COMPILED:
                raise
            why = f"PyTorch could not compile it ({type(error).__name__})" if has_compiler() else NO_COMPILER
            left_out = f'"{name}" is left out: {why}.'
        bar.update()
    return workers, left_out


def _time(device: torch.device, step: Callable[[], object], steps: int) -> float:
    """Return the seconds that some steps take, until the device is done with them."""
    wait = getattr(torch, device.type).synchronize  # on a processor there is nothing to wait for
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - started


def matmul_gflops(device: torch.device, precision: str, size: int = 2048) -> float:
    """Return the speed of a large matrix product, in GFLOP/s: what the device's arithmetic can do at best."""
    size *= 4 if device.type == "cuda" else 1
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    _, *seconds = (_time(device, lambda: matrix @ matrix, 1) for _ in range(6))
    return 2 * size**3 / median(seconds) / 1e9


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keep every processor that this process may run on busy, as others do on a shared machine: a process for each."""
    spin = "import os; parent = os.getppid(); print(flush=True)\nwhile os.getppid() == parent: pass"
    with ExitStack() as stack:
        others = []
        for _ in range(affinity()):
            others.append(stack.enter_context(subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)))
            stack.callback(others[-1].kill)
        for other in others:
            other.stdout.readline()
        yield


def _beside_others(device: torch.device, step: Callable[[], None], rounds: int) -> dict[str, float]:
    """Return the share of its speed that a loop keeps beside :func:`busy_processors`, on all its threads and on one."""
    threads = torch.get_num_threads()
    shares = {str(count): [] for count in dict.fromkeys((threads, 1))}
    try:
        for _ in range(rounds):
            torch.set_num_threads(threads)
            alone = _time(device, step, 1)
            with busy_processors():
                for count, values in shares.items():
                    torch.set_num_threads(int(count))
                    values.append(alone / _time(device, step, 1))
    finally:
        torch.set_num_threads(threads)
    return {count: median(values) for count, values in shares.items()}
