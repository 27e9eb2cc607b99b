"""Write a whole array block by block, with several threads."""

from collections.abc import Callable

import numpy as np
import tensorstore as ts

from his4mae_jax.data.volumes.blocks import boxes, in_order

WORKERS = 4
SIDE = 64  # voxels: shortest side of the boxes written at once, also where chunks are smaller


def fill(
    out: ts.TensorStore,
    read: Callable[[tuple[slice, ...]], np.ndarray],
    *,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes an array of z, y, x, maybe behind other axes.

    Args:
      out: the array.
      read: the content of a box; called from several threads.
      workers: their number; None: `WORKERS`.
      progress: called with the number of voxels newly written.
    """

    def write(box: tuple[slice, ...]) -> int:
        block = read(box)
        out[box].write(block).result()
        return block.size

    # Boxes of whole chunks: two threads that write parts of one chunk would each read and rewrite it.
    chunk = out.chunk_layout.write_chunk.shape
    block = [c if axis < len(chunk) - 3 else c * max(1, SIDE // c) for axis, c in enumerate(chunk)]
    for size in in_order(write, boxes(out.shape, block), workers or WORKERS):
        if progress is not None:
            progress(size)
