"""Go through a volume box by box, reading ahead, so that memory is that of a few boxes whatever the volume's size."""

import collections
import concurrent.futures
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored, boxes_of_any
from his4mae_jax.data.volumes.volume import Box, VolumeLike, chunks_of

SLAB_BYTES = 1 << 27  # of the whole slices that are read at once
READERS = 16  # threads of `read_async` for volumes that do not read asynchronously themselves

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class PendingRead(Protocol):
    """A read in progress."""

    def result(self) -> np.ndarray: ...


def boxes(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yields boxes that tile an array, in C order (the last axis runs fastest).

    Args:
      shape: of the array, any number of axes.
      block: shape of a box; boxes at the far border are cut off there.
    """
    for corner in itertools.product(*(range(0, n, b) for n, b in zip(shape, block, strict=True))):
        yield tuple(slice(start, min(start + b, n)) for start, b, n in zip(corner, block, shape, strict=True))


def slabs(volume: VolumeLike, slab_bytes: int | None = None, *, whole_chunks: bool = False) -> Iterator[Box]:
    """Yields boxes of whole z slices that tile a volume from z = 0.

    Slabs are a multiple of the chunk depth where that fits into `slab_bytes`, so that each chunk is decoded once.

    Args:
      volume: anything with the interface of Volume.
      slab_bytes: size limit of a slab, never less than one slice; None: `SLAB_BYTES`.
      whole_chunks: True makes a slab at least one chunk deep even where that exceeds the limit.
    """
    depth, height, width = volume.shape
    chunk_depth = chunks_of(volume)[0]
    planes = (slab_bytes or SLAB_BYTES) // (height * width * volume.dtype.itemsize)
    if planes >= chunk_depth or whole_chunks:
        planes = max(planes // chunk_depth, 1) * chunk_depth
    return boxes(volume.shape, (max(planes, 1), height, width))


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, ahead: int | None = None
) -> Iterator[_Result]:
    """Yields `function(item)` for each item, in the order of the items, computed ahead in threads.

    An exception is raised when its result is due. Items that have not started by then, or when the generator is
    closed, are dropped.

    Args:
      function: called in the threads.
      items: taken one by one from the calling thread, no further ahead than `ahead`.
      workers: number of threads, at least 1.
      ahead: results computed, or in progress, beyond the one that is waited for; None: two per worker.
    """
    ahead = 2 * workers if ahead is None else ahead
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(max(workers, 1))
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_async(volume: VolumeLike, box: Box, threads: concurrent.futures.Executor | None = None) -> PendingRead:
    """Starts to read one box of any volume.

    Args:
      volume: anything with the interface of Volume.
      box: (z, y, x) slices, see `Volume.read`.
      threads: where a volume is read that has no `read_async` of its own; None: `READERS` threads shared by all.

    Returns:
      An object whose `result()` waits for the box, and returns or raises what `volume.read` would.
    """
    own = getattr(volume, "read_async", None)
    return own(box) if own else (threads or _shared_threads()).submit(volume.read, box)


@functools.cache
def _shared_threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(READERS, thread_name_prefix="read_async")


def stored_of(volume: VolumeLike) -> Stored | None:
    """Which parts of a volume are stored, without reading any; None where that is not known, or all are."""
    return getattr(volume, "stored", None)


def known_value(volume: VolumeLike, box: Box) -> float | None:
    """The value of all voxels of a box of which nothing is stored; None: it has to be read."""
    stored = stored_of(volume)
    return stored.value if stored is not None and stored.constant(box) else None


def value_beside(volume: VolumeLike) -> np.ndarray:
    """The value of all voxels that are not stored, as reading gives it, `(1,)`; `stored_of` must know of them."""
    return np.array([stored_of(volume).value]).astype(volume.dtype)


def boxes_beside(volume: VolumeLike, block: Sequence[int], value: float) -> Iterator[Box]:
    """Yields the boxes of `boxes`, but for those that are known to hold nothing but `value`."""
    stored = stored_of(volume)
    return boxes(volume.shape, block) if stored is None or stored.value != value else stored.boxes(block)


def read_known(volume: VolumeLike, box: Box) -> np.ndarray:
    """A box of a volume, without reading where nothing of it is stored. The array may be read-only."""
    if known_value(volume, box) is None:
        return np.asarray(volume.read(box))
    return np.broadcast_to(value_beside(volume), [s.stop - s.start for s in box])


def boxes_beside_all(shape: Sequence[int], block: Sequence[int], parts: Sequence[Stored | None]) -> Iterator[Box]:
    """Yields the boxes of `boxes` in which some array is not known to be constant.

    Args:
      shape: that all arrays have.
      block: shape of a box.
      parts: what is stored of each (`stored_of`); None: all of it may be.
    """
    return boxes(shape, block) if None in parts else boxes_of_any(parts, block)


def voxels(box: Box) -> int:
    """Number of voxels in a box."""
    return math.prod(s.stop - s.start for s in box)
