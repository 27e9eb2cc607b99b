"""Two label-free baselines without a network: k-means on grey values and on filter features.

- "intensity": one feature, the grey value smoothed by a Gaussian of sigma 1 voxel.
- "filters": 15 multi-scale 3D features, the Gaussian, the Gaussian gradient magnitude and the
  Laplacian of Gaussian at sigma 1, 1.6, 3.5, 5 and 10 voxels, each standardised over the sample.

They produce cluster labels as the method itself does (one k-means fit on a stratified sample,
every voxel then only assigned), and are scored in the same way.

A volume is read twice, block by block with a halo as wide as the widest filter, so that blocks
show no seams and memory depends on the block alone. Blocks around which nothing is stored are not
read: all their voxels have the features of one value.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter1d

from his4mae_jax.clustering.kmeans import kmeans
from his4mae_jax.data.volumes.blocks import boxes, known_value
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import VoxelMap, between_voxels
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import progress, say

_Item = TypeVar("_Item")

SIGMAS = {"intensity": (1.0,), "filters": (1.0, 1.6, 3.5, 5.0, 10.0)}  # voxels, on every axis
TRUNCATE = 3.0  # a filter reaches this many sigmas
CONSTANT = 3e-7  # a feature that spreads less than this is constant but for float32 rounding
WIDEST = 512  # voxels up to which a block of a thin volume is widened: a filter takes longer in a longer one
MIN_SAMPLE = 2_000  # voxels
MAX_SAMPLE = 300_000  # voxels; keeps the fit in memory and in minutes, whatever the volume's size


def cluster_classical(
    volume: VolumeLike,
    kind: str,
    num_clusters: Sequence[int] | int,
    out: Callable[[int, Box, np.ndarray], None],
    *,
    contrast: Contrast,
    mask: VolumeLike | None = None,
    seed: int = 0,
    fraction: float = 1e-3,
    block: Sequence[int] = (64, 128, 128),
    restarts: int = 10,
    onto: VoxelMap | None = None,
    log: Callable[[str], None] = say,
) -> None:
    """Clusters a volume by one of the two baselines, for several numbers of clusters at once.

    Args:
      volume: grey values, (z, y, x).
      kind: "intensity" or "filters".
      num_clusters: the values of C. Filtering, the slow part, is shared by all of them.
      out: called as out(C, slices, labels) for every C and block, labels uint8 of the block's
        shape. Ids from 1, from dark to bright (mean grey value at the finest scale).
      contrast: maps raw values to float32 in [0, 1].
      mask: label volume of the same shape. Where it is `IGNORE` no voxel is sampled for
        the fit; the labels still cover the whole volume.
      seed: of the sample and of k-means: the same seed gives the same labels.
      fraction: of the voxels that is sampled, spread over the blocks in proportion to
        their size; at least 2,000 and at most 300,000 voxels in all.
      block: voxels (z, y, x) that are labelled at a time; wider ones, of as many, where a volume is
        thinner than that.
      onto: the grid to label, among the voxels of the volume: scores are interpolated linearly, as those of the
        method are; None: that of the volume.
      restarts: of k-means++; the best fit is kept. A single one often ends in a wrong optimum.
      log: prints one line of progress where there is no terminal.

    Raises:
      UserError: an unknown kind, an impossible C, a mask of another shape, or too few different
        voxels to form the clusters.
    """
    wanted = [num_clusters] if isinstance(num_clusters, int) else sorted(set(num_clusters))
    if kind not in SIGMAS:
        raise UserError(f'unknown baseline "{kind}": choose one of {", ".join(SIGMAS)}.')
    if not wanted or wanted[0] < 1 or wanted[-1] > IGNORE:
        raise UserError(f"numbers of clusters {wanted}: each must be between 1 and {IGNORE}.")
    if mask is not None and tuple(mask.shape) != tuple(volume.shape):
        raise UserError(
            f"{mask.name} has shape {tuple(mask.shape)} and {volume.name} has shape "
            f"{tuple(volume.shape)} (z, y, x): a mask must cover the same voxels."
        )
    block = _as_large(block, volume.shape)
    tiles = list(boxes(volume.shape, block))
    sample = _sample(volume, kind, tiles, contrast, mask, seed, fraction, log)
    mean, std = sample.mean(axis=0, dtype=np.float64), sample.std(axis=0, dtype=np.float64)
    std[std < CONSTANT] = 1.0  # no division by rounding errors
    sample = ((sample - mean) / std).astype(np.float32)
    if len(np.unique(sample.round(4), axis=0)) < wanted[-1]:
        raise UserError(
            f"{volume.name}: the {len(sample)} sampled voxels do not form {wanted[-1]} clusters. "
            "Check the contrast settings and the mask, or ask for fewer clusters."
        )

    projections = {}
    for count in wanted:
        fit = kmeans(sample, count, restarts, seed, label=f"baseline {kind}", log=log)
        centres = fit.centres_CxF.astype(np.float64)
        centres = centres[np.argsort(centres[:, 0], kind="stable")]
        # ‖z − c‖² − ‖z‖² = ‖c‖² − 2 z·c, with z = (feature − mean) / std: one small matmul.
        weight = (-2 * centres / std).astype(np.float32)
        bias = (centres**2).sum(axis=1, keepdims=True).astype(np.float32)
        projections[count] = weight, bias

    centre = mean.astype(np.float32)[:, None]
    onto = onto or VoxelMap(tuple(volume.shape))
    for where in progressing(f"baseline {kind}: labels", list(boxes(onto.shape, block)), "blocks", log):
        box, axes = _needed(onto, where, volume.shape)
        values = features(volume, box, kind, contrast)
        flat = values.reshape(len(values), -1)
        flat -= centre
        for count, (weight, bias) in projections.items():
            scores = (weight @ flat + bias).reshape(-1, *values.shape[1:])
            for axis, (lower, fraction) in enumerate(axes, 1):
                scores = _between(scores, lower, fraction, axis)
            out(count, where, 1 + scores.argmin(axis=0).astype(np.uint8))


def _as_large(block: Sequence[int], shape: Sequence[int]) -> list[int]:
    """A block that is widened along y and x where the volume is thinner: most of a small one is its halo."""
    wide, axis = [min(block[0], shape[0]), *block[1:]], 1
    while 2 * math.prod(wide) <= math.prod(block) and wide[axis] < WIDEST:
        wide[axis], axis = 2 * wide[axis], 3 - axis
    return wide


def _needed(onto: VoxelMap, where: Box, shape: Sequence[int]) -> tuple[Box, list[tuple[np.ndarray, np.ndarray]]]:
    """The box of the volume that a box of the grid needs, and for each axis what `_between` takes."""
    box, axes = [], []
    for line, part, n in zip(onto.lines, where, shape, strict=True):
        lower, fraction, (start, stop) = between_voxels(line.at(part.start, part.stop), n)
        box.append(slice(start, stop))
        axes.append((lower - start, fraction))
    return tuple(box), axes


def _between(scores: np.ndarray, lower: np.ndarray, fraction: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along an axis, between the voxels `lower` and those above."""
    if not fraction.any():
        return scores if len(lower) == scores.shape[axis] else scores.take(lower, axis)
    upper = np.minimum(lower + 1, scores.shape[axis] - 1)
    weight = fraction.reshape([-1 if a == axis else 1 for a in range(scores.ndim)])
    return scores.take(lower, axis) * (1 - weight) + scores.take(upper, axis) * weight


