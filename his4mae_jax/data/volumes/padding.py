"""Padding inside blocks: what a rotated or odd-shaped volume is embedded in, tell-tale by its constant value.

`contrast.content_box` finds the planes that hold nothing else at the borders. A volume that was rotated into its
box, or acquired in tiles of different extents, has padding at corners and edges that no plane shows. It would count
as a grey level of its own and spoil percentiles.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

CELL = 8  # side in voxels of the smallest block whose constancy tells padding from an image and its noise
_MIXED = 3  # voxels from padding within which grey levels may be mixed with it
_LEAST = 0.01  # share of the voxels that must be left; else what looked like padding is taken for content


def without_padding(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels of a sample of blocks that are no padding.

    Padding is the least or the greatest value of the sample, if that value fills whole cells of 8^3 voxels. Its
    voxels are left out, and so are those within 3 voxels of where it fills 3^3 voxels: interpolation may have mixed
    content with padding there. An inner grey level that fills cells is content.

    Args:
      blocks: 3D arrays of one dtype; axes shorter than a cell count as one cell.

    Returns:
      1D array of grey levels; all of them where next to nothing, or one value alone, would be left.
    """
    found = set().union(*(_values_of_flat_cells(block) for block in blocks))
    extremes = {min(block.min() for block in blocks).item(), max(block.max() for block in blocks).item()}
    padding = sorted(extremes & found)
    everything = np.concatenate([block.ravel() for block in blocks])
    if not padding:
        return everything
    kept = []
    for block in blocks:
        is_padding = np.isin(block, padding)
        inner = minimum_filter(is_padding.view(np.uint8), 3, mode="nearest")
        near = maximum_filter(inner, 2 * (1 + _MIXED) + 1, mode="nearest").view(bool)
        kept.append(block[~(near | is_padding)])
    values = np.concatenate(kept)
    if values.size < _LEAST * everything.size or values.min() == values.max():
        return everything
    return values


def _values_of_flat_cells(block: np.ndarray) -> set:
    """The grey levels that fill a cell of the block."""
    low = high = block
    for axis, n in enumerate(block.shape):
        edges = np.arange(0, max(n - CELL + 1, 1), CELL)  # the last cell takes the rest: none is thinner
        low = np.minimum.reduceat(low, edges, axis)
        high = np.maximum.reduceat(high, edges, axis)
    return set(low[low == high].tolist())


def padding_values(volume, box) -> tuple[float, ...]:
    """Values of the padding at the corners of a box (z, y, x slices) of a volume: those that fill a corner's cell.

    Of a volume that was rotated into its box, the corners are padding; of others they hold an image and its noise.
    """
    found = set()
    for corner in np.ndindex(2, 2, 2):
        cell = tuple(
            slice(max(s.stop - CELL, s.start), s.stop) if end else slice(s.start, min(s.start + CELL, s.stop))
            for s, end in zip(box, corner, strict=True)
        )
        values = volume.read(cell)
        if min(values.shape) == CELL and values.min() == values.max():
            found.add(values.flat[0].item())
    return tuple(sorted(found))


def padding_mask(volume, box, values: Sequence[float]) -> np.ndarray | None:
    """Which voxels of a box (z, y, x slices) of a volume are padding of one of `values`; None where none is.

    A voxel is when it holds such a value and lies in or beside a cell of 8^3 voxels that holds nothing else. Cells
    lie at multiples of 8 of the whole volume: what a voxel is does not depend on the box.
    """
    if not values:
        return None
    grown = tuple(
        slice(max(s.start // CELL - 1, 0) * CELL, min((-(-s.stop // CELL) + 1) * CELL, n))
        for s, n in zip(box, volume.shape, strict=True)
    )
    array = volume.read(grown)
    low = high = array
    for axis, n in enumerate(array.shape):
        edges = np.arange(0, n, CELL)
        low, high = np.minimum.reduceat(low, edges, axis), np.maximum.reduceat(high, edges, axis)
    flat = (low == high) & np.isin(low, values)
    if not flat.any():
        return None
    near = binary_dilation(flat, np.ones((3, 3, 3), bool))
    for axis, n in enumerate(array.shape):
        near = near.repeat(CELL, axis).take(np.arange(n), axis)
    mask = near & np.isin(array, values)
    own = tuple(slice(s.start - g.start, s.stop - g.start) for s, g in zip(box, grown, strict=True))
    return mask[own] if mask[own].any() else None
