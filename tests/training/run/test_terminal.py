"""The terminal log of training: by time, with the rate of the last seconds, and a word on runs of days."""

import numpy as np
import pytest

from his4mae_jax.training.run import terminal as module
from his4mae_jax.training.run.terminal import TerminalLog


@pytest.fixture
def clock(monkeypatch):
    """A clock of the rates that the test moves."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: Clock.now)
    return Clock


def losses(*values):
    return {"loss": np.array(values), "loss_recon": np.array(values)}


def test_losses_and_rates_are_those_of_the_last_seconds(clock):
    with TerminalLog(100, 1000, 4, print) as terminal:
        terminal.started()
        for second, value in ((5.0, 9.0), (20.0, 1.0), (25.0, 3.0)):
            clock.now = second
            terminal.add(100 + int(second), losses(value))
        # The report at 5 s is where the last ten seconds' steps begin; its own are no longer counted.
        assert terminal.describe() == "loss_recon 2.00000  4 images/s"


def test_a_rate_below_one_image_a_second_is_shown(clock):
    with TerminalLog(0, 10, 1, print) as terminal:
        terminal.started()
        clock.now = 4.0
        terminal.add(1, losses(0.5))
        assert terminal.describe() == "loss_recon 0.50000  0.25 images/s"


@pytest.mark.parametrize(("total", "said"), [(200_000, 1), (80_000, 0)])
def test_a_run_of_more_than_a_day_is_pointed_out_once(clock, total, said):
    lines = []
    with TerminalLog(0, total, 1, lines.append) as terminal:
        terminal.started()
        for second in (1, 6, 12, 60):  # one image a second: 86,400 a day
            clock.now = float(second)
            terminal.add(second, losses(0.5))
    warned = [line for line in lines if "to be done sooner" in line]
    assert len(warned) == said
    assert all("train.steps" in line and "small preset" in line and "1 images/s" in line for line in warned)
