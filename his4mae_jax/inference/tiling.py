"""How a volume is cut into tiles: what each reads and writes, as arrays of one shape for all tiles.

Tiles begin and end at multiples of the output's chunks, whatever part of the volume is segmented:
no two of them write to one chunk.
"""

import dataclasses
import math

import numpy as np

from his4mae_jax.inference.expand_stride import smoothing_matrix


def spans(start, stop, side, block):
    """`(start, stop)` of the tiles along one axis: of one length, at most `side` voxels (or one `block`).

    Tiles begin at multiples of `block`, but for the first, which begins at `start`.
    """
    most = max(side // block, 1) * block
    number = math.ceil((stop - start) / most)
    length = math.ceil((stop - start) / number / block) * block
    first = start // block * block
    starts = range(first, stop, length)
    return [(max(a, start), min(a + length, stop)) for a in starts]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One piece of a volume.

    Attributes:
      number: among the tiles of its volume.
      grids: for each shift of the token grid, `AxisTile`s or `CoverTile`s (z, y, x).
      sizes: for each of these, the length that every array is filled up to.
      read_shape: the shape (z, y, x) that what is read is filled up to.
      smooth: sigma, in tokens, of the Gaussian over the lattice.
    """

    number: int
    grids: tuple
    sizes: tuple
    read_shape: tuple[int, int, int]
    smooth: float

    @property
    def write(self):
        """The box that is labelled, slices (z, y, x)."""
        return tuple(slice(*axis.write) for axis in self.grids[0])

    @property
    def shape(self):
        """Of what is labelled."""
        return tuple(s.stop - s.start for s in self.write)

    @property
    def read(self):
        """The box that is read, slices (z, y, x)."""
        return tuple(slice(*_read(axes)) for axes in zip(*self.grids, strict=True))

    def box(self, volume):
        """What is read of `volume`, `read_shape`: beyond its own box, which no pixel lies in, zeros."""
        found = volume.read(self.read)
        if found.shape == self.read_shape:
            return found
        out = np.zeros(self.read_shape, found.dtype)
        out[tuple(slice(n) for n in found.shape)] = found
        return out

    def arrays(self):
        """For each shift and axis what `expand_stride` (or `cover_stride`) needs, filled up to `sizes`."""
        begin = [s.start for s in self.read]
        return tuple(
            tuple(self._filled(*what) for what in zip(grid, sizes, begin, strict=True))
            for grid, sizes in zip(self.grids, self.sizes, strict=True)
        )

    def _filled(self, axis, sizes, begin):
        arrays = axis.arrays(begin)
        # The last of each again: what it gives is written nowhere.
        out = {k: np.concatenate([v, np.repeat(v[-1:], sizes[k] - len(v), axis=0)]) for k, v in arrays.items()}
        if self.smooth:
            out["smooth"] = np.zeros((sizes["slices"],) * 2, np.float32)
            out["smooth"][: axis.points, : axis.points] = smoothing_matrix(axis, self.smooth)
        return out


def _read(axes):
    """What tiles of one axis read together, `(start, stop)`."""
    starts, stops = zip(*(axis.read for axis in axes), strict=True)
    return min(starts), max(stops)


class Tiling:
    """The tiles of one volume, made when asked for: `len(tiling)`, `tiling[i]`, in z, y, x order."""

    def __init__(self, spans_3, make, shifts, smooth):
        """`spans_3` are the tiles' spans along z, y, x; `make(axis, write, shift)` plans one of them."""
        self._axes = [
            [[make(axis, write, shift) for write in found] for axis, found in enumerate(spans_3)] for shift in shifts
        ]
        self._smooth, self._counts = smooth, [len(found) for found in spans_3]
        self._sizes = tuple(tuple(_longest(tiles) for tiles in axes) for axes in self._axes)
        self.read_shape = tuple(
            max(stop - start for start, stop in map(_read, zip(*shifts_of_axis, strict=True)))
            for shifts_of_axis in zip(*self._axes, strict=True)
        )

    def __len__(self):
        return math.prod(self._counts)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = np.unravel_index(number, self._counts)
        grids = tuple(tuple(tiles[i] for tiles, i in zip(axes, at, strict=True)) for axes in self._axes)
        return Tile(int(number), grids, self._sizes, self.read_shape, self._smooth)


def _longest(tiles):
    """The length of each array of `arrays` where it is longest."""
    sizes = {}
    for tile in tiles:
        for key, value in tile.arrays(0).items():
            sizes[key] = max(sizes.get(key, 0), len(value))
    return sizes
