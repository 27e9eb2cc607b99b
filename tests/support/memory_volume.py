"""An array as a volume, with no more than what views of volumes need."""

import dataclasses

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored


@dataclasses.dataclass
class MemoryVolume:
    """Labels or an image (z, y, x); `stored`: what of it is said to be stored."""

    array: np.ndarray
    stored: Stored | None = None
    name: str = "cell"
    voxel_size_nm: tuple = (10.0, 10.0, 10.0)

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def read(self, slices):
        return self.array[slices].copy()
