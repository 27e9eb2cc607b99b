"""A box of a volume, as a volume."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.stores.placement import moved, origin_of
from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.volume import Box, View, box_bounds


@dataclasses.dataclass(frozen=True)
class Crop(View):
    """The part of `source` in `box` (z, y, x slices with start and stop), read lazily."""

    box: Box

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(s.stop - s.start for s in self.box)

    @property
    def origin_nm(self) -> Triple:
        return moved(origin_of(self.source), self.voxel_size_nm, [s.start for s in self.box])

    @functools.cached_property
    def stored(self) -> Stored | None:
        own = stored_of(self.source)
        return None if own is None else own.cropped(self.box)

    def read(self, slices: Box) -> np.ndarray:
        bounds = box_bounds(slices, self.shape)
        return self.source.read(
            tuple(slice(b.start + low, b.start + high) for b, (low, high) in zip(self.box, bounds, strict=True))
        )


def central_box(shape: Sequence[int], side: int) -> Box:
    """Returns the slices of the box of at most `side` voxels a side in the middle of `shape`."""
    starts = [max((n - side) // 2, 0) for n in shape]
    return tuple(slice(a, min(a + side, n)) for a, n in zip(starts, shape, strict=True))
