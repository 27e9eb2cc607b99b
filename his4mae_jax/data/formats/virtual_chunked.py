"""Files without a TensorStore driver as lazy arrays: read by blocks on demand, cached up to a limit."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorstore as ts

from his4mae_jax.data.formats.kvstore import context


def virtual(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    shape: Sequence[int],
    dtype: np.dtype,
    chunks: Sequence[int],
    cache_bytes: int,
) -> ts.TensorStore:
    """Returns an array that calls `read` for a chunk when it is needed.

    Args:
      read: from the slices of a chunk to its content; called in threads. What it raises, the reader of the
        array gets.
      shape, dtype: of the array.
      chunks: shape of a chunk.
      cache_bytes: decoded chunks kept in memory.
    """

    def fill(domain: ts.IndexDomain, chunk: np.ndarray, _) -> None:
        chunk[...] = read(domain.index_exp)

    return ts.virtual_chunked(
        fill,
        dtype=ts.dtype(np.dtype(dtype).newbyteorder("=")),
        shape=list(shape),
        chunk_layout=ts.ChunkLayout(read_chunk_shape=[min(c, n) for c, n in zip(chunks, shape, strict=True)]),
        context=context(cache_bytes),
    )
