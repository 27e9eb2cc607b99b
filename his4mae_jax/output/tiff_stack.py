"""Write a volume as one TIFF stack that ImageJ, Fiji and tifffile open with its voxel size."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tifffile

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.blocks import in_order, slabs
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.output import records

CLASSIC_BYTES = 2**32 - 2**25  # bytes of pixels that fit a TIFF with 32-bit offsets, with room for its headers


def write_tiff(
    volume: VolumeLike,
    path: PathLike,
    *,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    dtype: npt.DTypeLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes one page per slice, zlib compressed, slab by slab; a BigTIFF where 4 GB may not be enough.

    The voxel size is stored as ImageJ does: in µm, x and y as the resolution and z as the spacing; so is the position,
    as the voxel (maybe outside the volume, and fractional) at which the coordinates are 0. ImageJ itself opens no
    BigTIFF; Fiji does, through Bio-Formats.

    Args:
      volume: to write, (z, y, x).
      path: of the new file, which takes its name when it is whole.
      convert: applied to the voxels of each slab; it must return an array of the same shape and of `dtype`.
      dtype: of the file; None: that of the volume.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: the volume cannot be read, the file cannot be written, or something is there already.
    """
    dtype = np.dtype(volume.dtype if dtype is None else dtype)
    z, y, x = (size / 1e3 for size in volume.voxel_size_nm)
    depth = volume.shape[0]
    description = f"ImageJ=1.54f\nimages={depth}\nslices={depth}\nunit=micron\nspacing={z:.9g}\nloop=false\n"
    for axis, origin, size in zip("zyx", origin_of(volume), volume.voxel_size_nm, strict=True):
        description += f"{axis}origin={-origin / size:.12g}\n" if origin else ""
    page = dict(
        photometric="minisblack", compression="zlib", contiguous=False, metadata=None, software=False,
        resolution=(1 / x, 1 / y), resolutionunit="NONE",
    )  # fmt: skip

    def read(box: Box) -> np.ndarray:
        slab = volume.read(box)
        return (slab if convert is None else convert(slab)).astype(dtype, copy=False)

    bigtiff = int(np.prod(volume.shape)) * dtype.itemsize > CLASSIC_BYTES
    with records.new(place(path)) as (part,), tifffile.TiffWriter(part, bigtiff=bigtiff) as tif:
        for slab in in_order(read, slabs(volume), workers=1, ahead=1):
            for plane in slab:
                tif.write(plane, description=description, **page)
                description = None  # on the first page only
            if progress is not None:
                progress(slab.size)
