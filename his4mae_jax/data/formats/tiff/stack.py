"""Open TIFF stacks lazily: memory-mapped if they are not compressed, else page by page."""

import contextlib
import math
import pathlib
import weakref

import numpy as np
import tensorstore as ts
import tifffile

from his4mae_jax.data.formats.tiff.colours import grey_plane
from his4mae_jax.data.formats.tiff.headers import (
    check_tiff_headers,
    tiff_errors,
)
from his4mae_jax.data.formats.tiff.layout import Layout, tiff_layout
from his4mae_jax.data.formats.tiff.metadata import voxel_size
from his4mae_jax.data.formats.tiff.values import tiff_meaning
from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Opened, OpenOptions, opened
from his4mae_jax.data.stores.mapped import check_memory, lazy_array
from his4mae_jax.data.stores.virtual_chunked import virtual_array

_AXES = {"Z": "z", "C": "c", "T": "t", "Y": "y", "X": "x"}  # of tifffile's letters


class _Pages:
    """The pages of a TIFF, which stays open as long as this object is referenced."""

    def __init__(
        self, file: pathlib.Path, tif: tifffile.TiffFile, layout: Layout, meaning: Meaning, channel: int | None
    ) -> None:
        self._file, self._layout, self._meaning, self._channel = file, layout, meaning, channel
        tif.filehandle.set_lock(True)  # pages are read in several threads
        weakref.finalize(self, tif.close)

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """Returns the page of a box, whose last two axes are y and x and whose others have one element."""
        index = np.ravel_multi_index([s.start for s in box[:-2]], self._layout.shape[:-2])
        with tiff_errors(self._file):
            plane = _plane(self._layout.pages[index], self._layout, self._channel, self._file)
        return self._meaning(plane[box[-2:]])[(None,) * (len(box) - 2)]


def open_tiff(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens one TIFF; it is memory-mapped if its values are uncompressed, native and aligned, else read page by page.

    The first page is decoded at once, so that a missing codec is reported when the file is opened.

    Args:
      file: an existing file.
      options: see `OpenOptions`.

    Raises:
      UserError: the file is damaged, cut short, or holds several images or colours.
    """
    with tiff_errors(file), contextlib.ExitStack() as stack:
        check_tiff_headers(file)
        tif = stack.enter_context(tifffile.TiffFile(file))
        layout = tiff_layout(tif, file)
        meaning = tiff_meaning(tif, layout, options, file)
        level = voxel_size(tif, file)
        shape, series = layout.shape, layout.series
        # TensorStore would copy a byte-swapped or unaligned array, so those are read page by page as well.
        if (
            series is not None
            and series.dataoffset is not None
            and not layout.has_colours
            and (series.dataoffset % layout.dtype.itemsize == 0 and layout.dtype.newbyteorder(tif.byteorder).isnative)
        ):
            mapped = np.memmap(file, layout.dtype, "r", series.dataoffset, shape)
            array = lazy_array(mapped, meaning, options.cache_bytes)
        elif _by_pages(tif, layout, options, file):
            read = _Pages(file, tif, layout, meaning, options.channel).read
            chunks = (*(1 for _ in shape[:-2]), *shape[-2:])
            array = virtual_array(read, shape, meaning.dtype, chunks, options.cache_bytes)
            stack.pop_all()  # keep the file open
        else:  # a volume in one page, a stack over several files
            check_memory(math.prod(shape) * layout.page.samplesperpixel * layout.dtype.itemsize, file)
            data = series.asarray() if series is not None else tif.asarray(key=[page.index for page in layout.pages])
            if layout.has_colours:
                at = data.ndim - 1 if series is None else series.axes.index("S")
                data = grey_plane(np.moveaxis(data, at, -1), False, options.channel, file)
            array = ts.array(meaning(data.reshape(shape)), write=False)
    channel = None if layout.has_colours else options.channel  # it was one of the colours
    return opened(to_zyx(array, _axes(layout), str(file), channel), level, options)


def _plane(page, layout: Layout, channel: int | None, file: pathlib.Path) -> np.ndarray:
    values = page.asarray(maxworkers=1)
    return grey_plane(values, layout.page.planarconfig == 2, channel, file) if layout.has_colours else values


def _by_pages(tif: tifffile.TiffFile, layout: Layout, options: OpenOptions, file: pathlib.Path) -> bool:
    """Whether each plane of the volume is a page of the file; decodes the first one."""
    pages, shape = layout.pages, layout.shape
    if len(shape) < 3 or len(pages) != math.prod(shape[:-2]) or not all(p.parent is tif for p in pages):
        return False
    return _plane(pages[0], layout, options.channel, file).shape == tuple(shape[-2:])


def _axes(layout: Layout) -> list[str] | None:
    """Names of the axes; None for three: they are taken for z, y and x, whatever a writer calls the first."""
    if len(layout.shape) <= 3 or layout.axes[-2:] != "YX":
        return None
    names = [_AXES.get(letter, "") for letter in layout.axes]
    if "z" not in names:  # of a series of planes, or of times, one is the depth
        depth = [i for i, letter in enumerate(layout.axes) if letter in "IQT" and layout.shape[i] > 1]
        if len(depth) == 1:
            names[depth[0]] = "z"
    return [name or f"axis {i}" for i, name in enumerate(names)]
