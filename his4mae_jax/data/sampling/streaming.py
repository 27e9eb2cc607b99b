"""Raw crops cut on the host: from volumes in memory, streamed one by one, or from a rolling pool of bricks.

All three cut the crops of the same plan, so that they give the same batches.
"""

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from his4mae_jax.data.sampling.bricks import Pool
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.volumes.blocks import PendingRead, read_async, slabs
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, progress, say

READ_AHEAD = 4  # 1 / READ_AHEAD of the pool's bricks are read before they are needed

Crop = tuple[int, int, Box]  # volume, slot of the pool, box in voxels of the volume


def total_bytes(volumes: Iterable[VolumeLike]) -> int:
    """Bytes of volumes in memory, in their stored dtypes."""
    return sum(math.prod(v.shape) * v.dtype.itemsize for v in volumes)


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises `UserError` for ids that are neither classes nor `IGNORE`."""
    wrong = labels[(labels >= num_classes) & (labels != IGNORE)]
    if wrong.size:
        raise UserError(
            f"data.train_labels: a label of id {wrong.flat[0]}, but data.class_names names "
            f"{num_classes} classes (ids 0 to {num_classes - 1}; {IGNORE} = not annotated)"
        )


class HostSampler:
    """Batches of raw crops by step number.

    Volumes of at most `in_memory_bytes` together (label volumes count) are read once and kept. Of larger ones the
    bricks of the plan's pool are kept; without a pool every crop is read by itself. One thread at a time may ask for
    batches.

    Attributes:
      plan: what is sampled at every step.
      in_memory: whether the volumes are kept in memory.
    """

    def __init__(
        self,
        plan: Plan,
        volumes: Sequence[VolumeLike],
        contrasts: Sequence[Contrast],
        *,
        workers: int,
        in_memory_bytes: int,
        labels: Sequence[VolumeLike] | None = None,
        num_classes: int = 0,
        log: Log = say,
    ) -> None:
        """Reads the volumes, where they are kept in memory.

        Args:
          plan: what is sampled at every step.
          volumes: the images.
          contrasts: grey window of each volume.
          workers: threads that read volumes without an asynchronous interface.
          in_memory_bytes: limit up to which volumes are kept in memory.
          labels: a label volume for each volume: batches then contain their crops, too.
          num_classes: label ids must be below it, or `IGNORE`.
          log: prints a line of progress.
        """
        self.plan, self._num_classes = plan, num_classes
        self._dtype = np.result_type(*[v.dtype for v in volumes])
        self._contrast_Vx3 = np.asarray([[c.low, c.high, c.invert] for c in contrasts], np.float32)
        self.in_memory = total_bytes((*volumes, *(labels or ()))) <= in_memory_bytes
        # On the host's CPU: the plan controls reads, and must not wait for an accelerator.
        self._cpu = jax.local_devices(backend="cpu")[0]
        self._at = jax.jit(plan.at)
        threads = concurrent.futures.ThreadPoolExecutor(max(1, workers))

        def source(volumes: Sequence[VolumeLike]) -> _Source:
            if self.in_memory:
                return _InMemory(volumes, log)
            return _Bricks(plan.pool, volumes, threads, self._cpu) if plan.pool else _Streamed(volumes, threads)

        self._images, self._labels = source(volumes), source(labels) if labels else None

    def describe(self) -> str:
        """How crops are read, for the log."""
        if self.in_memory:
            return "volumes in memory"
        pool = self.plan.pool
        if pool is None:
            return "volumes streamed, crop by crop"
        return f"volumes streamed through a pool of {pool.slots} bricks"

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The raw batch of one step.

        Args:
          step: step number.
          rows: this host's part of the batch.

        Returns:
          `crop`, `(B, fov, fov)`, in the volumes' dtype, filled from the top left to `side`; `contrast`, `(B, 3)`
          (low, high, inverted); the plan's `side`, `flip_rows`, `flip_cols`, `transpose`, `(B,)`; and with label
          volumes `labels`, `(B, fov, fov)`, uint8.

        Raises:
          UserError: there are unknown label ids, or a volume cannot be read.
        """
        with jax.default_device(self._cpu):
            chosen = {k: np.asarray(v)[rows] for k, v in self._at(step).items()}
        batch = {k: chosen[k] for k in ("side", "flip_rows", "flip_cols", "transpose")}
        batch["contrast"] = self._contrast_Vx3[chosen["volume"]]
        crops, slots = _crops(chosen), self._slots(rows)
        # Reads of labels are started before images are waited for.
        images = self._images.read(step, crops, slots)
        labels = self._labels.read(step, crops, slots) if self._labels else None
        batch["crop"] = self._fill(images, chosen["side"], self._dtype, 0)
        if labels is not None:
            labels = self._fill(labels, chosen["side"], np.int64, IGNORE)
            check_labels(labels, self._num_classes)
            batch["labels"] = labels.astype(np.uint8)
        return batch

    def _slots(self, rows: slice) -> tuple[int, ...]:
        """Slots of the pool from which these rows may be cut, at whatever step."""
        if self.plan.pool is None:
            return ()
        first, count = self.plan.pool.slot_range(np.arange(self.plan.batch_size)[rows], self.plan.batch_size)
        return tuple(sorted({int(f) + i for f, n in zip(first, count, strict=True) for i in range(n)}))

    def _fill(
        self, reads: Sequence[Callable[[], np.ndarray]], side_B: np.ndarray, dtype: np.dtype, fill: int
    ) -> np.ndarray:
        """Crops in one array `(B, fov, fov)`, filled from the top left."""
        crops = np.full((len(side_B), self.plan.fov, self.plan.fov), fill, dtype)
        for crop, read, side in zip(crops, reads, side_B, strict=True):
            crop[:side, :side] = read().reshape(side, side)
        return crops


