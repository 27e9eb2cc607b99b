"""Create OME-Zarr 0.4 images and label volumes, and say plainly when a disk refuses the write."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

from his4mae_jax.errors import UserError

_VERSION = "0.4"
# Colours of label values 1, 2, ... (Okabe and Ito's, told apart by colour-blind readers too).
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (153, 153, 153),
)
_REMEDIES = (
    ((errno.ENOSPC, errno.EDQUOT), "no space left on the device or quota used up; free some space or write elsewhere"),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "no permission to write there; change the access rights or write elsewhere",
    ),
    ((errno.ENOTDIR, errno.EEXIST), "a file stands where a folder is needed; write elsewhere"),
)


def create(
    path: str | os.PathLike,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size_nm: float | Sequence[float],
    *,
    chunks: Sequence[int] = (64, 64, 64),
    label_values: dict[int, str] | None = None,
    fill_value: int | float = 0,
    overwrite: bool = False,
) -> ts.TensorStore:
    """Creates an OME-Zarr 0.4 group of one level, "0", and opens it for writing.

    Args:
      path: the folder to create; its parents are made as needed.
      shape: (z, y, x).
      dtype: of the voxels.
      voxel_size_nm: one number or (z, y, x).
      chunks: (z, y, x) shape of a chunk, cut to the shape; write whole chunks where speed counts.
      label_values: name of each label value; makes it a label volume, with colours.
      fill_value: what voxels that are never written hold.
      overwrite: True replaces a zarr volume at `path` (and nothing but a zarr volume).

    Returns:
      The array, a TensorStore of the given shape; wrap writes to it in `writing(path)`.

    Raises:
      UserError: something is at `path`, or it cannot be written.
    """
    folder, shape = pathlib.Path(path), tuple(int(n) for n in shape)
    scale = [float(v) for v in np.broadcast_to(voxel_size_nm, (3,))]
    if len(shape) != 3 or min(shape) < 1 or not all(0 < v < float("inf") for v in scale):
        raise ValueError(f"shape {shape} or voxel size {voxel_size_nm} is no 3D volume's")
    with writing(folder):
        _make_room(folder, overwrite)
        metadata = {
            "shape": shape,
            "chunks": [min(c, n) for c, n in zip(chunks, shape, strict=True)],
            "dtype": np.dtype(dtype).str,
            "dimension_separator": "/",
            "fill_value": np.asarray(fill_value, dtype).item(),
            "compressor": {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0},
        }
        spec = {"driver": "zarr", "metadata": metadata, "kvstore": {"driver": "file", "path": str(folder / "0")}}
        array = ts.open(spec, create=True).result()
        write_json(folder / ".zgroup", {"zarr_format": 2})
        # Last: a folder with .zattrs is a whole image.
        write_json(folder / ".zattrs", _attributes(folder.stem, scale, label_values))
    return array


def write_json(file: pathlib.Path, value: Any) -> None:
    """Writes JSON so that a reader finds the old file or the new one, never a part."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def friendly_io_error(error: BaseException, path: str | os.PathLike) -> UserError | None:
    """Turns a full disk or missing rights into one clear line.

    TensorStore raises a ValueError or RuntimeError with the system's error number in its text.

    Returns:
      A UserError naming `path` and the remedy; None if the error is something else.
    """
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None:
        found = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(found.group(1)) if found else None
    for numbers, remedy in _REMEDIES:
        if number in numbers or (number is None and any(os.strerror(n) in str(error) for n in numbers)):
            return UserError(f"{os.fspath(path)}: {remedy}")
    return None


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Wraps writes to `path`: what `friendly_io_error` knows is raised as its UserError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        friendly = friendly_io_error(error, path)
        if friendly is None:
            raise
        raise friendly from error


def _make_room(folder: pathlib.Path, overwrite: bool) -> None:
    """Makes the empty folder; UserError rather than delete what is not a zarr volume."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is there; write the volume elsewhere")
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise UserError(f"{folder}: exists already; write elsewhere or allow overwriting")
        if not any((folder / n).exists() for n in (".zgroup", ".zattrs", ".zarray", "zarr.json", "0/.zarray")):
            raise UserError(
                f"{folder}: not a zarr volume, so it is not overwritten; remove it yourself or write elsewhere"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _attributes(name: str, scale: list[float], label_values: dict[int, str] | None) -> dict[str, Any]:
    """The group's .zattrs: multiscales and, for labels, image-label."""
    attributes: dict[str, Any] = {
        "multiscales": [
            {
                "version": _VERSION,
                "name": name,
                "axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
            }
        ]
    }
    if label_values is not None:
        attributes["image-label"] = {
            "version": _VERSION,
            "colors": [{"label-value": int(v), "rgba": _colour(int(v))} for v in sorted(label_values)],
            "properties": [{"label-value": int(v), "name": label_values[v]} for v in sorted(label_values)],
        }
    return attributes


def _colour(value: int) -> list[int]:
    """RGBA of a label value; 0 has a colour, too: it is a class or a cluster like the others."""
    return [*_COLOURS[value % len(_COLOURS)], 255]
