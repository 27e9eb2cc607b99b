"""Volumes whose voxels are longer along one axis: what they are resampled to, and where slices are taken.

Serial sections are often ten times thicker than their pixels are wide. A model learns organelles in slices, so
only slices in the plane of high resolution show it what it knows: those across the coarse axis. An axis that
is much coarser than the voxel size asked for is left as it is: values in between would be made up.
"""

import math

from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError

LIMIT = 1.2  # largest over smallest voxel edge up to which a volume counts as isotropic


def target_size(voxel_size_nm: Triple, target_nm: float) -> Triple:
    """The voxel size (z, y, x) that a volume is resampled to.

    Args:
      voxel_size_nm: as stored.
      target_nm: isotropic size to train and segment at (`data.voxel_size_nm`); 0 leaves all as stored.

    Returns:
      The target for every axis but those whose stored voxels are more than `LIMIT` times coarser.
    """
    if not target_nm:
        return voxel_size_nm
    return tuple(size if size > LIMIT * target_nm else float(target_nm) for size in voxel_size_nm)


def coarse_axis(volume: VolumeLike) -> int | None:
    """The axis (0, 1, 2 for z, y, x) along which voxels are more than `LIMIT` times longer; None if isotropic.

    Raises:
      UserError: two axes are coarse, so that no plane has the high resolution.
    """
    finest = min(volume.voxel_size_nm)
    coarse = [axis for axis, size in enumerate(volume.voxel_size_nm) if size > LIMIT * finest]
    if len(coarse) > 1:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} are coarse along two axes, so no slice has the resolution "
            f"of the third; set --config.data.voxel_size_nm={min(volume.voxel_size_nm[a] for a in coarse):g}, or "
            "correct the voxel size with --config.data.file_voxel_size_nm"
        )
    return coarse[0] if coarse else None


def slice_axes(volume: VolumeLike, axes: str, key: str = "data.axes", log=None) -> str:
    """Those of `axes` across which slices of a volume are taken: of an anisotropic volume the coarse one alone.

    Args:
      volume: at the voxel size it is trained on or segmented at.
      axes: some of the letters z, y, x: the value of the config key `key`, `data.axes` or `segment.axes`.
      log: told in one line that the volume is anisotropic.

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
            f"can be used, and config key {key} is {axes!r}; set --config.{key}={letter}"
        )
    if log:
        log(
            f"warning: {volume.name}: voxels of {size_text(volume)} are anisotropic (more than {LIMIT:g} times longer "
            f"along {letter}); slices are taken across {letter} only"
        )
    return letter


def in_plane_nm(volume: VolumeLike) -> float:
    """The voxel edge in nm that a model sees: the geometric mean over the axes of the slices it is shown."""
    axis = coarse_axis(volume)
    sizes = [size for a, size in enumerate(volume.voxel_size_nm) if a != axis]
    return math.prod(sizes) ** (1 / len(sizes))


def size_text(volume: VolumeLike) -> str:
    """The voxel size for a message, such as "50 x 4.6 x 4.6 nm (z, y, x)"."""
    return " x ".join(f"{size:g}" for size in volume.voxel_size_nm) + " nm (z, y, x)"