def _crops(chosen: Mapping[str, np.ndarray]) -> list[Crop]:
    """The crop of each row."""
    slots = chosen.get("slot", chosen["volume"])
    columns = [column.tolist() for column in (chosen["volume"], slots, chosen["start"], chosen["side"], chosen["axis"])]
    return [
        (volume, slot, tuple(slice(n, n + (1 if a == axis else side)) for a, n in enumerate(start)))
        for volume, slot, start, side, axis in zip(*columns, strict=True)
    ]


class _Source(Protocol):
    """Where crops are read from."""

    def read(self, step: int, crops: Sequence[Crop], slots: Sequence[int]) -> list[Callable[[], np.ndarray]]:
        """Starts to read all crops; returns a function for each, which waits for its voxels."""


class _InMemory:
    """Volumes that were read once."""

    def __init__(self, volumes: Sequence[VolumeLike], log: Log) -> None:
        self._arrays = [np.empty(volume.shape, volume.dtype) for volume in volumes]
        with progress("train: reading volumes", total_bytes(volumes) / 1e6, unit="MB", log=log) as bar:
            for volume, array in zip(volumes, self._arrays, strict=True):
                for box in slabs(volume, whole_chunks=True):
                    array[box] = volume.read(box)
                    bar.advance(array[box].nbytes / 1e6)

    def read(self, step: int, crops: Sequence[Crop], slots: Sequence[int]) -> list[Callable[[], np.ndarray]]:
        return [lambda v=volume, b=box: self._arrays[v][b] for volume, _, box in crops]


class _Streamed:
    """Every crop is read from its volume."""

    def __init__(self, volumes: Sequence[VolumeLike], threads: concurrent.futures.Executor) -> None:
        self._volumes, self._threads = volumes, threads

    def read(self, step: int, crops: Sequence[Crop], slots: Sequence[int]) -> list[Callable[[], np.ndarray]]:
        return [read_async(self._volumes[volume], box, self._threads).result for volume, _, box in crops]


class _Bricks:
    """The bricks of the pool at the current step, and those that are read ahead."""

    def __init__(
        self, pool: Pool, volumes: Sequence[VolumeLike], threads: concurrent.futures.Executor, cpu: jax.Device
    ) -> None:
        self._pool, self._volumes, self._threads, self._cpu = pool, volumes, threads, cpu
        self._ahead = -(-pool.slots // READ_AHEAD)
        self._at = jax.jit(pool.bricks)
        # (slot, generation) -> (first voxel, read in progress); the (turn, slots) that it is complete for.
        self._reads: dict[tuple[int, int], tuple[list[int], PendingRead]] = {}
        self._current: tuple[int, Sequence[int]] | None = None
        self._generation: list[int] = []

    def read(self, step: int, crops: Sequence[Crop], slots: Sequence[int]) -> list[Callable[[], np.ndarray]]:
        turn = step // self._pool.every  # between two turns no brick is replaced
        if (turn, slots) != self._current:
            self._roll(turn, slots)
            self._current = turn, slots
        return [lambda s=slot, b=box: self._cut(s, b) for _, slot, box in crops]

    def _roll(self, turn: int, slots: Sequence[int]) -> None:
        """Starts to read the bricks of this turn and of the next ones; drops all others."""
        with jax.default_device(self._cpu):
            now, later = (jax.device_get(self._at((turn + t) * self._pool.every)) for t in (0, self._ahead))
        reads = {}
        for bricks in (now, later):  # from one to the other a slot is refilled once at most
            for slot in slots:
                key = slot, int(bricks["generation"][slot])
                reads[key] = reads.get(key) or self._reads.get(key) or self._read_brick(bricks, slot)
        self._reads, self._generation = reads, now["generation"].tolist()

    def _read_brick(self, bricks: Mapping[str, np.ndarray], slot: int) -> tuple[list[int], PendingRead]:
        start, stop = bricks["start"][slot].tolist(), bricks["stop"][slot].tolist()
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return start, read_async(self._volumes[bricks["volume"][slot]], box, self._threads)

    def _cut(self, slot: int, box: Box) -> np.ndarray:
        start, pending = self._reads[slot, self._generation[slot]]
        return pending.result()[tuple(slice(s.start - n, s.stop - n) for s, n in zip(box, start, strict=True))]
