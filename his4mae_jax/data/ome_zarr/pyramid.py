"""Coarser levels of an OME-Zarr volume, for viewers: labels by their mode, images by their mean."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.checksums import level_damage
from his4mae_jax.data.ome_zarr.fill import block_of, fill
from his4mae_jax.data.stores.chunks.listing import stored_chunks
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.progress import say

SMALLEST = 256  # voxels: the longest side at which no further level is made


def build_pyramid(
    path: PathLike,
    *,
    levels: int | None = None,
    workers: int = 4,
    progress: Callable[[int], object] | None = None,
    log: Callable[[str], object] = say,
) -> int:
    """Adds levels "1", "2", ... to a volume that `ome_zarr.create` made and that is written whole.

    Level 0 must not change afterwards. A level's folder appears when it is whole, and the metadata name the new
    levels when all are. Run again after it was stopped, or on a whole pyramid, it keeps the levels that are there,
    but for those that are not as they were written by their checksums: these are made anew.

    Args:
      path: the folder of the OME-Zarr image or label volume.
      levels: how many in all, level 0 included; None: until no side is longer than SMALLEST.
      workers: number of threads.
      progress: called with the number of voxels newly written.
      log: prints a line for each level that is damaged.

    Returns:
      The number of levels.

    Raises:
      UserError: `path` is no such volume, or cannot be written.
    """
    folder = place(path)
    version, attributes = ome_zarr.read_group(folder)
    image, labels = attributes["multiscales"][0], "image-label" in attributes
    channel = len(image["axes"]) == 4
    scale, origin = ome_metadata.scale_of(image["datasets"][0]), ome_metadata.origin_of(image["datasets"][0])
    with files.writing(folder):
        shape = ome_zarr.open_array(folder / "0", version).shape
        factors = plan(shape[-3:], scale, levels)
        datasets = [
            ome_metadata.level(str(i), scale, f, origin_nm=origin, channel=channel) for i, f in enumerate(factors)
        ]
        there = [folder / str(i) for i in range(1, len(factors)) if transfer.is_whole(folder / str(i))]
        broken = [level for level in there if _is_damaged(level, version, log)]
        if image["datasets"] == datasets and len(there) == len(factors) - 1 and not broken:
            return len(factors)
        for level in broken:
            files.remove(level)
        for i in range(1, len(factors)):
            step = tuple(b // a for a, b in zip(factors[i - 1], factors[i], strict=True))
            _make_level(folder, i, (1,) * channel + step, version, labels, workers, progress)
        image |= {"datasets": datasets, "type": "mode" if labels else "mean"}
        ome_zarr.describe(folder, version, attributes)
    return len(factors)


def _is_damaged(level: Place, version: str, log: Callable[[str], object]) -> bool:
    found = next(level_damage(level, version) or iter(()), None)
    if found is not None:
        log(f"{found}; the level is made anew")
    return found is not None


def plan(shape: Sequence[int], scale: Sequence[float], levels: int | None = None) -> list[tuple[int, ...]]:
    """Downsampling factors (z, y, x) of each level relative to level 0.

    From level to level an axis is halved if its voxels are less than 1.5 times as long as the shortest, so that
    voxels of a stack of thick sections become isotropic before its sections are merged.

    Args:
      shape: (z, y, x) of level 0.
      scale: (z, y, x) nm of a voxel of level 0.
      levels: their number; None: until no side is longer than SMALLEST. Fewer where no axis is left to halve.
    """
    factors = [(1, 1, 1)]
    while len(factors) != levels:
        last = factors[-1]
        sides = [math.ceil(n / f) for n, f in zip(shape, last, strict=True)]
        if max(sides) == 1 or (levels is None and max(sides) <= SMALLEST):
            break
        sizes = [s * f for s, f in zip(scale, last, strict=True)]
        finest = min(size for size, n in zip(sizes, sides, strict=True) if n > 1)
        halved = [n > 1 and size < 1.5 * finest for size, n in zip(sizes, sides, strict=True)]
        factors.append(tuple(f * (2 if h else 1) for f, h in zip(last, halved, strict=True)))
    return factors


def downsample(array: np.ndarray, step: Sequence[int], *, labels: bool, ignore: int | None = None) -> np.ndarray:
    """Reduces each block of `step` voxels to one voxel; blocks that are cut off at the far border count what they have.

    Args:
      array: of any rank.
      step: side of a block along each axis, such as 1 or 2.
      labels: True takes the mode, of equally frequent values the smallest; False the mean, rounded for integers.
      ignore: a label that is taken only where it fills more than half of the block.

    Returns:
      An array of the same dtype, its shape divided by `step` and rounded up.
    """
    # Repeating the border counts all voxels of a cut block equally often, which changes neither mode nor mean.
    array = np.pad(array, [(0, -n % s) for n, s in zip(array.shape, step, strict=True)], "edge")
    views = [array[tuple(slice(o, None, s) for o, s in zip(at, step, strict=True))] for at in np.ndindex(*step)]
    if not labels:
        total = np.zeros(views[0].shape, np.float64 if array.dtype.itemsize >= 4 else np.float32)
        for view in views:
            total += view
        total /= len(views)
        return (np.rint(total) if array.dtype.kind in "iub" else total).astype(array.dtype)
    out = views[0].copy()
    mixed = np.zeros(out.shape, bool)  # nearly all blocks are of one label
    for view in views[1:]:
        mixed |= view != out
    if mixed.any():
        out[mixed] = _mode(np.stack([view[mixed] for view in views]), ignore)
    return out


def _mode(values_VxN: np.ndarray, ignore: int | None) -> np.ndarray:
    values_VxN = np.sort(values_VxN, axis=0)
    counts_VxN = np.zeros(values_VxN.shape, np.uint8)
    for value_N in values_VxN:
        counts_VxN += values_VxN == value_N
    if ignore is not None:
        counts_VxN[(values_VxN == ignore) & (2 * counts_VxN <= len(values_VxN))] = 0
    first_N = counts_VxN.argmax(axis=0)  # the first of equals is the smallest label
    return np.take_along_axis(values_VxN, first_N[None], axis=0)[0]


def _make_level(
    folder: Place,
    index: int,
    step: Sequence[int],
    version: str,
    labels: bool,
    workers: int,
    progress: Callable[[int], object] | None,
) -> None:
    """Writes level `index` from the one before, under a partial name until it is whole; keeps one that is there.

    In a bucket it has its final name from the start, and its mark once it is whole.
    """
    source = ome_zarr.open_array(folder / str(index - 1), version)
    shape = [math.ceil(n / s) for n, s in zip(source.shape, step, strict=True)]
    target = folder / str(index)
    part = transfer.part_of(target)
    if transfer.is_whole(target):
        if list(ome_zarr.open_array(target, version).shape) == shape:
            return
        files.remove(target)
    files.remove(part)
    dtype = np.dtype(source.dtype.numpy_dtype)
    chunks, fill_value = source.chunk_layout.write_chunk.shape, np.asarray(source.fill_value).item()
    out = ome_zarr.create_array(part, shape, dtype, chunks, fill_value, version)
    # Instances are small beside what surrounds them, which is 0 there: it counts like an instance.
    ignore = UNLABELLED if labels and dtype == np.uint8 else None

    def read(box: tuple[slice, ...]) -> np.ndarray:
        reads = tuple(slice(b.start * s, min(b.stop * s, n)) for b, s, n in zip(box, step, source.shape, strict=True))
        with ome_zarr.reading(folder):
            block = source[reads].read().result()
        return downsample(block, step, labels=labels, ignore=ignore)

    fill(out, read, part, where=_where(source, out, step), workers=workers, progress=progress)
    transfer.finish(part, target)


def _where(source: ts.TensorStore, out: ts.TensorStore, step: Sequence[int]) -> Iterator[tuple[slice, ...]] | None:
    """The boxes of a level that are not known to hold the fill value alone; None: all of them may."""
    stored = stored_chunks(source)
    if stored is None:
        return None
    finer = stored.boxes([b * s for b, s in zip(block_of(out), step, strict=True)])
    return (tuple(slice(b.start // s, -(-b.stop // s)) for b, s in zip(box, step, strict=True)) for box in finer)
