"""Raw crops cut on the host: from volumes in memory, streamed one by one, or from a rolling pool of bricks.

All three cut what the plan says, so that they give the same batches.
"""

import concurrent.futures
import math

import jax
import numpy as np

from his4mae_jax.data.volumes.blocks import read_async, slabs
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError

READ_AHEAD = 4  # a quarter of the pool's bricks are read before they are needed


def total_bytes(volumes):
    """Bytes of volumes held whole."""
    return sum(math.prod(v.shape) * v.dtype.itemsize for v in volumes)


def check_labels(labels, num_classes):
    """Raise `UserError` for ids that are neither classes nor `IGNORE`."""
    wrong = labels[(labels >= num_classes) & (labels != IGNORE)]
    if wrong.size:
        raise UserError(
            f"data.train_labels: a label of id {wrong.flat[0]}, but data.class_names names "
            f"{num_classes} classes (ids 0 to {num_classes - 1}; {IGNORE} = not annotated)"
        )


class HostSampler:
    """Batches of raw crops by step number.

    Volumes of at most `in_memory_bytes` together (label volumes count) are read once and kept;
    of larger ones the plan's bricks are kept, or without a pool every crop is read by itself.
    What a volume cannot read asynchronously is read by `workers` threads. With `labels` (a label
    volume for each volume) batches hold their crops too; ids must be below `num_classes`, or
    `IGNORE`. One thread at a time may ask for batches.
    """

    def __init__(self, plan, volumes, contrasts, *, workers, in_memory_bytes, labels=None, num_classes=0):
        self.plan, self._num_classes = plan, num_classes
        self._dtype = np.result_type(*[v.dtype for v in volumes])
        self._contrast_Vx3 = np.asarray([[c.low, c.high, c.invert] for c in contrasts], np.float32)
        self.in_memory = total_bytes((*volumes, *(labels or ()))) <= in_memory_bytes
        # On the host's CPU: the plan steers reads, and must not wait for an accelerator.
        self._cpu = jax.local_devices(backend="cpu")[0]
        self._at = jax.jit(plan.at)
        threads = concurrent.futures.ThreadPoolExecutor(max(1, workers))

        def source(volumes):
            if self.in_memory:
                return _Held(volumes)
            return _Bricks(plan.pool, volumes, threads, self._cpu) if plan.pool else _Streamed(volumes, threads)

        self._images, self._labels = source(volumes), source(labels) if labels else None

    def describe(self):
        """How crops are read, for the log."""
        if self.in_memory:
            return "volumes in memory"
        pool = self.plan.pool
        if pool is None:
            return "volumes streamed, crop by crop"
        return f"volumes streamed through a pool of {pool.slots} bricks"

    def batch(self, step, rows=slice(None)):
        """The raw batch of one step; `rows` picks this host's part of it.

        Returns `crop` `(B, fov, fov)` in the volumes' dtype, filled from the top left to
        `side`; `contrast` `(B, 3)` (low, high, inverted); the plan's `side`, `flip_rows`,
        `flip_cols`, `transpose`; and with label volumes `labels` `(B, fov, fov)` uint8. Raises
        `UserError` for unknown label ids, and for what cannot be read.
        """
        with jax.default_device(self._cpu):
            chosen = {k: np.asarray(v)[rows] for k, v in self._at(step).items()}
        batch = {k: chosen[k] for k in ("side", "flip_rows", "flip_cols", "transpose")}
        batch["contrast"] = self._contrast_Vx3[chosen["volume"]]
        boxes, slots = _boxes(chosen), self._slots(rows)
        # Labels are asked for before images are awaited.
        images = self._images.read(step, boxes, slots)
        labels = self._labels.read(step, boxes, slots) if self._labels else None
        batch["crop"] = self._fill(images, chosen["side"], self._dtype, 0)
        if labels is not None:
            labels = self._fill(labels, chosen["side"], np.int64, IGNORE)
            check_labels(labels, self._num_classes)
            batch["labels"] = labels.astype(np.uint8)
        return batch

    def _slots(self, rows):
        """Slots of the pool from which these rows may be cut, at whatever step."""
        if self.plan.pool is None:
            return ()
        first, count = self.plan.pool.slot_range(np.arange(self.plan.batch_size)[rows], self.plan.batch_size)
        return tuple(sorted({int(f) + i for f, n in zip(first, count, strict=True) for i in range(n)}))

    def _fill(self, pieces, side_B, dtype, fill):
        """Crops in one array `(B, fov, fov)`, filled from the top left."""
        crops = np.full((len(side_B), self.plan.fov, self.plan.fov), fill, dtype)
        for crop, piece, side in zip(crops, pieces, side_B, strict=True):
            crop[:side, :side] = piece().reshape(side, side)
        return crops


