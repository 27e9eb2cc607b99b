"""Arrays whose chunks are decoded here: read as bytes from any store, then unpacked."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.location import READ_SECONDS, Location, context, explain
from his4mae_jax.data.stores.units import brief
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chunks:
    """How an array is stored.

    Attributes:
      shape: of the array.
      chunk: shape of a chunk.
      dtype: of the values.
      fill: value of chunks that are not stored.
      separator: between the indices in the name of a chunk.
      decode: from the bytes of a chunk to its values; those at the edge of the array may be whole or cut.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype
    fill: float
    separator: str
    decode: Callable[[bytes], np.ndarray]


def open_decoded(chunks: Chunks, location: Location, missing_chunks: str, cache_bytes: int) -> ts.TensorStore:
    """Returns an array that decodes a chunk when it is read.

    Args:
      chunks: how it is stored.
      location: its folder.
      missing_chunks: "fill" or "error", see `levels.OpenOptions`.
      cache_bytes: limit of decoded chunks kept in memory.

    Raises:
      UserError: the store cannot be reached; reading raises it for a chunk that is damaged or missing.
    """
    try:
        store = ts.KvStore.open(location.spec(), context=context(0)).result(timeout=READ_SECONDS)
    except (ValueError, OSError, NotImplementedError) as error:
        raise explain(location.name, error, remote=location.remote) from error

    def read(box: tuple[slice, ...]) -> np.ndarray:
        key = chunks.separator.join(str(s.start // n) for s, n in zip(box, chunks.chunk, strict=True))
        try:
            answer = store.read(key).result(timeout=READ_SECONDS)
        except (ValueError, OSError) as error:
            raise explain(location.name, error, remote=location.remote) from error
        size = tuple(s.stop - s.start for s in box)
        if answer.state != "value":
            if missing_chunks == "error":
                raise UserError(
                    f"{location.name}: a chunk is missing ({key}); copy the volume again, or set data.missing_chunks "
                    "to 'fill' if its writer left out empty chunks"
                )
            return np.full(size, chunks.fill, chunks.dtype)
        try:
            block = chunks.decode(bytes(answer.value))
            if any(have < need for have, need in zip(block.shape, size, strict=True)):
                raise ValueError(f"it holds {block.shape} values in place of {size}")
        except Exception as error:  # every codec raises exceptions of its own
            raise UserError(
                f"{location.name}: cannot read the data ({key}: {brief(error)}); copy the volume again from its source"
            ) from error
        return block[tuple(slice(n) for n in size)]

    return virtual_array(read, chunks.shape, chunks.dtype, chunks.chunk, cache_bytes, reads_tensorstore=True)
