"""Open NIfTI files, which store x fastest (extra: nifti)."""

import gzip
import math
import pathlib

import numpy as np

from his4mae_jax.data.formats.single.affine import grid_of
from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.grey import linear
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, opened, with_unit
from his4mae_jax.data.stores.mapped import check_memory, lazy_array
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

SUFFIXES = (".nii", ".nii.gz")
_AXES = ("x", "y", "z", "t", "c")


def open_nifti(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens a NIfTI file, version 1 or 2: memory-mapped, or read into memory if it is compressed.

    Voxel size and position come from `sform` or `qform`, else the size from `pixdim`, in the units of the header.

    Args:
      file: an existing file.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x, scaled by `scl_slope` and `scl_inter`.

    Raises:
      UserError: nibabel is not installed, the file is damaged, or holds no numbers.
    """
    try:
        import nibabel
    except ImportError as error:
        raise UserError(f"{file}: NIfTI needs the package nibabel; pip install 'his4mae_jax[nifti]'") from error
    try:
        image = nibabel.load(file)
        header, stored = image.header, image.dataobj
        if not isinstance(image, nibabel.Nifti1Pair):
            raise UserError(f"{file}: is {type(image).__name__}, no NIfTI; convert it to NIfTI or OME-Zarr")
        if stored.dtype.kind not in "iuf":
            raise UserError(f"{file}: holds {stored.dtype}, no grey levels; convert it to grey levels")
        check_memory(math.prod(stored.shape) * stored.dtype.itemsize if file.suffix.lower() == ".gz" else 0, file)
        data = stored.get_unscaled()
        if file.suffix.lower() == ".gz":
            _verify(file)
        level = _level(header, file)
        slope, inter = (float(v) for v in (stored.slope, stored.inter))
    except (UserError, PermissionError, MemoryError):
        raise
    except Exception as error:  # nibabel and gzip raise many kinds
        raise UserError(f"{file}: unreadable NIfTI ({brief(error)}); copy or export it again") from error
    meaning = linear(data.dtype.newbyteorder("="), slope, inter, options.image, str(file))
    array = lazy_array(data.T, meaning, options.cache_bytes)  # of planes: x is the last axis
    array = to_zyx(array, _AXES[: data.ndim][::-1], str(file), options.channel)
    return opened(array, with_unit(level, options, str(file)), options)


def _verify(file: pathlib.Path) -> None:
    """Compares a compressed file with its checksum, which lies at its end: nibabel stops at the last voxel."""
    with gzip.open(file) as stream:
        while stream.read(1 << 20):
            pass


def _short(value: float) -> float:
    """A number that was stored as float32: 0.03 and not 0.029999999."""
    return float(f"{value:.7g}")


def _level(header, file: pathlib.Path) -> Level:
    unit = header.get_xyzt_units()[0]
    units = (None if unit == "unknown" else unit,) * 3
    affine = next((a for a, code in (header.get_sform(True), header.get_qform(True)) if code and a is not None), None)
    if affine is None:
        return Level("", tuple(_short(v) for v in header.get_zooms()[2::-1]), units)
    affine = np.vectorize(_short)(affine)
    size, position = grid_of(affine[:3, :3].T, affine[:3, 3], str(file))
    return Level("", size, units, position)
