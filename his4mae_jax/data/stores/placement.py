"""Where a grid of voxels lies: the one convention of this package, and how it maps to those of formats.

The origin of a volume is the physical position (z, y, x) of the **centre** of its voxel (0, 0, 0), in nm, as in
OME-Zarr. A volume whose metadata give no position has origin 0.

- OME-Zarr translations, `transform.translate` of N5 (COSEM), MRC and ImageJ origins are positions of centres.
- `offset` attributes (funlib, CREMI, Paintera) are taken for positions of centres, so that `offset` 0 and no `offset`
  mean the same: files mix both.
- Precomputed counts corners: voxel i of scale s covers [offset + i, offset + i + 1] * size. Neuroglancer draws it so,
  and draws OME-Zarr around its centres. So the origin is (offset + 0.5) * size here too, and the two lie on each other
  in neuroglancer.

`voxel_offset` is a whole number. What is written is rounded to the nearest, of two equally near ones the upper: the
labels of an OME-Zarr image at origin 0 get offset 0, half a voxel from where they belong. That half voxel is the most
that is lost.
"""

import math
from collections.abc import Sequence

from his4mae_jax.data.stores.units import Triple

ZERO: Triple = (0.0, 0.0, 0.0)


def moved(origin_nm: Triple, size_nm: Triple, voxels: Sequence[float]) -> Triple:
    """Returns the centre of another voxel of a grid: of the voxel with these indices, or fractions of them."""
    return tuple(o + float(n) * s for o, s, n in zip(origin_nm, size_nm, voxels, strict=True))


def coarser(origin_nm: Triple, size_nm: Triple, factors: Sequence[float]) -> Triple:
    """Returns the origin of a grid that begins at the same corner, with voxels `factors` times as long.

    A voxel of 4 nm around 0 begins at -2, and so does one of 16 nm around 6.
    """
    return moved(origin_nm, size_nm, [(f - 1) / 2 for f in factors])


def from_voxel_offset(offset: Sequence[float], size_nm: Triple) -> Triple:
    """Returns the origin of a precomputed scale from its `voxel_offset`, both in the order of `size_nm`."""
    return moved(ZERO, size_nm, [float(n) + 0.5 for n in offset])


def voxel_offset(origin_nm: Triple, size_nm: Triple) -> tuple[int, int, int]:
    """Returns the whole `voxel_offset` of a precomputed scale that is nearest to an origin, in the same order."""
    # Nearest to origin / size - 0.5, halves upwards; 1e-6: whole numbers survive rounding errors of nm.
    return tuple(math.floor(o / s + 1e-6) for o, s in zip(origin_nm, size_nm, strict=True))


def origin_of(volume: object) -> Triple:
    """Returns the origin of anything with the interface of Volume: its `origin_nm`, or 0 without that."""
    return tuple(getattr(volume, "origin_nm", ZERO))
