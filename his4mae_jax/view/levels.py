"""What a layer shows, read lazily: the levels of its volume, and any coarser grid made from the nearest of them.

Viewers ask for boxes of the grid or, zoomed out, of one whose voxels are blocks of it. A block is read from the
coarsest stored level that fits, so that a large volume is never read as a whole to be shown small.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.pyramid import downsample
from his4mae_jax.data.stores.placement import coarser, origin_of
from his4mae_jax.data.volumes.contrast import Windowed
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import Box, Volume, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.view.layers import IMAGE, INSTANCES, LABELS, Layer

Factor = tuple[int, int, int]
FULL: Factor = (1, 1, 1)
_LEVELS = 7  # of an image that are looked for


@dataclasses.dataclass(frozen=True)
class Levels:
    """A volume with its coarser levels.

    Attributes:
      volumes: by factor, the voxels of level 0 (z, y, x) that a voxel of the level covers; FULL is level 0.
      labels: whether voxels are merged to their most frequent label, and not to their mean.
    """

    volumes: dict[Factor, VolumeLike]
    labels: bool

    @property
    def full(self) -> VolumeLike:
        """Level 0."""
        return self.volumes[FULL]

    def shape(self, factor: Factor = FULL) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the grid whose voxels cover `factor` voxels of level 0; cut blocks count."""
        return tuple(math.ceil(n / f) for n, f in zip(self.full.shape, factor, strict=True))

    def read(self, box: Box, factor: Factor = FULL) -> np.ndarray:
        """Reads a box of the grid whose voxels cover `factor` voxels of level 0.

        Args:
          box: (z, y, x) slices inside `shape(factor)`.
          factor: whole numbers (z, y, x).

        Returns:
          An array of the box's shape and the dtype of level 0.

        Raises:
          UserError: the volume cannot be read.
        """
        fitting = [own for own in self.volumes if all(f % o == 0 for f, o in zip(factor, own, strict=True))]
        level = max(fitting, key=math.prod)
        volume, step = self.volumes[level], [f // o for f, o in zip(factor, level, strict=True)]
        slices = tuple(
            slice(b.start * s, min(b.stop * s, n)) for b, s, n in zip(box, step, volume.shape, strict=True)
        )  # fmt: skip
        block = np.asarray(volume.read(slices))
        if max(step) > 1:
            # As in the levels that are written: instances count like what is around them, labels before no label.
            ignore = UNLABELLED if self.labels and block.dtype == np.uint8 else None
            block = downsample(block, step, labels=self.labels, ignore=ignore)
        return block.astype(self.full.dtype, copy=False)


class Lazy:
    """A grid of `Levels` as an array (z, y, x) that reads what is indexed; viewers take it for a NumPy array."""

    ndim = 3

    def __init__(self, levels: Levels, factor: Factor = FULL) -> None:
        self._levels, self._factor = levels, factor
        self.shape, self.dtype = levels.shape(factor), np.dtype(levels.full.dtype)
        self.size, self.nbytes = math.prod(self.shape), math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads the smallest box around the index, then takes the index of it."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = (*index[:at], *[slice(None)] * (self.ndim + 1 - len(index)), *index[at + 1 :])
        index = (*index, *[slice(None)] * (self.ndim - len(index)))
        box, inner = zip(*(_within(i, n) for i, n in zip(index, self.shape, strict=True)), strict=True)
        if any(b.start == b.stop for b in box):
            return np.zeros([b.stop - b.start for b in box], self.dtype)[inner]
        return self._levels.read(box, self._factor)[inner]

    def transpose(self) -> np.ndarray:
        """Reads the whole grid; (x, y, z)."""
        return np.asarray(self).T

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)


def _within(index: Any, n: int) -> tuple[slice, Any]:
    """The slice of step 1 that holds an index of an axis of n voxels, and the index within it."""
    if isinstance(index, slice):
        chosen = range(*index.indices(n))
        if not chosen:
            return slice(0, 0), slice(None)
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        # A negative step that reaches 0 ends at None.
        last = chosen[-1] - low + (1 if chosen.step > 0 else -1)
        return slice(low, high + 1), slice(chosen[0] - low, None if last < 0 else last, chosen.step)
    i = int(index)
    if not -n <= i < n:
        raise IndexError(f"{i} is outside an axis of {n} voxels")
    return slice(i % n, i % n + 1), 0


def open_levels(layer: Layer, image: VolumeLike) -> Levels:
    """Opens what a layer shows.

    Args:
      layer: as `layers.plan` describes it.
      image: the volume of the layer IMAGE.

    Raises:
      UserError: it cannot be opened.
    """
    if layer.kind == IMAGE:
        return Levels({FULL: image, **_coarser_levels(image)}, labels=False)
    version, attributes = ome_zarr.read_group(layer.path)
    volumes: dict[Factor, VolumeLike] = {}
    for dataset in attributes["multiscales"][0]["datasets"]:
        array = _open(layer, dataset["path"], version)
        size = tuple(ome_metadata.scale_of(dataset))
        factor = tuple(round(s / f) for s, f in zip(size, layer.voxel_size_nm, strict=True))
        volumes[factor] = Volume(str(layer.path), array, size, origin_nm=ome_metadata.origin_of(dataset))
    return Levels(volumes, labels=layer.kind in (LABELS, INSTANCES))


def _open(layer: Layer, path: str, version: str) -> ts.TensorStore:
    try:
        array = ome_zarr.open_array(layer.path / path, version)
    except UserError as error:
        raise UserError(f"{layer.path}: level {path} cannot be read; write the volume again") from error
    return array if layer.channel is None else array[layer.channel]


def _coarser_levels(image: VolumeLike) -> dict[Factor, VolumeLike]:
    """The coarser levels that the file of an image holds, as far as their voxels are blocks of those of the image."""
    while isinstance(image, Windowed):
        image = image.source
    if not isinstance(image, Volume) or image.array.kvstore is None:  # TIFF, HDF5 and MRC have a single level
        return {}
    for voxel_size_nm in (None, image.voxel_size_nm):  # that of the file, or one that the user gave in its place
        seen, found = {image.shape}, {}
        for side in (2**n for n in range(1, _LEVELS)):
            target_nm = [size * side for size in image.voxel_size_nm]
            try:
                level = open_volume(image.name, voxel_size_nm, target_nm=target_nm)
            except UserError:  # a file without a voxel size
                break
            if level.shape not in seen and (factor := _blocks(image, level)):
                found[factor] = level
            seen.add(level.shape)
            if side > 2 and len(seen) == 1:
                break
        if found:
            return found
    return {}


def _blocks(image: VolumeLike, level: VolumeLike) -> Factor | None:
    """Voxels of the image (z, y, x) that a voxel of `level` covers; None where it does not hold whole blocks of them.

    Levels of other programs may be resampled, cut, or placed elsewhere.
    """
    ratios = [a / b for a, b in zip(level.voxel_size_nm, image.voxel_size_nm, strict=True)]
    factor = tuple(max(1, round(r)) for r in ratios)
    shape = tuple(math.ceil(n / f) for n, f in zip(image.shape, factor, strict=True))
    if not np.allclose(ratios, factor, rtol=0.01) or shape != level.shape or level.dtype != image.dtype:
        return None
    expected = coarser(origin_of(image), image.voxel_size_nm, factor)
    return factor if np.allclose(expected, origin_of(level), rtol=0, atol=min(image.voxel_size_nm) / 4) else None
