"""Where training figures go: `train.jsonl`, TensorBoard event files, the terminal."""

import json
import pathlib
import sys

import jax

from his4mae_jax.files import writing


def make_writer(workdir, start_step):
    """A `MetricWriter`; on other processes than the first one that drops what it is told."""
    return MetricWriter(workdir, start_step) if jax.process_index() == 0 else _NoWriter()


def _import_tensorboardx():
    """tensorboardX, imported late (half a second) and without PyTorch, which it imports wherever that is installed."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # `import torch` raises ImportError, which tensorboardX expects
    try:
        import tensorboardX
    finally:
        if hidden:
            del sys.modules["torch"]
    return tensorboardX


class _NoWriter:
    def write(self, step, scalars):
        pass

    def close(self):
        pass


class MetricWriter:
    """Appends one JSON line per logged step and the same scalars to TensorBoard.

    A resumed run first drops lines of steps after `start_step`: they will be logged again.
    """

    def __init__(self, workdir, start_step):
        self._path = pathlib.Path(workdir) / "train.jsonl"
        with writing(self._path):
            self._drop_after(start_step)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _import_tensorboardx().SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=start_step or None
        )

    def _drop_after(self, step):
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # the half-written last line of a killed run
        part = self._path.with_suffix(".partial")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(self._path)

    def write(self, step, scalars):
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self):
        self._file.close()
        self._board.close()