def progressing(label: str, items: Sequence[_Item], unit: str, log: Callable[[str], None]) -> Iterator[_Item]:
    """Yields items, and shows how many of them are done."""
    with progress(label, len(items), unit=unit, log=log) as bar:
        for item in items:
            yield item
            bar.advance()


def features(volume: VolumeLike, where: Box, kind: str, contrast: Contrast) -> np.ndarray:
    """Features of the voxels of one box.

    Equal to scipy.ndimage's `gaussian_filter`, `gaussian_gradient_magnitude` and
    `gaussian_laplace` (mode "reflect", truncate 3) of the whole volume, whatever the box.

    Returns:
      float32, (F, z, y, x) of the box: F = 1 for "intensity", and 15 for "filters" (the Gaussian
      at each sigma, then the gradient magnitudes, then the Laplacians). Not standardised.
    """
    sigmas = SIGMAS[kind]
    grown, _ = _grow(where, volume.shape, _radius(max(sigmas)))
    value, box = known_value(volume, grown), tuple(s.stop - s.start for s in where)
    if value is not None:
        one = from_array(np.full((1, 1, 1), value, volume.dtype), volume.voxel_size_nm, volume.name)
        return np.tile(features(one, (slice(0, 1),) * 3, kind, contrast), (1, *box))
    derivatives = kind == "filters"
    image = np.asarray(contrast.apply(volume.read(grown)), np.float32)
    result = np.empty((len(sigmas) * (3 if derivatives else 1), *box), np.float32)
    for i, sigma in enumerate(sigmas):
        needed, inner = _grow(where, volume.shape, _radius(sigma))
        offsets = [n.start - g.start for n, g in zip(needed, grown, strict=True)]
        part = image[tuple(slice(o, o + n.stop - n.start) for o, n in zip(offsets, needed, strict=True))]
        filters = [
            [_filter_matrix(size, s.start, s.stop, sigma, order) for order in range(3)]
            for size, s in zip(part.shape, inner, strict=True)
        ]
        if derivatives:
            result[i :: len(sigmas)] = _filters(part, filters)
        else:
            (z0, *_), (y0, *_), (x0, *_) = filters
            result[i] = _along_x(_along_y(_along_z(part, z0), y0), x0)
    return result


