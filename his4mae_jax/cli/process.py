"""The process of a command: its log, the other processes of the run, signals, and the exit status."""

import contextlib
import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from his4mae_jax.errors import UserError, friendly_device_error, friendly_memory_error, mask
from his4mae_jax.training.run import preemption

BAD_INPUT, FAULT, INTERRUPTED = 2, 1, 130  # exit statuses; that of a run stopped by a signal is preemption's
MOST_FILES = 65_536  # that a process may have open: as many as it is allowed, and no more than this
_index = None  # of this process, where several share the run


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that was read from a command line.

    Attributes:
      run: does it. Raises `UserError` for bad input.
      path: the file or folder that it writes to, for messages about a full disk or missing rights.
    """

    run: Callable[[], None]
    path: str


def log(message: object) -> None:
    """Print one line to standard error; of several processes only the first one does."""
    if not _index:
        from his4mae_jax.progress import say  # after `join`, which may switch off the bars of tqdm

        say(message)


def join() -> None:
    """Find the other processes of the run, where a launcher started several."""
    global _index
    from his4mae_jax.training.devices import distributed

    launcher = distributed.initialise()
    if launcher:
        import jax

        _index = jax.process_index()
        if _index:
            os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: bars come from the first process only
        log(f"processes: {jax.process_count()} of {jax.local_device_count()} devices each, found by {launcher}")


def check_alone(what: str) -> None:
    """Raise `UserError` where a launcher started several processes.

    Args:
      what: is done by a single process.
    """
    from his4mae_jax.training.devices import distributed

    if distributed.detect(os.environ, has_tpu=False):
        raise UserError(f"{what} is for one process, and the launcher started several; start it without one")


def leave_accelerators() -> None:
    """Compute on the CPU: accelerators are for other processes, which may be on this machine. Before JAX is used."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def part() -> None:
    """Wait for the other processes of the run, where there are any, and leave them."""
    if _index is not None:
        from his4mae_jax.training.devices import distributed

        distributed.shut_down()


def quiet_orbax() -> None:
    """Show no line of orbax: it logs each save in many, and tracebacks of what it also raises."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def allow_open_files() -> None:
    """Let this process have as many open files as it may: each TIFF or MRC file that it reads stays one of them."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def execute(parse: Callable[[], Command]) -> None:
    """Run a command and end the process with its status.

    0, or 2 with one line for bad input, 75 where a signal stopped the run, 130 for Ctrl-C, and 1 with a traceback for
    a fault of the program.

    Args:
      parse: reads the command line. What it raises is reported as what the command itself raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    preemption.install()
    allow_open_files()
    path = None
    try:
        command = parse()
        path = command.path
        command.run()
    except UserError as error:
        _end(BAD_INPUT, f"error: {error}")
    except Exception as error:
        from his4mae_jax.files import friendly_io_error

        path = path or getattr(error, "filename", None) or "the command line"
        friendly = friendly_io_error(error, path) or friendly_memory_error(error) or friendly_device_error(error)
        if friendly is not None:
            _end(BAD_INPUT, f"error: {friendly}")
        _end(FAULT, traceback.format_exc())
    except preemption.Preempted as reason:
        _stop(reason)
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted; run the same command again to go on from the last checkpoint")


def _end(status: int, message: str) -> NoReturn:
    """Print why, and end this process; one of several does not wait for the others."""
    message = mask(message)  # tracebacks too: people paste them into public reports
    if _index is None:
        print(message, file=sys.stderr, flush=True)
        sys.exit(status)
    from his4mae_jax.training.devices import distributed

    print(f"{message} (process {_index})", file=sys.stderr, flush=True)
    distributed.leave(status)


def _stop(reason: preemption.Preempted) -> NoReturn:
    """End this process with the status on which launchers start it again."""
    preemption.ignore()
    if reason.together and _index is not None:
        log(reason)
        part()
        sys.exit(preemption.EXIT_STATUS)
    _end(preemption.EXIT_STATUS, f"{reason}; run the same command again to go on")
