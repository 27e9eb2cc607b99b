"""How training goes, on the terminal: by time, whatever the number of steps a second."""

import collections
import contextlib
import time
from typing import Self

import jax
import numpy as np

from his4mae_jax.progress import Log, Progress, duration, progress, rate

RECENT = 10.0  # seconds over which the losses and the rate are averaged
DAY = 86400.0  # seconds; a run that takes longer is pointed out once
RELIABLE = 5.0  # seconds of training after which the rate is good enough for that


class TerminalLog:
    """Shows the progress of training while its `with` block runs.

    Until `started`, it shows that batches are read and the step is compiled. After that it shows, as `progress` does,
    steps and time left, with the losses and the images per second of the last `RECENT` seconds.
    """

    def __init__(self, start: int, total: int, batch_size: int, log: Log):
        """Shows nothing yet.

        Args:
          start: steps done before this run.
          total: steps of the whole run.
          batch_size: fields of view in a step.
          log: prints a line.
        """
        self._start, self._total, self._batch_size, self._log = start, total, batch_size, log
        self._stack = contextlib.ExitStack()
        self._bar: Progress | None = None
        self._began, self._checked = 0.0, False
        # (time, last step, steps, {name: sum of a loss over them}) of each report.
        self._recent: collections.deque[tuple[float, int, int, dict[str, float]]] = collections.deque()

    def __enter__(self) -> Self:
        self._stack.enter_context(progress("train: reading the first batches and compiling", log=self._log))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def started(self) -> None:
        """Begins the count of steps and time: the first dispatch has been compiled and sent to the device."""
        if self._bar is not None:
            return
        self._stack.close()
        self._bar = self._stack.enter_context(progress("train", self._total, unit="steps", log=self._log))
        self._bar.advance(self._start)
        self._began = time.perf_counter()
        self._recent.append((self._began, self._start, 0, {}))

    def compiling(self) -> None:
        """Shows that another program of the step is being compiled."""
        if self._bar is not None:
            self._bar.note("compiling")

    def add(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Counts the steps up to `step` as done.

        Args:
          step: steps done.
          metrics: of the steps since the last report, `(n,)` each, on the host.
        """
        now, count = time.perf_counter(), len(metrics["loss"])
        losses = {k: float(np.sum(v)) for k, v in metrics.items() if k.startswith("loss_")}
        self._recent.append((now, step, count, losses))
        while len(self._recent) > 2 and self._recent[1][0] < now - RECENT:
            self._recent.popleft()
        self._bar.advance(count)
        self._bar.note(self.describe())
        self._check_duration(step, now)

    def describe(self) -> str:
        """Returns the mean losses and the rate of the last seconds."""
        began, first, *_ = self._recent[0]
        now, step, *_ = self._recent[-1]
        reports = list(self._recent)[1:]
        steps = sum(count for _, _, count, _ in reports)
        parts = [f"{name} {sum(r[3][name] for r in reports) / steps:.5f}" for name in (reports[-1][3] if steps else ())]
        images = (step - first) * self._batch_size
        return "  ".join([*parts, rate(images / max(now - began, 1e-9), "images")])

    def _check_duration(self, step: int, now: float) -> None:
        """Says once, as soon as the rate is known, that what is left takes more than a day."""
        elapsed = now - self._began
        if self._checked or elapsed < RELIABLE:
            return
        self._checked = True
        per_second = (step - self._start) / elapsed
        left = (self._total - step) / per_second
        if left > DAY:
            accelerator = ", or train on an accelerator" if jax.default_backend() == "cpu" else ""
            self._log(
                f"train: at {rate(per_second * self._batch_size, 'images')} the remaining {self._total - step:,} steps "
                f"take about {duration(left)}; to be done sooner, set fewer train.steps or train.epochs, or start from "
                f"the small preset (get_small, as configs/demo.py does){accelerator}"
            )
