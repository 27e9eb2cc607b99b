"""Training metrics: their means between two logged steps, and the files they go to."""

import json
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator

import jax
import numpy as np

from his4mae_jax.bucket.path import BucketPath, Place, place
from his4mae_jax.files import writing
from his4mae_jax.progress import say
from his4mae_jax.training.run.run_lock import check_there
from his4mae_jax.workdir import log_entry


class MetricWindows:
    """Cuts the metrics of all steps after `start` at the multiples of `every` and at `total`.

    Steps come in groups of any size; the scalars of a window do not depend on it.
    """

    def __init__(self, start: int, total: int, every: int, learning_rate: Callable[[int], float]):
        """Starts before any step.

        Args:
          start: steps done before.
          total: the last step.
          every: steps from one border to the next.
          learning_rate: the schedule. It is evaluated here: what XLA computes within a training step differs in the
            last bit with the number of steps in a dispatch, as one or another fusion holds it (jax 0.12).
        """
        self._step, self._total, self._every = start, total, every
        self._learning_rate = learning_rate
        self._parts: list[dict[str, np.ndarray]] = []

    def add(
        self, metrics: dict[str, np.ndarray], began: float, ended: float
    ) -> Iterator[tuple[int, dict[str, float], float]]:
        """Adds the next steps, and yields `(step, scalars, time)` for each window that they close.

        Args:
          metrics: arrays `(n,)`, those of the next n steps.
          began: time at which these steps began.
          ended: time at which they ended; the time of a step between is interpolated.
        """
        count, taken = len(metrics["loss"]), 0
        while taken < count:
            border = min((self._step // self._every + 1) * self._every, self._total)
            more = min(border - self._step, count - taken)
            self._parts.append({k: v[taken : taken + more] for k, v in metrics.items()})
            self._step, taken = self._step + more, taken + more
            if self._step == border:
                yield border, self._close(), began + (ended - began) * taken / count

    def _close(self) -> dict[str, float]:
        rows = {k: np.concatenate([part[k] for part in self._parts]) for k in self._parts[0]}
        self._parts = []
        scalars = {k: float(np.mean(v)) for k, v in rows.items() if k.startswith(("loss", "grad", "accuracy"))}
        scalars["lr"] = float(self._learning_rate(self._step - 1))
        ends = np.flatnonzero(rows.get("epoch_end", ()))
        if len(ends):  # the codebook's usage has a meaning over whole epochs only
            scalars["perplexity"] = float(rows["perplexity"][ends[-1]])
            scalars["dead_fraction"] = float(rows["dead_fraction"][ends[-1]])
        return scalars


def _import_tensorboardx() -> types.ModuleType:
    """Imports tensorboardX late (half a second), and without PyTorch, which it imports wherever that is installed."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # `import torch` raises ImportError, which tensorboardX expects
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


class MetricWriter:
    """Appends one line of JSON per logged step to `train.jsonl`, and the same scalars to TensorBoard.

    A resumed run first drops the lines of steps after `start_step`: they will be logged again.
    """

    def __init__(self, workdir: str | pathlib.Path, start_step: int):
        """Opens the files in a folder on a disk."""
        self._path = pathlib.Path(workdir) / "train.jsonl"
        with writing(self._path):
            self._drop_after(start_step)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _import_tensorboardx().SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=start_step or None
        )

    def _drop_after(self, step: int) -> None:
        if not self._path.exists():
            return
        part = self._path.with_suffix(".partial")
        part.write_bytes(_until(step, self._path.read_bytes()))
        part.replace(self._path)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of one logged step.

        Raises:
          UserError: the workdir is gone, or the disk refuses the write.
        """
        check_there(self._path.parent)
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Has all that was written so far seen by readers."""

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def _until(step: int, log: bytes) -> bytes:
    """The entries of a train.jsonl of no later step."""
    lines = [(line, log_entry(line)) for line in log.splitlines()]
    return b"".join(line + b"\n" for line, entry in lines if entry and entry["step"] <= step)


class BucketWriter(MetricWriter):
    """train.jsonl in a bucket: nothing can be appended to an object, which is put anew every `EVERY` seconds.

    TensorBoard's files are not written there.
    """

    EVERY = 10.0

    def __init__(self, workdir: BucketPath, start_step: int):
        """Reads what an earlier run has logged."""
        self._path, self._put_at, self._new = workdir / "train.jsonl", time.monotonic(), False
        try:
            self._log = _until(start_step, self._path.read_bytes())
        except FileNotFoundError:
            self._log = b""
        say(f"train: no TensorBoard files in a bucket; {self._path} has the same numbers")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Adds the scalars of one logged step.

        Raises:
          UserError: the store refuses, or the lock of the workdir was lost.
        """
        self._log += json.dumps({"step": step, **scalars}).encode() + b"\n"
        self._new = True
        if time.monotonic() - self._put_at > self.EVERY:
            self.flush()

    def flush(self) -> None:
        """Puts the log; also before a checkpoint, so that a run which goes on from it finds all steps before."""
        if self._new:
            check_there(self._path.parent)
            self._path.write_bytes(self._log)
            self._put_at, self._new = time.monotonic(), False

    def close(self) -> None:
        """Puts what is not there yet."""
        self.flush()


class _NoWriter(MetricWriter):
    """For the processes that write no files."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, scalars: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def make_writer(workdir: str | Place, start_step: int) -> MetricWriter:
    """Returns a `MetricWriter` on process 0, and on other processes a writer that does nothing."""
    if jax.process_index() > 0:
        return _NoWriter()
    folder = place(workdir)
    return BucketWriter(folder, start_step) if isinstance(folder, BucketPath) else MetricWriter(folder, start_step)
