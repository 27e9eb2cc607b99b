"""Open a folder of 2D images lazily as one stack."""

import math
import pathlib
import re

import numpy as np

from his4mae_jax.data.formats.tiff.headers import checked_tiff, tiff_layout
from his4mae_jax.data.formats.tiff.metadata import voxel_size
from his4mae_jax.data.formats.tiff.values import tiff_meaning
from his4mae_jax.data.stores.levels import Opened, OpenOptions, origin_nm
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError

MOST_CHECKED = 256  # slices of a folder whose headers are checked when it is opened; all are when they are read


SUFFIXES = (".tif", ".tiff")


def open_slices(folder: pathlib.Path, options: OpenOptions) -> Opened | None:
    """Opens a folder of 2D TIFFs, sorted so that slice 10 follows slice 9, as one stack.

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
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    files.sort(key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])
    if not files or _is_volume(files[0], options):
        return None
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
                first, level = (shape, dtype), voxel_size(tif, file)
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


def _is_volume(file: pathlib.Path, options: OpenOptions) -> bool:
    with checked_tiff(file) as tif:
        return len(tiff_layout(tif, file)[0]) > 2


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
