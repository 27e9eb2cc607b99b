"""Parse how a user names a volume: a path or URL, optionally a data set inside an HDF5 file and a box.

cell.ome.zarr
s3://bucket/cell.zarr?endpoint=https://minio.lab.org&region=eu-west-1
cell.h5:/volumes/raw
https://host/cell.n5/em/fibsem-uint16[0:500, :, 1000:2000]
"""

import dataclasses
import os
import re

from his4mae_jax.errors import UserError

_RANGE = r"\s*\d*\s*:\s*\d*\s*"
_CROP = re.compile(rf"(.*?)\s*\[({_RANGE}),({_RANGE}),({_RANGE})\]", re.DOTALL)
_CROP_LIKE = re.compile(r".*\[[^\[\]/]*:[^\[\]/]*\]", re.DOTALL)
_INSIDE = re.compile(r"(.+\.(?:h5|hdf5|hdf)):(/?.*)", re.IGNORECASE | re.DOTALL)

Crop = tuple[tuple[int, int | None], ...]


@dataclasses.dataclass(frozen=True)
class VolumePath:
    """A parsed volume name.

    Attributes:
      place: path or URL.
      inside: path of a data set inside an HDF5 file; empty: the only one.
      crop: (start, stop) for z, y, x in voxels of level 0; stop None: the end of the axis.
    """

    place: str
    inside: str = ""
    crop: Crop | None = None


def parse(path: str | os.PathLike) -> VolumePath:
    """Parses a volume name.

    Raises:
      UserError: a crop that is not three increasing ranges.
    """
    text = os.fspath(path)
    place, crop = text, None
    # A path that exists as written has no crop, even if its name looks like one.
    match = None if os.path.exists(text) else _CROP.fullmatch(text)
    if match:
        place, crop = match.group(1), tuple(_range(part, text) for part in match.groups()[1:])
    elif _CROP_LIKE.fullmatch(text) and not os.path.exists(text):
        raise _no_crop(text)
    inside = ""
    match = None if "://" in place or os.path.exists(place) else _INSIDE.fullmatch(place)
    if match:
        place, inside = match.groups()
    return VolumePath(place, inside, crop)


def _range(part: str, text: str) -> tuple[int, int | None]:
    start, stop = (p.strip() for p in part.split(":"))
    start, stop = int(start or 0), int(stop) if stop else None
    if stop is not None and stop <= start:
        raise _no_crop(text)
    return start, stop


def _no_crop(text: str) -> UserError:
    return UserError(
        f"{text}: the part in brackets is no box; give three increasing ranges of voxels, [z0:z1, y0:y1, x0:x1], where "
        "an empty bound stands for the edge"
    )
