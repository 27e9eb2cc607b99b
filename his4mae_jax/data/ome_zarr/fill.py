"""Write a whole array block by block, with several threads."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorstore as ts

from his4mae_jax.bucket.path import Place
from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.volumes.blocks import boxes, in_order

WORKERS = 4
SIDE = 64  # voxels: shortest side of the boxes written at once, also where chunks are smaller


def fill(
    out: ts.TensorStore,
    read: Callable[[tuple[slice, ...]], np.ndarray],
    folder: Place,
    *,
    where: Iterable[tuple[slice, ...]] | None = None,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes an array of z, y, x, maybe behind other axes, and its checksums into its folder.

    Args:
      out: the array.
      read: the content of a box; called from several threads.
      folder: of the array.
      where: boxes of `block_of` that do not hold the fill value alone; None: all.
      workers: their number; None: `WORKERS`.
      progress: called with the number of voxels newly written.
    """

    dtype, entries = out.dtype.numpy_dtype, []

    def write(box: tuple[slice, ...]) -> tuple[int, list]:
        block = np.asarray(read(box), dtype)
        out[box].write(block).result()
        return block.size, checksums.entry(box, block)

    for size, entry in in_order(write, boxes(out.shape, block_of(out)) if where is None else where, workers or WORKERS):
        entries.append(entry)
        if progress is not None:
            progress(size)
    checksums.keep(folder, entries)


def block_of(out: ts.TensorStore) -> list[int]:
    """Shape of the boxes that are written at once."""
    # Boxes of whole chunks: two threads that write parts of one chunk would each read and rewrite it.
    chunk = out.chunk_layout.write_chunk.shape
    return [c if axis < len(chunk) - 3 else c * max(1, SIDE // c) for axis, c in enumerate(chunk)]
