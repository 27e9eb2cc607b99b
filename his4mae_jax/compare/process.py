"""Run one row in a process of its own: exit status, time and peak memory, and its end when ours is interrupted."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import his4mae_jax
from his4mae_jax.compare.rows import Run

ROOT = pathlib.Path(his4mae_jax.__file__).parents[1]


def command(run: Run) -> list[str]:
    """The command line of one run's process."""
    config = f"--config=saved:{run.folder / 'row.json'}"
    return [sys.executable, "-m", "his4mae_jax.main", config, f"--workdir={run.folder}", "--mode=all"]


@dataclasses.dataclass(frozen=True)
class Usage:
    """How a process ended, and the resources that it used.

    Attributes:
      status: exit status as in `subprocess`: negative for a signal.
      seconds: wall time.
      peak_rss_mb: peak resident memory in megabytes.
      interrupted: whether it was ended because this process was interrupted.
    """

    status: int
    seconds: float
    peak_rss_mb: float
    interrupted: bool


def execute(args: Sequence[str], log_path: str | os.PathLike) -> Usage:
    """Runs a process to its end and appends its output to `log_path`; ends it when this process is interrupted."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    began, interrupted = time.perf_counter(), False
    with open(log_path, "ab") as out:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
        # wait4, because RUSAGE_CHILDREN gives only the largest peak of all child processes so far. The peak
        # includes the moment before exec, at our own size: less than any run's, which imports the same modules.
        try:
            _, status, resources = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            interrupted = True
            os.kill(process.pid, signal.SIGTERM)
            _, status, resources = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of a unit of ru_maxrss
    return Usage(process.returncode, time.perf_counter() - began, resources.ru_maxrss * unit / 1e6, interrupted)


def device_name() -> str:
    """The devices that JAX uses, such as "1 x cpu"; queried in another process so that this one occupies no device."""
    code = "import jax; d = jax.devices(); print(len(d), 'x', d[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else "an unknown device"


def cpus() -> int | None:
    """How many CPUs this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def last_line(path: str | os.PathLike, offset: int) -> str:
    """The last line of a log that is not blank, from byte `offset` on."""
    with open(path, "rb") as file:
        file.seek(offset)
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "no output"


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that a run's process ends before ours."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
