"""Open a folder of 2D images (TIFF, PNG, JPEG) lazily as one stack."""

import math
import pathlib
import re

import numpy as np

from his4mae_jax.data.formats.single.picture import JPEG, PNG, picture_layout, read_picture
from his4mae_jax.data.formats.tiff.colours import grey_plane
from his4mae_jax.data.formats.tiff.headers import checked_tiff
from his4mae_jax.data.formats.tiff.layout import tiff_layout
from his4mae_jax.data.formats.tiff.metadata import voxel_size
from his4mae_jax.data.formats.tiff.values import tiff_meaning
from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, opened
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError

MOST_CHECKED = 256  # slices of a folder whose headers are checked when it is opened; all are when they are read
TIFF = (".tif", ".tiff")
SUFFIXES = (*TIFF, *PNG, *JPEG)
_Layout = tuple[tuple[int, ...], np.dtype, bool]  # shape, dtype, whether a pixel has several values


def open_slices(folder: pathlib.Path, options: OpenOptions) -> Opened | None:
    """Opens a folder of 2D TIFFs, else PNGs or JPEGs, sorted so that slice 10 follows slice 9, as one stack.

    The headers of at most `MOST_CHECKED` slices, evenly spread, are checked here; of the others only the file's size.
    Any further slice that differs from the first is reported when it is read.

    Args:
      folder: an existing folder.
      options: see `OpenOptions`.

    Returns:
      None where there is none, or the first file is a volume by itself.

    Raises:
      UserError: damaged or unequal slices, or one of their numbers is missing.
    """
    files = _of_one_kind(folder)
    files.sort(key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    if not files:
        return None
    first, level = _layout(files[0], options), Level("")
    if len(first[0]) > 2:
        return None
    _check_numbers(folder, files)
    spread = np.unique(np.linspace(0, len(files) - 1, MOST_CHECKED).round().astype(int))
    for file in files:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty; copy it again")
    for file in [files[i] for i in spread]:
        _check_slice(file, _layout(file, options), first, files[0])
    _read(files[0], options)
    if _is_tiff(files[0]):
        with checked_tiff(files[0]) as tif:
            level = voxel_size(tif, files[0])

    def read(box: tuple[slice, ...]) -> np.ndarray:
        file = files[box[0].start]
        if not file.exists():
            raise UserError(f"{file}: no such file any more; put the slice back")
        _check_slice(file, _layout(file, options), first, files[0])
        return _read(file, options)[None, box[1], box[2]]

    (rows, columns), dtype, coloured = first
    array = virtual_array(read, (len(files), rows, columns), dtype, (1, rows, columns), options.cache_bytes)
    array = to_zyx(array, list("zyx"), str(folder), None if coloured else options.channel)
    return opened(array, level, options)


def _of_one_kind(folder: pathlib.Path) -> list[pathlib.Path]:
    """Files of a folder that may be slices: its TIFFs, else its PNGs or JPEGs, of which one alone is a picture.

    Raises:
      UserError: there are several PNGs and several JPEGs.
    """
    shown = [p for p in folder.iterdir() if not p.name.startswith(".")]
    tiffs, pngs, jpegs = ([p for p in shown if p.suffix.lower() in kind] for kind in (TIFF, PNG, JPEG))
    if tiffs:
        return tiffs
    if len(pngs) > 1 and len(jpegs) > 1:
        raise UserError(f"{folder}: holds {len(pngs)} PNG and {len(jpegs)} JPEG files; keep the slices alone in it")
    most = max(pngs, jpegs, key=len)
    return most if len(most) > 1 else []


def _is_tiff(file: pathlib.Path) -> bool:
    return file.suffix.lower() in TIFF


def _layout(file: pathlib.Path, options: OpenOptions) -> _Layout:
    if not _is_tiff(file):
        return picture_layout(file, options)
    with checked_tiff(file) as tif:
        layout = tiff_layout(tif, file)
        return tuple(layout.shape), tiff_meaning(tif, layout, options, file).dtype, layout.has_colours


def _read(file: pathlib.Path, options: OpenOptions) -> np.ndarray:
    """Returns the grey levels (y, x) of one slice."""
    if not _is_tiff(file):
        return read_picture(file, options)
    with checked_tiff(file) as tif:
        layout = tiff_layout(tif, file)
        values = layout.page.asarray(maxworkers=1)
        if layout.has_colours:
            values = grey_plane(values, layout.page.planarconfig == 2, options.channel, file)
        return tiff_meaning(tif, layout, options, file)(values)


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


def _check_slice(file: pathlib.Path, layout: _Layout, first: _Layout, first_file: pathlib.Path) -> None:
    shape, dtype, _ = layout
    if len(shape) != 2:
        raise UserError(
            f"{file}: shape {shape} is not a 2D slice; give the path of one volume,"
            " or a folder that holds its slices alone"
        )
    if (shape, dtype) != first[:2]:
        raise UserError(
            f"{file}: {shape} {dtype} differs from {first[0]} {first[1]} of {first_file.name}; make all slices alike"
        )
