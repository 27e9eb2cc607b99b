"""Checksums of what was written to an OME-Zarr volume, region by region: a chunk that is lost or flipped is found.

Those of the labels that tiles write are kept by the segmentation. A level that is written as a whole keeps its own, in
the hidden file `KEPT` in its folder, which viewers pass over.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr.write import open_array, read_group, reading
from his4mae_jax.data.stores.chunks.listing import stored_chunks
from his4mae_jax.data.volumes.blocks import boxes
from his4mae_jax.data.volumes.volume import Box
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json, remove

KEPT = ".checksums.json"


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


def keep(level: Place, entries: Iterable[list[Any]]) -> None:
    """Writes the checksums of a level, an `entry` of each region, into its folder."""
    (level / KEPT).write_text(json.dumps(list(entries)), encoding="utf-8")


def level_damage(level: Place, version: str) -> Iterator[str] | None:
    """Compares a level with its own checksums.

    Args:
      level: folder of the array.
      version: of OME-Zarr.

    Returns:
      One line for each damage; None where it has no checksums: written by tiles, or by an earlier version.
    """
    try:
        entries = parse_json((level / KEPT).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, list) or not all(map(is_entry, entries)):
        return iter([f"{level / KEPT}: damaged"])
    return _differing(level, version, entries, str(level))


def volume_damage(path: Place) -> Iterator[str]:
    """Compares the levels of a volume with their own checksums, where they have them.

    Args:
      path: of the volume.

    Yields:
      One line for each damage, of the metadata too.
    """
    try:
        version, attributes = read_group(path)
    except UserError as error:
        yield str(error)
        return
    for dataset in attributes["multiscales"][0]["datasets"]:
        yield from level_damage(path / dataset["path"], version) or ()


def whole_or_removed(path: Place, log: Callable[[str], object]) -> bool:
    """Whether a volume that can be made again is as it was written, by its own checksums; one that is not is removed.

    Args:
      path: of the volume, or a file of another format, which has no checksums.
      log: prints a line for the damage.
    """
    found = next(volume_damage(path), None) if path.name.endswith(".ome.zarr") else None
    if found is not None:
        log(f"{found}; the volume is made anew")
        remove(path)
    return found is None


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
        version = read_group(path)[0]
    except UserError as error:
        yield str(error)
        return
    yield from _differing(place(path) / "0", version, entries, str(path), progress)


def _differing(
    level: Place,
    version: str,
    entries: Iterable[list[Any]],
    name: str,
    progress: Callable[[int], object] = lambda n: None,
) -> Iterator[str]:
    try:
        array = open_array(level, version)
    except UserError as error:
        yield str(error)
        return
    for box, expected in entries:
        text = ", ".join(f"{start}:{stop}" for start, stop in box)
        try:
            block = array[(..., *(slice(start, stop) for start, stop in box))].read().result()
            found = zlib.crc32(np.ascontiguousarray(block))
        except (ValueError, IndexError, OSError) as error:
            yield f"{name}: voxels [{text}] cannot be read ({_reason(error)})"
            continue
        progress(block.size)
        if found != expected:
            yield f"{name}: voxels [{text}] are not those that were written; a chunk is lost or damaged"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def readable(path: PathLike, most: int = 1 << 24) -> Iterator[str]:
    """Reads all levels of a volume, to the last chunk, and compares those that have checksums with them.

    Args:
      path: of the volume.
      most: voxels to read at once, about.

    Yields:
      One line for each level with a chunk that cannot be decoded, for each damage by a checksum, or for the volume that
      cannot be opened.
    """
    try:
        version, attributes = read_group(path)
        levels = [dataset["path"] for dataset in attributes["multiscales"][0]["datasets"]]
    except UserError as error:
        yield str(error)
        return
    for level in levels:
        found = level_damage(place(path) / level, version)
        if found is not None:
            yield from found
            continue
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
