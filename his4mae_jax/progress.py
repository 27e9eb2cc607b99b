"""Progress of long steps: a bar on a terminal, a line now and then in a file or a CI log.

A step that ends within `QUIET` seconds shows nothing. The estimate of the time left counts from the first unit that was
finished: what comes before it (compilation, opening files) does not scale with the number of units.
"""

import contextlib
import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tqdm

from his4mae_jax.errors import mask

QUIET = 5.0  # seconds before a step says anything
EVERY = 10.0  # seconds between two lines where there is no terminal

Log = Callable[[str], None]

_gathered: list[str] | None = None  # lines of `say_once` within `of_many`


def say(message: object) -> None:
    """Prints one line to standard error, above a bar that may be on the terminal; secrets in URLs are masked."""
    if sys.stderr.isatty():
        tqdm.tqdm.write(mask(message), file=sys.stderr)
    else:
        print(mask(message), file=sys.stderr, flush=True)


@functools.cache
def say_once(message: str) -> None:
    """Like `say`, for what a process need not hear twice."""
    say(message) if _gathered is None else _gathered.append(message)


@contextlib.contextmanager
def of_many(log: Log = say) -> Iterator[Log]:
    """While many volumes are opened: what is said of several of them is one line, not one for each.

    Args:
      log: prints a line, when the `with` block ends.

    Yields:
      A function for further lines, each of which begins with what it is about, as those of `say_once` do.
    """
    global _gathered
    before, _gathered = _gathered, []
    lines = _gathered
    try:
        yield lines.append
    finally:
        _gathered = before
        kinds: dict[str, list[str]] = {}
        for line in lines:
            kinds.setdefault(re.sub(r"\d+", "0", line.removeprefix("warning: ").partition(": ")[2]), []).append(line)
        for first, *others in kinds.values():
            log(first + (f" (and so of {len(others)} other volumes)" if others else ""))


def duration(seconds: float) -> str:
    """Seconds as a person would say them: "45 s", "3.2 min", "2.5 h", "3.1 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.95 * size or (size < 86400 and seconds >= 1.5 * size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def rate(per_second: float, unit: str) -> str:
    """A rate with two significant digits at least: "4,900 images/s", "12.3 images/s", "0.043 images/s"."""
    digits = (
        f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}" if per_second >= 1 else f"{per_second:.2g}"
    )
    return f"{digits} {unit}/s"


class Progress:
    """How far a step has come; made by `progress`.

    Attributes:
      done: units finished so far.
      total: units in all; None where that is not known.
    """

    def __init__(self, label: str, total: float | None, unit: str, log: Log):
        self.done, self.total = 0.0, total
        self._label, self._unit, self._log = label, unit, log
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None  # (units, time) when the first advance came
        self._note, self._printed, self._bar = "", self._began + QUIET - EVERY, None
        self._lock = threading.Lock()

    def advance(self, units: float = 1) -> None:
        """Counts `units` more as finished."""
        with self._lock:
            self.done += units
            self._first = self._first or (self.done, time.monotonic())

    def note(self, text: str) -> None:
        """Sets what is said behind the numbers, such as a loss."""
        self._note = text

    def remaining(self) -> float | None:
        """Estimated seconds left; None where there is nothing to estimate from."""
        if not self.total or self._first is None:
            return None
        now = time.monotonic()
        units, since = self._first
        if self.done > units:
            return (self.total - self.done) * (now - since) / (self.done - units)
        return (self.total - self.done) * (since - self._began) / self.done if self.done else None

    def describe(self) -> str:
        """The state in one line, as it is printed to files."""
        elapsed, left = time.monotonic() - self._began, self.remaining()
        parts = [f"{self._label}:"]
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f} %")
            if self._unit:
                parts.append(f"({self.done:,.0f} of {self.total:,.0f} {self._unit})")
        elif self.done:
            parts.append(f"{self.done:,.0f} {self._unit}".strip())
        parts.append(f"after {duration(elapsed)}" + ("" if left is None else f", {duration(left)} left"))
        return " ".join(parts) + (f"  {self._note}" if self._note else "")

    def show(self) -> None:
        """Shows the state, if it is time to."""
        now = time.monotonic()
        if now - self._began < QUIET:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm.tqdm(bar_format="{desc}", leave=False, file=sys.stderr)
            self._bar.set_description_str(self.describe())
        elif now - self._printed >= EVERY:
            self._printed = now
            self._log(self.describe())

    def close(self) -> None:
        """Removes the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress(label: str, total: float | None = None, *, unit: str = "", log: Log = say) -> Iterator[Progress]:
    """Shows how far a step has come while the `with` block runs.

    Args:
      label: what is done, such as "segment" or "segment: compiling".
      total: number of units; None for a step that only says that it still works.
      unit: plural name of the units, such as "tiles".
      log: prints one line where standard error is no terminal; a process that must stay silent gives one that does.

    Yields:
      The `Progress`, whose `advance` counts finished units.
    """
    state, stop = Progress(label, total, unit, log), threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            state.show()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield state
    finally:
        stop.set()
        thread.join()
        state.close()
