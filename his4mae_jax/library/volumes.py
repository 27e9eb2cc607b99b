"""Volumes as the library takes them: paths, open volumes and NumPy arrays."""

import os
from collections.abc import Sequence

import ml_collections
import numpy as np

from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.in_memory import fingerprint, from_array
from his4mae_jax.data.volumes.volume import Volume, VolumeLike, open_volume
from his4mae_jax.errors import UserError

VoxelSize = float | Sequence[float]
Input = str | os.PathLike | VolumeLike | np.ndarray


def open(path: str | os.PathLike, voxel_size_nm: VoxelSize | None = None) -> Volume:
    """Opens an image volume without reading its voxels.

    Args:
      path: a file, folder or URL of any format that docs/formats.md lists, with a channel "[c=1]" and a crop
        "[z0:z1, y0:y1, x0:x1]" at its end if need be.
      voxel_size_nm: edge length of a voxel in nm, one number or (z, y, x); None: the file's metadata give it.

    Returns:
      A lazy volume: `shape` (z, y, x), `dtype`, `voxel_size_nm`, `origin_nm` (centre of its first voxel in nm, which is
      kept in the labels), and `read(np.s_[z0:z1, y0:y1, x0:x1])`, which returns an array.

    Raises:
      his4mae_jax.Error: it cannot be opened, or has no voxel size.
    """
    return open_volume(path, voxel_size_nm)


def is_path(volume: Input) -> bool:
    """Whether `volume` is a path, URL or name."""
    return isinstance(volume, (str, os.PathLike))


def to_image(
    volume: Input, config: ml_collections.ConfigDict, voxel_size_nm: VoxelSize | None = None, name: str = "array"
) -> tuple[VolumeLike, VolumeLike]:
    """An image as a config has it trained on and segmented: resampled if need be, with its contrast window.

    Both that image and the one at the voxel size that was given are returned: see `datasets.open_both`.

    Args:
      volume: a path, an open volume, or an array (z, y, x).
      config: all settings.
      voxel_size_nm: of a path or an array.
      name: of an array.

    Raises:
      UserError: it cannot be used as an image.
    """
    if is_path(volume):
        return datasets.open_both(volume, config, voxel_size_nm)
    return datasets.prepare_image(to_volume(volume, voxel_size_nm, name), config)


def to_volume(
    volume: Input, voxel_size_nm: VoxelSize | None = None, name: str = "array", *, image: bool = True
) -> VolumeLike:
    """An image or label volume with the interface of `Volume`.

    Args:
      volume: a path, an open volume, or what NumPy takes for an array (z, y, x).
      voxel_size_nm: of a path or an array, in nm.
      name: of an array, for messages.
      image: False for labels.

    Raises:
      UserError: it cannot be used.
    """
    if is_path(volume):
        return open_volume(volume, voxel_size_nm, image=image)
    if hasattr(volume, "read") and hasattr(volume, "voxel_size_nm"):
        if voxel_size_nm is not None:
            raise UserError(f"{volume.name}: an open volume has a voxel size; leave voxel_size_nm out, or open it anew")
        return volume
    if voxel_size_nm is None:
        raise UserError(f"{name}: an array has no voxel size; give voxel_size_nm, in nm, one number or (z, y, x)")
    return from_array(volume, voxel_size_nm, name, image=image)


def array_name(volume: np.ndarray, index: int) -> str:
    """The name of an array in saved settings: with its content, so that a run is not continued with another."""
    return f"array {index} ({fingerprint(volume)})"


def as_list(volumes: Input | Sequence[Input]) -> list[Input]:
    """One or several volumes as a list; a 3D array is one volume.

    Raises:
      UserError: there is none.
    """
    several = isinstance(volumes, (list, tuple))
    listed = list(volumes) if several else [volumes]
    if not listed:
        raise UserError("volumes is empty: give at least one")
    return [v if is_path(v) or hasattr(v, "read") else np.asarray(v) for v in listed]
