"""OpenOrganelle: FIB-SEM of mouse pancreas, four volumes that are streamed from their public bucket.

Janelia's COSEM project team publishes raw tissue as multiscale N5 and OME-Zarr, https://openorganelle.janelia.org.
The volumes fill a small part of their grey range, some with dark and bright exchanged, so each entry gives the window
in which its authors show it.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable

from his4mae_jax.data.known.convert import to_ome_zarr
from his4mae_jax.data.known.source import Name, Source
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log

BUCKET = "s3://janelia-cosem-datasets"
CLASSES = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One volume of the bucket.

    Attributes:
      path: of its multiscale group, below BUCKET; its metadata give voxel size and axes.
      window: grey levels shown as black and white; None: percentiles, as for any volume.
      invert: True where stained material is stored bright.
    """

    path: str
    window: tuple[float, float] | None = None
    invert: bool = False

    @property
    def url(self) -> str:
        return f"{BUCKET}/{self.path}"


VOLUMES = {
    # 3.4 x 4 x 4 nm (z, y, x); 7312 x 5000 x 7500 voxels
    "jrc_mus-pancreas-1": Entry("jrc_mus-pancreas-1/jrc_mus-pancreas-1.n5/em/fibsem-uint16", (7077, 13041), True),
    "jrc_mus-pancreas-2": Entry("jrc_mus-pancreas-2/jrc_mus-pancreas-2.n5/em/fibsem-uint8", (233, 248)),  # 4 nm
    "jrc_mus-pancreas-3": Entry("jrc_mus-pancreas-3/jrc_mus-pancreas-3.n5/em/fibsem-uint16", (658, 955), True),
    "jrc_mus-pancreas-4": Entry("jrc_mus-pancreas-4/jrc_mus-pancreas-4.zarr/recon-1/em/fibsem-uint8"),
}


def find_entry(name: str) -> Entry:
    """One of VOLUMES.

    Raises:
      UserError: there is no volume of that name.
    """
    if name not in VOLUMES:
        raise UserError(f"unknown OpenOrganelle volume {name!r}; choose one of {', '.join(VOLUMES)}")
    return VOLUMES[name]


def copy_path(root: str | os.PathLike, name: Name, target_nm: float | None) -> pathlib.Path:
    """Where `fetch` puts the copy of a crop: one folder for each crop and voxel size."""
    box = re.sub(r"[\[\]\s]", "", name.crop).replace(":", "-").replace(",", "_")
    level = f"{target_nm:g}nm" if target_nm else "full"
    return pathlib.Path(root) / "openorganelle" / f"{name.member}_{box}_{level}.ome.zarr"


def image(name: Name, root: str | os.PathLike, target_nm: float | None) -> Source:
    """The copy of a crop where `fetch` made one, else the bucket; see `names.image`."""
    entry = find_entry(name.member)
    path = f"{entry.url}{name.crop}"
    if root and name.crop:
        copy = copy_path(root, name, target_nm)
        path = os.fspath(copy) if copy.exists() else path
    return Source(path, None, entry.window, entry.invert)


def labels(name: Name, root: str | os.PathLike) -> VolumeLike:
    """Raises `UserError`: these volumes have no ground truth."""
    raise UserError(f"{name.set}:{name.member} has no ground truth; leave the config key of its labels empty")


def fetch(names: Iterable[Name], root: pathlib.Path, target_nm: float | None, log: Log) -> None:
    """Copies the crops that are named; whole volumes are streamed. See `fetch.fetch`."""
    for name in names:
        entry = find_entry(name.member)
        if not name.crop:
            log(f"fetch: {name.set}:{name.member} is streamed from {entry.url}; name a crop of it to have that copied")
            continue
        path = copy_path(root, name, target_nm)
        if path.exists():
            log(f"fetch: {path}: there already")
            continue
        volume = open_volume(f"{entry.url}{name.crop}", target_nm=target_nm)
        to_ome_zarr(volume, path, log, source=f"{entry.url}{name.crop} {target_nm}")
