"""Checkpoints by time: asked for when due, once, and never for a request from before the last one."""

import pytest

from his4mae_jax.training.devices.distributed import Request
from his4mae_jax.training.run import save_clock
from his4mae_jax.training.run.save_clock import SaveClock


@pytest.fixture
def clock_at(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(save_clock, "monotonic", lambda: now[0])
    return lambda minutes: now.__setitem__(0, 100.0 + 60 * minutes)


def test_a_checkpoint_is_due_so_long_after_the_last(clock_at):
    clock = SaveClock(15)
    clock_at(14.9)
    assert clock.request() == Request.NOTHING
    clock_at(15)
    assert clock.request() == Request.SAVE
    clock.saved()  # by steps, perhaps
    assert clock.request() == Request.NOTHING
    clock_at(30)
    assert clock.request() == Request.SAVE


def test_no_time_means_steps_alone(clock_at):
    clock = SaveClock(0)
    clock_at(1e6)
    assert clock.request() == Request.NOTHING


def test_a_request_that_arrives_after_the_checkpoint_saves_none(clock_at):
    """Of several processes the answer comes a dispatch late."""
    clock = SaveClock(15)
    assert not clock.grants(Request.NOTHING) and clock.grants(Request.SAVE)
    clock.saved()
    assert not clock.grants(Request.SAVE) and clock.grants(Request.SAVE)
