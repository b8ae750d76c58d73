"""Progress bars, signals, and where words are printed to."""

import io
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from resnet56.progress import Interrupted, ProgressBar, catch_signals
from resnet56.streams import Stream

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def test_a_bar_shows_loss_and_images_a_second():
    """By hand: 10 steps of 20 images in 4 s are 50 images a second."""
    recipe, rows = SimpleNamespace(batch_size=20), [{"step": 10, "train_loss": 1.5}]
    trainer = SimpleNamespace(total_steps=40, step=9, recipe=recipe, history=[], seconds=3.6)
    with ProgressBar(trainer, label="one") as bar:
        bar.fp = io.StringIO()
        trainer.step, trainer.history, trainer.seconds = 10, rows, 4.0
        bar.advance()
        assert bar.n == 10 and bar.postfix == "loss 1.500, 50 img/s" and "10/40 steps, loss 1.500" in str(bar)
        assert str(bar).startswith("one  25%|")
        trainer.step = 11  # the row is of the step before
        trainer.history[-1]["train_loss"] = 0.0
        bar.advance()
        assert bar.n == 11 and bar.postfix.startswith("loss 1.500")


@pytest.fixture
def handled():
    """Signals that arrived at the handlers that were there before."""
    arrived = []
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in NUMBERS}
    yield arrived
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", NUMBERS)
def test_the_first_signal_is_collected_and_the_second_acts(first, handled):
    with catch_signals() as caught:
        os.kill(os.getpid(), first)
        assert caught == [first] and handled == []
        for number in NUMBERS:
            os.kill(os.getpid(), number)
        assert caught == [first] and handled == list(NUMBERS)


def test_afterwards_signals_act_as_before(handled):
    with pytest.raises(KeyError), catch_signals() as caught:
        raise KeyError
    for number in NUMBERS:
        os.kill(os.getpid(), number)
    assert caught == [] and handled == list(NUMBERS)


def test_outside_of_the_main_thread_signals_are_left_alone(handled):
    before = [signal.getsignal(number) for number in NUMBERS]
    found = []

    def work():
        with catch_signals() as caught:
            found.extend([caught, *(signal.getsignal(number) for number in NUMBERS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[], *before]


def test_an_interruption_names_its_signal():
    assert str(Interrupted(signal.SIGTERM)) == "stopped by SIGTERM" and isinstance(Interrupted(2), KeyboardInterrupt)


def test_what_a_terminal_cannot_show_is_escaped_not_lost():
    buffer = io.BytesIO()
    stream = Stream(io.TextIOWrapper(buffer, encoding="ascii"))
    assert stream.write("é/日\n") == 4
    assert buffer.getvalue() == b"\\xe9/\\u65e5\n" and stream.failure == ""
