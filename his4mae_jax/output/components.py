"""Connected components of a volume that is processed block by block.

The components of each block are labelled and numbered on their own. Two components of neighbouring blocks that touch
across the common face belong together. These pairs are the edges of a graph, whose connected components are those of
the volume. Memory holds one table row for each component of a block, and the voxels of a few blocks only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
import tensorstore as ts

# Number of neighbours: the number of axes along which the positions of two neighbours may differ.
RANKS = {6: 1, 18: 2, 26: 3}
# A component: number of voxels, sum of their coordinates (z, y, x), bounding box (`high` is one past the last voxel),
# and flat index of its first voxel in the volume.
ROW = np.dtype([("voxels", "i8"), ("sum", "i8", 3), ("low", "i4", 3), ("high", "i4", 3), ("first", "i8")])


@dataclasses.dataclass(frozen=True)
class Grid:
    """A volume (z, y, x) divided into blocks, which are numbered in the order of `blocks.boxes`."""

    shape: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))

    def number(self, box: Sequence[slice]) -> int:
        """Number of the block that begins where `box` does."""
        at = [b.start // size for b, size in zip(box, self.block, strict=True)]
        return int(np.ravel_multi_index(at, self.counts))

    def numbers(self, bounds: Sequence[tuple[int, int]]) -> np.ndarray:
        """Number of the block that each voxel of a box lies in, in the shape of the box."""
        at = [np.arange(a, b) // size for (a, b), size in zip(bounds, self.block, strict=True)]
        return np.ravel_multi_index(np.meshgrid(*at, indexing="ij"), self.counts)


def label_block(
    mask: np.ndarray, box: Sequence[slice], shape: Sequence[int], connectivity: int, min_voxels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels the components of one block.

    A component with fewer than `min_voxels` that touches no other block is dropped here: otherwise the table of a
    noisy volume would outgrow memory.

    Args:
      mask: (z, y, x) bool, the block's voxels.
      box: position of the block in the volume.
      shape: (z, y, x) of the volume.
      connectivity: 6, 18 or 26 neighbours.
      min_voxels: see above.

    Returns:
      (uint32 ids 1, 2, ... in the block's shape, 0 elsewhere; their table, one `ROW` each).
    """
    structure = scipy.ndimage.generate_binary_structure(3, RANKS[connectivity])
    ids, count = scipy.ndimage.label(mask, structure)
    rows = np.zeros(count, ROW)
    if not count:
        return ids.astype(np.uint32), rows
    inside = np.flatnonzero(ids)
    component = ids.ravel()[inside] - 1
    position = [w + b.start for w, b in zip(np.unravel_index(inside, mask.shape), box, strict=True)]
    rows["voxels"] = np.bincount(component, minlength=count)
    for axis in range(3):
        rows["sum"][:, axis] = np.bincount(component, position[axis], count)  # integers below 2^53 are exact in float64
    bounds = scipy.ndimage.find_objects(ids)
    start = [b.start for b in box]
    rows["low"] = np.array([[s.start for s in o] for o in bounds]) + start
    rows["high"] = np.array([[s.stop for s in o] for o in bounds]) + start
    rows["first"] = np.iinfo(np.int64).max
    np.minimum.at(rows["first"], component, np.ravel_multi_index(position, shape))
    touches = np.zeros(count, bool)
    for axis, (b, n) in enumerate(zip(box, shape, strict=True)):
        touches |= (rows["low"][:, axis] == b.start) & (b.start > 0)
        touches |= (rows["high"][:, axis] == b.stop) & (b.stop < n)
    kept = touches | (rows["voxels"] >= min_voxels)
    renumbered = np.concatenate([[0], np.cumsum(kept) * kept]).astype(np.uint32)
    return renumbered[ids], rows[kept]


