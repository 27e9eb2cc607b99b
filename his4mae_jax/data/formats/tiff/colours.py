"""Grey levels that were stored as colours: the same value in red, green and blue."""

import pathlib

import numpy as np
import tifffile

from his4mae_jax.errors import UserError

_SEPARATED = 5  # cyan, magenta, yellow and black, a value of PhotometricInterpretation


def check_colours(page: tifffile.TiffPage, channel: int | None, file: pathlib.Path) -> None:
    """Raises UserError for values of a pixel that are no grey level with a copy or two, and no channel was chosen."""
    n = page.samplesperpixel
    if channel is None and (page.photometric == _SEPARATED or n > 4):
        raise _no_grey(file, n)


def grey_plane(values: np.ndarray, planar: bool, channel: int | None, file: pathlib.Path | str) -> np.ndarray:
    """Returns the grey levels (y, x) of a picture in colours.

    Args:
      values: (y, x, samples): grey, grey and opacity, red, green and blue, or these and opacity.
      planar: they are (samples, y, x).
      channel: index of the sample to return; None: the one level that red, green and blue share.
      file: for messages.

    Raises:
      UserError: red, green and blue differ and `channel` is None, or there is no such channel.
    """
    values = values if planar else np.moveaxis(values, -1, 0)
    if channel is not None:
        if channel >= len(values):
            raise UserError(
                f"{file}: has the channels 0 to {len(values) - 1}, and no channel {channel}; choose another"
            )
        return values[channel]
    if len(values) > 2 and any((values[0] != other).any() for other in values[1:3]):
        raise _no_grey(file, len(values))
    return values[0]


def _no_grey(file: pathlib.Path | str, n: int) -> UserError:
    return UserError(
        f"{file}: holds colours ({n} values a pixel, which differ); convert it to grey levels, or choose one of the "
        "values as PATH[c=0], or by the config key data.channel"
    )
