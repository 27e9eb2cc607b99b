"""Padding of constant value around a rotated or irregularly shaped volume, inside its box.

`contrast.content_box` cuts off whole planes of padding at the borders. A volume that was rotated into its box, or
acquired in tiles of different extents, also has padding at corners and edges, where no plane is all padding. It would
count as a grey level and distort percentiles.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from his4mae_jax.data.volumes.volume import Box, VolumeLike

CELL = 8  # side in voxels of the smallest constant block that is taken for padding; image noise is never that constant
_MIXED = 3  # voxels around padding within which interpolation may have mixed grey levels with it
_LEAST = 0.01  # fraction of the voxels that must remain; else the supposed padding is content


def without_padding(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the voxels of a sample of blocks that are not padding.

    Padding is the minimum or maximum of the sample, if that value fills whole cells of 8^3 voxels. Its voxels are left
    out, and so are those within 3 voxels of where it fills 3^3 voxels, because interpolation may have mixed content
    with padding there. A grey level between the extremes is content even if it fills cells.

    Args:
      blocks: 3D arrays of one dtype; axes shorter than a cell count as one cell.

    Returns:
      1D array of grey levels; all of them if less than 1 %, or a single value, would remain.
    """
    constant = set().union(*(_values_of_flat_cells(block) for block in blocks))
    extremes = {min(block.min() for block in blocks).item(), max(block.max() for block in blocks).item()}
    padding = sorted(extremes & constant)
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
    """Returns the grey levels that fill a cell of the block."""
    low = high = block
    for axis, n in enumerate(block.shape):
        edges = np.arange(0, max(n - CELL + 1, 1), CELL)  # the last cell takes the rest, so none is thinner
        low = np.minimum.reduceat(low, edges, axis)
        high = np.maximum.reduceat(high, edges, axis)
    return set(low[low == high].tolist())


def padding_values(volume: VolumeLike, box: Box) -> tuple[float, ...]:
    """Finds the values of the padding at the corners of a box: those that fill the 8^3 voxels at a corner.

    The corners of a volume that was rotated into its box are padding; other volumes have image and noise there.

    Args:
      volume: to look at.
      box: (z, y, x) slices with start and stop.

    Returns:
      The values in increasing order; empty without padding.
    """
    padding = set()
    for corner in np.ndindex(2, 2, 2):
        cell = tuple(
            slice(max(s.stop - CELL, s.start), s.stop) if end else slice(s.start, min(s.start + CELL, s.stop))
            for s, end in zip(box, corner, strict=True)
        )
        values = volume.read(cell)
        if min(values.shape) == CELL and values.min() == values.max():
            padding.add(values.flat[0].item())
    return tuple(sorted(padding))


def padding_mask(volume: VolumeLike, box: Box, values: Sequence[float]) -> np.ndarray | None:
    """Finds the padding inside a box.

    A voxel is padding if it has one of `values` and lies in or next to a cell of 8^3 voxels that holds nothing else.
    Cells start at multiples of 8 of the whole volume, so the result does not depend on the box.

    Args:
      volume: to look at.
      box: (z, y, x) slices with start and stop.
      values: see `padding_values`.

    Returns:
      A boolean array of the box's shape, True for padding; None if there is none.
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