def touching(
    ids: ts.TensorStore, grid: Grid, box: Sequence[slice], offsets: np.ndarray, connectivity: int
) -> np.ndarray:
    """Pairs of components that touch across the faces between a block and its predecessor along each axis.

    Args:
      ids: ids by `label_block`, of the whole volume.
      grid: the blocks of the volume.
      box: of the block.
      offsets: see `first_rows`.
      connectivity: 6, 18 or 26 neighbours.

    Returns:
      (P, 2) int64, rows of the table, each pair once.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    for axis in range(3):
        if not box[axis].start:
            continue
        others = [a for a in range(3) if a != axis]
        own = [(b.start, b.stop) for b in box]
        own[axis] = (box[axis].start, box[axis].start + 1)
        # A diagonal neighbour may lie a voxel beyond the face, in yet another block.
        m = 1 if connectivity > 6 else 0
        before = [(max(a - m, 0), min(b + m, n)) for (a, b), n in zip(own, grid.shape, strict=True)]
        before[axis] = (box[axis].start - 1, box[axis].start)
        inner = _rows(ids, grid, own, offsets).squeeze(axis)
        outer = _rows(ids, grid, before, offsets).squeeze(axis)
        missing = [(m - (own[a][0] - before[a][0]), m - (before[a][1] - own[a][1])) for a in others]
        outer = np.pad(outer, missing, constant_values=-1)
        for shift in np.ndindex(2 * m + 1, 2 * m + 1):
            if sum(abs(s - m) for s in shift) >= RANKS[connectivity]:
                continue
            moved = outer[tuple(slice(s, s + n) for s, n in zip(shift, inner.shape, strict=True))]
            both = (inner >= 0) & (moved >= 0)
            pairs.append(np.stack([moved[both], inner[both]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _rows(ids: ts.TensorStore, grid: Grid, bounds: Sequence[tuple[int, int]], offsets: np.ndarray) -> np.ndarray:
    """Table row of each voxel's component; -1 outside components."""
    local = ids[tuple(slice(*b) for b in bounds)].read().result().astype(np.int64)
    return np.where(local > 0, local - 1 + offsets[grid.numbers(bounds)], -1)


def merge(rows: np.ndarray, pairs: np.ndarray, min_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Joins components that touch, drops those that are too small and numbers the rest by their first voxel.

    Args:
      rows: the tables of all blocks, concatenated.
      pairs: (P, 2) rows whose components touch.
      min_voxels: size of the smallest component to keep.

    Returns:
      (for each row the number of its component in the volume, 1, 2, ..., or 0 where it is dropped; the table of these
      components, in that order).
    """
    graph = scipy.sparse.coo_array((np.ones(len(pairs), np.float32), tuple(pairs.T)), shape=(len(rows), len(rows)))
    count, group = scipy.sparse.csgraph.connected_components(graph, directed=False) if len(rows) else (0, [])
    whole = np.zeros(count, ROW)
    whole["low"], whole["first"] = np.iinfo(np.int32).max, np.iinfo(np.int64).max
    np.add.at(whole["voxels"], group, rows["voxels"])
    np.add.at(whole["sum"], group, rows["sum"])
    np.minimum.at(whole["low"], group, rows["low"])
    np.maximum.at(whole["high"], group, rows["high"])
    np.minimum.at(whole["first"], group, rows["first"])
    kept = np.flatnonzero(whole["voxels"] >= min_voxels)
    kept = kept[np.argsort(whole["first"][kept])]
    number = np.zeros(count, np.int64)
    number[kept] = np.arange(1, len(kept) + 1)
    return number[group] if len(rows) else np.zeros(0, np.int64), whole[kept]


def first_rows(counts: Sequence[int]) -> np.ndarray:
    """Table row at which each block's components begin, followed by the number of rows."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def renumbered(ids: np.ndarray, first_row: int, number: np.ndarray) -> np.ndarray:
    """Ids in the volume of the voxels of one block, uint32."""
    lookup = np.concatenate([[0], number[first_row : first_row + int(ids.max(initial=0))]]).astype(np.uint32)
    return lookup[ids]
