"""Anisotropic volumes, whose voxels are longer along one axis: the size they are resampled to, and their slice axis.

Serial sections are often ten times thicker than their pixels are wide. A model learns organelles from 2D slices, and
only slices across the coarse axis have the resolution that it was trained on. An axis that is much coarser than the
target voxel size is not resampled: the values in between would be invented.
"""

import math
from collections.abc import Callable

from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError

LIMIT = 1.2  # largest over smallest voxel edge up to which a volume counts as isotropic


def target_size(voxel_size_nm: Triple, target_nm: float) -> Triple:
    """Returns the voxel size (z, y, x) in nm that a volume is resampled to.

    Args:
      voxel_size_nm: as stored.
      target_nm: isotropic size to train and segment at (`data.voxel_size_nm`); 0: no resampling.

    Returns:
      The target on every axis except those that are stored more than `LIMIT` times coarser, which stay as they are.
    """
    if not target_nm:
        return voxel_size_nm
    return tuple(size if size > LIMIT * target_nm else float(target_nm) for size in voxel_size_nm)


def coarse_axis(volume: VolumeLike) -> int | None:
    """Returns the axis (0, 1, 2 for z, y, x) along which voxels are more than `LIMIT` times longer; None if isotropic.

    Raises:
      UserError: two axes are coarse, so that no plane has high resolution.
    """
    finest = min(volume.voxel_size_nm)
    coarse = [axis for axis, size in enumerate(volume.voxel_size_nm) if size > LIMIT * finest]
    if len(coarse) > 1:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} are coarse along two axes, so no slice has the resolution "
            f"of the third; set config key data.voxel_size_nm to {min(volume.voxel_size_nm[a] for a in coarse):g}, or "
            "correct the voxel size (config key data.file_voxel_size_nm)"
        )
    return coarse[0] if coarse else None


def slice_axes(volume: VolumeLike, axes: str, key: str = "data.axes", log: Callable[[str], None] | None = None) -> str:
    """Returns the axes across which slices of a volume are taken: only the coarse one if it is anisotropic.

    Args:
      volume: at the voxel size it is trained on or segmented at.
      axes: some of the letters z, y, x; the value of the config key `key`.
      key: `data.axes` or `segment.axes`, for messages.
      log: prints a warning that the volume is anisotropic.

    Raises:
      UserError: the volume is coarse along two axes, or `axes` lacks the coarse one.
    """
    axis = coarse_axis(volume)
    if axis is None:
        return axes
    letter = "zyx"[axis]
    if letter not in axes:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} are coarse along {letter}, so only slices across {letter} "
            f"can be used, and config key {key} is {axes!r}; set it to {letter!r}"
        )
    if log:
        log(
            f"warning: {volume.name}: voxels of {size_text(volume)} are anisotropic (more than {LIMIT:g} times longer "
            f"along {letter}); slices are taken across {letter} only"
        )
    return letter


def in_plane_nm(volume: VolumeLike) -> float:
    """Returns the pixel size in nm of the slices a model sees: the geometric mean over all axes but the coarse one."""
    axis = coarse_axis(volume)
    sizes = [size for a, size in enumerate(volume.voxel_size_nm) if a != axis]
    return math.prod(sizes) ** (1 / len(sizes))


def size_text(volume: VolumeLike) -> str:
    """Returns the voxel size for a message, such as "50 x 4.6 x 4.6 nm (z, y, x)"."""
    return " x ".join(f"{size:g}" for size in volume.voxel_size_nm) + " nm (z, y, x)"
