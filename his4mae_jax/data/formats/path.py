"""Parse how a user names a volume: a path or URL, optionally a data set inside an HDF5 file, a channel and a box.

cell.ome.zarr
~/data/cell.tif[c=1]
s3://bucket/cell.zarr?endpoint=https://minio.lab.org&region=eu-west-1
cell.h5:/volumes/raw
https://host/cell.n5/em/fibsem-uint16[0:500, :, 1000:2000]
cell.czyx.zarr[c=1, 0:500, :, 1000:2000]
"""

import dataclasses
import os
import re

from his4mae_jax.errors import UserError

_RANGE = r"\s*\d*\s*:\s*\d*\s*"
_BOX = rf"({_RANGE}),({_RANGE}),({_RANGE})"
_CHANNEL = r"\s*c\s*=\s*(\d+)\s*"
_ENDS = (  # in the order in which they are tried: a channel and a box in one pair of brackets, or in one each
    re.compile(rf"(?P<place>.*?)\s*\[{_CHANNEL},{_BOX}\]", re.DOTALL),
    re.compile(rf"(?P<place>.*?)\s*\[{_CHANNEL}\]\s*\[{_BOX}\]", re.DOTALL),
    re.compile(rf"(?P<place>.*?)\s*()\[{_BOX}\]", re.DOTALL),
    re.compile(rf"(?P<place>.*?)\s*\[{_CHANNEL}\]()()()", re.DOTALL),
)
_ENDS_LIKE = re.compile(r".*\[[^\[\]/]*[:=][^\[\]/]*\]", re.DOTALL)
_INSIDE = re.compile(r"(.+\.(?:h5|hdf5|hdf)):(/?.*)", re.IGNORECASE | re.DOTALL)

Crop = tuple[tuple[int, int | None], ...]


@dataclasses.dataclass(frozen=True)
class VolumePath:
    """A parsed volume name.

    Attributes:
      place: path or URL.
      inside: path of a data set inside an HDF5 file; empty: the only one.
      crop: (start, stop) for z, y, x in voxels of level 0; stop None: the end of the axis.
      channel: index of a channel; None: the volume has one.
    """

    place: str
    inside: str = ""
    crop: Crop | None = None
    channel: int | None = None


def parse(path: str | os.PathLike) -> VolumePath:
    """Parses a volume name; "~" at its beginning is the home folder.

    Raises:
      UserError: the part in brackets is neither a channel nor three increasing ranges.
    """
    text = os.fspath(path)
    place, crop, channel = _expanded(text), None, None
    # A path that exists as written has no crop, even if its name looks like one.
    if not os.path.exists(place):
        match = next((m for m in (end.fullmatch(place) for end in _ENDS) if m), None)
        if match:
            place, own, *ranges = match.groups()
            channel = int(own) if own else None
            crop = tuple(_range(part, text) for part in ranges) if any(ranges) else None
        elif _ENDS_LIKE.fullmatch(place):
            raise _no_crop(text)
    inside = ""
    match = None if "://" in place or os.path.exists(place) else _INSIDE.fullmatch(place)
    if match:
        place, inside = match.groups()
    return VolumePath(place, inside, crop, channel)


def with_channel(path: str | os.PathLike, channel: int | None) -> str:
    """Returns the name of one channel of a volume: the name itself where it has a channel already.

    Args:
      path: of the volume.
      channel: its index; None or below 0: whatever the name says.
    """
    text = os.fspath(path)
    parsed = parse(text)
    if channel is None or channel < 0 or parsed.channel is not None:
        return text
    if parsed.crop is None:
        return f"{text}[c={channel}]"
    head, _, box = text.rpartition("[")
    return f"{head}[c={channel}, {box.strip()}"


def _expanded(text: str) -> str:
    if not text.startswith("~") or os.path.exists(text):
        return text
    return os.path.expanduser(text)


def _range(part: str, text: str) -> tuple[int, int | None]:
    start, stop = (p.strip() for p in part.split(":"))
    start, stop = int(start or 0), int(stop) if stop else None
    if stop is not None and stop <= start:
        raise _no_crop(text)
    return start, stop


def _no_crop(text: str) -> UserError:
    return UserError(
        f"{text}: the part in brackets is no box; give three increasing ranges of voxels, [z0:z1, y0:y1, x0:x1], where "
        "an empty bound stands for the edge, or a channel, [c=0], or both, [c=0, z0:z1, y0:y1, x0:x1]"
    )
