"""The metadata of OME-Zarr images and label volumes, versions 0.4 and 0.5, as this package writes them.

Level k holds one voxel for f x f x f of level 0. Voxel 0 of level 0 has its centre at 0; that of level k
lies in the middle of the voxels it stands for, (f - 1) / 2 of them further on: its translation.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

VERSIONS = ("0.4", "0.5")
# Colours of label values 1, 2, ... (Okabe and Ito's, told apart by colour-blind readers too).
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (153, 153, 153),
)


def attributes(
    name: str,
    scale: Sequence[float],
    dtype: npt.DTypeLike,
    *,
    version: str,
    label_values: dict[int, str] | None = None,
    channels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What describes an image of one level, "0".

    Args:
      name: of the image.
      scale: edge lengths (z, y, x) of a voxel in nm.
      dtype: of the voxels; it sets the range in which channels are shown.
      version: one of VERSIONS.
      label_values: name of each label value; makes it a label volume. Empty: values are ids without names.
      channels: names of a leading channel axis; None without one.

    Returns:
      The group's attributes in 0.4, what stands under "ome" there in 0.5.
    """
    axes: list[dict[str, str]] = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    if channels is not None:
        axes.insert(0, {"name": "c", "type": "channel"})
    image = {"name": name, "axes": axes, "datasets": [level("0", scale, channel=channels is not None)]}
    # 0.5 says its version once; in 0.4 every part has one.
    own = {"version": version} if version == "0.4" else {}
    found: dict[str, Any] = {"multiscales": [{**own, **image}], **({} if own else {"version": version})}
    if channels is not None:
        found["omero"] = {"channels": [_channel(i, str(c), np.dtype(dtype)) for i, c in enumerate(channels)]}
    if label_values is not None:
        found["image-label"] = dict(own)
        if label_values:  # of instances there are too many: viewers choose their colours
            found["image-label"] |= {
                "colors": [{"label-value": int(v), "rgba": [*_colour(int(v)), 255]} for v in sorted(label_values)],
                "properties": [{"label-value": int(v), "name": label_values[v]} for v in sorted(label_values)],
            }
    return found


def level(
    path: str, scale: Sequence[float], factor: Sequence[int] = (1, 1, 1), *, channel: bool = False
) -> dict[str, Any]:
    """The entry of one level in `datasets`.

    Args:
      path: the level's folder.
      scale: (z, y, x) nm of a voxel of level 0.
      factor: voxels of level 0 (z, y, x) that one of this level stands for.
      channel: there is a channel axis before them.
    """
    scales = [float(s) * f for s, f in zip(scale, factor, strict=True)]
    transforms = [{"type": "scale", "scale": [1.0] * channel + scales}]
    if max(factor) > 1:
        moved = [float(s) * (f - 1) / 2 for s, f in zip(scale, factor, strict=True)]
        transforms.append({"type": "translation", "translation": [0.0] * channel + moved})
    return {"path": path, "coordinateTransformations": transforms}


def scale_of(dataset: dict[str, Any]) -> list[float]:
    """(z, y, x) nm of a voxel of an entry that `level` made."""
    return dataset["coordinateTransformations"][0]["scale"][-3:]


def image_name(folder: pathlib.Path) -> str:
    """The name of an image from that of its folder, partial or not."""
    return folder.name.removeprefix("partial.").removesuffix(".zarr").removesuffix(".ome") or folder.name


def _channel(index: int, name: str, dtype: np.dtype) -> dict[str, Any]:
    """How a viewer shows one channel: floats are probabilities, from 0 to 1."""
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
    colour = "".join(f"{v:02X}" for v in _colour(index))
    return {
        "label": name, "color": colour, "active": True, "window": {"min": 0.0, "max": top, "start": 0.0, "end": top},
    }  # fmt: skip


def _colour(value: int) -> tuple[int, int, int]:
    """RGB of a label value; 0 has a colour, too: it is a class or a cluster like the others."""
    return _COLOURS[value % len(_COLOURS)]
