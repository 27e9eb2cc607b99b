"""WEBKNOSSOS' `datasource-properties.json` in a folder above zarr, N5 or precomputed layers.

`scale` (or `voxelSize`) is {"factor": [x, y, z], "unit": "nanometer"}, or [x, y, z] in nm. Each layer lists its mags:
{"mag": [x, y, z], "path": "./color/2-2-1", "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}}, where `axisOrder` gives the
index of each stored axis. Paths are compared with that of the opened folder, and never followed.
"""

import math
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

from his4mae_jax.data.formats.sidecars.parsing import content_of, damaged
from his4mae_jax.data.stores.axes import normal
from his4mae_jax.data.stores.beside import Sidecar
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.units import NM, Triple, brief, triple
from his4mae_jax.errors import UserError

FILE = "datasource-properties.json"
_MOST_FOLDERS = 4  # above the opened one: dataset/cell.n5/layer/mag


def datasource(location: Location) -> Sidecar | None:
    """Returns what the nearest `datasource-properties.json` says of a folder; None if there is none that lists it.

    Raises:
      UserError: it is damaged.
    """
    place, inside = location, ""
    for _ in range(_MOST_FOLDERS + 1):
        try:
            content = content_of(pathlib.Path(place.path, FILE)) if place.on_disk else place.read(FILE).get(FILE)
        except UserError:  # of a folder that may not be read: the volume itself says more
            return None
        if content is not None:
            return _of_layers(place, place.json_object(FILE, content), inside)
        above = place.parent()
        if above is None:
            return None
        place, inside = above[0], posixpath.join(above[1], inside).rstrip("/")
    return None


def _of_layers(place: Location, content: dict[str, Any], inside: str) -> Sidecar | None:
    name = place.child(FILE).name
    try:
        found = [mag for layer in content.get("dataLayers") or [] for mag in _mags(layer, inside)]
        if not found:
            return None
        mag, axes = min(found, key=lambda one: math.prod(one[0]))
        scale = content.get("scale", content.get("voxelSize"))
        return Sidecar(name, None if scale is None else _size_nm(scale, mag), axes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise damaged(name, f"{type(error).__name__}: {brief(error)}") from error


def _mags(layer: dict[str, Any], inside: str) -> Iterator[tuple[Triple, tuple[str, ...] | None]]:
    """(mag (x, y, z), names of axes) of those mags of a layer that are the opened folder, or lie in it."""
    for entry in layer.get("mags") or []:
        mag = _mag(entry["mag"])
        folder = "-".join(f"{m:g}" for m in (mag[:1] if len(set(mag)) == 1 else mag))
        path = str(entry.get("path") or f"{layer['name']}/{folder}")
        # Relative to the dataset or, as older versions write it, to the layer.
        for own in (posixpath.normpath(path), posixpath.normpath(f"{layer['name']}/{path}")):
            if inside and inside in (own, posixpath.dirname(own)):
                yield mag, _axes(entry.get("axisOrder"), layer.get("additionalAxes") or [])
                break


def _mag(value: Any) -> Triple:
    if isinstance(value, str):
        value = [float(v) for v in value.split("-")]
    return _three(value * 3 if isinstance(value, list) and len(value) == 1 else value, "mag")


def _three(value: Any, what: str) -> Triple:
    try:
        return triple(value, what)
    except UserError:
        raise ValueError(f"{what} {value!r} is not three positive numbers (x, y, z)") from None


def _axes(order: Any, more: list[dict[str, Any]]) -> tuple[str, ...] | None:
    """Names of the stored axes; None without z, as of a single section."""
    if order is None or not {"x", "y", "z"} <= set(order):
        return None
    at = {int(index): axis for axis, index in order.items()}
    at |= {int(one["index"]): str(one["name"]) for one in more if int(one["index"]) not in at}
    if not set(at) == set(range(len(at))) or len(at) < len(order):
        raise ValueError(f"axisOrder {order} does not give each stored axis one index")
    return tuple(normal([at[i] for i in range(len(at))]))


def _size_nm(scale: Any, mag: Triple) -> Triple:
    about = scale if isinstance(scale, dict) else {"factor": scale}
    unit = NM.get(str(about.get("unit") or "nanometer").strip().lower())
    if unit is None:
        raise ValueError(f"unit {about['unit']!r}")
    factor = about["factor"]
    if not isinstance(factor, list) or len(factor) != 3:
        raise ValueError(f"scale {factor!r} is not [x, y, z]")
    return tuple(f * unit * m for f, m in zip(_three(factor, "scale"), mag, strict=True))[::-1]
