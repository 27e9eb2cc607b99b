"""Going through a volume block by block, so that memory is that of a few blocks whatever its size."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from his4mae_jax.data.volumes.volume import Box, VolumeLike, chunks_of

SLAB_BYTES = 1 << 28  # of whole slices that are read at once; a few such pieces are held


def boxes(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """The boxes of `block` voxels, cut at the border, that fill `shape`; the last axis runs fastest."""
    starts = itertools.product(*(range(0, n, b) for n, b in zip(shape, block, strict=True)))
    for at in starts:
        yield tuple(slice(a, min(a + b, n)) for a, b, n in zip(at, block, shape, strict=True))


def slabs(volume: VolumeLike, slab_bytes: int = SLAB_BYTES) -> Iterator[Box]:
    """Boxes of whole slices (z) that fill a volume: whole chunks deep, where that fits `slab_bytes`.

    Chunks are then read once; of a volume with larger slices they are read several times.
    """
    depth, height, width = volume.shape
    plane = height * width * volume.dtype.itemsize
    chunk = chunks_of(volume)[0]
    deep = max(1, min(chunk * max(1, 16 // chunk), depth, slab_bytes // plane))
    return boxes(volume.shape, (deep, height, width))


def in_order(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yields `function(item)` of each item in their order, computed in threads a few items ahead.

    An error is raised where its result is due; items not begun by then never are.
    """
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(max(workers, 1))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
