"""Label volumes: the ids of voxels without a class or cluster, and the inside of a cell.

Two numberings meet where a segmentation is scored:

- Ground truth has class ids 0, 1, ... as its files have them. `IGNORE`, the largest uint8, is not annotated, or
  outside the annotated cell. Such a voxel is not scored, and cluster centres are fitted without it
  (`segment.within_mask`).
- What is written has ids 1, 2, ..., and `UNLABELLED`, 0, in padding: viewers draw nothing for 0. A voxel without a
  label counts as a miss of the class that it belongs to.
"""

import dataclasses
import functools

import numpy as np
from scipy.ndimage import binary_erosion

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import stored_of, value_beside
from his4mae_jax.data.volumes.volume import Box, View, box_bounds

IGNORE = 255  # of ground truth
UNLABELLED = 0  # of a segmentation; its clusters and classes are 1, 2, ...


@dataclasses.dataclass(frozen=True)
class Foreground(View):
    """Labels read as 1 wherever the id is above 0: masks stored as 0 and 255, or instances.

    The largest number of 32 or 64 bits without a sign is what becomes of -1: background, as in CREMI and Paintera.
    """

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @functools.cached_property
    def stored(self) -> Stored | None:
        own = stored_of(self.source)
        if own is None:
            return None
        return dataclasses.replace(own, value=_foreground(value_beside(self.source)).item())

    def read(self, slices: Box) -> np.ndarray:
        return _foreground(self.source.read(slices))


def _foreground(ids: np.ndarray) -> np.ndarray:
    inside = ids > 0
    if ids.dtype.kind == "u" and ids.dtype.itemsize >= 4:
        inside &= ids != np.iinfo(ids.dtype).max
    return inside.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Inside(View):
    """Labels that are `IGNORE` also within `margin` voxels (a cube) of an `IGNORE` voxel.

    The border of the volume does not count as a border of the cell.
    """

    margin: int

    @functools.cached_property
    def stored(self) -> Stored | None:
        own = stored_of(self.source)
        return own and own.widened((self.margin,) * 3)

    def read(self, slices: Box) -> np.ndarray:
        bounds = box_bounds(slices, self.shape)
        m = self.margin
        grown = [(max(a - m, 0), min(b + m, n)) for (a, b), n in zip(bounds, self.shape, strict=True)]
        labels = np.array(self.source.read(tuple(slice(*g) for g in grown)))
        inside = labels != IGNORE
        if m and not inside.all() and inside.any():  # else there is no border
            for axis in range(3):  # erosion by a cube is erosion by three lines
                line = np.ones([2 * m + 1 if a == axis else 1 for a in range(3)], bool)
                inside = binary_erosion(inside, line, border_value=1)
            labels[~inside] = IGNORE
        own = tuple(slice(a - g, b - g) for (a, b), (g, _) in zip(bounds, grown, strict=True))
        return labels[own]
