"""Progress bars, and interruption that lets a step finish."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from .train import Trainer


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the step was finished and, where there is a checkpoint, it was saved.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class OutOfTime(Exception):
    """The time limit was reached; what was done is saved."""


class ProgressBar:
    """A progress bar for one trainer: loss, images per second, time left.

    Args:
        trainer: whose steps are shown.
        show: False for no bar at all.
        position: line on the screen, for several bars at once.
        label: written before the bar.
    """

    def __init__(self, trainer: "Trainer", show: bool = True, position: int = 0, label: str = "training"):
        self.trainer = trainer
        self.bar = tqdm(
            total=trainer.total_steps,
            initial=trainer.step,
            desc=label,
            unit="step",
            position=position,
            disable=not show,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix} [{elapsed}<{remaining}]",
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception) -> None:
        self.bar.close()

    def advance(self) -> None:
        """Show that one more step was taken."""
        trainer = self.trainer
        if trainer.history and trainer.history[-1]["step"] == trainer.step:
            rate = trainer.step * trainer.recipe.batch_size / trainer.seconds
            loss = trainer.history[-1]["train_loss"]
            self.bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} img/s", refresh=False)
        self.bar.update()


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them, so that a step can be finished first.

    A second signal acts at once. Outside the main thread Python delivers no signals, and nothing changes.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number, frame):
        caught.append(number)
        for other in signals:
            signal.signal(other, before[other])

    for number in signals:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        for number in signals:
            signal.signal(number, before[number])