def _filters(image: np.ndarray, filters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian, gradient magnitude and Laplacian; filters[axis][order of the derivative].

    The passes along z and y are shared by all three: 15 in place of the 21 of three filters.
    """
    (z0, z1, z2), (y0, y1, y2), (x0, x1, x2) = filters
    smooth_z = _along_z(image, z0)
    smooth_zy = _along_y(smooth_z, y0)
    gaussian = _along_x(smooth_zy, x0)
    gradient = _along_x(smooth_zy, x1) ** 2
    laplacian = _along_x(smooth_zy, x2)
    gradient += _along_x(_along_y(smooth_z, y1), x0) ** 2
    laplacian += _along_x(_along_y(smooth_z, y2), x0)
    gradient += _along_x(_along_y(_along_z(image, z1), y0), x0) ** 2
    laplacian += _along_x(_along_y(_along_z(image, z2), y0), x0)
    return gaussian, np.sqrt(gradient, out=gradient), laplacian


# A filter along one axis of a block is a matrix of (voxels out, voxels in). The matmul with it
# computes the block's own voxels only, not the halo's, and runs at the speed of BLAS: with a halo
# of 30 around a block of 64 × 128 × 128 it is several times as fast as ndimage's passes.


def _along_z(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flat = matrix @ image.reshape(image.shape[0], -1)
    return flat.reshape(-1, *image.shape[1:])


def _along_y(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.matmul(matrix, image)


def _along_x(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flat = image.reshape(-1, image.shape[2]) @ matrix.T
    return flat.reshape(*image.shape[:2], -1)


@functools.lru_cache(maxsize=512)
def _filter_matrix(size: int, start: int, stop: int, sigma: float, order: int) -> np.ndarray:
    """Rows start … stop of the Gaussian derivative filter on a line of `size` voxels.

    Filtering the unit vectors gives the filter's matrix, reflection at the ends included. Where
    an end is the volume's border that is what is wanted, elsewhere no row reaches it.
    """
    impulses = np.eye(size, dtype=np.float64)
    matrix = gaussian_filter1d(impulses, sigma, axis=0, order=order, mode="reflect", truncate=TRUNCATE)
    return np.ascontiguousarray(matrix[start:stop], np.float32)


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)  # as in scipy.ndimage


def _grow(where: Box, shape: Sequence[int], halo: int) -> tuple[Box, Box]:
    """The box with its halo, clipped to the volume; and where the box lies inside of that."""
    grown = tuple(slice(max(s.start - halo, 0), min(s.stop + halo, size)) for s, size in zip(where, shape, strict=True))
    inner = tuple(slice(s.start - g.start, s.stop - g.start) for s, g in zip(where, grown, strict=True))
    return grown, inner


def _sample(volume, kind, tiles, contrast, mask, seed, fraction, log=say) -> np.ndarray:
    """Features of a stratified random sample, float32 (n, F)."""

    def allowed(where: Box) -> np.ndarray:
        return np.flatnonzero(np.asarray(mask.read(where)).ravel() != IGNORE)

    sizes = [
        int(np.prod([s.stop - s.start for s in where])) if mask is None else allowed(where).size for where in tiles
    ]
    available = sum(sizes)
    if available == 0:
        raise UserError(f"{mask.name}: every voxel is {IGNORE}, none is left to cluster.")
    wanted = min(max(int(fraction * available), MIN_SAMPLE), MAX_SAMPLE, available)
    # Rounding the running total samples every block in proportion to its size, and exactly `wanted` voxels in all.
    counts = np.diff([wanted * total // available for total in np.cumsum([0, *sizes]).tolist()])
    sample = []
    blocks = [block for block in enumerate(zip(tiles, sizes, counts, strict=True)) if block[1][2]]
    for index, (where, size, count) in progressing(f"baseline {kind}: sample", blocks, "blocks", log):
        chosen = np.random.default_rng((seed, index)).choice(size, count, replace=False)
        if mask is not None:
            chosen = allowed(where)[chosen]
        values = features(volume, where, kind, contrast)
        sample.append(values.reshape(len(values), -1)[:, chosen].T)
    return np.concatenate(sample)
