"""Open zarr arrays (versions 2 and 3) and OME-Zarr images (0.1 to 0.5) of any writer, for reading."""

from typing import Any

from his4mae_jax.data.formats.chunked.cosem import cosem_transform, is_transform
from his4mae_jax.data.formats.chunked.ome_multiscales import multiscales, ome_levels
from his4mae_jax.data.stores.axes import named_axes, normal, spatial, to_zyx
from his4mae_jax.data.stores.chunks.opening import open_chunks
from his4mae_jax.data.stores.grey import meaning_of, meant
from his4mae_jax.data.stores.levels import Level, Opened, OpenOptions, choose, origin_nm, with_unit
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.units import Triple, brief, numbers, triple
from his4mae_jax.errors import UserError

FILES = ("zarr.json", ".zarray", ".zattrs", ".zgroup")  # every zarr folder has at least one of them
Node = tuple[str, dict[str, Any], bool]  # (TensorStore driver, attributes, whether it is an array)


def open_zarr(location: Location, files: dict[str, dict[str, Any]], options: OpenOptions) -> Opened | None:
    """Opens a zarr array, or a level of an OME-Zarr image.

    Args:
      location: of the folder.
      files: content of those of its `FILES` that exist.
      options: see `OpenOptions`.

    Returns:
      The array in the order z, y, x if the metadata names its axes; None if the folder is not zarr, or a group
      without an image.

    Raises:
      UserError: damaged metadata, or a group with several images.
    """
    own = node(files)
    if own is None:
        return None
    driver, attributes, is_array = own
    if is_array:
        return _open_single(location, driver, attributes, options)
    if not multiscales(attributes):
        return _open_series(location, attributes, options)
    levels, axes = ome_levels(location.name, attributes)
    level, size, factors = choose(levels, options)
    folder = location.child(level.path)
    inner = node(folder.read_json(*FILES))
    if inner is None or not inner[2]:
        raise UserError(
            f"{location.name}: its metadata names the array {level.path!r}, which is not there; "
            "copy the whole folder again"
        )
    array = open_chunks(inner[0], folder, options.missing_chunks, options.cache_bytes)
    axes = axes or named_axes(inner[1], folder.name) or normal(array.domain.labels)
    axes = options.beside.axes(axes, location.name)
    meaning = meaning_of(inner[1], array.dtype.numpy_dtype, options.image, folder.name)
    array = meant(array, meaning, options.cache_bytes)
    origin = origin_nm(level, levels[0], size)
    return Opened(to_zyx(array, axes, location.name, options.channel), size, factors, level.unknown_units, origin)


def _open_series(location: Location, attributes: dict[str, Any], options: OpenOptions) -> Opened | None:
    """Opens the image of a group whose children are images "0", "1", ..., as bioformats2raw writes them."""
    ome = attributes.get("ome") if isinstance(attributes.get("ome"), dict) else {}
    names = ["0", "1"]
    if "bioformats2raw.layout" in attributes or "bioformats2raw.layout" in ome:
        listed = node(location.child("OME").read_json(*FILES))
        series = listed and (listed[1].get("ome") or listed[1]).get("series")
        names = [str(name) for name in series] if isinstance(series, list) and series else names
    images = []
    for name in names:
        files = location.child(name).read_json(*FILES)
        own = node(files)
        if own is not None and not own[2] and multiscales(own[1]):
            images.append((location.child(name), files))
    if len(images) > 1:
        several = ", ".join(image.name for image, _ in images)
        raise UserError(f"{location.name}: holds several images; give the path of one: {several}")
    return open_zarr(*images[0], options) if images else None


def _open_single(location: Location, driver: str, attributes: dict[str, Any], options: OpenOptions) -> Opened:
    """Opens an array by its own path; a level of an OME-Zarr image has its scale in the group above it."""
    own = attributes.get("voxel_size_nm")
    array = open_chunks(driver, location, options.missing_chunks, options.cache_bytes)
    axes = named_axes(attributes, location.name) or normal(array.domain.labels)
    above = location.parent()
    parent, names, levels, entry = None if above is None else node(_quietly(above[0])), None, [], None
    if parent and not parent[2] and multiscales(parent[1]):
        levels, names = ome_levels(above[0].name, parent[1])
        entry = next((one for one in levels if one.path.strip("/") == above[1]), None)
    axes = options.beside.axes((entry and names) or axes, location.name)
    level, first = entry, levels[0] if entry else None
    if entry is None:
        level = first = with_unit(_own_level(attributes, axes, location.name), options, location.name)
    size = options.voxel_size_nm or (triple(own, location.name) if own is not None else level.size_nm)
    if level.translation and level.scale is None and size:  # an offset without a resolution is in nm
        level = first = Level("", size, ("nm",) * 3, level.translation)
    origin = origin_nm(level, first, size)
    meaning = meaning_of(attributes, array.dtype.numpy_dtype, options.image, location.name)
    array = meant(array, meaning, options.cache_bytes)
    return Opened(
        to_zyx(array, axes, location.name, options.channel), size, unknown_units=level.unknown_units, origin_nm=origin
    )


def _own_level(attributes: dict[str, Any], axes: list[str], name: str) -> Level:
    """The voxel size and position in an array's own attributes: of COSEM, n5-viewer, funlib or daisy.

    Raises:
      UserError: a `transform` that is damaged.
    """
    if is_transform(attributes.get("transform")):
        try:
            return Level("", *cosem_transform(attributes["transform"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{name}: damaged attribute transform ({brief(error)}); write it again") from error
    own, units = attributes.get("voxel_size_nm"), attributes.get("units")
    offset = _zyx(attributes.get("offset"), axes)
    if own is not None:
        return Level("", triple(own, name), ("nm",) * 3, offset)
    units = spatial(units, axes) if isinstance(units, list) and len(units) >= 3 else [units] * 3
    size = _zyx(attributes.get("resolution", attributes.get("voxel_size")), axes)
    pixel = attributes.get("pixelResolution")  # of n5-zarr, which lists x first
    if size is None and pixel is not None:
        pixel = pixel if isinstance(pixel, dict) else {"dimensions": pixel}
        size, units = (numbers(pixel.get("dimensions")) or [])[2::-1], [pixel.get("unit")] * 3
        size = tuple(size) or None
    return Level("", size, tuple(units), offset)


def _zyx(value: Any, axes: list[str]) -> Triple | None:
    listed = numbers(value)
    return None if listed is None else tuple(spatial(listed, axes))


def _quietly(location: Location) -> dict[str, dict[str, Any]]:
    """Reads the metadata of the folder above the one asked for; it is optional, so errors do not count."""
    try:
        return location.read_json(*FILES)
    except UserError:
        return {}


def node(files: dict[str, dict[str, Any]]) -> Node | None:
    """What a folder is, by its metadata.

    Args:
      files: content of those of its `FILES` that exist.

    Returns:
      None if it is no zarr.
    """
    if "zarr.json" in files:
        node = files["zarr.json"]
        return "zarr3", node.get("attributes") or {}, node.get("node_type") == "array"
    if not set(files) & set(FILES):
        return None
    return "zarr", files.get(".zattrs", {}), ".zarray" in files
