"""Open a volume on disk (zarr, OME-Zarr, TIFF) as a lazy (z, y, x) array with its voxel size.

Everything that can be wrong with a file is looked for when it is opened, so that a bad file stops
a run in its first second and not in its third hour.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import struct
import xml.etree.ElementTree
from typing import Any, NoReturn, Protocol, Sequence

import numpy as np
import tensorstore as ts
import tifffile

from his4mae_jax.errors import UserError

CACHE_BYTES = 1 << 30  # decoded chunks kept in memory, per open volume
IMAGE_DTYPES = ("uint8", "uint16", "int16", "float32")

_NM = {"picometer": 1e-3, "angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6,
       "centimeter": 1e7, "meter": 1e9, "inch": 2.54e7,
       "pm": 1e-3, "å": 0.1, "nm": 1.0, "um": 1e3, "µm": 1e3, "\u03bcm": 1e3, "\\u00b5m": 1e3,
       "micron": 1e3, "microns": 1e3, "mm": 1e6, "cm": 1e7, "m": 1e9}
# TIFF tags that say what and where an image is; bytes of one value of each TIFF type.
_TIFF_TAGS = {258, 270, 273, 279, 324, 325}
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
               16: 8, 17: 8, 18: 8}

Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]


class VolumeLike(Protocol):
    """What every stage may ask of a volume, whether it lies on disk or is computed on reading."""

    @property
    def name(self) -> str: ...
    @property
    def voxel_size_nm(self) -> Triple: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def read(self, slices: Box) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Volume:
    """A lazy 3D array (z, y, x) with its voxel size in nm.

    Attributes:
      name: the path, for messages.
      array: 3D TensorStore in the order z, y, x.
      voxel_size_nm: edge lengths of one voxel (z, y, x) in nm.
    """

    name: str
    array: ts.TensorStore
    voxel_size_nm: Triple

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype.numpy_dtype)

    def read(self, slices: Box) -> np.ndarray:
        """Reads one box, blocking.

        Args:
          slices: (z, y, x) slices of step 1 inside the volume; None stands for the edge.

        Returns:
          An array of the box's shape, owned by the caller.

        Raises:
          IndexError: the box leaves the volume.
          UserError: a chunk on disk is damaged.
        """
        bounds = box_bounds(slices, self.shape)
        lazy = self.array[tuple(slice(low, high) for low, high in bounds)]
        try:
            return lazy.read().result()
        except (ValueError, OSError) as error:
            raise UserError(f"{self.name}: cannot read the data ({_brief(error)}); "
                            "copy the volume again from its source") from error


def box_bounds(slices: Box, shape: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (start, stop) for each axis of a box; IndexError if it leaves `shape`."""
    if len(slices) != len(shape):
        raise IndexError(f"{len(slices)} slices for a volume of {len(shape)} axes")
    bounds = []
    for s, n in zip(slices, shape):
        low = 0 if s.start is None else int(s.start)
        high = n if s.stop is None else int(s.stop)
        if s.step not in (None, 1) or not 0 <= low <= high <= n:
            raise IndexError(f"{s} is not a box of step 1 inside an axis of {n} voxels")
        bounds.append((low, high))
    return bounds


def open_volume(path: str | os.PathLike, voxel_size_nm: float | Sequence[float] | None = None, *,
                image: bool = True) -> Volume:
    """Opens a zarr array, an OME-Zarr group (its level 0), a TIFF stack or a folder of slices.

    Uncompressed TIFF is memory-mapped; compressed TIFF and folders are read into memory once.

    Args:
      path: a file or folder on this machine.
      voxel_size_nm: one number or (z, y, x); None takes it from the metadata.
      image: True demands one of IMAGE_DTYPES; False (labels) any integer or bool dtype.

    Returns:
      The Volume.

    Raises:
      UserError: one line that names the file and the remedy.
    """
    name = os.fspath(path)
    given = None if voxel_size_nm is None else _triple(voxel_size_nm, name)
    if re.match(r"[a-z0-9]+://", name):
        raise UserError(f"{name}: only local paths can be opened; copy the volume to this machine")
    file = pathlib.Path(name)
    try:
        if file.is_dir():
            array, found = _open_folder(file)
        elif file.exists():
            array, found = _open_tiff(file)
        else:
            raise UserError(f"{name}: no such file or folder; check the path")
    except PermissionError as error:
        raise UserError(f"{name}: no permission to read it; check its access rights") from error
    if array.rank != 3:
        raise UserError(f"{name}: shape {tuple(array.shape)} is not a 3D volume (z, y, x); "
                        "save one channel and one time point as a 3D array")
    if 0 in array.shape:
        raise UserError(f"{name}: shape {tuple(array.shape)} is empty; give a volume with voxels")
    dtype = array.dtype.numpy_dtype
    if image and dtype.name not in IMAGE_DTYPES:
        raise UserError(f"{name}: dtype {dtype} is not supported for images; convert it to one of "
                        + ", ".join(IMAGE_DTYPES))
    if not image and dtype.kind not in "iub":
        raise UserError(f"{name}: dtype {dtype} cannot hold labels; convert it to an integer type")
    size = given or found
    if size is None:
        raise UserError(f"{name}: no voxel size with a unit in its metadata; give it in nm as the "
                        "config key data.voxel_size_nm (one number, or z, y, x)")
    return Volume(name, array, size)


