"""Open N5 data sets and multiscale groups for reading; N5 lists dimensions x first.

Voxel sizes are taken, in this order, from a data set's own `transform` (COSEM and OpenOrganelle: scale, axes,
units), `pixelResolution` ({"dimensions", "unit"} or a list), `resolution` (daisy, Paintera) or `voxel_size` (funlib),
the last three times its `downsamplingFactors`; then from the same attributes of the group above it, times the group's
`downsamplingFactors` or `scales` for the level (n5-viewer, BigDataViewer, neuroglancer).

Positions are `translate` of a `transform` (COSEM), or `translate` or `offset` beside a resolution, in its units. A
coarser level without its own follows from level 0.
"""

import re
from typing import Any

import numpy as np

from his4mae_jax.data.formats.chunked.cosem import cosem_transform, is_transform
from his4mae_jax.data.stores.axes import named_axes, to_zyx
from his4mae_jax.data.stores.chunks.opening import open_chunks
from his4mae_jax.data.stores.grey import meaning_of, meant
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, choose, origin_nm, with_unit
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.units import brief, numbers
from his4mae_jax.errors import UserError

FILE = "attributes.json"
_MOST_LEVELS = 16  # tried (s0, s1, ...) if a group does not list its levels
_Attributes = dict[str, Any]


def has_levels(location: Location) -> bool:
    """Whether an N5 group is a multiscale volume: a group need not have attributes, its level s0 has."""
    return "dimensions" in location.read_json(f"s0/{FILE}").get(f"s0/{FILE}", {})


def open_n5(location: Location, attributes: _Attributes, options: OpenOptions) -> Opened | None:
    """Opens an N5 data set, or a level of a multiscale group (s0, s1, ...).

    Args:
      location: of the folder.
      attributes: content of its attributes.json; {}: it has none.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x; None for a group that is not a multiscale volume.

    Raises:
      UserError: damaged metadata.
    """
    try:
        if "dimensions" in attributes:
            attributes = _with_axes(attributes, options, location.name)
            above = location.parent()
            around = _quietly(above[0]) if above else {}
            group = {} if "dimensions" in around else around
            level = with_unit(
                _level("", attributes, group, above[1] if above else "", location.name), options, location.name
            )
            size = options.voxel_size_nm or level.size_nm
            origin = origin_nm(level, _first_level(level, above, group), size)
            array = _array(location, attributes, options)
            return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin)
        datasets = {
            path: _with_axes(own, options, location.child(path).name)
            for path, own in _datasets(location, attributes).items()
        }
        if not datasets:
            return None
        levels = [_level(path, own, attributes, path, location.child(path).name) for path, own in datasets.items()]
        levels = [with_unit(levels[0], options, location.name), *(with_unit(one, options, "") for one in levels[1:])]
        level, size, factors = choose(levels, options)
        array = _array(location.child(level.path), datasets[level.path], options)
        return Opened(array, size, factors, level.unknown_units, origin_nm(level, levels[0], size))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{location.name}: damaged N5 metadata ({type(error).__name__}: {brief(error)}); write it again"
        ) from error


def _first_level(level: Level, above: tuple[Location, str] | None, group: _Attributes) -> Level:
    """Level 0 beside a level that was opened by its own path and has no position; else the level itself."""
    if level.translation is not None or above is None or not re.fullmatch(r"s[1-9]\d*", above[1]):
        return level
    own = _quietly(above[0].child("s0"))
    return _level("s0", own, group, "s0", above[0].child("s0").name) if "dimensions" in own else level


def _quietly(location: Location) -> _Attributes:
    try:
        return location.read_json(FILE).get(FILE, {})
    except UserError:
        return {}


def _datasets(location: Location, attributes: _Attributes) -> dict[str, _Attributes]:
    """Returns the attributes of a group's levels by path, from the finest."""
    listed = [d["path"] for d in _first(attributes.get("multiscales")).get("datasets", [])]
    paths = listed or [f"s{i}" for i in range(len(_scales(attributes)) or _MOST_LEVELS)]
    contents = location.read_json(*(f"{path.strip('/')}/{FILE}" for path in paths))
    datasets = {path: contents.get(f"{path.strip('/')}/{FILE}") for path in paths}
    missing = [path for path, own in datasets.items() if not own or "dimensions" not in own]
    if missing and (listed or missing[0] == paths[0]):
        if listed or _scales(attributes):
            raise UserError(
                f"{location.name}: its metadata names the data set {missing[0]!r}, which is not there; "
                "copy the whole folder again"
            )
        return {}
    present = paths[: paths.index(missing[0])] if missing else paths
    return {path: datasets[path] for path in present}


