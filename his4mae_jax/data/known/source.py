"""What a name of a known data set is made of, and what is opened for it."""

import dataclasses

from his4mae_jax.data.stores.units import Triple


@dataclasses.dataclass(frozen=True)
class Name:
    """A name such as `epfl:training[0:100, :, :]` in its parts.

    Attributes:
      set: the data set, one of `names.SETS`.
      member: the volume of that data set.
      crop: "[z0:z1, y0:y1, x0:x1]" in voxels, or "".
    """

    set: str
    member: str
    crop: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A file or URL to open.

    Attributes:
      path: a path or URL, its crop included.
      voxel_size_nm: (z, y, x) of the file; None: its metadata give it.
      window: grey levels that are shown as black and white; None: percentiles of the volume.
      invert: True where stained material is stored bright.
    """

    path: str
    voxel_size_nm: Triple | None = None
    window: tuple[float, float] | None = None
    invert: bool = False
