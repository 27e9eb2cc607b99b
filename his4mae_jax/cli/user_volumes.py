"""Volumes of the user's own, as `his4mae init` sees them: size, grey levels, and ground truth beside them."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from his4mae_jax.cli.process import log
from his4mae_jax.data.volumes.volume import NoVoxelSize, UnlikelyVoxelSize, VolumeLike, open_volume
from his4mae_jax.errors import UserError

MOST_CLASSES = 20  # more label ids are instances, not classes
LABEL_WORDS = re.compile(r"label|seg|mask|truth|annot|(^|[^a-z])gt([^a-z]|$)", re.IGNORECASE)
SUFFIXES = re.compile(
    r"(\.ome)?\.(tiff?|zarr|(zarr\.)?zip|ozx|n5|h5|hdf5|hdf|mrc|rec|precomputed|npy|nii(\.gz)?|nrrd|nhdr)$",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class UserVolume:
    """One volume of the user's.

    Attributes:
      spec: path or URL as given, with a crop if need be.
      volume: as it is stored.
      text: shape, voxel size, dtype and grey levels, for a comment.
      window: grey levels (low, high) that are shown as black and white.
    """

    spec: str
    volume: VolumeLike
    text: str
    window: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Labels:
    """Ground truth beside a volume.

    Attributes:
      spec: its path.
      text: ids with their fraction of the voxels, for a comment.
      names: of the ids 0, 1, ...
      binary: whether every id above 0 is one class.
    """

    spec: str
    text: str
    names: tuple[str, ...]
    binary: bool


def look(spec: str, voxel_size_nm: Sequence[float] | None) -> UserVolume:
    """Open a volume and sample its grey levels; `UserError` where it cannot be used."""
    from his4mae_jax.data.volumes.anisotropy import coarse_axis, size_text
    from his4mae_jax.data.volumes.contrast import contrast_between, sample_content

    try:
        volume = open_volume(spec, voxel_size_nm)
    except NoVoxelSize:
        raise UserError(f"{spec}: its metadata have no voxel size; give it in nm as --voxel-size=Z,Y,X") from None
    except UnlikelyVoxelSize as error:
        problem = str(error).partition("; ")[0]
        raise UserError(f"{problem}; give the right size, or confirm this one, as --voxel-size=Z,Y,X") from None
    values = sample_content(volume)
    contrast = contrast_between(volume, values, (0.1, 99.9))
    text = (
        f"{_shape(volume.shape)} voxels (z, y, x) of {size_text(volume).removesuffix(' (z, y, x)')}, "
        f"{volume.dtype.name}, grey levels {values.min():g} to {values.max():g}"
    )
    axis = coarse_axis(volume)
    if axis is not None:
        text += f", anisotropic: slices are taken across {'zyx'[axis]} only"
    return UserVolume(spec, volume, text, (contrast.low, contrast.high))


def find_labels(image: UserVolume, specs: Sequence[str]) -> Labels | None:
    """Ground truth that lies beside a volume: of the same shape, of an integer type, with a name that says so.

    Args:
      image: a volume; one that is a URL or a crop has no neighbours.
      specs: all volumes of the config, none of which is ground truth.
    """
    path = pathlib.Path(image.spec).expanduser()
    if not path.exists():
        return None
    name, own = stem(path), {pathlib.Path(spec).resolve() for spec in specs}
    near = [p for p in sorted(path.parent.iterdir()) if SUFFIXES.search(p.name) and p.resolve() not in own]
    near = [p for p in near if stem(p).startswith(name) or LABEL_WORDS.search(stem(p))]
    near.sort(key=lambda p: -len(os.path.commonprefix([stem(p), name])))
    for candidate in near:
        try:
            volume = open_volume(candidate, image.volume.voxel_size_nm, image=False)
        except UserError:
            continue
        if volume.shape == image.volume.shape:
            return _describe_labels(str(candidate), volume, image)
    return None


def _describe_labels(spec, volume, image):
    from his4mae_jax.data.label_check import check_labels, percent
    from his4mae_jax.data.volumes.labels import IGNORE

    rows = check_labels(image.volume, volume, (), log=log).rows
    ids = [row.id for row in rows if row.voxels]
    binary = len(ids) > MOST_CLASSES or set(ids) == {0, IGNORE}
    structure = re.sub(r"[\W_]+", " ", stem(pathlib.Path(spec)).removeprefix(stem(pathlib.Path(image.spec)))).strip()
    if binary or set(ids) == {0, 1}:
        word = "structure" if not structure or LABEL_WORDS.search(structure) else structure
        names = ("background", word)
    else:
        names = tuple(f"class {i}" for i in range(max(i for i in ids if i != IGNORE) + 1))
    if len(ids) > MOST_CLASSES:
        return Labels(spec, f"{len(ids):,} ids, taken for instances of one class", names, binary)
    shares = ", ".join(f"id {row.id}: {percent(row.fraction)}" for row in rows if row.voxels)
    return Labels(spec, f"{shares} of the voxels", names, binary)


def stem(path: pathlib.Path) -> str:
    """The name of a volume's file without what stands for its format."""
    return SUFFIXES.sub("", path.name)


def _shape(shape):
    return " x ".join(map(str, shape))
