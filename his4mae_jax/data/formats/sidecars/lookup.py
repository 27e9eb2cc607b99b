"""Find what lies beside a volume, and use it where the volume itself does not say as much."""

import dataclasses
import pathlib

from his4mae_jax.data.formats.sidecars import bigdataviewer, nnunet, webknossos
from his4mae_jax.data.stores.beside import Beside
from his4mae_jax.data.stores.levels import TOLERANCE, Opened, OpenOptions
from his4mae_jax.data.stores.location import Location
from his4mae_jax.progress import say_once


def beside_folder(location: Location, options: OpenOptions) -> OpenOptions:
    """Returns options that know where the sidecar of a zarr, N5 or precomputed folder is.

    On a server or in a bucket it is read only where something is missing, as each folder costs a request.
    """
    beside = Beside(
        lambda inside: bigdataviewer.of_n5(location) or webknossos.datasource(location), compare=not location.remote
    )
    return dataclasses.replace(options, beside=beside)


def beside_tiff(file: pathlib.Path, options: OpenOptions) -> OpenOptions:
    """Returns options that know where the sidecar of a TIFF is."""
    return dataclasses.replace(options, beside=Beside(lambda inside: nnunet.spacing(file)))


def beside_hdf5(file: pathlib.Path, options: OpenOptions) -> OpenOptions:
    """Returns options that know where the sidecar of an HDF5 file is."""
    return dataclasses.replace(options, beside=Beside(lambda inside: bigdataviewer.of_hdf5(file, inside)))


def settled(opened: Opened, options: OpenOptions, name: str) -> Opened:
    """Adds the voxel size of the sidecar where the volume has none; says so where it has another one.

    Args:
      opened: by a reader that had `options`.
      options: with a sidecar.
      name: of the volume, for messages.

    Raises:
      UserError: the sidecar is needed, and damaged.
    """
    if options.voxel_size_nm is not None:
        return opened
    if opened.voxel_size_nm is None:
        sidecar = options.beside.found(opened.inside)
        if sidecar is None or sidecar.size_nm is None:
            return opened
        size = tuple(s * f for s, f in zip(sidecar.size_nm, opened.factors, strict=True))
        return dataclasses.replace(opened, voxel_size_nm=size, size_from=sidecar.name)
    sidecar = options.beside.compared(opened.inside)
    if sidecar is not None and sidecar.size_nm is not None:
        own = [s / f for s, f in zip(opened.voxel_size_nm, opened.factors, strict=True)]
        if any(abs(a - b) > TOLERANCE * abs(a) for a, b in zip(own, sidecar.size_nm, strict=True)):
            here, there = (" x ".join(f"{s:g}" for s in size) for size in (own, sidecar.size_nm))
            say_once(
                f"warning: {name}: voxels of {here} nm (z, y, x) by its own metadata, of {there} nm by {sidecar.name}; "
                "its own are taken; if they are wrong, give the right size as voxel_size_nm in Python, or as the "
                "config key data.file_voxel_size_nm"
            )
    return opened
