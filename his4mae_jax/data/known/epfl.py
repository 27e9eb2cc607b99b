"""EPFL hippocampus: FIB-SEM of mouse CA1 with annotated mitochondria, two volumes of 165 x 768 x 1024 voxels.

Lucchi et al., "Learning for structured prediction using approximate subgradient descent with working sets",
CVPR 2013, https://www.epfl.ch/labs/cvlab/data/data-em/.
"""

import os
import pathlib
from collections.abc import Iterable

from his4mae_jax.data.known.download import download
from his4mae_jax.data.known.source import Name, Source
from his4mae_jax.data.volumes.labels import Foreground
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log

URL = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus"
HALVES = ("training", "testing")
VOXEL_SIZE_NM = 5.0  # isotropic; the TIFFs do not give it
CLASSES = ("background", "mitochondria")


def candidate_paths(root: str | os.PathLike, half: str, *, labels: bool = False) -> list[pathlib.Path]:
    """The paths at which the image, or the ground truth, of one half may lie; fetched files lie at the first.

    Raises:
      UserError: `half` is none of HALVES.
    """
    if half not in HALVES:
        raise UserError(f"unknown half {half!r} of the EPFL volume; choose one of {', '.join(HALVES)}")
    file = f"{half}_groundtruth.tif" if labels else f"{half}.tif"
    return [pathlib.Path(root) / "epfl" / file, pathlib.Path(root) / file]


def find_file(root: str | os.PathLike, half: str, *, labels: bool = False) -> pathlib.Path:
    """The image, or the ground truth, of one half, in `root` or `root/epfl`.

    Raises:
      UserError: `half` is none of HALVES, or the file is missing.
    """
    paths = candidate_paths(root, half, labels=labels)
    for path in paths:
        if path.is_file():
            return path
    raise UserError(
        f"{paths[0]}: no such file; fetch it with `his4mae fetch`, or download it from {URL}/{paths[0].name}"
    )


def image(name: Name, root: str | os.PathLike, target_nm: float | None) -> Source:
    """Finds the image of one half; see `names.image`."""
    return Source(f"{find_file(root, name.member)}{name.crop}", (VOXEL_SIZE_NM,) * 3)


def labels(name: Name, root: str | os.PathLike) -> VolumeLike:
    """Opens the ground truth of one half: ids that index CLASSES; see `names.labels`."""
    path = find_file(root, name.member, labels=True)
    return Foreground(open_volume(f"{path}{name.crop}", VOXEL_SIZE_NM, image=False))


def fetch(names: Iterable[Name], root: pathlib.Path, target_nm: float | None, log: Log) -> None:
    """Downloads each half and its ground truth to `root/epfl`; see `fetch.fetch`."""
    for half in sorted({name.member for name in names}):
        for truth in (False, True):
            paths = candidate_paths(root, half, labels=truth)
            if any(path.is_file() for path in paths):
                log(f"fetch: EPFL {paths[0].name}: there already")
                continue
            path = download(f"{URL}/{paths[0].name}", paths[0], log)
            try:
                open_volume(path, VOXEL_SIZE_NM, image=not truth)
            except UserError:  # no hash is published: that it opens is what can be checked
                os.replace(path, path.with_name(f"wrong.{path.name}"))
                raise
