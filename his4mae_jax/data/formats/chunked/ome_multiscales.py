"""Read the multiscales metadata of OME-Zarr (0.1 to 0.5): levels, axes and voxel sizes."""

from typing import Any

import numpy as np

from his4mae_jax.data.stores.axes import normal
from his4mae_jax.data.stores.levels import Level
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError


def multiscales(attributes: dict[str, Any]) -> Any:
    """Returns the multiscales of OME-Zarr 0.5 (under "ome") or 0.4 (at the top level); None if there are none."""
    ome = attributes.get("ome")
    return (ome if isinstance(ome, dict) else attributes).get("multiscales")


def ome_levels(name: str, attributes: dict[str, Any]) -> tuple[list[Level], list[str] | None]:
    """Returns the levels and axes of the first image of a group.

    Args:
      name: of the group, for messages.
      attributes: of the group, with multiscales.

    Returns:
      (levels from the finest, axis names or None if the metadata has none). A level's scale is None unless z, y and x
      are all there and a transformation has a scale. Transformations are composed in order, those of the level first;
      a coarser level without a translation of its own has None.

    Raises:
      UserError: the metadata does not follow OME-Zarr.
    """
    try:
        image = multiscales(attributes)[0]
        axes = [a if isinstance(a, dict) else {"name": a} for a in image.get("axes", [])]
        names, units = normal([a["name"] for a in axes]), [a.get("unit") for a in axes]
        at = [names.index(n) for n in "zyx"] if {"z", "y", "x"} <= set(names) else None
        common = image.get("coordinateTransformations", [])
        levels = []
        for dataset in image["datasets"]:
            transforms = [*dataset.get("coordinateTransformations", []), *common]
            scales = [np.asarray(t["scale"], float) for t in transforms if t["type"] == "scale"]
            scale, position = np.ones(len(axes)), np.zeros(len(axes))
            for t in transforms:
                if t["type"] == "scale":
                    scale, position = scale * np.asarray(t["scale"], float), position * np.asarray(t["scale"], float)
                elif t["type"] == "translation":
                    position = position + np.asarray(t["translation"], float)
            if scales and at:
                size, own = tuple(float(scale[i]) for i in at), tuple(float(position[i]) for i in at)
                moved = any(t["type"] == "translation" for t in dataset.get("coordinateTransformations", []))
                units_zyx = tuple(units[i] for i in at)
                level = Level(dataset["path"], size, units_zyx, own if moved or not levels else None)
            else:
                level = Level(dataset["path"])
            levels.append(level)
        levels[0].path.strip("/")  # fails unless there is a level with a path
        return levels, names or None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{name}: damaged OME-Zarr metadata ({type(error).__name__}: {brief(error)}); write it again"
        ) from error
