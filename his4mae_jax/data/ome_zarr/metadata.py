"""The metadata of OME-Zarr images and label volumes, versions 0.4 and 0.5, as this package writes them.

A voxel of level k covers f x f x f voxels of level 0. Translations are positions of the centre of voxel 0 (see
`stores.placement`): that of level 0 is the volume's origin, that of level k lies in the middle of the voxels it covers,
(f - 1) / 2 voxels of level 0 further. A translation of 0 is left out.

The dicts are built here and not with ome-zarr-models, which would add zarr and pydantic to the dependencies and half a
second to every start. The tests validate with it what is written, in both versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from his4mae_jax import palette
from his4mae_jax.bucket.path import Place
from his4mae_jax.data.stores.placement import ZERO
from his4mae_jax.data.stores.units import Triple

VERSIONS = ("0.4", "0.5")


def attributes(
    name: str,
    scale: Sequence[float],
    dtype: npt.DTypeLike,
    *,
    origin_nm: Triple = ZERO,
    version: str,
    label_values: dict[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    channels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Returns the metadata of an image with one level, "0".

    Args:
      name: of the image.
      scale: edge lengths (z, y, x) of a voxel in nm.
      dtype: of the voxels; sets the display range of channels.
      origin_nm: centre (z, y, x) of voxel (0, 0, 0) in nm.
      version: one of VERSIONS.
      label_values: name of each label value; makes it a label volume. Empty: values are ids without names.
      colours: "#RRGGBB" of each label value; None: those of the palette.
      channels: names of a leading channel axis; None: no such axis.

    Returns:
      The group's attributes in 0.4; their member "ome" in 0.5.
    """
    axes: list[dict[str, str]] = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    if channels is not None:
        axes.insert(0, {"name": "c", "type": "channel"})
    image = {"name": name, "axes": axes, "datasets": []}
    image["datasets"].append(level("0", scale, origin_nm=origin_nm, channel=channels is not None))
    # 0.5 states the version once, 0.4 in every part.
    own = {"version": version} if version == "0.4" else {}
    result: dict[str, Any] = {"multiscales": [{**own, **image}], **({} if own else {"version": version})}
    if channels is not None:
        result["omero"] = {"channels": [_channel(i, str(c), np.dtype(dtype)) for i, c in enumerate(channels)]}
    if label_values is not None:
        result["image-label"] = dict(own)
        if label_values:  # instances are too many to list: viewers choose their colours
            rgb = {
                int(v): palette.rgb(int(v)) if colours is None else bytes.fromhex(colours[v][1:]) for v in label_values
            }
            result["image-label"] |= {
                "colors": [{"label-value": v, "rgba": [*rgb[v], 255]} for v in sorted(rgb)],
                "properties": [{"label-value": int(v), "name": label_values[v]} for v in sorted(label_values)],
            }
    return result


def level(
    path: str,
    scale: Sequence[float],
    factor: Sequence[int] = (1, 1, 1),
    *,
    origin_nm: Triple = ZERO,
    channel: bool = False,
) -> dict[str, Any]:
    """Returns the entry of one level in `datasets`.

    Args:
      path: folder of the level.
      scale: (z, y, x) nm of a voxel of level 0.
      factor: number of voxels of level 0 (z, y, x) that a voxel of this level covers.
      origin_nm: centre (z, y, x) of voxel (0, 0, 0) of level 0 in nm.
      channel: whether there is a leading channel axis.
    """
    scales = [float(s) * f for s, f in zip(scale, factor, strict=True)]
    transforms = [{"type": "scale", "scale": [1.0] * channel + scales}]
    if max(factor) > 1 or any(origin_nm):
        translation = [float(o) + float(s) * (f - 1) / 2 for o, s, f in zip(origin_nm, scale, factor, strict=True)]
        transforms.append({"type": "translation", "translation": [0.0] * channel + translation})
    return {"path": path, "coordinateTransformations": transforms}


def scale_of(dataset: dict[str, Any]) -> list[float]:
    """Returns the voxel size (z, y, x) in nm of an entry made by `level`."""
    return dataset["coordinateTransformations"][0]["scale"][-3:]


def origin_of(dataset: dict[str, Any]) -> Triple:
    """Returns the origin (z, y, x) in nm of an entry made by `level`."""
    transforms = dataset["coordinateTransformations"]
    return tuple(transforms[1]["translation"][-3:]) if len(transforms) > 1 else ZERO


def image_name(folder: Place) -> str:
    """Returns the name of an image from the name of its folder, partial or final."""
    return folder.name.removeprefix("partial.").removesuffix(".zarr").removesuffix(".ome") or folder.name


def _channel(index: int, name: str, dtype: np.dtype) -> dict[str, Any]:
    """Returns how a viewer shows one channel: floats are probabilities, from 0 to 1."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    colour = palette.colour(index + 1).removeprefix("#")  # channels are those of labels 1, 2, ...
    return {
        "label": name, "color": colour, "active": True, "window": {"min": 0.0, "max": top, "start": 0.0, "end": top},
    }  # fmt: skip
