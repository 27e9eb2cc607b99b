"""Find out which format a path or URL holds, and have its reader open it."""

import pathlib

import tensorstore as ts

from his4mae_jax.data.formats import hdf5, mrc, n5, precomputed
from his4mae_jax.data.formats.kvstore import Location, locate
from his4mae_jax.data.formats.levels import Opened, Wanted
from his4mae_jax.data.formats.path import Crop, Spec
from his4mae_jax.data.formats.tiff import open_slices, open_tiff
from his4mae_jax.data.formats.units import Triple
from his4mae_jax.data.formats.zarr import FILES as ZARR_FILES
from his4mae_jax.data.formats.zarr import open_zarr
from his4mae_jax.errors import UserError

_SINGLE_FILES = (".tif", ".tiff", *hdf5.SUFFIXES, *mrc.SUFFIXES)


def open_place(spec: Spec, wanted: Wanted) -> tuple[Opened, bool]:
    """Opens what a spec names, without its crop.

    Returns:
      (the array of any rank, whether it lies on another machine).

    Raises:
      UserError: nothing is there, or nothing that can be opened.
    """
    location = locate(spec.place)
    if location.remote:
        if location.path.rstrip("/").lower().endswith(_SINGLE_FILES):
            raise UserError(
                f"{location.name}: TIFF, HDF5 and MRC are read from local disks only; copy the file to this machine, "
                "or convert it to OME-Zarr"
            )
        opened = _open_chunked(location, wanted)
        if opened is None:
            raise UserError(
                f"{location.name}: holds no zarr, N5 or precomputed volume (no {', '.join(ZARR_FILES)}, {n5.FILE} or "
                f"{precomputed.FILE} there); check the address"
            )
        return opened, True
    file = pathlib.Path(location.name)
    try:
        if file.is_dir():
            return _open_chunked(location, wanted) or open_slices(file, wanted), False
        if not file.exists():
            raise UserError(f"{location.name}: no such file or folder; check the path")
        with open(file, "rb") as stream:
            start = stream.read(len(hdf5.MAGIC))
        if start == hdf5.MAGIC or spec.inside:
            return hdf5.open_hdf5(file, spec.inside, wanted), False
        if file.suffix.lower() in mrc.SUFFIXES:
            return mrc.open_mrc(file, wanted), False
        return open_tiff(file, wanted), False
    except PermissionError as error:
        raise UserError(f"{location.name}: no permission to read it; check its access rights") from error


def _open_chunked(location: Location, wanted: Wanted) -> Opened | None:
    """Opens a folder of zarr, N5 or precomputed; None for another one."""
    files = location.read(*ZARR_FILES, n5.FILE, precomputed.FILE)
    info = files.pop(precomputed.FILE, b"")
    objects = {name: location.json_object(name, content) for name, content in files.items()}
    opened = open_zarr(location, objects, wanted)
    if opened is None and n5.FILE in objects:
        opened = n5.open_n5(location, objects[n5.FILE], wanted)
    if opened is None and b'"scales"' in info:  # other folders may hold a file of this name, too
        opened = precomputed.open_precomputed(location, location.json_object(precomputed.FILE, info), wanted)
    return opened


def cropped(array: ts.TensorStore, crop: Crop, factors: Triple, name: str) -> ts.TensorStore:
    """A box of an array, whose voxels then count from 0.

    Args:
      array: 3D.
      crop: in voxels of level 0.
      factors: edges of the array's voxels over those of level 0; bounds are divided by them and rounded, so that
        boxes side by side at level 0 are so at every level.
      name: for messages.

    Raises:
      UserError: the box leaves the volume, or holds no voxel of this level.
    """
    bounds = []
    for (start, stop), factor, n in zip(crop, factors, array.shape, strict=True):
        low = round(start / factor)
        high = n if stop is None else round(stop / factor)
        if stop is not None and high > n and stop / factor < n + 1:
            high = n  # the coarser level was cut short by less than a voxel
        if not 0 <= low < high <= n:
            size = " x ".join(str(round(m * f)) for m, f in zip(array.shape, factors, strict=True))
            raise UserError(
                f"{name}: the box is empty or leaves the volume of {size} voxels (z, y, x); correct its bounds"
            )
        bounds.append(slice(low, high))
    return array[tuple(bounds)][ts.d[:].translate_to[0]]
