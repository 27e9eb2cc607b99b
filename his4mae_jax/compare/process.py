"""One run's process: what it took, how it ended, and its end when ours is asked for."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import his4mae_jax

ROOT = pathlib.Path(his4mae_jax.__file__).parents[1]


def command(run):
    """The command of one run's process."""
    config = f"--config=saved:{run.folder / 'row.json'}"
    return [sys.executable, "-m", "his4mae_jax.main", config, f"--workdir={run.folder}", "--mode=all"]


@dataclasses.dataclass(frozen=True)
class Usage:
    """How a process ended and what it took."""

    status: int  # as of `subprocess`: negative for a signal
    seconds: float
    peak_rss_mb: float
    interrupted: bool


def execute(args, log_path):
    """Run a process to its end, its output appended to `log_path`; it is ended when we are interrupted."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    began, interrupted = time.perf_counter(), False
    with open(log_path, "ab") as out:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
        # wait4: RUSAGE_CHILDREN knows only the largest peak of all processes so far. The peak counts
        # the moment before exec too, at our own size: less than any run's, which imports what we do.
        try:
            _, status, used = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            interrupted = True
            os.kill(process.pid, signal.SIGTERM)
            _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return Usage(process.returncode, time.perf_counter() - began, used.ru_maxrss * unit / 1e6, interrupted)


def device_name():
    """What JAX computes on, such as "1 x cpu". Asked in a process of its own: this one is to hold no device."""
    code = "import jax; d = jax.devices(); print(len(d), 'x', d[0].device_kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines else "an unknown device"


def cpus():
    """How many CPUs this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def last_line(path, offset):
    """The last line that a process said, from byte `offset` of its log on."""
    with open(path, "rb") as file:
        file.seek(offset)
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"


@contextlib.contextmanager
def sigterm_interrupts():
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, so that a run's process is ended before ours."""
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
