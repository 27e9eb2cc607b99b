"""Resample a volume lazily to another voxel size, axis by axis.

Target voxel i has its centre at (i + 0.5) f - 0.5 in source voxels, f = target size / source size
(half-pixel centres: both grids cover the same space). Along each axis the source is smoothed and then interpolated
linearly. Each voxel is assumed to have a blur of sigma 0.5 of its edge. Going from 0.5 to 0.5 f source voxels needs a
Gaussian of sigma = sqrt((0.5 f)^2 - 0.5^2) = 0.5 sqrt(f^2 - 1) where the axis shrinks (f > 1), and none where it grows.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.stores.placement import coarser, origin_of
from his4mae_jax.data.volumes.blocks import stored_of, voxels
from his4mae_jax.data.volumes.volume import Box, Triple, VolumeLike, box_bounds, chunks_of
from his4mae_jax.errors import UserError

TOLERANCE = 0.01  # a voxel size within 1 % of the target is the target
_TRUNCATE = 4.0  # the Gaussian ends at this many sigma
_READ_BYTES = 1 << 25  # of the source read at once
_PIECE = 1 << 22  # source voxels computed on at once: a large box needs no further copy of itself in float32

_Bounds = list[tuple[int, int]]  # (start, stop) in target voxels, for each axis
_Taps = tuple[np.ndarray, np.ndarray]  # source indices and weights (target, taps), of one axis


@dataclasses.dataclass(frozen=True)
class ResampledVolume:
    """A volume at another voxel size; it has the interface of Volume.

    Attributes:
      source: the volume that is read.
      voxel_size_nm: the target voxel size (z, y, x).
      labels: True picks the nearest source voxel, False smooths and interpolates.
      grid: shape (z, y, x) to use, such as that of an image over the same space; None: follows from the source.
    """

    source: VolumeLike
    voxel_size_nm: Triple
    labels: bool = False
    grid: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    @property
    def factors(self) -> Triple:
        """Target size / source size for each axis."""
        return tuple(t / s for t, s in zip(self.voxel_size_nm, self.source.voxel_size_nm, strict=True))

    @property
    def origin_nm(self) -> Triple:
        """Centre (z, y, x) of the first target voxel, which begins at the same corner as the first of the source."""
        return coarser(origin_of(self.source), self.source.voxel_size_nm, self.factors)

    @property
    def shape(self) -> tuple[int, int, int]:
        if self.grid:
            return self.grid
        # 1e-6: a ratio such as 6 / 0.1 * 0.3 must not lose a voxel to rounding.
        return tuple(max(1, math.floor(n / f + 1e-6)) for n, f in zip(self.source.shape, self.factors, strict=True))

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) that about one chunk of the source is resampled to."""
        sides = zip(chunks_of(self.source), self.factors, self.shape, strict=True)
        return tuple(min(max(1, round(c / f)), n) for c, f, n in sides)

    @functools.cached_property
    def stored(self) -> Stored | None:
        """What of the source is stored, in these voxels."""
        own = stored_of(self.source)
        reach = [1 if self.labels else _radius(f) + 1 for f in self.factors]
        return own and own.resampled(self.shape, self.factors, reach)

    def read(self, slices: Box) -> np.ndarray:
        """Reads a box of the target grid, and of the source only what that box needs.

        A voxel is computed from the same numbers in the same order whatever box it is in, so a box equals that part of
        the whole volume bit for bit.

        Args:
          slices: (z, y, x) slices of step 1 inside this volume's shape.

        Returns:
          An array of the box's shape and the source's dtype; integers are rounded.

        Raises:
          IndexError: the box leaves the volume.
        """
        bounds = box_bounds(slices, self.shape)
        out = np.empty([high - low for low, high in bounds], self.dtype)
        if out.size:
            self._fill(out, bounds)
        return out

    def _fill(self, out: np.ndarray, bounds: _Bounds) -> None:
        """Reads the source of the box `bounds` and computes it into `out`; in halves while the source is large.

        Halves are cut across the axis with the most chunks. A chunk is decoded as a whole, so cutting through
        chunks (the pages of a TIFF, for example) would decode each of them once for every part.
        """
        box = _source_box(self._taps(bounds))
        chunks = chunks_of(self.source)
        counts = [-(-b.stop // chunk) - b.start // chunk for b, chunk in zip(box, chunks, strict=True)]
        axis = max(range(3), key=lambda a: (out.shape[a] > 1, counts[a], box[a].stop - box[a].start))
        if voxels(box) * self.dtype.itemsize > _READ_BYTES and out.shape[axis] > 1:
            for half, part in _halves(out, bounds, axis):
                self._fill(half, part)
        else:
            self._compute(out, bounds, self.source.read(box), [b.start for b in box])

    def _compute(self, out: np.ndarray, bounds: _Bounds, source: np.ndarray, origin: Sequence[int]) -> None:
        """Computes the box `bounds` into `out`, from the part of the source that begins at `origin`."""
        taps = self._taps(bounds)
        box = _source_box(taps)
        axis = max(range(3), key=lambda a: (out.shape[a] > 1, box[a].stop - box[a].start))
        if voxels(box) > _PIECE and out.shape[axis] > 1:
            for half, part in _halves(out, bounds, axis):
                self._compute(half, part, source, origin)
            return
        source = source[tuple(slice(b.start - o, b.stop - o) for b, o in zip(box, origin, strict=True))]
        if self.labels:
            out[...] = source[np.ix_(*(index[:, 0] - b.start for (index, _), b in zip(taps, box, strict=True)))]
            return
        values = source.astype(np.float32)
        for axis, ((index, weight), b) in enumerate(zip(taps, box, strict=True)):
            values = _apply(values, axis, index - b.start, weight)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
        out[...] = values  # cast

    def _taps(self, bounds: _Bounds) -> list[_Taps]:
        taps = _nearest_taps if self.labels else _linear_taps
        return [taps(*b, f, n) for b, f, n in zip(bounds, self.factors, self.source.shape, strict=True)]


def resample(volume: VolumeLike, voxel_size_nm: float | Sequence[float], *, labels: bool = False) -> VolumeLike:
    """Returns the volume at another voxel size, computed on reading.

    The shape is floor(source shape * source size / target size), at least 1.

    Args:
      volume: anything with the interface of Volume.
      voxel_size_nm: target edge length in nm, one number or (z, y, x).
      labels: True for label volumes (nearest voxel, no mixing of ids).

    Returns:
      The same object if every axis is within 1 % of the target, else a ResampledVolume.

    Raises:
      UserError: the target is not a positive number.
    """
    target = tuple(float(t) for t in np.broadcast_to(voxel_size_nm, (3,)))
    if not all(0 < t < math.inf for t in target):
        raise UserError(f"{volume.name}: cannot resample to {voxel_size_nm} nm; give a positive voxel size")
    if all(abs(s / t - 1) <= TOLERANCE for s, t in zip(volume.voxel_size_nm, target, strict=True)):
        return volume
    return ResampledVolume(volume, target, labels)


def _source_box(taps: Sequence[_Taps]) -> Box:
    """The box of the source that holds all taps."""
    return tuple(slice(int(index.min()), int(index.max()) + 1) for index, _ in taps)


def _halves(out: np.ndarray, bounds: _Bounds, axis: int) -> Iterator[tuple[np.ndarray, _Bounds]]:
    """Yields both halves of `out` along an axis, as views, with their bounds."""
    low, high = bounds[axis]
    middle = (low + high) // 2
    parts = np.split(out, [middle - low], axis)
    for half, ends in zip(parts, ((low, middle), (middle, high)), strict=True):
        yield half, [*bounds[:axis], ends, *bounds[axis + 1 :]]


def _nearest_taps(low: int, high: int, f: float, n: int) -> _Taps:
    """Returns the source index (target, 1) of the voxel that contains each target centre, and weights of 1."""
    index = np.floor((np.arange(low, high) + 0.5) * f).astype(np.int64)
    return np.clip(index, 0, n - 1)[:, None], np.ones((high - low, 1), np.float32)


def _linear_taps(low: int, high: int, f: float, n: int) -> _Taps:
    """Returns source indices and weights (target, taps) of smoothing and interpolation combined."""
    centre = (np.arange(low, high) + 0.5) * f - 0.5
    floor = np.floor(centre)
    right = (centre - floor)[:, None]
    sigma, radius = _sigma(f), _radius(f)
    kernel = np.ones(1)
    if radius:
        kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        kernel /= kernel.sum()
    weight = (1 - right) * np.append(kernel, 0) + right * np.append(0, kernel)
    index = floor.astype(np.int64)[:, None] + np.arange(-radius, radius + 2)
    return _reflect(index, n), weight.astype(np.float32)


def _sigma(f: float) -> float:
    """Of the Gaussian in source voxels, see the module."""
    return 0.5 * math.sqrt(f * f - 1) if f > 1 else 0.0


def _radius(f: float) -> int:
    """Source voxels that the Gaussian reaches."""
    return math.ceil(_TRUNCATE * _sigma(f))


def _reflect(index: np.ndarray, n: int) -> np.ndarray:
    """Mirrors indices at the outer faces of the border voxels: d c b a | a b c d | d c b a."""
    index = np.mod(index, 2 * n)
    return np.where(index < n, index, 2 * n - 1 - index)


def _apply(box: np.ndarray, axis: int, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sums the weighted taps along one axis, in float32 and always in the order of the taps."""
    broadcast = [-1 if a == axis else 1 for a in range(3)]
    total = np.zeros([index.shape[0] if a == axis else n for a, n in enumerate(box.shape)], np.float32)
    for k in range(index.shape[1]):
        total += np.take(box, index[:, k], axis) * weight[:, k].reshape(broadcast)
    return total
