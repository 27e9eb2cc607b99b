"""Read one slice from a PNG or JPEG file."""

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from his4mae_jax.data.formats.tiff.colours import grey_plane
from his4mae_jax.data.stores.levels import OpenOptions
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

PNG, JPEG = (".png",), (".jpg", ".jpeg")
_GREY = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}
_COLOURS = ("RGB", "RGBA", "LA", "P")


def picture_layout(file: pathlib.Path, options: OpenOptions) -> tuple[tuple[int, int], np.dtype, bool]:
    """Returns the shape (y, x) and dtype of a picture, and whether a pixel has several values; reads its header alone.

    Args:
      file: a PNG or JPEG.
      options: see `OpenOptions`.

    Raises:
      UserError: the file is damaged, a kind of picture that holds no grey levels, or labels in a JPEG.
    """
    with _opened(file) as picture:
        if not options.image and file.suffix.lower() in JPEG:
            raise UserError(f"{file}: labels in a JPEG are not those that were saved (lossy); save them as PNG or TIFF")
        if picture.mode not in _GREY and picture.mode not in _COLOURS:
            raise UserError(f"{file}: holds colours ({picture.mode}); convert it to grey levels")
        return (picture.height, picture.width), np.dtype(_GREY.get(picture.mode, "uint8")), picture.mode in _COLOURS[:3]


def read_picture(file: pathlib.Path, options: OpenOptions) -> np.ndarray:
    """Returns the grey levels (y, x) of a picture; of labels with a palette, their numbers.

    Raises:
      UserError: as `picture_layout`; or it holds colours, and no channel was chosen.
    """
    if file.suffix.lower() in PNG:
        with _opened(file) as picture:
            picture.verify()  # its checksums, of which reading the pixels takes no notice
    with _opened(file) as picture:
        if picture.mode == "P" and options.image:
            picture = picture.convert("RGB")
        values = np.asarray(picture)
    if values.ndim == 3:
        return grey_plane(values, False, options.channel, file)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


@contextmanager
def _opened(file: pathlib.Path) -> Iterator[Image.Image]:
    # Not `Image.open`: it takes a slice of more than 179 megapixels for an attack.
    kind = JpegImagePlugin.JpegImageFile if file.suffix.lower() in JPEG else PngImagePlugin.PngImageFile
    try:
        with kind(file) as picture:
            yield picture
    except (UserError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds
        raise UserError(f"{file}: unreadable picture ({brief(error)}); copy or export it again") from error
