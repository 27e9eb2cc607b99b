"""Create OME-Zarr images and label volumes (0.4 and 0.5), with one-line errors when a disk refuses the write."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.stores import location
from his4mae_jax.data.stores.placement import ZERO
from his4mae_jax.data.stores.units import Triple, brief
from his4mae_jax.errors import UserError
from his4mae_jax.files import friendly_io_error, parse_json, write_json, writing

# Every zarr volume has at least one of them, even if its creation was interrupted.
_ZARR_FILES = (".zgroup", ".zattrs", ".zarray", "zarr.json", "0/.zarray", "0/zarr.json")


def create(
    path: PathLike,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size_nm: float | Sequence[float],
    *,
    origin_nm: Triple = ZERO,
    chunks: Sequence[int] = (64, 64, 64),
    label_values: dict[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    channels: Sequence[str] | None = None,
    fill_value: int | float = 0,
    version: str = "0.4",
    overwrite: bool = False,
) -> ts.TensorStore:
    """Creates an OME-Zarr group of one level, "0", and opens it for writing.

    Args:
      path: the folder to create; parents are created as needed.
      shape: (z, y, x), or (channel, z, y, x) with `channels`.
      dtype: of the voxels.
      voxel_size_nm: one number or (z, y, x).
      origin_nm: position (z, y, x) of the centre of voxel (0, 0, 0), in nm.
      chunks: shape of a chunk, cut to the shape; writing whole chunks is fastest. If (z, y, x) is given for a volume
        with channels, each channel has its own chunks.
      label_values: name of each label value; makes it a label volume, with colours. Empty: one whose values are
        ids without names.
      colours: "#RRGGBB" of each label value; None: those of the palette.
      channels: names of a leading channel axis, such as the classes of probabilities.
      fill_value: of voxels that are never written.
      version: of OME-Zarr, "0.4" (zarr v2) or "0.5" (zarr v3).
      overwrite: True replaces a zarr volume at `path`, and nothing but a zarr volume.

    Returns:
      The array, a TensorStore of the given shape; wrap writes to it in `writing(path)`.

    Raises:
      UserError: `path` exists already, or cannot be written.
    """
    folder, shape = place(path), tuple(int(n) for n in shape)
    scale = [float(v) for v in np.broadcast_to(voxel_size_nm, (3,))]
    rank = 3 if channels is None else 4
    if len(shape) != rank or min(shape) < 1 or not all(0 < v < float("inf") for v in scale):
        raise ValueError(f"shape {shape} or voxel size {voxel_size_nm} is no 3D volume's")
    if channels is not None and len(channels) != shape[0]:
        raise ValueError(f"{len(channels)} names for {shape[0]} channels")
    if version not in ome_metadata.VERSIONS:
        raise ValueError(f"OME-Zarr {version!r} is none of {', '.join(ome_metadata.VERSIONS)}")
    chunks = (1,) * (rank - len(chunks)) + tuple(chunks)
    attributes = ome_metadata.attributes(
        ome_metadata.image_name(folder), scale, dtype, origin_nm=origin_nm, version=version,
        label_values=label_values, colours=colours, channels=channels,
    )  # fmt: skip
    with writing(folder):
        _make_room(folder, overwrite)
        array = create_array(folder / "0", shape, dtype, chunks, fill_value, version)
        if version == "0.4":
            write_json(folder / ".zgroup", {"zarr_format": 2})
        describe(folder, version, attributes)  # last: a folder with metadata is a complete image
    return array


def create_array(
    folder: Place,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunks: Sequence[int],
    fill_value: int | float,
    version: str,
) -> ts.TensorStore:
    """Creates one level: a zarr array of version 2 (OME-Zarr 0.4) or 3 (0.5).

    Args:
      folder: of the array; must not exist.
      shape: of the array, whose last axes are z, y, x.
      dtype: of the array.
      chunks: shape of a chunk, cut to the shape.
      fill_value: of voxels that are never written.
      version: "0.4" or "0.5".
    """
    chunks = [int(min(c, n)) for c, n in zip(chunks, shape, strict=True)]
    dtype, shape = np.dtype(dtype), [int(n) for n in shape]
    fill = np.asarray(fill_value, dtype).item()
    blosc = {"cname": "zstd", "clevel": 3, "blocksize": 0}
    if version == "0.4":
        metadata = {
            "shape": shape,
            "chunks": chunks,
            "dtype": dtype.str,
            "dimension_separator": "/",
            "fill_value": fill,
            "compressor": {"id": "blosc", "shuffle": 1, **blosc},
        }
    else:
        metadata = {
            "shape": shape,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "data_type": dtype.name,
            "fill_value": fill,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": {"shuffle": "shuffle", "typesize": dtype.itemsize, **blosc}},
            ],
            "dimension_names": list("czyx"[-len(shape) :]),
        }
    # An answer of a bucket may be lost, and the metadata be there when they are written again.
    bucket = isinstance(folder, BucketPath)
    return ts.open({**_spec(folder, version), "metadata": metadata}, create=True, open=bucket).result()


def open_array(folder: Place, version: str) -> ts.TensorStore:
    """Opens one level created by `create_array`, for reading and writing.

    Raises:
      UserError: it is not there, or its metadata are damaged.
    """
    try:
        return ts.open(_spec(folder, version), open=True).result()
    except (ValueError, OSError) as error:
        problem = f"no whole array ({brief(error)})"
        raise friendly_io_error(error, folder) or UserError(f"{folder}: {problem}; write the volume again") from error


def describe(folder: Place, version: str, attributes: dict[str, Any]) -> None:
    """Writes the group's metadata (`ome_metadata.attributes`) atomically."""
    if version == "0.4":
        write_json(folder / ".zattrs", attributes)
    else:
        node = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes}}
        write_json(folder / "zarr.json", node)


