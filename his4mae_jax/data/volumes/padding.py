"""Padding of constant value around a rotated or irregularly shaped volume, inside its box.

`content_box` cuts off whole planes of padding at the borders. A volume that was rotated into its box, or
acquired in tiles of different extents, also has padding at corners and edges, where no plane is all padding. It would
count as a grey level and distort percentiles.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import known_value, stored_of
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError

CELL = 8  # side in voxels of the smallest constant block that is taken for padding; image noise is never that constant
_SLAB = 16  # planes searched for padding at once
_TILE = 256  # side in voxels of the part of those planes read at once
_MIXED = 3  # voxels around padding within which interpolation may have mixed grey levels with it
_LEAST = 0.01  # fraction of the voxels that must remain; else the supposed padding is content


def without_padding(
    blocks: Sequence[np.ndarray], left_out: Sequence[np.ndarray | None] | None = None
) -> np.ndarray:  # fmt: skip
    """Returns the voxels of a sample of blocks that are not padding.

    Padding is the minimum or maximum of the sample, if that value fills whole cells of 8^3 voxels. Its voxels are left
    out, and so are those within 3 voxels of where it fills 3^3 voxels, because interpolation may have mixed content
    with padding there. A grey level between the extremes is content even if it fills cells.

    Args:
      blocks: 3D arrays of one dtype; axes shorter than a cell count as one cell.
      left_out: for each block, True where voxels do not count, or None where all do; None: all of all blocks do.

    Returns:
      1D array of grey levels; all of them if less than 1 %, or a single value, would remain.
    """
    constant = set().union(*(_values_of_flat_cells(block) for block in blocks))
    left_out = left_out or [None] * len(blocks)
    everything = np.concatenate(
        [block.ravel() if out is None else block[~out] for block, out in zip(blocks, left_out, strict=True)]
    )
    padding = sorted({everything.min().item(), everything.max().item()} & constant)
    if not padding:
        return everything
    kept = []
    for block, out in zip(blocks, left_out, strict=True):
        is_padding = np.isin(block, padding)
        inner = minimum_filter(is_padding.view(np.uint8), 3, mode="nearest")
        near = maximum_filter(inner, 2 * (1 + _MIXED) + 1, mode="nearest").view(bool)
        padded = near | is_padding
        kept.append(block[~(padded if out is None else padded | out)])
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

    The corners of a volume that was rotated into its box are padding; other volumes have image and noise there. So few
    voxels as a corner of thinner volumes has may be equal by chance: they are padding where it is known that they are
    not stored.

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
        constant = values.min() == values.max()
        if constant and (min(values.shape) == CELL or known_value(volume, cell) is not None):
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
    if all_padding(volume, box, values):
        return np.ones([s.stop - s.start for s in box], bool)
    grown = _grown(box, volume.shape)
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


def stored_beside(volume: VolumeLike, values: Sequence[float]) -> Stored | None:
    """Which parts of a volume are stored, where the others are known to be padding; None where that is not known.

    Args:
      volume: to look at.
      values: see `padding_values`.
    """
    stored = stored_of(volume) if values else None
    return stored if stored is not None and stored.value in values else None


def all_padding(volume: VolumeLike, box: Box, values: Sequence[float]) -> bool:
    """Whether `padding_mask` is known to be True throughout a box because nothing of it is stored; nothing is read."""
    return bool(values) and known_value(volume, _grown(box, volume.shape)) in values


def _grown(box: Box, shape: Sequence[int]) -> Box:
    """The whole cells of a box, and one more on each side."""
    return tuple(
        slice(max(s.start // CELL - 1, 0) * CELL, min((-(-s.stop // CELL) + 1) * CELL, n))
        for s, n in zip(box, shape, strict=True)
    )


def content_box(volume: VolumeLike) -> Box:
    """Finds the box that remains when planes of one constant value are cut off at the borders.

    Each of the six faces loses its outermost planes as long as they hold a single value, that of the face's corner
    (often 0). Planes are read from the faces inwards in small tiles, up to the first voxel that differs, so that a
    volume without padding takes next to no time and memory stays bounded. Behind a plane of padding, chunks that are
    not stored are not read where their names can be listed.

    Args:
      volume: anything with the interface of Volume.

    Returns:
      (z, y, x) slices; the full extent if there is no padding.

    Raises:
      UserError: the whole volume is one value.
    """
    box = [[0, n] for n in volume.shape]
    faces = [(axis, side) for axis in range(3) for side in (0, 1)]
    # Cutting one face can uncover padding of another value on another face, so the round is repeated. A face is cut
    # only once: a constant plane of real content behind the padding would be lost as well.
    while True:
        cut = [face for face in faces if _peel(volume, box, *face)]
        faces = [face for face in faces if face not in cut]
        if not cut:
            return tuple(slice(low, high) for low, high in box)


def _peel(volume: VolumeLike, box: list[list[int]], axis: int, side: int) -> bool:
    """Moves one face of `box` (in place) past its constant planes; returns whether it moved."""
    corner = [low for low, _ in box]
    if side:
        corner[axis] = box[axis][1] - 1
    value = volume.read(tuple(slice(c, c + 1) for c in corner)).item()
    moved, slab = False, 1  # one plane first: most faces have no padding
    while box[axis][0] < box[axis][1]:
        low, high = box[axis]
        stored = stored_of(volume) if moved else None
        if stored is not None and stored.value == value:  # to the next plane of which something is stored
            there = stored.bounds(tuple(slice(*b) for b in box))
            if there is None:
                break
            low, high = box[axis] = [low, there[axis].stop] if side else [there[axis].start, high]
        thick, slab = min(slab, high - low), _SLAB
        run = _constant_planes(volume, box, axis, side, thick, value, known=moved)
        box[axis][side] += -run if side else run
        moved = moved or run > 0
        if run < thick:
            return moved
    raise constant_volume(volume, value)


def _constant_planes(
    volume: VolumeLike, box: list[list[int]], axis: int, side: int, thick: int, value: float, *, known: bool
) -> int:
    """Counts how many of the `thick` outermost planes of a face hold only `value`.

    With `known`, parts of which nothing is stored are not read.
    """
    run = thick
    across, down = (a for a in range(3) if a != axis)
    for i in range(*box[across], _TILE):
        for j in range(*box[down], _TILE):
            tile = [slice(0)] * 3
            edge = box[axis][side]
            tile[axis] = slice(edge - run, edge) if side else slice(edge, edge + run)
            tile[across] = slice(i, min(i + _TILE, box[across][1]))
            tile[down] = slice(j, min(j + _TILE, box[down][1]))
            if known and known_value(volume, tuple(tile)) == value:
                continue
            same = (volume.read(tuple(tile)) == value).all(axis=(across, down))
            same = same[::-1] if side else same
            run = run if same.all() else int(np.argmin(same))
            if run == 0:
                return 0
    return run


def constant_volume(volume: VolumeLike, value: float) -> UserError:
    """The error for a volume of one value."""
    return UserError(
        f"{volume.name}: every voxel read is {value}; there is nothing to "
        "segment, check that this is the image volume and not an empty export"
    )
