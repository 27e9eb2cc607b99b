"""Open TIFF stacks and folders of 2D TIFFs lazily: memory-mapped if they are not compressed, else page by page."""

import contextlib
import math
import os
import pathlib
import re
import weakref
import xml.etree.ElementTree

import numpy as np
import tensorstore as ts
import tifffile

from his4mae_jax.data.formats.tiff_headers import (
    check_tiff_headers,
    checked_tiff,
    tiff_description,
    tiff_errors,
    tiff_layout,
)
from his4mae_jax.data.formats.tiff_values import tiff_meaning
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, origin_nm
from his4mae_jax.data.stores.units import NM, triple
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError

MOST_CHECKED = 256  # slices of a folder whose headers are checked when it is opened; all are when they are read


class _Pages:
    """The pages of a TIFF, which stays open as long as this object is referenced."""

    def __init__(self, file: pathlib.Path, tif: tifffile.TiffFile, pages: list, meaning: Meaning) -> None:
        self._file, self._pages, self._meaning = file, pages, meaning
        tif.filehandle.set_lock(True)  # pages are read in several threads
        weakref.finalize(self, tif.close)

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """Returns the page of a box (1, y, x)."""
        with tiff_errors(self._file):
            page = self._pages[box[0].start].asarray(maxworkers=1)
        return self._meaning(page[None, box[1], box[2]])


