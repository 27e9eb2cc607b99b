"""Open TIFF stacks and folders of 2D TIFFs, and find the damaged ones before they are read."""

import contextlib
import json
import math
import os
import pathlib
import re
import struct
import xml.etree.ElementTree
from typing import Any, NoReturn

import numpy as np
import tensorstore as ts
import tifffile

from his4mae_jax.data.formats import NM, Triple, brief, triple
from his4mae_jax.errors import UserError

# TIFF tags that say what and where an image is; bytes of one value of each TIFF type.
_TIFF_TAGS = {258, 270, 273, 279, 324, 325}
_TIFF_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip


def tiff_shape(path: str | os.PathLike) -> tuple[int, ...]:
    """Returns the shape `open_volume` would give a TIFF, from its headers alone."""
    with _tiff(pathlib.Path(path)) as tif:
        shape = _tiff_layout(tif, pathlib.Path(path))[0]
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    return tuple(shape)


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
            raise UserError(
                f"{file}: its compression needs the package imagecodecs; pip install imagecodecs"
            ) from error
        raise UserError(f"{file}: unreadable TIFF ({brief(error)}); copy or export it again") from error


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
        (offset,) = struct.unpack_from(order + offset_code, header, 8 if big else 4)
        seen = set()
        while offset and offset not in seen:
            seen.add(offset)
            stream.seek(offset)
            start = stream.read(count_size)
            if len(start) < count_size:
                _truncated(file)
            (count,) = struct.unpack(order + count_code, start)
            size = count * entry_size
            if offset + count_size + size + inline > end:
                _truncated(file)
            body = stream.read(size + inline)
            for tag, kind, n, value in struct.iter_unpack(order + entry, body[:size]):
                n_bytes = n * _TIFF_SIZES.get(kind, 1)
                if tag in _TIFF_TAGS and n_bytes > inline:
                    if struct.unpack(order + offset_code, value)[0] + n_bytes > end:
                        _truncated(file)
            (offset,) = struct.unpack(order + offset_code, body[size:])


def _tiff_layout(tif: tifffile.TiffFile, file: pathlib.Path) -> tuple[tuple[int, ...], np.dtype, Any]:
    """(shape, dtype, its series or None for one image a page) of a TIFF; checks it is all there."""
    if not tif.series:
        raise UserError(f"{file}: holds no image; export it again")
    series, end = tif.series[0], file.stat().st_size
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > end:
            _truncated(file)
    for page in tif.pages if series.dataoffset is None else ():
        if any(o + n > end for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)):
            _truncated(file)
    if any(page is None for page in series.pages):
        raise UserError(f"{file}: an OME-TIFF whose other files are missing; put them beside it")
    declared = _tiff_description(tif).get("shape") if tif.is_shaped else None
    planes = series.size // max(1, math.prod(series.shape[-2:]))
    if (declared and math.prod(declared) > series.size) or (
        tif.imagej_metadata and tif.imagej_metadata.get("images", 1) > planes
    ):
        _truncated(file)
    if len(tif.series) == 1:
        return series.shape, series.dtype, series
    # Some writers leave every page on its own: a stack, if all are alike.
    kinds = {(s.shape, s.dtype) for s in tif.series}
    shapes = sorted({s.keyframe.shape for s in tif.series})
    if len(kinds) > 1 or len(series.shape) != 2:
        raise UserError(
            f"{file}: holds several images, of shapes {', '.join(map(str, shapes[:4]))}; save one stack of equal slices"
        )
    return (len(tif.series), *series.shape), series.dtype, None


def open_tiff(file: pathlib.Path) -> tuple[ts.TensorStore, Triple | None]:
    """Opens one TIFF: memory-mapped where its numbers can be used as they lie, else read at once.

    Returns:
      (array, voxel size in nm or None where the file does not say all three).

    Raises:
      UserError: the file is damaged, cut short, or holds several images.
    """
    with _tiff(file) as tif:
        shape, dtype, series = _tiff_layout(tif, file)
        size = _tiff_voxel_size(tif, file)
        # TensorStore would copy swapped or unaligned numbers, so those are read as one as well.
        usable = (
            series is not None
            and series.dataoffset is not None
            and (series.dataoffset % dtype.itemsize == 0 and dtype.newbyteorder(tif.byteorder).isnative)
        )
        if usable:
            data = np.memmap(file, dtype, "r", series.dataoffset, shape)
        else:
            _check_memory(math.prod(shape) * dtype.itemsize, file)
            data = series.asarray() if series is not None else tif.asarray(key=slice(None))
    while data.ndim > 3 and data.shape[0] == 1:
        data = data[0]
    return ts.array(data, write=False), size


def open_slices(folder: pathlib.Path) -> tuple[ts.TensorStore, Triple | None]:
    """Reads a folder of 2D TIFFs, sorted so that slice 10 follows slice 9, into one stack."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith(".")]
    if not files:
        raise UserError(f"{folder}: holds neither zarr metadata nor TIFF slices; give the path of a volume")
    files.sort(key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    first = size = None
    for file in files:  # all headers before any pixel: errors come in the first second
        with _tiff(file) as tif:
            shape, dtype, _ = _tiff_layout(tif, file)
            if first is None:
                first, size = (shape, dtype), _tiff_voxel_size(tif, file)
        if len(shape) != 2:
            raise UserError(
                f"{file}: shape {shape} is not a 2D slice; give the path of one volume,"
                " or a folder that holds its slices alone"
            )
        if (shape, dtype) != first:
            raise UserError(
                f"{file}: {shape} {dtype} differs from {first[0]} {first[1]} of {files[0].name}; make all slices alike"
            )
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
        raise UserError(
            f"{path}: {n_bytes / 1e9:.0f} GB unpacked do not fit the memory of "
            f"{total / 1e9:.0f} GB; convert it to OME-Zarr"
        )


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
        return triple(spacing, str(file))
    size = []
    if tif.is_ome:
        root = xml.etree.ElementTree.fromstring(tif.ome_metadata)
        pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
        for axis in "ZYX" if pixels is not None else "":
            unit = NM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())  # OME's default
            size.append(float(pixels.get(f"PhysicalSize{axis}") or 0) * (unit or 0))
    elif tif.imagej_metadata:
        unit = NM.get(str(tif.imagej_metadata.get("unit")).lower(), 0)
        size.append(float(tif.imagej_metadata.get("spacing", 0)) * unit)
        for tag in ("YResolution", "XResolution"):
            pixels, length = tif.pages[0].tags[tag].value if tag in tif.pages[0].tags else (0, 0)
            size.append(length / pixels * unit if pixels else 0)
    return tuple(size) if len(size) == 3 and all(0 < v < math.inf for v in size) else None
