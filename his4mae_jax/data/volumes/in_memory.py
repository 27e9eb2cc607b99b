"""A NumPy array as a volume."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.stores.dtypes import dtype_read
from his4mae_jax.data.stores.placement import ZERO
from his4mae_jax.data.stores.units import Triple, triple
from his4mae_jax.data.volumes.volume import Box, box_bounds
from his4mae_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayVolume:
    """An array in memory with the interface of `Volume`; made by `from_array`.

    Attributes:
      name: for messages and saved settings.
      array: (z, y, x). It is not copied.
      voxel_size_nm: edge lengths of one voxel (z, y, x) in nm.
      dtype: of what is read.
      origin_nm: centre (z, y, x) of voxel (0, 0, 0) in nm.
    """

    name: str
    array: np.ndarray
    voxel_size_nm: Triple
    dtype: np.dtype
    origin_nm: Triple = ZERO

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of blocks to read: 64 voxels a side at most."""
        return tuple(min(64, n) for n in self.shape)

    def read(self, slices: Box) -> np.ndarray:
        """Copies one box; see `Volume.read`."""
        return self.array[tuple(slice(*bounds) for bounds in box_bounds(slices, self.shape))].astype(self.dtype)


def from_array(
    array: np.ndarray, voxel_size_nm: float | Sequence[float], name: str = "array", *, image: bool = True
) -> ArrayVolume:
    """Makes a volume of an array.

    Args:
      array: (z, y, x).
      voxel_size_nm: one number or (z, y, x), in nm.
      name: for messages.
      image: True: grey levels, read as one of `dtypes.IMAGE_DTYPES`; False: labels of any integer or bool dtype.

    Raises:
      UserError: not three axes, no voxels, or a dtype or voxel size that cannot be used.
    """
    array = np.asarray(array)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{name}: shape {array.shape} is not that of a 3D array (z, y, x) with voxels")
    return ArrayVolume(name, array, triple(voxel_size_nm, name), dtype_read(array.dtype, image, name))


def fingerprint(array: np.ndarray) -> str:
    """Shape, dtype and a hash of an array, such as "64x64x64 uint8, 1f0c9a3b": equal arrays have equal ones."""
    shape = "x".join(map(str, array.shape))
    digest = hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data, digest_size=4)
    return f"{shape} {array.dtype.name}, {digest.hexdigest()}"
