"""Open a data set of an HDF5 file lazily (extra: hdf5; with Blosc, LZ4, bitshuffle or Zstandard also hdf5plugin).

Voxel size (z, y, x), from the data set's attributes: `voxel_size_nm`; `element_size_um` (ilastik, BigDataViewer);
`resolution` or `voxel_size` with `units` or `unit`, or without, where it is nm (CREMI, funlib). Position: `offset`, in
the same units (CREMI, funlib).
"""

import contextlib
import pathlib

import numpy as np

from his4mae_jax.data.stores.axes import KEYS, named_axes, normal, spatial, to_zyx
from his4mae_jax.data.stores.grey import CF_KEYS, meaning_of
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, origin_nm, with_unit
from his4mae_jax.data.stores.units import brief, numbers, triple
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError

SUFFIXES = (".h5", ".hdf5", ".hdf")
MAGIC = b"\x89HDF\r\n\x1a\n"
_BLOCK_BYTES = 1 << 25  # read at once from a data set without chunks


def open_hdf5(file: pathlib.Path, inside: str, options: OpenOptions) -> Opened:
    """Opens a data set of a file.

    Args:
      file: an existing file.
      inside: path of the data set; empty: the only one with three axes longer than 1.
      options: see `OpenOptions`.

    Raises:
      UserError: h5py, or hdf5plugin for its compression, is not installed, the file is damaged, or it is not clear
        which data set is meant.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{file}: HDF5 needs the package h5py; pip install 'his4mae_jax[hdf5]'") from error
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(h5py.File(file, "r"))
            data = _dataset(h5py, handle, inside, file)
            _need_filters(h5py, data, file)
            axes = _axes(data, file)
            level = with_unit(_level(data, handle, axes, file), options, f"{file}:{data.name}")
            size = options.voxel_size_nm or level.size_nm
            origin = origin_nm(level, level, size)
            shape, dtype = data.shape, data.dtype
            cf = {key: _plain(data.attrs[key]) for key in CF_KEYS if key in data.attrs}
        except PermissionError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{file}: unreadable HDF5 ({brief(error)}); copy or export it again") from error
        if dtype.kind not in "iufb":
            raise UserError(f"{file}: the data set {data.name} holds {dtype}, no numbers; give the path of an image")
        meaning = meaning_of(cf, dtype, options.image, f"{file}:{data.name}")
        stack.pop_all()  # keep the file open: h5py closes it with the last object that refers to it
    chunks = data.chunks or _blocks(shape, dtype.itemsize)
    name = data.name

    def read(box: tuple[slice, ...]) -> np.ndarray:
        try:
            stored = data[box]  # h5py serialises its own calls
        except (OSError, RuntimeError) as error:
            raise UserError(f"{file}:{name}: cannot read the data ({brief(error)}); copy the file again") from error
        return meaning(stored)

    array = to_zyx(
        virtual_array(read, shape, meaning.dtype, chunks, options.cache_bytes), axes, f"{file}:{name}", options.channel
    )
    return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin, inside=name)


def _dataset(h5py, handle, inside: str, file: pathlib.Path):
    datasets = []
    handle.visititems(lambda name, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
    several = [d for d in datasets if len(d.shape or ()) >= 3] or datasets
    names = ", ".join(f"{file}:{d.name} {d.shape}" for d in several[:8]) or "none"
    if inside.strip("/"):
        data = handle.get(inside)
        if not isinstance(data, h5py.Dataset):
            raise UserError(f"{file}: no data set {inside!r} in it; give the path of one that it has: {names}")
        return data
    long_axes = {d: sum(n > 1 for n in d.shape or ()) for d in datasets}
    volumes = [d for d in datasets if long_axes[d] == 3] or [d for d in datasets if long_axes[d] == 4]
    if len(volumes) != 1:
        what = f"{len(volumes)} volumes" if volumes else "no volume of three axes"
        raise UserError(f"{file}: holds {what}; give the path of one: {names}")
    return volumes[0]


def _need_filters(h5py, data, file: pathlib.Path) -> None:
    """Raises UserError where a filter of the data (its compression) is not there, with hdf5plugin if that is."""
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    for code, name in ((one[0], one[3]) for one in filters):
        if h5py.h5z.filter_avail(code):
            continue
        what = f"{name.decode('utf-8', 'replace').partition(';')[0]} (filter {code})"
        try:
            import hdf5plugin  # noqa: F401  it adds its filters to the library that h5py uses
        except ImportError as error:
            raise UserError(
                f"{file}:{data.name}: its compression, {what}, needs the package hdf5plugin; "
                "pip install 'his4mae_jax[hdf5plugin]'"
            ) from error
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{file}:{data.name}: its compression, {what}, is unknown to h5py and to hdf5plugin; write it again "
                "with gzip"
            )


def _axes(data, file: pathlib.Path) -> list[str] | None:
    """Names of the stored axes: of attributes, else the labels of dimensions, else the names of their scales."""
    attributes = {key: _plain(data.attrs[key]) for key in KEYS if key in data.attrs}
    labels = [d.label or (d[0].name.rpartition("/")[2] if len(d) else "") for d in data.dims]
    return named_axes(attributes, f"{file}:{data.name}") or (normal(labels) if any(labels) else None)


def _level(data, handle, axes: list[str] | None, file: pathlib.Path) -> Level:
    attributes = data.attrs
    offset = numbers(_plain(attributes["offset"])) if "offset" in attributes else None
    offset = offset and tuple(spatial(offset, axes))
    if "voxel_size_nm" in attributes:
        return Level("", triple(_plain(attributes["voxel_size_nm"]), str(file)), ("nm",) * 3, offset)
    if "element_size_um" in attributes:
        return Level("", triple(_plain(attributes["element_size_um"]), str(file)), ("um",) * 3, offset)
    for key in ("resolution", "voxel_size"):
        if key in attributes:
            units = _plain(attributes.get("units", attributes.get("unit")))
            if units is None and "file_format" in handle.attrs:  # a CREMI file
                units = "nm"
            units = spatial(units, axes) if isinstance(units, list) else [units] * 3
            size = _plain(attributes[key])
            size = spatial(size, axes) if isinstance(size, list) else size
            return Level("", triple(size, str(file)), tuple(units), offset)
    return Level("")


def _plain(value):
    """Converts an attribute to plain Python values: bytes to text, arrays to lists."""
    if value is not None and not isinstance(value, list | bytes):
        value = np.asarray(value).tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _blocks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Returns the shape of a block: as many whole planes as fit into `_BLOCK_BYTES`, at least one."""
    plane = int(np.prod(shape[-2:], dtype=np.int64)) * itemsize
    planes = max(1, _BLOCK_BYTES // max(plane, 1))
    return (*(1 for _ in shape[:-3]), min(planes, shape[-3]) if len(shape) > 2 else 1, *shape[-2:])[-len(shape) :]
