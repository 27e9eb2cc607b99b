"""Known data sets by name, in place of paths: `betaseg:high_c1`, `epfl:training`, `openorganelle:jrc_mus-pancreas-1`.

Where a path is asked for (`data.train`, `data.test`, `segment.volume`, and for their ground truth `data.train_labels`
and `data.test_labels`), such a name stands for the volume, or its ground truth. A name may end in a crop,
`[z0:z1, y0:y1, x0:x1]`, as a path may. `fetch` downloads what the names need.
"""

import dataclasses
import os
import pathlib
import re

from his4mae_jax.data.formats.units import Triple
from his4mae_jax.data.known import masks as known
from his4mae_jax.data.known import openorganelle
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError

SETS = ("betaseg", "epfl", "openorganelle")
_NAME = re.compile(rf"({'|'.join(SETS)}):(?!//)([^\[\]]*?)\s*(\[[^\]]*\])?")


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in its parts.

    Attributes:
      set: one of SETS.
      member: the volume of that set.
      crop: "[z0:z1, y0:y1, x0:x1]", or "".
    """

    set: str
    member: str
    crop: str


@dataclasses.dataclass(frozen=True)
class Source:
    """What is opened for a name.

    Attributes:
      path: a path or URL, its crop included.
      voxel_size_nm: z, y, x; None: its metadata say.
      window: grey levels that it is shown in; None: by percentiles.
      invert: True where dark and bright are exchanged.
    """

    path: str
    voxel_size_nm: Triple | None = None
    window: tuple[float, float] | None = None
    invert: bool = False


def parse(spec: str | os.PathLike) -> Name | None:
    """The parts of a name; None for anything else, which is a path or URL."""
    match = _NAME.fullmatch(os.fspath(spec).strip())
    return Name(match[1], match[2], match[3] or "") if match else None


def image(name: Name, root: str | os.PathLike, target_nm: float | None) -> Source:
    """Where the image of a name lies.

    Args:
      root: `data.root`, the folder of downloads; OpenOrganelle's volumes can do without ("").
      target_nm: `data.voxel_size_nm`, which tells one copy of a crop from another.

    Raises:
      UserError: no such volume, or it is not there yet.
    """
    if name.set == "betaseg":
        cell = known.betaseg_cell(_root(root, name), name.member)
        return Source(f"{cell.image_path}{name.crop}", (cell.voxel_size_nm,) * 3)
    if name.set == "epfl":
        path = known.epfl_path(_root(root, name), name.member)
        return Source(f"{path}{name.crop}", (known.EPFL_VOXEL_SIZE_NM,) * 3)
    entry = openorganelle.entry(name.member)
    path = f"{entry.url}{name.crop}"
    if root and name.crop:
        copy = openorganelle.copy_path(pathlib.Path(root), name.member, name.crop, target_nm)
        path = os.fspath(copy) if copy.exists() else path
    return Source(path, None, entry.window, entry.invert)


def labels(name: Name, root: str | os.PathLike) -> VolumeLike:
    """Opens the ground truth of a name; `classes` names its ids.

    Raises:
      UserError: the volume has none, or it is not there yet.
    """
    if name.set == "betaseg":
        return known.betaseg_labels(_root(root, name), name.member, name.crop)
    if name.set == "epfl":
        path = known.epfl_path(_root(root, name), name.member, labels=True)
        return known.AboveZero(open_volume(f"{path}{name.crop}", known.EPFL_VOXEL_SIZE_NM, image=False))
    raise UserError(f"{name.set}:{name.member} has no ground truth; leave the config key of its labels empty")


def classes(name: Name) -> tuple[str, ...]:
    """Names of the label ids of a data set."""
    return {"betaseg": known.BETASEG_CLASSES, "epfl": known.EPFL_CLASSES}.get(name.set, ())


def _root(root: str | os.PathLike, name: Name) -> str | os.PathLike:
    if not root:
        raise UserError(
            f"config key data.root is empty: give the folder of {name.set}'s files, as --config.data.root=..."
        )
    return root
