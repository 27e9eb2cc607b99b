"""Checksums of what was written to an OME-Zarr volume, region by region: a chunk that is lost or flipped is found."""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.data.ome_zarr.write import open_array, read_group, reading
from his4mae_jax.data.stores.chunks.listing import stored_chunks
from his4mae_jax.data.volumes.blocks import boxes
from his4mae_jax.data.volumes.volume import Box
from his4mae_jax.errors import UserError


def entry(box: Box, block: np.ndarray) -> list[Any]:
    """What is kept of one region: `[[start, stop], ...]` of its box, and the CRC-32 of its voxels in C order."""
    return [[[int(s.start), int(s.stop)] for s in box], zlib.crc32(np.ascontiguousarray(block))]


def is_entry(value: Any) -> bool:
    """Whether a JSON value has the shape of an `entry`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[1], int)
        and isinstance(value[0], list)
        and all(isinstance(s, list) and [type(i) for i in s] == [int, int] for s in value[0])
    )


def damaged(
    path: PathLike, entries: Iterable[list[Any]], progress: Callable[[int], object] = lambda n: None
) -> Iterator[str]:
    """Reads the finest level of a volume, and compares it with what was written.

    Args:
      path: of the volume.
      entries: an `entry` of each region; the last axes are those of the box, all of the axes before are read.
      progress: is told the voxels that were read.

    Yields:
      One line for each region that is not what was written, or the volume that cannot be opened.
    """
    try:
        array = open_array(place(path) / "0", read_group(path)[0])
    except UserError as error:
        yield str(error)
        return
    for box, expected in entries:
        text = ", ".join(f"{start}:{stop}" for start, stop in box)
        try:
            block = array[(..., *(slice(start, stop) for start, stop in box))].read().result()
            found = zlib.crc32(np.ascontiguousarray(block))
        except (ValueError, IndexError, OSError) as error:
            yield f"{path}: voxels [{text}] cannot be read ({_reason(error)})"
            continue
        progress(block.size)
        if found != expected:
            yield f"{path}: voxels [{text}] are not those that were written; a chunk is lost or damaged"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def readable(path: PathLike, most: int = 1 << 24) -> Iterator[str]:
    """Reads all levels of a volume, to the last chunk.

    Args:
      path: of the volume.
      most: voxels to read at once, about.

    Yields:
      One line for each level with a chunk that cannot be decoded, or for the volume that cannot be opened.
    """
    try:
        version, attributes = read_group(path)
        levels = [dataset["path"] for dataset in attributes["multiscales"][0]["datasets"]]
    except UserError as error:
        yield str(error)
        return
    for level in levels:
        try:
            with reading(place(path) / level):
                array = open_array(place(path) / level, version)
                stored, block = stored_chunks(array), block_of_chunks(array, most)
                for box in boxes(array.shape, block) if stored is None else stored.boxes(block):
                    array[box].read().result()
        except UserError as error:
            yield str(error)


def block_of_chunks(array: ts.TensorStore, most: int) -> list[int]:
    """Shape of a box of whole chunks: one, or as many of them, along the last axes first, as have `most` voxels."""
    block = [min(c, n) for c, n in zip(array.chunk_layout.read_chunk.shape, array.shape, strict=True)]
    for axis in reversed(range(len(block))):
        block[axis] = min(block[axis] * max(1, most // math.prod(block)), array.shape[axis])
    return block
