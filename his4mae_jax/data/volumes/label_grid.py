"""Ground truth on the grid of its image: at the image's voxel size, at the place that both have in their metadata."""

import dataclasses

import numpy as np

from his4mae_jax.data.stores.placement import moved, origin_of
from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.resample import ResampledVolume, resample
from his4mae_jax.data.volumes.volume import Box, View, VolumeLike, box_bounds
from his4mae_jax.errors import UserError


def resample_labels(labels: VolumeLike, image: VolumeLike) -> VolumeLike:
    """Returns a label volume on the grid of its image: same shape, same voxel size.

    Labels of the image's extent are taken to cover it, as most label files have no position. Where the metadata of
    both have one and they differ by more than half a voxel, or the extents differ, the labels are put where their
    metadata say, to the nearest voxel; the rest of the image is `IGNORE`.

    Args:
      labels: ids at any voxel size.
      image: the volume that is labelled.

    Raises:
      UserError: the extents differ by more than two voxels of the coarser one and there are no positions to go by, or
        the two do not overlap.
    """
    sizes = list(zip(labels.shape, labels.voxel_size_nm, image.shape, image.voxel_size_nm, strict=True))
    alike = all(abs(n * s - m * t) <= 2 * max(s, t) for n, s, m, t in sizes)
    corners = zip(_corner(labels), _corner(image), sizes, strict=True)
    differ = any(abs(a - b) > 0.501 * max(s, t) for a, b, (_, s, _, t) in corners)
    if alike and not (differ and _is_placed(labels) and _is_placed(image)):
        resampled = resample(labels, image.voxel_size_nm, labels=True)
        if resampled.shape == image.shape:
            return resampled
        return ResampledVolume(labels, image.voxel_size_nm, True, image.shape)
    on_image = _on_grid(labels, image)
    # A position of 0 may mean that there is none, unless the image has none either.
    comparable = _is_placed(labels) or not _is_placed(image)
    known = comparable and (differ or _is_placed(labels))
    if known and on_image.overlaps:
        return on_image
    place = f", nor overlap: they lie at {_text(labels)} and {_text(image)} nm" if known else ""
    raise UserError(
        f"{labels.name}: labels of {labels.shape} voxels (z, y, x) of {labels.voxel_size_nm} nm do not fit the "
        f"image {image.name} of {image.shape} of {image.voxel_size_nm} nm{place}; give labels of the same "
        "volume, or, where the metadata of either are wrong, the voxel size of both as data.file_voxel_size_nm"
    )


@dataclasses.dataclass(frozen=True)
class Placed(View):
    """Labels on the grid of a larger or smaller image.

    Attributes:
      image: whose shape and position it has.
      first: index (z, y, x) of the first voxel of the image among those of `source`, maybe negative.
    """

    image: VolumeLike
    first: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.image.shape)

    @property
    def origin_nm(self) -> Triple:
        return origin_of(self.image)

    @property
    def dtype(self) -> np.dtype:
        dtype = self.source.dtype
        return np.result_type(dtype, np.uint8) if dtype.kind != "b" else np.dtype(np.uint8)  # holds IGNORE

    @property
    def chunks(self) -> tuple[int, int, int]:
        return tuple(min(64, n) for n in self.shape)

    @property
    def overlaps(self) -> bool:
        """Whether any voxel of the image has a label."""
        return all(f < n and f + m > 0 for f, n, m in zip(self.first, self.source.shape, self.shape, strict=True))

    def read(self, slices: Box) -> np.ndarray:
        """Reads a box; `IGNORE` where the labels do not reach. See `Volume.read`."""
        bounds = [(a + f, b + f) for (a, b), f in zip(box_bounds(slices, self.shape), self.first, strict=True)]
        inside = [(max(a, 0), min(b, n)) for (a, b), n in zip(bounds, self.source.shape, strict=True)]
        out = np.full([b - a for a, b in bounds], IGNORE, self.dtype)
        if all(a < b for a, b in inside):
            own = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(inside, bounds, strict=True))
            out[own] = self.source.read(tuple(slice(*i) for i in inside))
        return out


def _on_grid(labels: VolumeLike, image: VolumeLike) -> Placed:
    """The labels at the voxel size of the image, moved by whole voxels to where their positions say."""
    resampled = resample(labels, image.voxel_size_nm, labels=True)
    away = zip(origin_of(image), origin_of(resampled), image.voxel_size_nm, strict=True)
    return Placed(resampled, image, tuple(round((a - b) / t) for a, b, t in away))


def _corner(volume: VolumeLike) -> Triple:
    """Where the first voxel begins."""
    return moved(origin_of(volume), volume.voxel_size_nm, (-0.5,) * 3)


def _is_placed(volume: VolumeLike) -> bool:
    """Whether the file that a volume is read from gives a position."""
    while hasattr(volume, "source"):
        volume = volume.source
    return getattr(volume, "placed", any(origin_of(volume)))


def _text(volume: VolumeLike) -> str:
    return "(" + ", ".join(f"{p:g}" for p in origin_of(volume)) + ")"
