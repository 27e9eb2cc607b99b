"""What signals do: recorded while training, raised elsewhere, without effect on the way out."""

import os
import signal

import pytest

from his4mae_jax.training.run import preemption


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in preemption.SIGNALS]
    remove = preemption.install()
    yield
    remove()
    assert [signal.getsignal(number) for number in preemption.SIGNALS] == before


def send(number):
    """The handler has run when this returns: signals of a process to itself are handled at once."""
    os.kill(os.getpid(), number)
    signal.getsignal(number)


@pytest.mark.parametrize("number", preemption.SIGNALS)
def test_a_signal_stops_what_is_not_training(number):
    with pytest.raises(preemption.Preempted, match=signal.Signals(number).name) as caught:
        send(number)
    assert not caught.value.together
    send(number)  # on the way out it changes nothing


def test_handlers_of_errors_let_it_pass():
    with pytest.raises(preemption.Preempted):
        try:
            send(signal.SIGTERM)
        except Exception as error:  # as code that turns errors into messages does
            raise AssertionError from error


def test_training_learns_of_signals_and_goes_on():
    with preemption.deferred() as signal_name:
        assert signal_name() is None
        send(signal.SIGUSR1)
        send(signal.SIGTERM)
        assert signal_name() == "SIGUSR1"
        with pytest.raises(preemption.Preempted) as caught:
            raise preemption.Preempted("saved", together=True)
        assert caught.value.together
        preemption.ignore()


def test_a_signal_that_nobody_asked_about_is_not_lost():
    after = []
    with pytest.raises(preemption.Preempted, match="SIGTERM"):
        with preemption.deferred():
            send(signal.SIGTERM)
            after.append("training went on to its end")
    assert after


def test_an_error_in_training_is_raised_rather_than_the_signal():
    with pytest.raises(ZeroDivisionError):
        with preemption.deferred():
            send(signal.SIGTERM)
            1 / 0  # noqa: B018


def test_stopping_is_not_undone_by_further_signals():
    """As launchers send them when the first process of several has ended."""
    with pytest.raises(preemption.Preempted, match="saved"):
        with preemption.deferred() as signal_name:
            send(signal.SIGTERM)
            raise preemption.Preempted(f"{signal_name()}: saved", together=True)
    send(signal.SIGTERM)
