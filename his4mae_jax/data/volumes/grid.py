"""Grids of voxels in space, and where the voxels of one lie among those of another."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.volume import Box, VolumeLike


@dataclasses.dataclass(frozen=True)
class Line:
    """One axis of a grid among the voxels of another: voxel j lies at `offset + step * j`, in voxels of that one."""

    offset: float = 0.0
    step: float = 1.0

    def at(self, start: int, stop: int) -> np.ndarray:
        """Positions of the voxels from `start` to `stop`, float64; whole numbers are centres of voxels."""
        return self.offset + self.step * np.arange(start, stop)

    def seen_from(self, voxel: int) -> Self:
        """The same axis, with positions counted from a voxel of the other grid."""
        return dataclasses.replace(self, offset=self.offset - voxel)

    def within(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """(start, stop) of the voxels, of `length`, whose centres lie in the voxels `start` to `stop` of the other."""
        # 1e-6: centres on a border must not fall to one side or the other by rounding.
        bounds = (math.ceil((edge - 0.5 - self.offset) / self.step - 1e-6) for edge in (start, stop))
        return tuple(min(max(b, 0), length) for b in bounds)


@dataclasses.dataclass(frozen=True)
class VoxelMap:
    """A grid among the voxels of another.

    Attributes:
      shape: of the grid (z, y, x).
      lines: its axes.
    """

    shape: tuple[int, int, int]
    lines: tuple[Line, Line, Line] = (Line(), Line(), Line())

    def inside(self, box: Box, shape: tuple[int, int, int]) -> Box:
        """The voxels whose centres lie in a box of the other grid, which has `shape`.

        Where the box ends with the other grid, voxels beyond belong to it: a grid of coarser voxels can end before.
        """
        own = []
        for line, part, n, length in zip(self.lines, box, shape, self.shape, strict=True):
            start, stop = line.within(part.start, part.stop, length)
            own.append(slice(0 if part.start == 0 else start, length if part.stop == n else stop))
        return tuple(own)

    def stored(self, other: Stored) -> Stored:
        """What is stored of the other grid, in the voxels of this one, whose values lie between those of the other."""
        if other.shape == self.shape and all(line == Line() for line in self.lines):
            return other
        edges, margin = [], []
        for own, m, line, n in zip(other.edges, other.margin, self.lines, self.shape, strict=True):
            at = np.clip(np.floor((own - line.offset) / line.step).astype(np.int64), 0, n)
            edges.append(np.array([0, *at[1:-1], n]))
            margin.append(math.ceil((m + 1) / line.step) + 2)
        return dataclasses.replace(other, edges=tuple(edges), margin=tuple(margin))


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of voxels in space.

    Attributes:
      shape: (z, y, x).
      voxel_size_nm: edge lengths (z, y, x).
      origin_nm: centre (z, y, x) of voxel (0, 0, 0).
    """

    shape: tuple[int, int, int]
    voxel_size_nm: Triple
    origin_nm: Triple

    @classmethod
    def of(cls, volume: VolumeLike) -> Self:
        """The grid of a volume."""
        return cls(tuple(volume.shape), tuple(volume.voxel_size_nm), origin_of(volume))

    def among(self, other: Self) -> VoxelMap:
        """Where its voxels lie among those of another grid."""
        ends = zip(self.origin_nm, other.origin_nm, self.voxel_size_nm, other.voxel_size_nm, strict=True)
        return VoxelMap(self.shape, tuple(Line((a - b) / t, s / t) for a, b, s, t in ends))


def nearest_voxels(at: np.ndarray, length: int) -> np.ndarray:
    """The voxels of an axis that positions lie in, or the nearest ones."""
    return np.clip(np.rint(at).astype(np.int64), 0, length - 1)


def between_voxels(at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """For increasing positions the voxel below, the weight of the one above, and (start, stop) of the voxels needed."""
    at = np.clip(at, 0, length - 1)
    lower = np.floor(at).astype(np.int64)
    return lower, (at - lower).astype(np.float32), (int(lower[0]), int(np.ceil(at[-1])) + 1)


def centres_nm(volume: VolumeLike, axis: int, index: np.ndarray | Sequence[float]) -> np.ndarray:
    """Positions in nm along one axis of voxels with these indices, or fractions of them."""
    return origin_of(volume)[axis] + np.asarray(index, float) * volume.voxel_size_nm[axis]


def nearest_to(volume: VolumeLike, axis: int, position_nm: np.ndarray) -> np.ndarray:
    """Indices along one axis of the voxels of `volume` nearest to positions in nm."""
    at = (np.asarray(position_nm) - origin_of(volume)[axis]) / volume.voxel_size_nm[axis]
    return nearest_voxels(at, volume.shape[axis])


def read_outer(volume: VolumeLike, index: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels at the outer product of three index arrays, (z, y, x): one box is read."""
    block, index = _read_around(volume, index)
    return block[np.ix_(*index)]


def values_at(volume: VolumeLike, other: VolumeLike, index_Mx3: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """Values of `volume` at M voxels of another grid: one box is read for each group of voxels near each other."""
    out = np.zeros(len(index_Mx3), volume.dtype)
    for group in np.unique(group_M):
        rows = np.flatnonzero(group_M == group)
        at = [nearest_to(volume, axis, centres_nm(other, axis, index_Mx3[rows, axis])) for axis in range(3)]
        block, at = _read_around(volume, at)
        out[rows] = block[tuple(at)]
    return out


def _read_around(volume: VolumeLike, index: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The smallest box with voxels of these indices along z, y, x, and the indices relative to it."""
    low = [int(i.min()) for i in index]
    block = volume.read(tuple(slice(a, int(i.max()) + 1) for a, i in zip(low, index, strict=True)))
    return block, [i - a for i, a in zip(index, low, strict=True)]
