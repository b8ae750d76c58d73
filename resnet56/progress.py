"""Progress bars, and interruption that lets a step finish."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM, number ``signum``, arrived; the step was finished and, where there is a checkpoint, saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class OutOfTime(Exception):
    """The time limit was reached; what was done is saved."""


class ProgressBar(tqdm):
    """A bar for one :class:`resnet56.train.Trainer`, with its loss, images per second and time left.

    ``position`` is its line on the screen, for several at once; without ``show`` there is none.
    """

    def __init__(self, trainer, show: bool = True, position: int = 0, label: str = "training"):
        self.trainer = trainer
        form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix} [{elapsed}<{remaining}]"
        steps = {"total": trainer.total_steps, "initial": trainer.step}
        super().__init__(**steps, desc=label, position=position, disable=not show, dynamic_ncols=True, bar_format=form)

    def advance(self) -> None:
        """Show that one more step was taken."""
        trainer = self.trainer
        if trainer.history and trainer.history[-1]["step"] == trainer.step:
            rate = trainer.step * trainer.recipe.batch_size / trainer.seconds
            loss = trainer.history[-1]["train_loss"]
            self.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} img/s", refresh=False)
        self.update()


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them, so that a step can be finished first.

    A second signal acts at once. Outside the main thread Python delivers no signals, and nothing changes.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number, frame) -> None:
        caught.append(number)
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        restore()
