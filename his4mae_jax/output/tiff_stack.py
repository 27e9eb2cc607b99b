"""Write a volume as one TIFF stack that ImageJ, Fiji and tifffile open with its voxel size."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tifffile

from his4mae_jax import files
from his4mae_jax.data.volumes.blocks import in_order, slabs
from his4mae_jax.data.volumes.volume import VolumeLike

CLASSIC_BYTES = 2**32 - 2**25  # of pixels that fit a TIFF with offsets of 32 bits, with room for its headers


def write_tiff(
    volume: VolumeLike,
    path: str | os.PathLike,
    *,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    dtype: npt.DTypeLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes one page a slice, zlib compressed, slab by slab; a BigTIFF where 4 GB may not be enough.

    Voxel sizes stand in ImageJ's own metadata: µm, x and y as resolution and z as spacing. ImageJ itself opens no
    BigTIFF; Fiji does, through Bio-Formats.

    Args:
      volume: to write.
      path: of the file, which takes its name when it is whole and replaces one that is there.
      convert: applied to the voxels of each slab; it must return an array of the same shape and of `dtype`.
      dtype: of the file; None: that of the volume.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: the volume cannot be read or the file not written.
    """
    file = pathlib.Path(path)
    part = file.with_name(f"partial.{file.name}")
    dtype = np.dtype(volume.dtype if dtype is None else dtype)
    z, y, x = (size / 1e3 for size in volume.voxel_size_nm)
    depth = volume.shape[0]
    about = f"ImageJ=1.54f\nimages={depth}\nslices={depth}\nunit=micron\nspacing={z:.9g}\nloop=false\n"
    page = dict(
        photometric="minisblack", compression="zlib", contiguous=False, metadata=None, software=False,
        resolution=(1 / x, 1 / y), resolutionunit="NONE",
    )  # fmt: skip

    def read(box):
        slab = volume.read(box)
        return (slab if convert is None else convert(slab)).astype(dtype, copy=False)

    with files.writing(file):
        with tifffile.TiffWriter(part, bigtiff=int(np.prod(volume.shape)) * dtype.itemsize > CLASSIC_BYTES) as tif:
            for slab in in_order(read, slabs(volume), workers=1, ahead=1):
                for plane in slab:
                    tif.write(plane, description=about, **page)
                    about = None  # of the first page only
                if progress is not None:
                    progress(slab.size)
        os.replace(part, file)
