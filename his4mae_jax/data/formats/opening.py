"""Detect the format of a path or URL and open it.

TensorStore's own detection (`driver: "auto"`) knows neither OME-Zarr groups nor N5 groups nor single files, and reports
one long status for everything that it does not open, so the metadata files decide here.
"""

import pathlib

import tensorstore as ts

from his4mae_jax.data.formats import listing, slices
from his4mae_jax.data.formats.chunked import n5, precomputed
from his4mae_jax.data.formats.chunked.zarr import FILES as ZARR_FILES
from his4mae_jax.data.formats.chunked.zarr import open_zarr
from his4mae_jax.data.formats.path import Crop, VolumePath
from his4mae_jax.data.formats.sidecars.lookup import beside_folder, beside_hdf5, beside_tiff, settled
from his4mae_jax.data.formats.single import hdf5, mrc, nifti, npy, nrrd
from his4mae_jax.data.formats.tiff.stack import open_tiff
from his4mae_jax.data.stores.levels import Opened, OpenOptions
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.places import locate
from his4mae_jax.data.stores.units import Triple
from his4mae_jax.errors import UserError

SINGLE_FILES = (
    ".tif", ".tiff", *hdf5.SUFFIXES, *mrc.SUFFIXES, *npy.SUFFIXES, *nifti.SUFFIXES, *nrrd.SUFFIXES,
)  # fmt: skip


def open_place(path: VolumePath, options: OpenOptions) -> tuple[Opened, bool]:
    """Opens the volume that a path names, without its crop.

    Returns:
      (the opened array, of any rank; whether it is remote).

    Raises:
      UserError: there is nothing, or nothing that can be opened, or several volumes.
    """
    location = locate(path.place)
    if location.remote and location.path.rstrip("/").lower().endswith(SINGLE_FILES):
        raise UserError(
            f"{location.name}: TIFF, HDF5, MRC and other single files are read from local disks only; copy the file to "
            "this machine, or convert it to OME-Zarr"
        )
    if location.remote or location.zipped:
        return _open_zipped(location, options) if location.zipped else _open_stored(location, options), location.remote
    file = pathlib.Path(location.name)
    try:
        if file.is_dir():
            return _open_folder(location, file, options), False
        if not file.exists():
            raise UserError(f"{location.name}: no such file or folder; check the path")
        return _open_file(file, path.inside, options), False
    except PermissionError as error:
        raise UserError(f"{location.name}: no permission to read it; check its access rights") from error


def _open_file(file: pathlib.Path, inside: str, options: OpenOptions) -> Opened:
    with open(file, "rb") as stream:
        start = stream.read(1024)
    if start.startswith(hdf5.MAGIC) or inside:
        options = beside_hdf5(file, options)
        return settled(hdf5.open_hdf5(file, inside, options), options, str(file))
    if file.suffix.lower() in mrc.SUFFIXES or start[mrc.MAGIC_AT :].startswith(mrc.MAGIC):
        return mrc.open_mrc(file, options)
    if file.name.lower().endswith(npy.SUFFIXES):
        return npy.open_npy(file, options)
    if file.name.lower().endswith(nifti.SUFFIXES):
        return nifti.open_nifti(file, options)
    if file.name.lower().endswith(nrrd.SUFFIXES) or start.startswith(nrrd.MAGIC):
        return nrrd.open_nrrd(file, options)
    options = beside_tiff(file, options)
    return settled(open_tiff(file, options), options, str(file))


def _open_folder(location: Location, folder: pathlib.Path, options: OpenOptions) -> Opened:
    opened = _open_chunked(location, options) or slices.open_slices(folder, options)
    if opened is None:
        raise _nothing(location)
    return opened


def _open_stored(location: Location, options: OpenOptions) -> Opened:
    opened = _open_chunked(location, options)
    if opened is None:
        raise _nothing(location)
    return opened


def _open_zipped(location: Location, options: OpenOptions) -> Opened:
    """Opens a volume in a zip file: at the place that is named, else in the only folder there, which zip tools add."""
    opened, place = _open_chunked(location, options), location
    while opened is None:
        top = {path.partition("/")[0] for path in place.entries()}
        if len(top) != 1 or not any("/" in path for path in place.entries()):
            raise _nothing(location)
        place = place.child(top.pop())
        opened = _open_chunked(place, options)
    return opened


def _nothing(location: Location) -> UserError:
    """What to say of a place that is no volume itself: the volumes below it, with their paths."""
    below = listing.several(location, SINGLE_FILES, slices.SUFFIXES)
    if below:
        return UserError(f"{location.name}: is no volume itself, but {below}")
    if location.remote:
        return UserError(
            f"{location.name}: holds no zarr, N5 or precomputed volume (none of the {', '.join(ZARR_FILES)}, {n5.FILE} "
            f"and {precomputed.FILE} there is that of one); check the address, or give that of a volume in it"
        )
    return UserError(f"{location.name}: holds no volume, no slices, and none further down; give the path of a volume")


def _open_chunked(location: Location, options: OpenOptions) -> Opened | None:
    """Opens a zarr, N5 or precomputed folder; None for any other folder."""
    files = location.read(*ZARR_FILES, n5.FILE, precomputed.FILE)
    info = files.pop(precomputed.FILE, b"")
    objects = {name: location.json_object(name, content) for name, content in files.items()}
    options = beside_folder(location, options)
    opened = open_zarr(location, objects, options)
    if opened is None and (n5.FILE in objects or not objects and n5.has_levels(location)):
        opened = n5.open_n5(location, objects.get(n5.FILE, {}), options)
    if opened is None and b'"scales"' in info:  # other folders may hold a file of this name
        opened = precomputed.open_precomputed(location, location.json_object(precomputed.FILE, info), options)
    return opened and settled(opened, options, location.name)


def cropped(array: ts.TensorStore, crop: Crop, factors: Triple, name: str) -> tuple[ts.TensorStore, list[int]]:
    """Cuts a box out of an array.

    Args:
      array: 3D.
      crop: in voxels of level 0.
      factors: voxel size of the array over that of level 0; bounds are divided by it and rounded, so that boxes that
        touch at level 0 touch at every level.
      name: for messages.

    Returns:
      (the box, with indices that start at 0; the indices of its first voxel in the array).

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
    return array[tuple(bounds)][ts.d[:].translate_to[0]], [b.start for b in bounds]
