"""Arrays that NumPy has, in memory or mapped from a file, as lazy arrays."""

import os
import pathlib

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError


def lazy_array(data: np.ndarray, meaning: Meaning, cache_bytes: int) -> ts.TensorStore:
    """Returns what the values of an array mean; where they are that themselves, nothing is copied.

    Args:
      data: of any rank, maybe mapped from a file.
      meaning: of its values.
      cache_bytes: limit of planes kept in memory that had to be converted.
    """
    # TensorStore would copy a byte-swapped or unaligned array into memory.
    if meaning.apply is None and data.dtype.isnative and data.flags.aligned:
        return ts.array(data, write=False)
    chunks = (*(1 for _ in data.shape[:-2]), *data.shape[-2:])
    return virtual_array(lambda box: meaning(data[box]), data.shape, meaning.dtype, chunks, cache_bytes)


def check_memory(n_bytes: int, path: pathlib.Path) -> None:
    """Raises UserError if data that must be read at once exceeds this machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > total:
        raise UserError(
            f"{path}: {n_bytes / 1e9:.0f} GB unpacked do not fit the memory of "
            f"{total / 1e9:.0f} GB; convert it to OME-Zarr"
        )