def open_tiff(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens one TIFF; it is memory-mapped if its values are uncompressed, native and aligned, else read page by page.

    The first page is decoded at once, so that a missing codec is reported when the file is opened.

    Args:
      file: an existing file.
      options: see `OpenOptions`.

    Raises:
      UserError: the file is damaged, cut short, or holds several images.
    """
    with tiff_errors(file), contextlib.ExitStack() as stack:
        check_tiff_headers(file)
        tif = stack.enter_context(tifffile.TiffFile(file))
        shape, dtype, series = tiff_layout(tif, file)
        meaning = tiff_meaning(tif, dtype, options.image, file)
        level = _voxel_size(tif, file)
        size = options.voxel_size_nm or level.size_nm
        origin = origin_nm(level, level, size)
        while len(shape) > 3 and shape[0] == 1:
            shape = shape[1:]
        # TensorStore would copy a byte-swapped or unaligned array, so those are read page by page as well.
        if (
            series is not None
            and series.dataoffset is not None
            and (series.dataoffset % dtype.itemsize == 0 and dtype.newbyteorder(tif.byteorder).isnative)
        ):
            mapped = np.memmap(file, dtype, "r", series.dataoffset, shape)
            array = ts.array(mapped, write=False) if meaning.apply is None else _by_planes(mapped, meaning, options)
            return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin)
        pages = list(tif.pages if series is None else series.pages)
        by_pages = len(shape) == 3 and len(pages) == shape[0] and all(p.parent is tif for p in pages)
        if by_pages and pages[0].asarray().shape == tuple(shape[1:]):
            array = virtual_array(
                _Pages(file, tif, pages, meaning).read, shape, meaning.dtype, (1, *shape[1:]), options.cache_bytes
            )
            stack.pop_all()  # keep the file open
        else:  # a volume in one page, a stack over several files
            _check_memory(math.prod(shape) * dtype.itemsize, file)
            data = series.asarray() if series is not None else tif.asarray(key=slice(None))
            array = ts.array(meaning(data.reshape(shape)), write=False)
    return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin)


def _by_planes(mapped: np.ndarray, meaning: Meaning, options: OpenOptions) -> ts.TensorStore:
    chunks = (*(1 for _ in mapped.shape[:-2]), *mapped.shape[-2:])
    return virtual_array(lambda box: meaning(mapped[box]), mapped.shape, meaning.dtype, chunks, options.cache_bytes)


def open_slices(folder: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens a folder of 2D TIFFs, sorted so that slice 10 follows slice 9, as one stack.

    The headers of at most `MOST_CHECKED` slices, evenly spread, are checked here; of the others only the file's size.
    Any further slice that differs from the first is reported when it is read.

    Args:
      folder: an existing folder.
      options: see `OpenOptions`.

    Raises:
      UserError: the folder has no slices, damaged or unequal ones, or lacks one of their numbers.
    """
    files = [p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith(".")]
    if not files:
        raise UserError(
            f"{folder}: holds neither zarr, N5 or precomputed metadata nor TIFF slices; give the path of a volume"
        )
    files.sort(key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    _check_numbers(folder, files)
    spread = np.unique(np.linspace(0, len(files) - 1, MOST_CHECKED).round().astype(int))
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty; copy it again")
    first = None
    for file in [files[i] for i in spread]:
        with checked_tiff(file) as tif:
            shape, dtype, _ = tiff_layout(tif, file)
            dtype = tiff_meaning(tif, dtype, options.image, file).dtype
            if first is None:
                first, level = (shape, dtype), _voxel_size(tif, file)
                if len(shape) == 2:
                    tif.pages[0].asarray()
        _check_slice(file, (shape, dtype), first, files[0])

    def read(box: tuple[slice, ...]) -> np.ndarray:
        file = files[box[0].start]
        if not file.exists():
            raise UserError(f"{file}: no such file any more; put the slice back")
        with checked_tiff(file) as tif:
            shape, dtype, _ = tiff_layout(tif, file)
            meaning = tiff_meaning(tif, dtype, options.image, file)
            _check_slice(file, (shape, meaning.dtype), first, files[0])
            return meaning(tif.series[0].asarray(maxworkers=1)[None, box[1], box[2]])

    (rows, columns), dtype = first
    array = virtual_array(read, (len(files), rows, columns), dtype, (1, rows, columns), options.cache_bytes)
    size = options.voxel_size_nm or level.size_nm
    return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin_nm(level, level, size))


def _check_numbers(folder: pathlib.Path, files: list[pathlib.Path]) -> None:
    """Raises UserError where names count the slices, and a number is missing: the others would move together."""
    parts = [re.split(r"(\d+)", p.stem) for p in files]
    if len({tuple(p[::2]) for p in parts}) > 1:  # names of several kinds
        return
    fields = ([int(p[i]) for p in parts] for i in range(1, len(parts[0]), 2))
    numbers = next((sorted(field) for field in fields if len(set(field)) == len(field)), [])
    step = math.gcd(*np.diff(numbers).tolist()) if len(numbers) > 1 else 1
    n_missing = (numbers[-1] - numbers[0]) // step + 1 - len(numbers) if numbers else 0
    if not 0 < n_missing <= len(numbers) // 2:  # numbers with more gaps than that count something else
        return
    there = set(numbers)
    missing = [str(n) for n in range(numbers[0], numbers[-1], step) if n not in there]
    raise UserError(
        f"{folder}: {len(files)} slices from {files[0].name} to {files[-1].name}, without number"
        f"{'s' if n_missing > 1 else ''} {', '.join(missing[:8])}{', ...' if n_missing > 8 else ''}; put it back or, "
        "if it was lost, a copy of the slice beside it"
    )


def _check_slice(file: pathlib.Path, layout: tuple, first: tuple, first_file: pathlib.Path) -> None:
    shape, dtype = layout
    if len(shape) != 2:
        raise UserError(
            f"{file}: shape {shape} is not a 2D slice; give the path of one volume,"
            " or a folder that holds its slices alone"
        )
    if layout != first:
        raise UserError(
            f"{file}: {shape} {dtype} differs from {first[0]} {first[1]} of {first_file.name}; make all slices alike"
        )


def _check_memory(n_bytes: int, path: pathlib.Path) -> None:
    """Raises UserError if data that must be read at once exceeds this machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > total:
        raise UserError(
            f"{path}: {n_bytes / 1e9:.0f} GB unpacked do not fit the memory of "
            f"{total / 1e9:.0f} GB; convert it to OME-Zarr"
        )


def _voxel_size(tif: tifffile.TiffFile, file: pathlib.Path) -> Level:
    """Returns the voxel size from a JSON description, OME-XML or ImageJ's tags; without a scale if it is incomplete."""
    spacing = tiff_description(tif).get("spacing_nm")
    if spacing is not None:
        return Level("", triple(spacing, str(file)), ("nm",) * 3)
    size, units, position = [], [None] * 3, None
    if tif.is_ome:
        root = xml.etree.ElementTree.fromstring(tif.ome_metadata)
        pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
        if pixels is not None:
            units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]  # OME's default
            size = [float(pixels.get(f"PhysicalSize{axis}") or 0) for axis in "ZYX"]
            position = _plane_position(pixels, units)
    elif tif.imagej_metadata:
        about = tif.imagej_metadata  # `unit` is that of all axes that have none of their own
        units = [about.get(key, about.get("unit")) for key in ("zunit", "yunit", "unit")]
        size.append(float(about.get("spacing", 0)))
        for tag in ("YResolution", "XResolution"):
            pixels, length = tif.pages[0].tags[tag].value if tag in tif.pages[0].tags else (0, 0)
            size.append(length / pixels if pixels else 0)
        # Of the point 0, in voxels from the centre of the first.
        origin = [_number(about.get(f"{axis}origin")) for axis in "zyx"]
        position = tuple(-o * s if o else 0.0 for o, s in zip(origin, size, strict=True))
    whole = len(size) == 3 and all(0 < v < math.inf for v in size)
    return Level("", tuple(size), tuple(units), position) if whole else Level("")


def _plane_position(pixels: xml.etree.ElementTree.Element, units: list[str]) -> tuple[float, float, float] | None:
    """Returns Position Z, Y, X of the first plane of OME-XML, in `units`; 0 on an axis without a known unit."""
    planes = [e for e in pixels if e.tag.endswith("}Plane")]
    first = next((p for p in planes if all(p.get(f"The{axis}", "0") == "0" for axis in "ZCT")), None)
    if first is None:
        return None
    position = []
    for axis, unit in zip("ZYX", units, strict=True):
        own, to = (NM.get(str(u).strip().lower()) for u in (first.get(f"Position{axis}Unit"), unit))
        position.append(_number(first.get(f"Position{axis}")) * own / to if own and to else 0.0)
    return tuple(position)


def _number(value: object) -> float:
    """Returns a finite number of metadata that are not checked otherwise; 0 for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
