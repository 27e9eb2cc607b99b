"""Open neuroglancer precomputed volumes for reading: dimensions x first, resolutions in nm."""

from typing import Any

import tensorstore as ts

from his4mae_jax.data.stores import placement
from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.chunks.opening import open_chunks
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, choose, origin_nm
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

FILE = "info"


def open_precomputed(location: Location, info: dict[str, Any], options: OpenOptions) -> Opened:
    """Opens one scale of a precomputed volume. Indices start at 0; its voxel offset makes its origin.

    Args:
      location: of the folder with `info`.
      info: content of that file.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x, without a channel axis of one element.

    Raises:
      UserError: damaged metadata, or several channels.
    """
    try:
        scales = info["scales"]
        levels = [_level(str(i), scale) for i, scale in enumerate(scales)]
        level, size, factors = choose(levels, options)
        origin = origin_nm(level, levels[0], size)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{location.name}: damaged precomputed metadata ({type(error).__name__}: {brief(error)}); write it again"
        ) from error
    array = open_chunks(
        "neuroglancer_precomputed", location, options.missing_chunks, options.cache_bytes, scale_index=int(level.path)
    )
    array = to_zyx(array, ["x", "y", "z", "channel"], location.name, options.channel)
    return Opened(array[ts.d[:].translate_to[0]], size, factors, origin_nm=origin)


def _level(path: str, scale: dict[str, Any]) -> Level:
    size = tuple(float(v) for v in reversed(scale["resolution"]))
    offset = tuple(reversed(scale.get("voxel_offset", (0, 0, 0))))
    return Level(path, size, ("nm",) * 3, placement.from_voxel_offset(offset, size))
