"""From the voxels of one grid to those of another that covers the same space."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.volume import VolumeLike


@dataclasses.dataclass(frozen=True)
class Segmented:
    """A segmented volume as a page shows it.

    Attributes:
      image: that is shown, on the grid of the labels or another one of the same space.
      encoded: what the model works on; it may have other voxels.
      truth: ground truth, class ids and `IGNORE`, on any grid of that space; None: there is none.
      class_names: of the ground truth's ids.
    """

    image: VolumeLike
    encoded: VolumeLike
    truth: VolumeLike | None = None
    class_names: tuple[str, ...] = ()


def centres_nm(volume: VolumeLike, axis: int, index: np.ndarray | Sequence[float]) -> np.ndarray:
    """Positions in nm along one axis of voxels with these indices, or fractions of them."""
    return origin_of(volume)[axis] + np.asarray(index, float) * volume.voxel_size_nm[axis]


def nearest(volume: VolumeLike, axis: int, position_nm: np.ndarray) -> np.ndarray:
    """Indices along one axis of the voxels of `volume` nearest to positions in nm."""
    index = np.rint((np.asarray(position_nm) - origin_of(volume)[axis]) / volume.voxel_size_nm[axis])
    return np.clip(index, 0, volume.shape[axis] - 1).astype(int)


def read_outer(volume: VolumeLike, index: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels at the outer product of three index arrays, (z, y, x): one box is read."""
    low = [int(i.min()) for i in index]
    block = volume.read(tuple(slice(a, int(i.max()) + 1) for a, i in zip(low, index, strict=True)))
    return block[np.ix_(*(i - a for i, a in zip(index, low, strict=True)))]


def values_at(volume: VolumeLike, other: VolumeLike, index_Mx3: np.ndarray, group_M: np.ndarray) -> np.ndarray:
    """Values of `volume` at M voxels of another grid: one box is read for each group of voxels near each other."""
    out = np.zeros(len(index_Mx3), volume.dtype)
    for group in np.unique(group_M):
        rows = np.flatnonzero(group_M == group)
        at = [nearest(volume, axis, centres_nm(other, axis, index_Mx3[rows, axis])) for axis in range(3)]
        low = [int(i.min()) for i in at]
        block = volume.read(tuple(slice(a, int(i.max()) + 1) for a, i in zip(low, at, strict=True)))
        out[rows] = block[tuple(i - a for i, a in zip(at, low, strict=True))]
    return out
