"""Open neuroglancer precomputed volumes for reading: dimensions x first, resolutions in nm."""

from typing import Any

import tensorstore as ts

from his4mae_jax.data.formats.kvstore import Location, open_array
from his4mae_jax.data.formats.levels import Level, Opened, Wanted, choose
from his4mae_jax.data.formats.units import brief
from his4mae_jax.data.formats.zarr import to_zyx
from his4mae_jax.errors import UserError

FILE = "info"


def open_precomputed(location: Location, info: dict[str, Any], wanted: Wanted) -> Opened:
    """Opens one scale of a precomputed volume; its voxel offset is left out, voxels count from 0.

    Args:
      location: of the folder with `info`.
      info: content of that file.
      wanted: what is asked for.

    Returns:
      The array in the order z, y, x, without the channel axis where it has one element.

    Raises:
      UserError: damaged metadata, or several channels.
    """
    try:
        scales = info["scales"]
        levels = [
            Level(str(i), tuple(float(v) for v in reversed(s["resolution"])), ("nm",) * 3) for i, s in enumerate(scales)
        ]
        level, size, factors = choose(levels, wanted)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{location.name}: damaged precomputed metadata ({type(error).__name__}: {brief(error)}); write it again"
        ) from error
    array = open_array(
        "neuroglancer_precomputed", location, wanted.missing_chunks, wanted.cache_bytes, scale_index=int(level.path)
    )
    array = to_zyx(array, ["x", "y", "z", "channel"], location.name)
    return Opened(array[ts.d[:].translate_to[0]], size, factors)
