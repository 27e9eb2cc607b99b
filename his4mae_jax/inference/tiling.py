"""How a volume is cut into tiles: what each reads and writes, as arrays of one set of shapes for all tiles.

Tiles begin and end at multiples of the output's chunks, whatever part of the volume is segmented: no two of them write
to one chunk.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from his4mae_jax.data.volumes.padding import all_padding, padding_mask
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.inference.cover_stride import CoverTile
from his4mae_jax.inference.expand_stride import AxisTile
from his4mae_jax.inference.lattice import smoothing_matrix

Plan = AxisTile | CoverTile  # of one axis of a tile
AxisArrays = dict[str, np.ndarray]  # `Tile.arrays` of one axis


def spans(start: int, stop: int, side: int, block: int) -> list[tuple[int, int]]:
    """(start, stop) of the tiles along one axis: of one length, at most `side` voxels (or one `block`).

    Tiles begin at multiples of `block`, but for the first, which begins at `start`.
    """
    most = max(side // block, 1) * block
    number = math.ceil((stop - start) / most)
    length = math.ceil((stop - start) / number / block) * block
    first = start // block * block
    return [(max(a, start), min(a + length, stop)) for a in range(first, stop, length)]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One piece of a volume.

    Attributes:
      number: index among the tiles of its volume.
      grids: for each shift of the token lattice, the plans of the axes (z, y, x).
      sizes: for each of these, the length that every array is filled up to.
      read_shape: the shape (z, y, x) that the box that is read is filled up to.
      sigmas: in tokens, of the Gaussians over the lattice, by the name of their arrays ("smooth" and "texture").
    """

    number: int
    grids: tuple[tuple[Plan, Plan, Plan], ...]
    sizes: tuple[tuple[dict[str, int], ...], ...]
    read_shape: tuple[int, int, int]
    sigmas: Mapping[str, float]

    @property
    def write(self) -> Box:
        """The box that is labelled."""
        return tuple(slice(*axis.write) for axis in self.grids[0])

    @property
    def lattices(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(index of the first point, number of points) of each axis of the lattice of each shift."""
        return tuple(tuple((axis.first, axis.points) for axis in grid) for grid in self.grids)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the box that is labelled."""
        return tuple(s.stop - s.start for s in self.write)

    @property
    def read(self) -> Box:
        """The box that is read."""
        return tuple(slice(*_read(axes)) for axes in zip(*self.grids, strict=True))

    def padding(self, volume: VolumeLike, values: Sequence[float]) -> np.ndarray | None:
        """Which of the voxels that are labelled lie in padding, see `padding_mask`; None: none."""
        mask = padding_mask(volume, self._nearest, values)
        return None if mask is None else mask[np.ix_(*(axis.nearest - axis.nearest[0] for axis in self.grids[0]))]

    def all_padding(self, volume: VolumeLike, values: Sequence[float]) -> bool:
        """Whether all voxels that are labelled are known to lie in padding, without reading any."""
        return all_padding(volume, self._nearest, values)

    @property
    def _nearest(self) -> Box:
        """The voxels of the volume that are nearest to those that are labelled."""
        return tuple(slice(int(axis.nearest[0]), int(axis.nearest[-1]) + 1) for axis in self.grids[0])

    def box(self, volume: VolumeLike) -> np.ndarray:
        """Reads the tile's box of `volume`, filled up with zeros to `read_shape`; no result depends on these."""
        raw = volume.read(self.read)
        if raw.shape == self.read_shape:
            return raw
        out = np.zeros(self.read_shape, raw.dtype)
        out[tuple(slice(n) for n in raw.shape)] = raw
        return out

    def arrays(self) -> tuple[tuple[AxisArrays, ...], ...]:
        """For each shift and axis the arrays of its plan (`AxisTile.arrays`), filled up to `sizes`.

        Beside them stand the matrices of `sigmas`, that of "texture" for the points from "first" on, which are needed.
        """
        begin = [s.start for s in self.read]
        return tuple(
            tuple(self._filled(*axis) for axis in zip(grid, sizes, begin, strict=True))
            for grid, sizes in zip(self.grids, self.sizes, strict=True)
        )

    def _filled(self, plan: Plan, sizes: dict[str, int], begin: int) -> AxisArrays:
        arrays = plan.arrays(begin)
        # Filled with the last entry again: what it gives is written nowhere.
        out = {k: np.concatenate([v, np.repeat(v[-1:], sizes[k] - len(v), axis=0)]) for k, v in arrays.items()}
        for name, sigma in self.sigmas.items():
            if sigma:
                out[name] = np.zeros((sizes["slices"],) * 2, np.float32)
                out[name][: plan.points, : plan.points] = smoothing_matrix(plan, sigma)
        # Texture takes long, and of the halo none is needed.
        first = min(needed_points(plan).start, sizes["slices"] - sizes["needed"])
        out["first"] = np.int32(first)
        if "texture" in out:
            out["texture"] = out["texture"][first : first + sizes["needed"]]
        return out


class Tiling(Sequence[Tile]):
    """The tiles of one volume in z, y, x order, each made when it is indexed."""

    def __init__(self, plans: Sequence[Sequence[Sequence[Plan]]], sigmas: Mapping[str, float]):
        """Args:
        plans: for each shift of the token lattice and each axis (z, y, x) the plans of the tiles along that axis.
        sigmas: see `Tile`.
        """
        self._plans, self._sigmas, self._counts = plans, sigmas, [len(along) for along in plans[0]]
        self._sizes = tuple(tuple(_longest(along) for along in axes) for axes in plans)
        self.read_shape = tuple(
            max(stop - start for start, stop in map(_read, zip(*shifts_of_axis, strict=True)))
            for shifts_of_axis in zip(*plans, strict=True)
        )

    def __len__(self) -> int:
        return math.prod(self._counts)

    def holding(self, index_Mx3: np.ndarray) -> dict[int, np.ndarray]:
        """For each tile that labels some of M voxels, by its number, which of them (row numbers)."""
        at = []
        for axis, along in enumerate(self._plans[0]):
            starts = [plan.write[0] for plan in along]
            at.append(np.searchsorted(starts, index_Mx3[:, axis], side="right") - 1)
        numbers = np.ravel_multi_index(at, self._counts)
        return {int(n): np.flatnonzero(numbers == n) for n in np.unique(numbers)}

    def __getitem__(self, number: int) -> Tile:
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = np.unravel_index(number, self._counts)
        grids = tuple(tuple(along[i] for along, i in zip(axes, at, strict=True)) for axes in self._plans)
        return Tile(int(number), grids, self._sizes, self.read_shape, self._sigmas)


def needed_points(plan: Plan) -> slice:
    """The lattice points that the written voxels of one axis of a tile lie between: not those of the halo."""
    return slice(int(plan.lower[0]), min(int(plan.lower[-1]) + 2, plan.points))


def filled_up(lattice: np.ndarray, sizes: Sequence[dict[str, int]]) -> np.ndarray:
    """A lattice filled up with zeros to the sizes that all tiles have in common."""
    missing = [s["slices"] - n for s, n in zip(sizes, lattice.shape, strict=False)]
    return np.pad(lattice, [(0, n) for n in missing] + [(0, 0)]) if any(missing) else lattice  # padding copies all


def lattice_points(arrays: AxisArrays) -> int:
    """Lattice points of an axis."""
    return len(arrays["token"] if "token" in arrays else arrays["weight"])


def for_encoding(arrays: AxisArrays) -> AxisArrays:
    """The arrays that `token_grid` takes; others may have other shapes along other axes, and compile anew."""
    return {key: value for key, value in arrays.items() if key in ("pixels", "origins", "cover", "weight", "token")}


def neighbours(count: int, most: int) -> list[range]:
    """The numbers of `count` tiles in `most` groups of neighbours of about one size; each by itself if they are few."""
    parts = np.array_split(np.arange(count), most)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def _read(plans: Sequence[Plan]) -> tuple[int, int]:
    """The voxels that plans of one axis read together, (start, stop)."""
    starts, stops = zip(*(plan.read for plan in plans), strict=True)
    return min(starts), max(stops)


def _longest(plans: Sequence[Plan]) -> dict[str, int]:
    """The length of each of a plan's arrays where it is longest, and the most points that one needs."""
    sizes = {}
    for plan in plans:
        needed = needed_points(plan)
        lengths = {key: len(value) for key, value in plan.arrays(0).items()}
        for key, length in {**lengths, "needed": needed.stop - needed.start}.items():
            sizes[key] = max(sizes.get(key, 0), length)
    return sizes


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedTile:
    """Lattices of features that were computed for the fit, so that the same tile need not be encoded again.

    Attributes:
      volume: the volume object.
      extent: `Tile.lattices` of the tile.
      lattices: for each shift, the mean over axes before smoothing, `(z, y, x, D)`.
    """

    volume: VolumeLike
    extent: tuple
    lattices: Sequence[np.ndarray]

    def holds(self, volume: VolumeLike, tile: Tile) -> bool:
        """Whether these are the lattices of `tile` of `volume`."""
        return self.volume is volume and self.extent == tile.lattices

    def of(self, tile: Tile) -> Sequence[np.ndarray]:
        """The lattices of that tile."""
        return self.lattices


class Encoded(Protocol):
    """Lattices that were computed before: an `EncodedTile`, or `kept_features.KeptFeatures`."""

    def holds(self, volume: VolumeLike, tile: Tile) -> bool: ...

    def of(self, tile: Tile) -> Sequence[np.ndarray]: ...
