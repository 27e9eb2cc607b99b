"""Stopping when the machine is wanted back: what signals do.

A process that receives one of `SIGNALS` (SIGTERM, or SIGUSR1, which SLURM can send some time before its limit) ends
with `EXIT_STATUS`, after which the launchers start it again. While training, the signal is only recorded: the loop
saves first. Everywhere else it raises `Preempted` at once, because what is done stays on disk and is continued. Where
several processes train, `distributed.Agreement` finds the step at which all of them stop.
"""

import contextlib
import os
import signal
import types
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, *filter(None, [getattr(signal, "SIGUSR1", None)]))
EXIT_STATUS = getattr(os, "EX_TEMPFAIL", 75)  # "temporary failure, the user is invited to retry"


class Preempted(KeyboardInterrupt):
    """This process must stop.

    A KeyboardInterrupt, so that no handler of errors takes it for one.

    Attributes:
      together: all processes of the run stop here, with everything saved.
    """

    def __init__(self, message: str, together: bool = False):
        super().__init__(message)
        self.together = together


class _Received:
    """What the signal handler has recorded."""

    name: str | None = None  # of the first signal
    deferred = False  # signals do not raise at this moment
    leaving = False  # a signal has raised: further ones change nothing


_received = _Received()


def _handle(number: int, frame: types.FrameType | None) -> None:
    if _received.leaving:
        return
    _received.name = _received.name or signal.Signals(number).name
    if not _received.deferred:
        ignore()
        raise Preempted(f"stopped by {_received.name}")


def install() -> Callable[[], None]:
    """Handles `SIGNALS` in this process from now on; to be called in the main thread.

    Returns:
      A function that restores the handlers there were before.
    """
    before = {number: signal.signal(number, _handle) for number in SIGNALS}

    def remove() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.name, _received.deferred, _received.leaving = None, False, False

    return remove


def ignore() -> None:
    """Makes further signals do nothing: this process is about to end."""
    _received.leaving = True


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], str | None]]:
    """Keeps signals from raising within its `with` block.

    Yields:
      A function that returns the name of the first signal received, or None.

    Raises:
      Preempted: at the end of the block, where a signal came and nothing else was raised.
    """
    _received.deferred = True
    try:
        yield lambda: _received.name
    except Preempted:
        ignore()
        raise
    finally:
        _received.deferred = False
    if _received.name and not _received.leaving:
        ignore()
        raise Preempted(f"stopped by {_received.name}")