def read_group(path: PathLike) -> tuple[str, dict[str, Any]]:
    """Reads the group's metadata as `describe` wrote it.

    Returns:
      (version, attributes).

    Raises:
      UserError: there is no OME-Zarr image, or not one written by this package.
    """
    folder = place(path)
    try:
        if (folder / "zarr.json").exists():
            attributes = parse_json((folder / "zarr.json").read_bytes())["attributes"]["ome"]
            version = attributes["version"]
        else:
            attributes = parse_json((folder / ".zattrs").read_bytes())
            version = attributes["multiscales"][0]["version"]
        names = [a["name"] for a in attributes["multiscales"][0]["axes"]]
        first = attributes["multiscales"][0]["datasets"][0]["path"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder}: no OME-Zarr image, or its metadata are damaged; write the volume again") from error
    if version not in ome_metadata.VERSIONS or names not in (list("zyx"), list("czyx")) or first != "0":
        raise UserError(f"{folder}: an OME-Zarr image that another program wrote; give one written by this program")
    return version, attributes


def _spec(folder: Place, version: str) -> dict[str, Any]:
    driver = "zarr" if version == "0.4" else "zarr3"
    if isinstance(folder, BucketPath):
        return {"driver": driver, "kvstore": folder.kvstore(), "context": location.context(0).spec.to_json()}
    return {"driver": driver, "kvstore": {"driver": "file", "path": f"{folder}/"}}


@contextlib.contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Wraps reads of a level: a chunk that cannot be decoded is raised as a UserError that names `path`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot read the data ({brief(error)}); write the volume again") from error


def check_replaceable(folder: Place) -> None:
    """Raises UserError if there is something other than a zarr volume or an empty folder."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is there; write the volume elsewhere")
    # A volume under its temporary name may hold no metadata yet, if its creation was interrupted.
    unfinished = folder.name.startswith("partial.") or folder.parent.name.endswith(".partial")
    known = unfinished or any((folder / n).exists() for n in _ZARR_FILES)
    if folder.exists() and any(folder.iterdir()) and not known:
        raise UserError(f"{folder}: not a zarr volume, so it is not overwritten; remove it yourself or write elsewhere")


def replace(part: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves the complete volume `part` to its final name `folder`, replacing a zarr volume that may be there."""
    check_replaceable(folder)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(part, folder)


def _make_room(folder: Place, overwrite: bool) -> None:
    """Creates an empty folder; raises UserError rather than delete anything but a zarr volume."""
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: exists already; write elsewhere or allow overwriting")
    check_replaceable(folder)
    if isinstance(folder, BucketPath):
        transfer.remove(folder)
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
