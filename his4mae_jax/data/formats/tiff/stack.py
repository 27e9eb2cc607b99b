"""Open TIFF stacks lazily: memory-mapped if they are not compressed, else page by page."""

import contextlib
import math
import os
import pathlib
import weakref

import numpy as np
import tensorstore as ts
import tifffile

from his4mae_jax.data.formats.tiff.headers import (
    check_tiff_headers,
    tiff_errors,
    tiff_layout,
)
from his4mae_jax.data.formats.tiff.metadata import voxel_size
from his4mae_jax.data.formats.tiff.values import tiff_meaning
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Opened, OpenOptions, origin_nm
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError


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
        level = voxel_size(tif, file)
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


def _check_memory(n_bytes: int, path: pathlib.Path) -> None:
    """Raises UserError if data that must be read at once exceeds this machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > total:
        raise UserError(
            f"{path}: {n_bytes / 1e9:.0f} GB unpacked do not fit the memory of "
            f"{total / 1e9:.0f} GB; convert it to OME-Zarr"
        )