def _array(location: Location, attributes: _Attributes, options: OpenOptions):
    array = open_chunks("n5", location, options.missing_chunks, options.cache_bytes)
    meaning = meaning_of(attributes, array.dtype.numpy_dtype, options.image, location.name)
    array = meant(array, meaning, options.cache_bytes)
    return to_zyx(array, _axes(attributes, array.rank, location.name), location.name, options.channel)


def _with_axes(attributes: _Attributes, options: OpenOptions, name: str) -> _Attributes:
    """The attributes of a data set, with the names of axes that a sidecar gives where they have none."""
    own = named_axes(attributes, name)
    given = options.beside.axes(own and _axes(attributes, len(own), name), name)
    return attributes if own or not given else attributes | {"axes": given}


def _axes(attributes: _Attributes, rank: int, name: str) -> list[str] | None:
    """Returns the names of the stored dimensions: those of the attributes, or x, y, z, ... by convention."""
    own = named_axes({"axes": attributes.get("axes")}, name)
    if own is None:
        others = named_axes({key: value for key, value in attributes.items() if key != "axes"}, name)
        own = others and others[::-1]  # by zarr-python, which lists them the other way round
    if own is None:
        return ["x", "y", "z", "c", "t"][:rank] if 3 <= rank <= 5 else None
    if len(own) != rank or not {"x", "y", "z"} <= set(own):
        raise UserError(
            f"{name}: its metadata name the axes {', '.join(own)} of {rank}, and which of them are x, y and z is not "
            "understood; correct the names there"
        )
    return own


def _first(multiscales: Any) -> dict[str, Any]:
    return multiscales[0] if isinstance(multiscales, list) and multiscales else {}


def _scales(group: _Attributes) -> list:
    """Returns a group's downsampling factors, one list per level; empty if it has none."""
    for key in ("downsamplingFactors", "scales"):
        value = group.get(key)
        if isinstance(value, list) and value and all(isinstance(v, list) for v in value):
            return value
    return []


def _level(path: str, own: _Attributes, group: _Attributes, name: str, place: str) -> Level:
    """Returns one level with its voxel size; `name` is that of its folder, `place` its path or URL."""
    axes = _axes(own, len(own["dimensions"]), place) or ["x", "y", "z"]
    factors = own.get("downsamplingFactors")
    factors = factors if isinstance(factors, list) and not any(isinstance(f, list) for f in factors) else None
    size = _size(own, axes, factors)
    if size is None:
        listed = _first(group.get("multiscales")).get("datasets", [])
        entry = next((d for d in listed if d["path"].strip("/") == name), {})
        index = re.fullmatch(r"s(\d+)", name)
        scales = _scales(group)
        if factors is None and index and int(index.group(1)) < len(scales):
            factors = scales[int(index.group(1))]
        # The group's voxel size is that of level 0: without factors it says nothing about the other levels.
        applies = factors is not None or name in ("s0", "0") or not index
        size = _size(entry, axes, None)
        if size is None and applies:
            size = _size(group, axes, factors)
            if size is not None and any(f != 1 for f in factors or ()):
                size = (*size[:2], None)  # the group's position is that of level 0
    return Level(path) if size is None else Level(path, *size)


def _size(attributes: _Attributes, axes: list[str], factors: list | None):
    """Returns (scale, units, translation or None) in z, y, x from one set of attributes; None without a voxel size."""
    if is_transform(attributes.get("transform")):
        return cosem_transform(attributes["transform"])
    for key in ("pixelResolution", "resolution", "voxel_size"):
        value, units = attributes.get(key), attributes.get("units") or attributes.get("unit")
        position = attributes.get("translate", attributes.get("offset"))
        if key == "voxel_size" and "axis_names" in attributes:  # of funlib: all in the order of NumPy, z first
            value, units, position = (v[::-1] if isinstance(v, list) else v for v in (value, units, position))
        if isinstance(value, dict):
            value, units = value.get("dimensions"), value.get("unit") or units
        if isinstance(value, list) and len(value) >= 3:
            units = units if isinstance(units, list) else [units] * len(axes)
            at = [axes.index(n) for n in "zyx"]
            scale = np.asarray(value, float)
            scale[: len(factors or ())] *= np.asarray(factors or (), float)
            position = numbers(position)
            position = position and tuple(position[i] for i in at)
            return tuple(float(scale[i]) for i in at), tuple(units[i] for i in at), position
    return None
