"""Several networks at once, long runs: checkpoints on the clock, signals, deadlines, processes."""

import math
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack

from ..data import Split
from ..progress import Interrupted, OutOfTime, ProgressBar, catch_signals
from ..records.checkpoint import Checkpoint
from ..train import LOG_EVERY, Trainer
from .distributed import any_process, rank, world_size

SAVE_EVERY = 60  # seconds between two checkpoints


def fit_together(
    trainers: Mapping[str, Trainer],
    *,
    validation: Split | None = None,
    checkpoints: Mapping[str, Checkpoint] | None = None,
    deadline: float = math.inf,
    progress: bool = True,
) -> None:
    """Train several networks to the end of their recipes, in turn, ``LOG_EVERY`` steps at a time.

    On a GPU their steps overlap: a step is only queued, and each :class:`resnet56.fast.engine.Engine` has a stream. A
    network is called by the name that its progress bar shows. ``validation`` images are evaluated after every epoch and
    at the end, ``checkpoints`` (of the same names) saved each minute, at the end and on interruption. ``deadline`` is
    when to stop, on the clock of ``time.monotonic()``.

    Raises:
        NonFiniteLoss: if a loss is not finite; the last good checkpoint is kept.
        Interrupted: on SIGINT or SIGTERM, when the step is finished and the checkpoints are saved.
        OutOfTime: at the deadline, when the checkpoints are saved.
    """
    width, saved = max(map(len, trainers)), time.monotonic()
    with ExitStack() as stack:
        bars = {
            name: stack.enter_context(ProgressBar(trainer, progress and rank() == 0, position, f"{name:>{width}}"))
            for position, (name, trainer) in enumerate(trainers.items())
        }
        caught = stack.enter_context(catch_signals())
        while unfinished := [name for name, trainer in trainers.items() if not trainer.finished]:
            for name in unfinished:
                _take_turn(trainers[name], bars[name], validation, caught)
            late = time.monotonic() >= deadline
            stop = any_process(bool(caught) or late, trainers[unfinished[0]].device)
            finished = all(trainer.finished for trainer in trainers.values())
            if stop or finished or time.monotonic() - saved >= SAVE_EVERY:
                for name, checkpoint in (checkpoints or {}).items() if rank() == 0 else ():
                    checkpoint.save(trainers[name])
                saved = time.monotonic()
            if stop and not finished:
                raise OutOfTime if late and not caught else Interrupted(caught[0] if caught else signal.SIGTERM)


def _take_turn(trainer: Trainer, bar: ProgressBar, validation: Split | None, caught: list[int]) -> None:
    """Take ``LOG_EVERY`` steps, or fewer at the end of an epoch or on a signal."""
    for _ in range(LOG_EVERY):
        trainer.take_step()
        bar.advance()
        if trainer.epoch_done() or (caught and world_size() == 1):
            break
    if trainer.epoch_done() and validation is not None and rank() == 0:
        trainer.validate(validation)
