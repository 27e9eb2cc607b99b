"""Which parts of an array are stored: the others have one value, and need not be read."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

Box = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A grid of cells over an array (z, y, x), and which of them may hold something else than one value.

    Attributes:
      edges: for each axis the voxels at which cells begin, and the end of the last one, ascending from 0.
      filled: True for cells of which something is stored.
      value: of all voxels of the other cells.
      margin: voxels (z, y, x) around filled cells that may differ from `value` as well.
    """

    edges: tuple[np.ndarray, np.ndarray, np.ndarray]
    filled: np.ndarray
    value: float
    margin: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array."""
        return tuple(int(e[-1]) for e in self.edges)

    def cells(self, box: Box) -> Box:
        """The cells that a box of voxels meets, with their margin."""
        return tuple(self._along(axis, s.start, s.stop) for axis, s in enumerate(box))

    def _along(self, axis: int, start: int, stop: int) -> slice:
        edges, margin = self.edges[axis], self.margin[axis]
        sides = ("left", "right") if margin else ("right", "left")  # cells of a coarser grid may have no voxel
        return slice(
            int(np.searchsorted(edges[1:], start - margin, sides[0])),
            int(np.searchsorted(edges[:-1], stop + margin, sides[1])),
        )

    def constant(self, box: Box) -> bool:
        """Whether all voxels of a box are known to be `value`."""
        return not self.filled[self.cells(box)].any()

    def bounds(self, box: Box | None = None) -> Box | None:
        """The smallest box in `box` beyond which all voxels of it are known to be `value`; None: all of it are.

        Args:
          box: in voxels; None: the whole array.
        """
        box = box or tuple(slice(0, n) for n in self.shape)
        cells, found = self.cells(box), []
        filled = self.filled[cells]
        if not filled.any():
            return None
        for axis, (edges, margin) in enumerate(zip(self.edges, self.margin, strict=True)):
            at = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis))) + cells[axis].start
            low, high = int(edges[at[0]]) - margin, int(edges[at[-1] + 1]) + margin
            found.append(slice(max(low, box[axis].start), min(high, box[axis].stop)))
        return tuple(found)

    def voxels(self, box: Box) -> int:
        """How many voxels of a box lie in filled cells, without their margin."""
        cells, sides = self.cells(box), []
        for cell, edges, s in zip(cells, self.edges, box, strict=True):
            ends = np.clip(edges[cell.start : cell.stop + 1], s.start, s.stop)
            sides.append(np.diff(ends))
        z, y, x = sides
        return int(np.einsum("zyx,z,y,x->", self.filled[cells], z, y, x, dtype=np.int64, casting="unsafe"))

    def voxels_of(self, spans: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """How many voxels lie in filled cells, for each box of a grid of boxes: `voxels`, many times.

        Args:
          spans: for each axis (starts, stops) of the boxes.

        Returns:
          float64, of the shape of the grid of boxes.
        """

        def along(count: np.ndarray, axis: int) -> np.ndarray:
            """Voxels in spans of one axis, from the numbers of voxels in the cells along it."""
            upto = np.concatenate([np.zeros_like(count[..., :1]), np.cumsum(count, axis=-1)], axis=-1)
            edges = self.edges[axis]

            def until(at: np.ndarray) -> np.ndarray:
                cell = np.clip(np.searchsorted(edges, at, "right") - 1, 0, len(edges) - 2)
                part = (at - edges[cell]) / np.maximum(edges[cell + 1] - edges[cell], 1)
                return upto[..., cell] + part * (upto[..., cell + 1] - upto[..., cell])

            starts, stops = spans[axis]
            return until(stops) - until(starts)

        depth, height, width = (np.diff(edges).astype(float) for edges in self.edges)
        slices = []
        for start, stop in zip(*spans[0], strict=True):  # one row of boxes at a time: memory is that of a plane
            cells = self._along(0, int(start), int(stop))
            ends = np.clip(self.edges[0][cells.start : cells.stop + 1], start, stop)
            plane = np.tensordot(np.diff(ends).astype(float), self.filled[cells], 1)
            row = along(plane * width, 2) if plane.any() else np.zeros((len(height), len(spans[2][0])))
            slices.append(along(row.T * height, 1).T)
        return np.stack(slices)

    def boxes(self, block: Sequence[int]) -> Iterator[Box]:
        """Yields the boxes of a tiling in C order (`blocks.boxes`) that are not known to be `value` throughout."""
        return boxes_of_any([self], block)

    def widened(self, reach: Sequence[int]) -> Self:
        """The same, where voxels that are as near (z, y, x) to something stored may differ from `value` as well."""
        return dataclasses.replace(self, margin=tuple(m + r for m, r in zip(self.margin, reach, strict=True)))

    def cropped(self, box: Box) -> Self:
        """What is known of a part of the array."""
        cells, edges = self.cells(box), []
        for cell, own, s in zip(cells, self.edges, box, strict=True):
            edges.append(np.clip(own[cell.start : cell.stop + 1], s.start, s.stop) - s.start)
        # Cells beyond the box whose margin reaches into it stay, without voxels of their own.
        return dataclasses.replace(self, edges=tuple(edges), filled=self.filled[cells])

    def resampled(self, shape: Sequence[int], factors: Sequence[float], reach: Sequence[int]) -> Self | None:
        """What is known of the array at another voxel size.

        Args:
          shape: (z, y, x) at that size.
          factors: its voxels in voxels of this array.
          reach: source voxels from the centre of a voxel that count in it.

        Returns:
          None where interpolation between equal values may not give that value bit for bit.
        """
        if self.value != int(self.value) or abs(self.value) > 2**16:
            return None
        edges = tuple(
            np.clip(np.floor(e / f).astype(np.int64), 0, n)
            for e, f, n in zip(self.edges, factors, shape, strict=True)
        )  # fmt: skip
        for own, n in zip(edges, shape, strict=True):
            own[-1] = n
        margin = tuple(
            math.ceil((m + r + 1) / f) + 1 for m, r, f in zip(self.margin, reach, factors, strict=True)
        )  # fmt: skip
        return dataclasses.replace(self, edges=edges, margin=margin)


def boxes_of_any(parts: Sequence[Stored], block: Sequence[int]) -> Iterator[Box]:
    """Yields the boxes of a tiling in C order (`blocks.boxes`) in which some array is not known to be constant.

    Args:
      parts: what is stored of each array, all of one shape; at least one.
      block: shape of a box.
    """
    depth, height, width = parts[0].shape
    for z in range(0, depth, block[0]):
        zs = slice(z, min(z + block[0], depth))
        planes = [p.filled[p._along(0, zs.start, zs.stop)].any(axis=0) for p in parts]
        for y in range(0, height, block[1]) if any(plane.any() for plane in planes) else ():
            ys = slice(y, min(y + block[1], height))
            rows = [plane[p._along(1, ys.start, ys.stop)].any(axis=0) for p, plane in zip(parts, planes, strict=True)]
            for x in range(0, width, block[2]) if any(row.any() for row in rows) else ():
                xs = slice(x, min(x + block[2], width))
                if any(row[p._along(2, xs.start, xs.stop)].any() for p, row in zip(parts, rows, strict=True)):
                    yield zs, ys, xs
