"""Open zarr arrays and OME-Zarr images (0.4 and 0.5, on a local disk) for reading.

Only folders written elsewhere need all this; `ome_zarr` writes this package's own.
"""

import json
import pathlib
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.data.formats import NM, Triple, brief, triple
from his4mae_jax.errors import UserError

CACHE_BYTES = 1 << 30  # decoded chunks kept in memory, per open volume


def open_zarr(folder: pathlib.Path) -> tuple[ts.TensorStore, Triple | None] | None:
    """Opens a zarr array, or level 0 of an OME-Zarr image, of any zarr version.

    Args:
      folder: a folder that exists.

    Returns:
      (array in the order z, y, x where the metadata name its axes, voxel size in nm or None); or
      None for a folder that is no zarr at all.

    Raises:
      UserError: damaged metadata, or a group without an image.
    """
    node = _zarr_node(folder)
    if node is None:
        return None
    driver, attributes, is_array = node
    axes = None
    if is_array:
        level, size = folder, attributes.get("voxel_size_nm")
        size = None if size is None else triple(size, str(folder))
        # A level of an OME-Zarr image, given by its own path: its scale stands one folder up.
        parent = _zarr_node(folder.resolve().parent)
        if parent and not parent[2] and _multiscales(parent[1]):
            _, axes, scale = _ome_level(folder, parent[1], folder.resolve().name)
            size = size or scale
    elif _multiscales(attributes):
        dataset, axes, size = _ome_level(folder, attributes)
        level = folder / dataset
        inner = _zarr_node(level)
        if inner is None or not inner[2]:
            raise UserError(
                f"{folder}: its metadata names the array {dataset!r}, which is not there; copy the whole folder again"
            )
        driver = inner[0]
    else:
        inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and _zarr_node(p))
        raise UserError(
            f"{folder}: a zarr group without OME-Zarr metadata; give the path of an "
            f"array inside it (found: {', '.join(inside[:8]) or 'none'})"
        )
    # A context of its own: a shared pool would serve stale chunks of a path rewritten meanwhile.
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(level)}, "recheck_cached_data": False}
    try:
        array = ts.open(spec, context=context, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{level}: damaged or unsupported zarr metadata ({brief(error)}); copy or write the volume again"
        ) from error
    return _to_zyx(array, axes, folder), size


def _zarr_node(folder: pathlib.Path) -> tuple[str, dict[str, Any], bool] | None:
    """(TensorStore driver, attributes, is it an array) of a zarr folder; None if it is none."""
    if (folder / "zarr.json").exists():
        node = _json_object(folder / "zarr.json")
        return "zarr3", node.get("attributes") or {}, node.get("node_type") == "array"
    is_array = (folder / ".zarray").exists()
    has_attributes = (folder / ".zattrs").exists()
    if not (is_array or has_attributes or (folder / ".zgroup").exists()):
        return None
    return "zarr", _json_object(folder / ".zattrs") if has_attributes else {}, is_array


def _json_object(file: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file}: damaged zarr metadata, not JSON ({brief(error)}); copy or write the volume again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: damaged zarr metadata, not a JSON object; write it again")
    return value


def _multiscales(attributes: dict[str, Any]) -> Any:
    """The multiscales of OME-Zarr 0.5 (under "ome") or 0.4 (at the top)."""
    ome = attributes.get("ome")
    return (ome if isinstance(ome, dict) else attributes).get("multiscales")


def _ome_level(
    folder: pathlib.Path, attributes: dict[str, Any], dataset: str | None = None
) -> tuple[str, list[str] | None, Triple | None]:
    """(path, axis names, voxel size or None where a unit lacks) of one level; default the first."""
    try:
        image = _multiscales(attributes)[0]
        levels = image["datasets"]
        level = next((d for d in levels if dataset is None or d["path"] == dataset), None)
        if level is None:
            return dataset, None, None
        axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", [])]
        scale = np.ones(len(axes))
        transforms = [*level.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
        scales = [np.asarray(t["scale"], float) for t in transforms if t["type"] == "scale"]
        for s in scales:
            scale = scale * s
        names = [a["name"] for a in axes]
        units = [NM.get(str(a.get("unit")).lower()) for a in axes]
        size = None
        if scales and {"z", "y", "x"} <= set(names):
            at = [names.index(n) for n in "zyx"]
            if all(units[i] for i in at):
                size = triple([scale[i] * units[i] for i in at], str(folder))
        return level["path"], names or None, size
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder}: damaged OME-Zarr metadata ({type(error).__name__}: {brief(error)}); write it again"
        ) from error


def _to_zyx(array: ts.TensorStore, axes: list[str] | None, path: pathlib.Path) -> ts.TensorStore:
    """Drops axes of one element (t, c) and puts the others in the order z, y, x."""
    if axes is None:
        while array.rank > 3 and array.shape[0] == 1:
            array = array[0]
        return array
    if len(axes) != array.rank:
        raise UserError(
            f"{path}: its OME-Zarr metadata names {len(axes)} axes, its array has "
            f"{array.rank}; write the metadata again"
        )
    for i in reversed(range(array.rank)):
        if axes[i] not in ("z", "y", "x") and array.shape[i] == 1:
            array = array[(slice(None),) * i + (0,)]
            axes = axes[:i] + axes[i + 1 :]
    return array.transpose([axes.index(n) for n in "zyx"]) if set(axes) == set("zyx") else array
