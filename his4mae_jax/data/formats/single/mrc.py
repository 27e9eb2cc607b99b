"""Open MRC files (IMOD, cryo-EM) lazily (extra: mrc). Their header has voxel size and position in ångström."""

import math
import pathlib

import numpy as np

from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, opened
from his4mae_jax.data.stores.mapped import lazy_array
from his4mae_jax.data.stores.units import Triple, brief
from his4mae_jax.errors import UserError

SUFFIXES = (".mrc", ".rec", ".mrcs", ".map", ".st", ".ali", ".preali")
MAGIC, MAGIC_AT = b"MAP ", 208  # files of other names
_IMOD = 1146047817  # stamp in the header of files that IMOD wrote
_SIGNED_BYTES = 1  # IMOD's flag for bytes that are stored as signed
_STANDARD_SIGN = 4  # IMOD's flag for an origin with the sign that MRC 2014 defines


def open_mrc(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens an MRC file of real numbers; it is memory-mapped if its values are in native byte order and aligned.

    Args:
      file: an existing file.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x, whatever order the header's axes have.

    Raises:
      UserError: mrcfile is not installed, or the file is damaged or cut short.
    """
    try:
        import mrcfile
    except ImportError as error:
        raise UserError(f"{file}: MRC needs the package mrcfile; pip install 'his4mae_jax[mrc]'") from error
    try:
        header = _header(mrcfile, file)
        shape, dtype = mrcfile.utils.data_shape_from_header(header), mrcfile.utils.data_dtype_from_header(header)
        begin = header.nbytes + int(header.nsymbt)
        surplus = file.stat().st_size - begin - math.prod(shape) * dtype.itemsize
        if surplus < 0:
            raise ValueError(f"{-surplus} bytes of {shape} {dtype} voxels are missing")
        data = np.memmap(file, dtype, "r", begin, shape)
        stored = [int(header[name]) for name in ("maps", "mapr", "mapc")]
        size = _voxel_size(header)
        position = _position(header, stored, size)
        meaning = _meaning(header, data, options.image, file)
    except PermissionError:
        raise
    except (ValueError, OSError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{file}: unreadable MRC ({brief(error)}); copy or export it again") from error
    if data.ndim != 3:
        raise UserError(f"{file}: shape {data.shape} is not a 3D volume (z, y, x); save one volume")
    if surplus >= data[0].nbytes:
        raise UserError(
            f"{file}: holds {surplus} bytes more than the {data.shape} voxels of its header; export it again"
        )
    if meaning.dtype == np.uint8 and meaning.apply is None:
        data = data.view(np.uint8)
    array = lazy_array(data, meaning, options.cache_bytes)
    if sorted(stored) == [1, 2, 3]:  # 1, 2, 3 are x, y, z
        array = array.transpose([stored.index(axis) for axis in (3, 2, 1)])
    array = to_zyx(array, list("zyx"), str(file), options.channel)
    level = Level("", size, ("nm",) * 3, position)
    return opened(array, level, options)


def _header(mrcfile, file: pathlib.Path) -> np.recarray:
    """Reads the header in the byte order in which it makes sense.

    Older writers have other machine stamps than MRC 2014, or none: then its mode and the size of the file decide, and
    also where they contradict the stamp.

    Raises:
      ValueError: no byte order makes sense.
    """
    with open(file, "rb") as stream:
        start = stream.read(mrcfile.dtypes.HEADER_DTYPE.itemsize)
    orders = "><" if start[212:213] == b"\x11" else "<>"
    headers = [
        np.frombuffer(start, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(o)).reshape(()).view(np.recarray) for o in orders
    ]
    known = [header for header in headers if _mode(mrcfile, header) and min(header.nx, header.ny, header.nz) > 0]
    if not known:
        raise ValueError(f"no grey levels or sizes that MRC has in its header: mode {int(headers[0].mode)}")
    n_bytes = file.stat().st_size
    return next((header for header in known if _end(mrcfile, header) <= n_bytes), known[0])


def _mode(mrcfile, header) -> bool:
    try:
        mrcfile.utils.dtype_from_mode(header.mode)
    except ValueError:
        return False
    return int(header.nsymbt) >= 0


def _end(mrcfile, header) -> int:
    """Where the data of a file ends that has this header."""
    shape = (int(header.nz), int(header.ny), int(header.nx))
    return header.nbytes + int(header.nsymbt) + math.prod(shape) * mrcfile.utils.dtype_from_mode(header.mode).itemsize


def _stamped(header, flag: int) -> bool | None:
    """Whether IMOD's flags hold one; None in the header of another program."""
    stamp, flags = np.frombuffer(header.tobytes()[152:160], header.nx.dtype)
    return bool(flags & flag) if stamp == _IMOD else None


def _meaning(header, data: np.ndarray, image: bool, file: pathlib.Path) -> Meaning:
    """What stored values stand for: bytes (mode 0) may be signed or not.

    IMOD stores unsigned bytes, or bytes from which it took 128, and says so by a flag. MRC 2014 has signed bytes, but
    many programs write unsigned ones. Then the header's statistics decide, or all values being below 128.

    Raises:
      UserError: nothing decides.
    """
    if data.dtype != np.int8:
        return Meaning(data.dtype.newbyteorder("="))
    shifted = _stamped(header, _SIGNED_BYTES)
    if shifted:
        return Meaning(np.dtype(np.uint8), lambda stored: stored.view(np.uint8) ^ np.uint8(128))
    low, high = float(header.dmin), float(header.dmax)
    if shifted is None and -128 <= low < 0 and low <= high <= 127:
        return Meaning(np.dtype(np.int16), lambda stored: stored.astype(np.int16)) if image else Meaning(data.dtype)
    if shifted is None and not 0 <= low < high <= 255 and any((plane < 0).any() for plane in data):
        raise UserError(
            f"{file}: its bytes (mode 0) may be signed or not, and its header does not say which; save it with 16 "
            "bits, or by IMOD"
        )
    return Meaning(np.dtype(np.uint8))


def _voxel_size(header) -> Triple | None:
    """Returns the voxel size in nm; None if the header has none, or 1 Å on every axis, a common default."""
    size = tuple(
        float(header.cella[axis]) / int(header[f"m{axis}"]) / 10 if header[f"m{axis}"] > 0 else 0.0 for axis in "zyx"
    )
    return size if all(0 < v < np.inf for v in size) and not np.allclose(size, 0.1) else None


def _position(header, stored: list[int], size: Triple | None) -> Triple | None:
    """Returns the centre of the first voxel in nm: `origin`, or where that is 0 `nxstart`, `nystart`, `nzstart`.

    IMOD stores the origin with the opposite sign unless a flag in its stamped header says otherwise.
    """
    if bytes(header.map)[:3] != b"MAP":  # a header of before 2000, with the origin in other places
        origin = [0.0]
    else:
        origin = [float(header.origin[axis]) / 10 for axis in "zyx"]
    if any(origin) and np.all(np.isfinite(origin)):
        sign = -1.0 if _stamped(header, _STANDARD_SIGN) is False else 1.0
        return tuple(sign * o for o in origin)
    starts = [int(header[name]) for name in ("nzstart", "nystart", "nxstart")]  # of sections, rows, columns
    if size is None or sorted(stored) != [1, 2, 3]:
        return None
    return tuple(starts[stored.index(axis)] * s for axis, s in zip((3, 2, 1), size, strict=True))
