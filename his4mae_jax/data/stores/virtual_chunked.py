"""Formats without a TensorStore driver as lazy arrays: read chunk by chunk on demand, cached up to a limit."""

import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.location import context, note

# A page holds a whole plane, so a box that is small but deep needs many pages, and its neighbours need them again.
PAGE_CACHE_BYTES = 256 << 20


def virtual_array(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    shape: Sequence[int],
    dtype: np.dtype,
    chunks: Sequence[int],
    cache_bytes: int,
    *,
    reads_tensorstore: bool = False,
) -> ts.TensorStore:
    """Returns an array that calls `read` for a chunk when it is needed.

    Args:
      read: from the slices of a chunk to its content; called in threads. Its exceptions reach the reader of the array.
      shape: of the array.
      dtype: of the array.
      chunks: shape of a chunk.
      cache_bytes: limit of decoded chunks kept in memory; 0: none are kept. Where chunks are whole planes, the limit
        is at least `PAGE_CACHE_BYTES`.
      reads_tensorstore: whether `read` waits for other arrays of TensorStore.
    """
    chunks = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    if cache_bytes and chunks[-2:] == list(shape[-2:]):
        cache_bytes = max(cache_bytes, PAGE_CACHE_BYTES)

    # With the threads of all arrays waiting in `read`, none would be left for those that they wait for.
    own = context(cache_bytes, threads=os.cpu_count()) if reads_tensorstore else context(cache_bytes)

    def fill(domain: ts.IndexDomain, chunk: np.ndarray, _) -> None:
        try:
            chunk[...] = read(domain.index_exp)
        except Exception as error:
            note(error)
            raise

    return ts.virtual_chunked(
        fill,
        dtype=ts.dtype(np.dtype(dtype).newbyteorder("=")),
        shape=list(shape),
        chunk_layout=ts.ChunkLayout(read_chunk_shape=chunks),
        context=own,
    )
