"""What the numbers in a TIFF stand for: white as 0, colours of a palette, ImageJ's calibration of grey levels."""

import pathlib

import numpy as np
import tifffile

from his4mae_jax.data.formats.tiff.colours import check_colours
from his4mae_jax.data.formats.tiff.layout import Layout
from his4mae_jax.data.stores.grey import Meaning, linear
from his4mae_jax.data.stores.levels import OpenOptions
from his4mae_jax.errors import UserError

_MOST_CHANNELS = 7  # that ImageJ shows together; more are slices that were opened as channels
_WHITE_IS_ZERO, _PALETTE = 0, 3  # values of PhotometricInterpretation


def tiff_meaning(tif: tifffile.TiffFile, layout: Layout, options: OpenOptions, file: pathlib.Path) -> Meaning:
    """Returns the map from stored to meant values of the first page; of colours, of each of them.

    Images are read as viewers show them: inverted where 0 is white, through the palette where that is grey. Labels are
    the stored numbers. ImageJ's linear calibration applies to both (its signed 16-bit images are stored as unsigned).

    Args:
      tif: an open file.
      layout: of the volume in it.
      options: see `OpenOptions`.
      file: for messages.

    Raises:
      UserError: colours, channels, or labels of which nobody can say whether 0 is the background.
    """
    page, image, dtype = layout.page, options.image, np.dtype(layout.dtype).newbyteorder("=")
    if layout.has_colours:
        check_colours(page, options.channel, file)
        return Meaning(dtype)
    if len(layout.shape) == 3 and layout.axes[0] == "C" and layout.shape[0] <= _MOST_CHANNELS:
        raise UserError(
            f"{file}: holds {layout.shape[0]} channels of one section; save one channel as a stack of slices"
        )
    if page.photometric == _PALETTE and image and not tif.is_imagej:  # of ImageJ it is a choice of display
        return _through_palette(page, dtype, file)
    if page.photometric == _WHITE_IS_ZERO and (image or not tif.is_imagej):
        if not image:
            raise UserError(
                f"{file}: labels whose metadata call 0 white (WhiteIsZero), so it is not clear what is background; "
                "save them with 0 as black"
            )
        if dtype.kind != "u" or page.bitspersample != 8 * dtype.itemsize:
            raise UserError(f"{file}: {dtype} whose 0 is white (WhiteIsZero); save it with 0 as black")
        return linear(dtype, -1, float(np.iinfo(dtype).max), image, str(file))
    about = tif.imagej_metadata or {}
    if about.get("cf", None) == 0 and page.photometric != _WHITE_IS_ZERO:  # a straight line: c0 + c1 * stored
        coefficients = [about.get("c0", 0.0), about.get("c1", 1.0)]
        if all(isinstance(c, int | float) for c in coefficients):
            return linear(dtype, coefficients[1], coefficients[0], image, str(file))
    return Meaning(dtype)


def _through_palette(page: tifffile.TiffPage, dtype: np.dtype, file: pathlib.Path) -> Meaning:
    """The grey level of each number of a palette."""
    palette = None if page.colormap is None else np.asarray(page.colormap)
    if palette is None or dtype != np.uint8 or palette.shape[0] != 3 or (palette != palette[0]).any():
        raise UserError(f"{file}: its values are numbers of colours in a palette, no grey levels; convert it to grey")
    levels = (palette[0] // 257 if palette.max() > 255 else palette[0]).astype(np.uint8)
    if np.array_equal(levels, np.arange(256)):
        return Meaning(dtype)
    table = np.zeros(256, np.uint8)
    table[: len(levels)] = levels
    return Meaning(dtype, lambda stored: table[stored])