def _boxes(chosen):
    """Of each row (volume, slot, box)."""
    slots = chosen.get("slot", chosen["volume"]).tolist()
    rows = zip(chosen["volume"].tolist(), slots, chosen["start"].tolist(), chosen["side"].tolist(),
               chosen["axis"].tolist(), strict=True)  # fmt: skip
    return [
        (volume, slot, tuple(slice(n, n + (1 if a == axis else side)) for a, n in enumerate(start)))
        for volume, slot, start, side, axis in rows
    ]


# A source's `read(step, boxes, slots)` asks for all boxes and returns a function for each, which waits for its
# voxels.


class _Held:
    """Volumes read once."""

    def __init__(self, volumes):
        self._arrays = []
        for volume in volumes:
            array = np.empty(volume.shape, volume.dtype)
            for box in slabs(volume, whole_chunks=True):
                array[box] = volume.read(box)
            self._arrays.append(array)

    def read(self, step, boxes, slots):
        return [lambda v=v, b=b: self._arrays[v][b] for v, _, b in boxes]


class _Streamed:
    """Every crop is read from its volume."""

    def __init__(self, volumes, threads):
        self._volumes, self._threads = volumes, threads

    def read(self, step, boxes, slots):
        return [read_async(self._volumes[v], b, self._threads).result for v, _, b in boxes]


class _Bricks:
    """The bricks of the pool that may hold crops now, and those that come next."""

    def __init__(self, pool, volumes, threads, cpu):
        self._pool, self._volumes, self._threads, self._cpu = pool, volumes, threads, cpu
        self._ahead = -(-pool.slots // READ_AHEAD)
        self._at = jax.jit(pool.bricks)
        self._held, self._for, self._generation = {}, None, None

    def read(self, step, boxes, slots):
        turn = step // self._pool.every  # between two turns no brick is replaced
        if (turn, slots) != self._for:
            self._roll(turn, slots)
            self._for = turn, slots
        return [lambda s=slot, b=box: self._cut(s, b) for _, slot, box in boxes]

    def _roll(self, turn, slots):
        """Ask for the bricks of this turn and of the next ones; let go of all others."""
        with jax.default_device(self._cpu):
            now, later = (jax.device_get(self._at((turn + t) * self._pool.every)) for t in (0, self._ahead))
        held = {}
        for bricks in (now, later):  # from one to the other a slot is refilled once at most
            for slot in slots:
                key = slot, int(bricks["generation"][slot])
                held[key] = held.get(key) or self._held.get(key) or self._brick(bricks, slot)
        self._held, self._generation = held, now["generation"].tolist()

    def _brick(self, bricks, slot):
        start, stop = bricks["start"][slot].tolist(), bricks["stop"][slot].tolist()
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return start, read_async(self._volumes[bricks["volume"][slot]], box, self._threads)

    def _cut(self, slot, box):
        start, future = self._held[slot, self._generation[slot]]
        return future.result()[tuple(slice(s.start - n, s.stop - n) for s, n in zip(box, start, strict=True))]
