"""Stopping when the machine is wanted back: what signals do.

A process that is told to stop (SIGTERM; SIGUSR1, which SLURM can send some time before its limit) ends with
`EXIT_STATUS`, which the launchers start again on. While training, the signal is only noted: the loop saves first.
Everywhere else it raises `Preempted` at once, for what is done stays on disk and is gone on with. Where several
processes train, `distributed.Agreement` finds the step at which all of them stop.
"""

import contextlib
import os
import signal

SIGNALS = (signal.SIGTERM, *filter(None, [getattr(signal, "SIGUSR1", None)]))
EXIT_STATUS = getattr(os, "EX_TEMPFAIL", 75)  # "temporary failure, the user is invited to retry"


class Preempted(KeyboardInterrupt):
    """This process was told to stop. `together`: all processes stop here, with everything saved.

    A KeyboardInterrupt, so that no handler of errors takes it for one.
    """

    def __init__(self, message, together=False):
        super().__init__(message)
        self.together = together


class _Notice:
    """What the signal handler knows."""

    name = None  # of the first signal
    noted = False  # signals are only noted at this moment
    leaving = False  # a signal has raised: further ones change nothing


_notice = _Notice()


def _handle(number, frame):
    if _notice.leaving:
        return
    _notice.name = _notice.name or signal.Signals(number).name
    if not _notice.noted:
        ignore()
        raise Preempted(f"told to stop by {_notice.name}")


def install():
    """Handle `SIGNALS` in this process from now on; returns a function that puts things back as they were.

    For the main thread, where Python's signal handlers run.
    """
    before = {number: signal.signal(number, _handle) for number in SIGNALS}

    def remove():
        for number, handler in before.items():
            signal.signal(number, handler)
        _notice.name, _notice.noted, _notice.leaving = None, False, False

    return remove


def ignore():
    """From now on signals change nothing: this process is on its way out."""
    _notice.leaving = True


@contextlib.contextmanager
def noted():
    """Within it signals do not raise; gives a function that returns the name of the first one, or None.

    One that came too late to be asked for raises at the end.
    """
    _notice.noted = True
    try:
        yield lambda: _notice.name
    except Preempted:
        ignore()
        raise
    finally:
        _notice.noted = False
    if _notice.name and not _notice.leaving:
        ignore()
        raise Preempted(f"told to stop by {_notice.name}")