def tiff_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """Returns the shape `open_volume` would give a TIFF, from its headers alone."""
    with _tiff(pathlib.Path(path)) as tif:
        shape = _tiff_layout(tif, pathlib.Path(path))[0]
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


def _triple(value: float | Sequence[float], name: str) -> Triple:
    """One number or three, as three; UserError unless positive and finite."""
    try:
        size = tuple(float(v) for v in np.broadcast_to(np.asarray(value, float), (3,)))
    except (TypeError, ValueError):
        size = (0.0,)
    if not all(0 < v < math.inf for v in size):
        raise UserError(f"{name}: voxel size {value!r} is not one positive number in nm or three "
                        "(z, y, x); correct data.voxel_size_nm or the file's metadata")
    return size


def _brief(error: Exception) -> str:
    """The telling part of a library's message: one line, without TensorStore's spec and path."""
    text = re.sub(r'Error reading local file "[^"]*": ', "", str(error).split(" [")[0])
    return " ".join(text.split())[:200] or type(error).__name__


# ---------------------------------------------------------------------------- zarr

def _open_folder(folder: pathlib.Path) -> tuple[ts.TensorStore, Triple | None]:
    node = _zarr_node(folder)
    if node is None:
        return _open_slices(folder)
    driver, attributes, is_array = node
    axes = None
    if is_array:
        level, size = folder, attributes.get("voxel_size_nm")
        size = None if size is None else _triple(size, str(folder))
        # A level of an OME-Zarr image, given by its own path: its scale stands one folder up.
        parent = _zarr_node(folder.resolve().parent)
        if parent and not parent[2] and _multiscales(parent[1]):
            _, axes, scale = _ome_level(folder, parent[1], folder.resolve().name)
            size = size or scale
    elif _multiscales(attributes):
        dataset, axes, size = _ome_level(folder, attributes)
        level = folder / dataset
        inner = _zarr_node(level)
        if inner is None or not inner[2]:
            raise UserError(f"{folder}: its metadata names the array {dataset!r}, which is not "
                            "there; copy the whole folder again")
        driver = inner[0]
    else:
        inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and _zarr_node(p))
        raise UserError(f"{folder}: a zarr group without OME-Zarr metadata; give the path of an "
                        f"array inside it (found: {', '.join(inside[:8]) or 'none'})")
    # A context of its own: a shared pool would serve stale chunks of a path rewritten meanwhile.
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(level)},
            "recheck_cached_data": False}
    try:
        array = ts.open(spec, context=context, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise UserError(f"{level}: damaged or unsupported zarr metadata ({_brief(error)}); "
                        "copy or write the volume again") from error
    return _to_zyx(array, axes, folder), size


def _zarr_node(folder: pathlib.Path) -> tuple[str, dict[str, Any], bool] | None:
    """(TensorStore driver, attributes, is it an array) of a zarr folder; None if it is none."""
    if (folder / "zarr.json").exists():
        node = _json_object(folder / "zarr.json")
        return "zarr3", node.get("attributes") or {}, node.get("node_type") == "array"
    is_array = (folder / ".zarray").exists()
    has_attributes = (folder / ".zattrs").exists()
    if not (is_array or has_attributes or (folder / ".zgroup").exists()):
        return None
    return "zarr", _json_object(folder / ".zattrs") if has_attributes else {}, is_array


def _json_object(file: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: damaged zarr metadata, not JSON ({_brief(error)}); "
                        "copy or write the volume again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged zarr metadata, not a JSON object; write it again")
    return value


def _multiscales(attributes: dict[str, Any]) -> Any:
    """The multiscales of OME-Zarr 0.5 (under "ome") or 0.4 (at the top)."""
    ome = attributes.get("ome")
    return (ome if isinstance(ome, dict) else attributes).get("multiscales")


def _ome_level(folder: pathlib.Path, attributes: dict[str, Any], dataset: str | None = None
               ) -> tuple[str, list[str] | None, Triple | None]:
    """(path, axis names, voxel size or None where a unit lacks) of one level; default the first."""
    try:
        image = _multiscales(attributes)[0]
        levels = image["datasets"]
        level = next((d for d in levels if dataset is None or d["path"] == dataset), None)
        if level is None:
            return dataset, None, None
        axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", [])]
        scale = np.ones(len(axes))
        transforms = [*level.get("coordinateTransformations", []),
                      *image.get("coordinateTransformations", [])]
        scales = [np.asarray(t["scale"], float) for t in transforms if t["type"] == "scale"]
        for s in scales:
            scale = scale * s
        names = [a["name"] for a in axes]
        units = [_NM.get(str(a.get("unit")).lower()) for a in axes]
        size = None
        if scales and {"z", "y", "x"} <= set(names):
            at = [names.index(n) for n in "zyx"]
            if all(units[i] for i in at):
                size = _triple([scale[i] * units[i] for i in at], str(folder))
        return level["path"], names or None, size
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: damaged OME-Zarr metadata ({type(error).__name__}: "
                        f"{_brief(error)}); write it again") from error


def _to_zyx(array: ts.TensorStore, axes: list[str] | None, path: pathlib.Path) -> ts.TensorStore:
    """Drops axes of one element (t, c) and puts the others in the order z, y, x."""
    if axes is None:
        while array.rank > 3 and array.shape[0] == 1:
            array = array[0]
        return array
    if len(axes) != array.rank:
        raise UserError(f"{path}: its OME-Zarr metadata names {len(axes)} axes, its array has "
                        f"{array.rank}; write the metadata again")
    for i in reversed(range(array.rank)):
        if axes[i] not in ("z", "y", "x") and array.shape[i] == 1:
            array = array[(slice(None),) * i + (0,)]
            axes = axes[:i] + axes[i + 1:]
    return array.transpose([axes.index(n) for n in "zyx"]) if set(axes) == set("zyx") else array


# ---------------------------------------------------------------------------- TIFF

@contextlib.contextmanager
def _tiff(file: pathlib.Path):
    """Opens a TIFF; anything that fails inside becomes a UserError naming the file."""
    try:
        _check_tiff_headers(file)
        with tifffile.TiffFile(file) as tif:
            yield tif
    except (UserError, MemoryError, PermissionError):
        raise
    except Exception as error:  # every codec raises exceptions of its own
        if "imagecodecs" in str(error):
            raise UserError(f"{file}: its compression needs the package imagecodecs; "
                            "pip install imagecodecs") from error
        raise UserError(f"{file}: unreadable TIFF ({_brief(error)}); copy or export it again"
                        ) from error


def _truncated(file: pathlib.Path) -> NoReturn:
    raise UserError(f"{file}: truncated TIFF, the end of the file is missing; copy it again")


def _check_tiff_headers(file: pathlib.Path) -> None:
    """Walks the chain of page headers: tifffile only logs one that points past the file's end."""
    end = file.stat().st_size
    if end == 0:
        raise UserError(f"{file}: the file is empty; copy it again")
    with open(file, "rb") as stream:
        header = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        if order is None or len(header) < 8 or header[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
            raise UserError(f"{file}: not a TIFF or zarr volume; convert it to OME-Zarr or TIFF")
        big = 43 in header[2:4]
        if big and len(header) < 16:
            _truncated(file)
        count_code, offset_code, entry = ("Q", "Q", "HHQ8s") if big else ("H", "I", "HHI4s")
        inline = 8 if big else 4
        count_size, entry_size = struct.calcsize(count_code), struct.calcsize("<" + entry)
        offset, = struct.unpack_from(order + offset_code, header, 8 if big else 4)
        seen = set()
        while offset and offset not in seen:
            seen.add(offset)
            stream.seek(offset)
            start = stream.read(count_size)
            if len(start) < count_size:
                _truncated(file)
            count, = struct.unpack(order + count_code, start)
            size = count * entry_size
            if offset + count_size + size + inline > end:
                _truncated(file)
            body = stream.read(size + inline)
            for tag, kind, n, value in struct.iter_unpack(order + entry, body[:size]):
                n_bytes = n * _TIFF_SIZES.get(kind, 1)
                if tag in _TIFF_TAGS and n_bytes > inline:
                    if struct.unpack(order + offset_code, value)[0] + n_bytes > end:
                        _truncated(file)
            offset, = struct.unpack(order + offset_code, body[size:])


def _tiff_layout(tif: tifffile.TiffFile, file: pathlib.Path
                 ) -> tuple[tuple[int, ...], np.dtype, Any]:
    """(shape, dtype, its series or None for one image a page) of a TIFF; checks it is all there."""
    if not tif.series:
        raise UserError(f"{file}: holds no image; export it again")
    series, end = tif.series[0], file.stat().st_size
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > end:
            _truncated(file)
    for page in tif.pages if series.dataoffset is None else ():
        if any(o + n > end for o, n in zip(page.dataoffsets, page.databytecounts)):
            _truncated(file)
    if any(page is None for page in series.pages):
        raise UserError(f"{file}: an OME-TIFF whose other files are missing; put them beside it")
    declared = _tiff_description(tif).get("shape") if tif.is_shaped else None
    planes = series.size // max(1, math.prod(series.shape[-2:]))
    if (declared and math.prod(declared) > series.size) or (
            tif.imagej_metadata and tif.imagej_metadata.get("images", 1) > planes):
        _truncated(file)
    if len(tif.series) == 1:
        return series.shape, series.dtype, series
    # Some writers leave every page on its own: a stack, if all are alike.
    kinds = {(s.shape, s.dtype) for s in tif.series}
    shapes = sorted({s.keyframe.shape for s in tif.series})
    if len(kinds) > 1 or len(series.shape) != 2:
        raise UserError(f"{file}: holds several images, of shapes "
                        f"{', '.join(map(str, shapes[:4]))}; save one stack of equal slices")
    return (len(tif.series), *series.shape), series.dtype, None


def _open_tiff(file: pathlib.Path) -> tuple[ts.TensorStore, Triple | None]:
    with _tiff(file) as tif:
        shape, dtype, series = _tiff_layout(tif, file)
        size = _tiff_voxel_size(tif, file)
        # TensorStore would copy swapped or unaligned numbers, so those are read as one as well.
        usable = series is not None and series.dataoffset is not None and (
            series.dataoffset % dtype.itemsize == 0
            and dtype.newbyteorder(tif.byteorder).isnative)
        if usable:
            data = np.memmap(file, dtype, "r", series.dataoffset, shape)
        else:
            _check_memory(math.prod(shape) * dtype.itemsize, file)
            data = series.asarray() if series is not None else tif.asarray(key=slice(None))
    while data.ndim > 3 and data.shape[0] == 1:
        data = data[0]
    return ts.array(data, write=False), size


def _open_slices(folder: pathlib.Path) -> tuple[ts.TensorStore, Triple | None]:
    """Reads a folder of 2D TIFFs, sorted so that slice 10 follows slice 9, into one stack."""
    files = [p for p in folder.iterdir()
             if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith(".")]
    if not files:
        raise UserError(f"{folder}: holds neither zarr metadata nor TIFF slices; "
                        "give the path of a volume")
    files.sort(key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    first = size = None
    for file in files:  # all headers before any pixel: errors come in the first second
        with _tiff(file) as tif:
            shape, dtype, _ = _tiff_layout(tif, file)
            if first is None:
                first, size = (shape, dtype), _tiff_voxel_size(tif, file)
        if len(shape) != 2:
            raise UserError(f"{file}: shape {shape} is not a 2D slice; give the path of one volume,"
                            " or a folder that holds its slices alone")
        if (shape, dtype) != first:
            raise UserError(f"{file}: {shape} {dtype} differs from {first[0]} {first[1]} of "
                            f"{files[0].name}; make all slices alike")
    _check_memory(len(files) * math.prod(first[0]) * first[1].itemsize, folder)
    stack = np.empty((len(files), *first[0]), first[1].newbyteorder("="))
    for i, file in enumerate(files):
        with _tiff(file) as tif:
            stack[i] = tif.series[0].asarray()
    return ts.array(stack, write=False), size


def _check_memory(n_bytes: int, path: pathlib.Path) -> None:
    """UserError if data that must be read at once cannot fit this machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > total:
        raise UserError(f"{path}: {n_bytes / 1e9:.0f} GB unpacked do not fit the memory of "
                        f"{total / 1e9:.0f} GB; convert it to OME-Zarr")


def _tiff_description(tif: tifffile.TiffFile) -> dict[str, Any]:
    """The first page's description where it is a JSON object, else {}."""
    try:
        value = json.loads(tif.pages[0].description)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _tiff_voxel_size(tif: tifffile.TiffFile, file: pathlib.Path) -> Triple | None:
    """Voxel size from a JSON description, OME-XML or ImageJ's tags; None if none says it all."""
    spacing = _tiff_description(tif).get("spacing_nm")
    if spacing is not None:
        return _triple(spacing, str(file))
    size = []
    if tif.is_ome:
        root = xml.etree.ElementTree.fromstring(tif.ome_metadata)
        pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
        for axis in "ZYX" if pixels is not None else "":
            unit = _NM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())  # OME's default
            size.append(float(pixels.get(f"PhysicalSize{axis}") or 0) * (unit or 0))
    elif tif.imagej_metadata:
        unit = _NM.get(str(tif.imagej_metadata.get("unit")).lower(), 0)
        size.append(float(tif.imagej_metadata.get("spacing", 0)) * unit)
        for tag in ("YResolution", "XResolution"):
            pixels, length = tif.pages[0].tags[tag].value if tag in tif.pages[0].tags else (0, 0)
            size.append(length / pixels * unit if pixels else 0)
    return tuple(size) if len(size) == 3 and all(0 < v < math.inf for v in size) else None
