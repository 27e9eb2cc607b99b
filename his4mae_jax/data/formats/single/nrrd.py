"""Open NRRD files, which store x fastest (extra: nrrd)."""

import pathlib
from typing import Any

import numpy as np

from his4mae_jax.data.formats.single.affine import grid_of
from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, opened, with_unit
from his4mae_jax.data.stores.mapped import check_memory, lazy_array
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

SUFFIXES = (".nrrd", ".nhdr")
MAGIC = b"NRRD000"
# Types by the first of their names; others add "_t" to it, or spell the C type.
_C_TYPES = {
    "signed char": "int8", "uchar": "uint8", "unsigned char": "uint8", "short": "int16", "short int": "int16",
    "signed short": "int16", "signed short int": "int16", "ushort": "uint16", "unsigned short": "uint16",
    "unsigned short int": "uint16", "int": "int32", "signed int": "int32", "uint": "uint32", "unsigned int": "uint32",
    "longlong": "int64", "long long": "int64", "long long int": "int64", "signed long long": "int64",
    "signed long long int": "int64", "ulonglong": "uint64", "unsigned long long": "uint64",
    "unsigned long long int": "uint64", "float": "float32", "double": "float64",
}  # fmt: skip
_CHANNELS = ("list", "vector", "color", "scalar", "point", "normal", "stub", "matrix", "complex", "quaternion")


def open_nrrd(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens a NRRD file, with its header attached or not: memory-mapped, or read into memory if it is compressed.

    Voxel size and position come from `space directions` and `space origin` with `space units`, else from `spacings`
    with `units` and `axis mins`.

    Args:
      file: an existing file, that of the header.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x.

    Raises:
      UserError: pynrrd is not installed, the file is damaged, or holds no numbers.
    """
    try:
        import nrrd
    except ImportError as error:
        raise UserError(f"{file}: NRRD needs the package pynrrd; pip install 'his4mae_jax[nrrd]'") from error
    try:
        with open(file, "rb") as stream:
            header = nrrd.read_header(stream)
            data = _data(nrrd, header, stream, file)
        axes = _axes(header)
        level = _level(header, axes, file)
    except (UserError, PermissionError, MemoryError):
        raise
    except Exception as error:  # pynrrd and the decompressors raise many kinds
        raise UserError(f"{file}: unreadable NRRD ({brief(error)}); copy or export it again") from error
    array = lazy_array(data, Meaning(data.dtype.newbyteorder("=")), options.cache_bytes)
    array = to_zyx(array, axes[::-1], str(file), options.channel)
    return opened(array, with_unit(level, options, str(file)), options)


def _data(nrrd, header: dict[str, Any], stream, file: pathlib.Path) -> np.ndarray:
    """The values in the order of NumPy, x last."""
    shape = tuple(int(n) for n in header["sizes"])[::-1]
    kind = str(header["type"])
    dtype = np.dtype(_C_TYPES.get(kind, kind.removesuffix("_t")))
    if dtype.kind not in "iuf":
        raise UserError(f"{file}: holds {dtype}, no numbers; give the path of an image")
    if dtype.itemsize > 1 and header["encoding"] == "raw":
        dtype = dtype.newbyteorder({"little": "<", "big": ">"}[header["endian"]])
    skips = [header.get(key, 0) for key in ("lineskip", "line skip", "byteskip", "byte skip")]
    if header["encoding"] == "raw" and not any(skips):
        own = header.get("datafile", header.get("data file"))
        place, begin = (file, stream.tell()) if own is None else (file.parent / own, 0)
        return np.memmap(place, dtype, "r", begin, shape)
    check_memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, file)
    return nrrd.read_data(header, stream, str(file), index_order="C")


def _axes(header: dict[str, Any]) -> list[str]:
    """Names of the stored axes, the fastest first: those of space are x, y and z in this order."""
    n = int(header["dimension"])
    kinds = [str(kind).lower() for kind in header.get("kinds", ["space"] * n)]
    names, space = [], iter("xyz")
    for i in range(n):
        channel = any(word in kinds[i] for word in _CHANNELS) or (n > 3 and not np.isfinite(_steps(header)[i]).all())
        names.append("c" if channel else "t" if kinds[i] == "time" else next(space, ""))
    return names


def _steps(header: dict[str, Any]) -> list[np.ndarray]:
    """For each axis its vector in space, NaN for one that is not in space; zeros where the header has none."""
    n = int(header["dimension"])
    rows = header.get("space directions")
    if rows is None:
        return [np.zeros(3)] * n
    return [np.full(3, np.nan) if row is None else np.asarray(row, float) for row in rows]


def _level(header: dict[str, Any], axes: list[str], file: pathlib.Path) -> Level:
    if sorted(a for a in axes if a in "xyz") != ["x", "y", "z"]:
        return Level("")
    at = [axes.index(name) for name in "xyz"]
    if "space directions" in header:
        units = list(header.get("space units", [None] * 3))
        size, position = grid_of([_steps(header)[i] for i in at], header.get("space origin"), str(file))
        return Level("", size, tuple(units[:3][::-1]), position)
    if "spacings" in header:
        units = list(header.get("units", [None] * len(axes)))
        size = tuple(float(header["spacings"][i]) for i in at)
        lows = header.get("axis mins", header.get("axismins"))
        position = None if lows is None else [float(lows[i]) for i in at]
        if position is not None:  # of a cell it is the outer face, of a node the point itself
            centres = [str(c).lower() for c in header.get("centers", header.get("centerings", ["cell"] * len(axes)))]
            position = [p + s / 2 * (centres[i] == "cell") for p, s, i in zip(position, size, at, strict=True)]
            position = tuple(position[::-1]) if np.isfinite(position).all() else None
        return Level("", size[::-1], tuple(units[i] for i in at[::-1]), position)
    return Level("")
