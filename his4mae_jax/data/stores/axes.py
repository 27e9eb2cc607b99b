"""Which stored axis is z, y or x: what any format says about the names of axes, read in one way.

Names are understood in upper and lower case. Writers keep them under several keys:

- `axistags`: ilastik and vigra, JSON text with a `key` for each axis;
- `_ARRAY_DIMENSIONS`: xarray, in zarr 2;
- `dimension_names`: zarr 3 (TensorStore gives them as labels);
- `axis_names`: funlib, where a "^" marks an axis without a length, such as "c^";
- `axes`: OME-Zarr (dicts with a `name`), N5;
- labels of dimensions and dimension scales in HDF5 (`hdf5` reads them).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorstore as ts

from his4mae_jax.errors import UserError

KEYS = ("axistags", "_ARRAY_DIMENSIONS", "dimension_names", "axis_names", "axis_labels", "axes")
_MEANT = {
    "depth": "z", "plane": "z", "slice": "z", "section": "z", "height": "y", "row": "y", "width": "x", "column": "x",
    "col": "x", "channel": "c", "channels": "c", "time": "t",
}  # fmt: skip
_MOST_CHANNELS = 16  # of an axis without a name
_NO_NAME = re.compile(r"(phony_)?dim(ension)?[_ ]?\d*|axis[_ ]?\d*|d\d+")  # xarray's and netCDF's, for want of a name


def named_axes(attributes: Mapping[str, Any], name: str) -> list[str] | None:
    """Returns the names of the stored axes in the attributes of an array; None if they give none.

    Args:
      attributes: of the array, in plain Python values.
      name: of the volume, for messages.

    Raises:
      UserError: there is a key for names, and what it holds are none.
    """
    for key in KEYS:
        value = attributes.get(key)
        if value is None:
            continue
        listed = value
        try:
            if key == "axistags":
                listed = json.loads(value)["axes"] if isinstance(value, str) else value["axes"]
            names = normal([one.get("name", one.get("key")) if isinstance(one, dict) else one for one in listed])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{name}: the names of its axes are not understood ({key}: {str(value)[:80]}); write a list of names"
            ) from None
        if any(names):
            return names
    return None


def normal(names: Sequence[str | None]) -> list[str]:
    """Names of axes as "z", "y", "x", "c", "t" where they mean these, whatever their case; "" for none.

    Raises:
      TypeError: a name that is no text.
    """
    plain = []
    for one in names:
        if one is not None and not isinstance(one, str):
            raise TypeError(f"{one!r} is no name")
        text = (one or "").strip().lower().rstrip("^")
        plain.append("" if _NO_NAME.fullmatch(text) else _MEANT.get(text, text))
    return plain


def spatial(values: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    """Values that were written beside an array, such as a voxel size, in the order z, y, x.

    Args:
      values: one for each stored axis, or one for each of z, y and x in their stored order.
      names: of the stored axes, see `normal`; None or incomplete: the last three values are z, y, x.
    """
    if names and {"z", "y", "x"} <= set(names):
        own = list(names) if len(values) == len(names) else [n for n in names if n in ("z", "y", "x")]
        if len(own) == len(values):
            return [values[own.index(n)] for n in "zyx"]
    return list(values[-3:])


def to_zyx(
    array: ts.TensorStore, axes: Sequence[str | None] | None, name: str, channel: int | None = None
) -> ts.TensorStore:
    """Drops axes of one element (t, c), chooses a channel, and puts the others in the order z, y, x.

    Args:
      array: of any rank.
      axes: names of its axes; None: the array's own labels or, without names, the stored order without leading and
        trailing axes of one element.
      name: for messages.
      channel: index along the axis of channels, which without names is the first or the last of four, the shorter one;
        None: there is one channel. 0 may be given for a volume without such an axis.

    Raises:
      UserError: the number of names differs from the number of axes, they do not say which is z, y and x, or one of
        several channels or times has to be chosen.
    """
    axes = normal(array.domain.labels if axes is None else axes)
    if any(axes) and len(axes) != array.rank:
        raise UserError(f"{name}: its metadata names {len(axes)} axes, its array has {array.rank}; write it again")
    stored = ", ".join(one or "(none)" for one in axes)
    if not any(axes):
        while array.rank > 3 and array.shape[0] == 1:
            array = array[array.domain.origin[0]]
        while array.rank > 3 and array.shape[-1] == 1:
            array = array[..., array.domain.origin[-1]]
        axes = _by_position(array.shape)
    if channel is not None:
        array, axes = _one_channel(array, axes, channel, name)
    if not any(axes):
        return array
    for i in reversed(range(array.rank)):
        if axes[i] not in ("z", "y", "x") and array.shape[i] == 1:
            array = array[(slice(None),) * i + (array.domain.origin[i],)]
            axes = axes[:i] + axes[i + 1 :]
    if sorted(axes) == ["x", "y", "z"]:
        return array.transpose([axes.index(n) for n in "zyx"])
    known = {"z", "y", "x", "c", "t"}
    if array.rank == 3 or not set(axes) <= known:
        raise UserError(
            f"{name}: its metadata name the axes {stored}, and which of them are z, y and x is not understood; correct "
            "the names there"
        )
    if "c" in axes and array.shape[axes.index("c")] > 1:
        n = array.shape[axes.index("c")]
        raise UserError(
            f"{name}: shape {tuple(array.shape)} is not a 3D volume (z, y, x), but has {n} channels; choose one as "
            f"{name}[c=0] (to {n - 1}), or by the config key data.channel"
        )
    return array


def _by_position(shape: Sequence[int]) -> list[str]:
    """Names of axes without any: of four, the shortest is that of channels if it is the first or the last."""
    if len(shape) == 4 and min(shape) <= _MOST_CHANNELS:
        if shape[0] < min(shape[1:]):
            return ["c", "z", "y", "x"]
        if shape[3] < min(shape[:3]):
            return ["z", "y", "x", "c"]
    return [""] * len(shape)


def _one_channel(array: ts.TensorStore, axes: list[str], channel: int, name: str) -> tuple[ts.TensorStore, list[str]]:
    if "c" not in axes:
        if channel == 0 and array.rank <= 3:
            return array, axes
        raise UserError(
            f"{name}: has no axis of channels to choose channel {channel} from; leave out [c={channel}] or data.channel"
        )
    i = axes.index("c")
    if channel >= array.shape[i]:
        raise UserError(f"{name}: has the channels 0 to {array.shape[i] - 1}, and no channel {channel}; choose another")
    return array[(slice(None),) * i + (array.domain.origin[i] + channel,)], axes[:i] + axes[i + 1 :]
