"""Slices of an image, its labels and its ground truth, reduced to what a page can hold."""

import dataclasses
import math

import numpy as np

from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.crop import Crop, central_box
from his4mae_jax.data.volumes.grid import centres_nm, nearest_to, read_outer
from his4mae_jax.data.volumes.volume import Box, VolumeLike, chunks_of
from his4mae_jax.figures.slices import read_slice
from his4mae_jax.progress import Log, progress

PER_AXIS = 24
SIDE = 400  # pixels
SHOWN = 2048  # voxels a side of the part shown, in the middle
BUDGET = 1 << 30  # voxels decoded for the slices across one axis; there are fewer of them where chunks are deep
REMOTE = 8  # times fewer of a volume on another machine
WHOLE_PAGES = 256 << 20  # bytes from which a volume in whole planes is read by few planes: others stay in the cache
PLANES = 96  # of such a volume


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice.

    Attributes:
      axis: that it is perpendicular to, 0 to 2.
      index: of the image along that axis.
      grey: values in [0, 1], (rows, columns).
      labels: uint8 of the same shape.
      truth: the same of the ground truth; None without it.
    """

    axis: int
    index: int
    grey: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None


def shown_box(image: VolumeLike) -> Box:
    """The part of an image that its slices show: all of it, or the middle of a very large one."""
    return central_box(image.shape, SHOWN)


def read(
    image: VolumeLike, labels: VolumeLike, truth: VolumeLike | None, contrast: Contrast, log: Log
) -> list[Slice]:  # fmt: skip
    """Reads up to `PER_AXIS` evenly spaced slices across each axis.

    What is decoded is bounded: a volume stored in large compressed planes gives as many planes as `PLANES`, from which
    slices across y and x are put together.

    Args:
      image: grey values (z, y, x).
      labels, truth: on any grid that covers the same space; truth may be None.
      contrast: of the image.
      log: prints a line of progress.
    """
    whole = Crop(image, shown_box(image))
    deep = _in_planes(image)
    slices = []
    with progress("report: slices", 3, unit="axes", log=log) as bar:
        for axis in range(3):
            greys = _across_planes(whole, axis, contrast) if deep and axis else _direct(whole, axis, contrast)
            for index, grey, grid in greys:
                at = [centres_nm(whole, a, i) for a, i in enumerate(grid)]
                own = [
                    None
                    if v is None
                    else np.squeeze(read_outer(v, [nearest_to(v, a, p) for a, p in enumerate(at)]), axis)
                    for v in (labels, truth)
                ]
                slices.append(Slice(axis, index + whole.box[axis].start, grey, *own))
            bar.advance(1)
    return slices


def _places(n: int, count: int) -> list[int]:
    count = max(1, min(count, n))
    return [int((i + 0.5) * n / count) for i in range(count)]


def _in_planes(volume: VolumeLike) -> bool:
    """Whether every read of it decodes whole planes across z, which are too many to stay in memory."""
    chunks, shape = chunks_of(volume), volume.shape
    planes = tuple(chunks[1:]) == tuple(shape[1:]) and chunks[0] < shape[0]
    return planes and math.prod(shape) * volume.dtype.itemsize > WHOLE_PAGES


def _remote(volume: VolumeLike) -> bool:
    while hasattr(volume, "source"):
        volume = volume.source
    return getattr(volume, "remote", False)


def _direct(volume, axis, contrast):
    """Yields (index, grey values, the grid (z, y, x) in voxels on which these lie)."""
    rows, columns = (n for a, n in enumerate(volume.shape) if a != axis)
    decoded = rows * columns * chunks_of(volume)[axis]
    step = max(1, math.ceil(max(rows, columns) / SIDE))
    budget = BUDGET // REMOTE if _remote(volume) else BUDGET
    for index in _places(volume.shape[axis], min(PER_AXIS, max(1, budget // decoded))):
        grey = read_slice(volume, axis, index, contrast.apply, average=True, side=SIDE)
        sides = zip(grey.shape, (rows, columns), strict=True)
        grid = [np.minimum((np.arange(n) + 0.5) * step - 0.5, m - 1) for n, m in sides]
        grid.insert(axis, np.array([index]))
        yield index, grey, grid


def _across_planes(volume, axis, contrast):
    """The same for y or x from evenly spaced planes, of each of which it keeps a few lines."""
    depth, other = volume.shape[0], 3 - axis
    heights, places = _places(depth, min(PLANES, SIDE)), _places(volume.shape[axis], PER_AXIS)
    columns = np.array(_places(volume.shape[other], SIDE))
    lines = np.empty((len(places), len(heights), len(columns)), np.float32)
    for row, z in enumerate(heights):
        plane = contrast.apply(volume.read((slice(z, z + 1), slice(None), slice(None))))[0]
        plane = plane if axis == 1 else plane.T
        lines[:, row] = plane[np.ix_(places, columns)]
    for index, grey in zip(places, lines, strict=True):
        grid = [np.array(heights), columns]
        grid.insert(axis, np.array([index]))
        yield index, grey, grid
