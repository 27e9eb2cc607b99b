"""Two label-free baselines without a network: k-means on grey values and on filter features.

- "intensity": one feature, the grey value smoothed by a Gaussian of sigma 1 voxel.
- "filters": 15 multi-scale 3D features, the Gaussian, the Gaussian gradient magnitude and the
  Laplacian of Gaussian at sigma 1, 1.6, 3.5, 5 and 10 voxels, each standardised over the sample.

They produce cluster labels as the method itself does (one k-means fit on a stratified sample,
every voxel then only assigned), and are scored in the same way.

A volume is read twice, block by block with a halo as wide as the widest filter, so that blocks
show no seams and memory depends on the block alone. Blocks around which nothing is stored are
neither read nor filtered: all their voxels have the features of one value, and so one label.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from his4mae_jax.clustering.kmeans import kmeans
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import boxes_beside_all, known_value, stored_of, voxels
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import VoxelMap, between_voxels
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.filters import SIGMAS, features, features_of_value, reach
from his4mae_jax.progress import progress, say

_Item = TypeVar("_Item")

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
    compared: Stored | None = None,
    log: Callable[[str], None] = say,
) -> dict[int, int]:
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
      compared: what is stored of the volume that the labels are compared with, on the grid to label. Blocks are left
        out, and not passed to `out`, of which it is known to be constant and the volume around as well; None: none are.
      log: prints one line of progress where there is no terminal.

    Returns:
      C -> the label of all voxels that were left out.

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
    sample = _sample(volume, kind, block, contrast, mask, seed, fraction, log)
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
    near, same = stored_near(volume, kind, onto), {}
    if near is not None:
        flat = features_of_value(volume, near.value, kind, contrast)[:, None] - centre
        same = {count: 1 + int((weight @ flat + bias).argmin()) for count, (weight, bias) in projections.items()}
    wheres = list(boxes_beside_all(onto.shape, block, (near, compared)))
    for where in progressing(f"baseline {kind}: labels", wheres, "blocks", log):
        if near is not None and near.constant(where):
            for count, label in same.items():
                out(count, where, np.broadcast_to(np.uint8(label), [s.stop - s.start for s in where]))
            continue
        box, axes = _needed(onto, where, volume.shape)
        values = features(volume, box, kind, contrast)
        flat = values.reshape(len(values), -1)
        flat -= centre
        for count, (weight, bias) in projections.items():
            scores = (weight @ flat + bias).reshape(-1, *values.shape[1:])
            for axis, (lower, fraction) in enumerate(axes, 1):
                scores = _between(scores, lower, fraction, axis)
            out(count, where, 1 + scores.argmin(axis=0).astype(np.uint8))
    return same


def stored_near(volume: VolumeLike, kind: str, onto: VoxelMap | None = None) -> Stored | None:
    """What is stored of a volume, or so near that a filter reaches it; None where that is not known.

    Args:
      volume: that is filtered.
      kind: "intensity" or "filters".
      onto: a grid among its voxels to say it for; None: its own.
    """
    stored = stored_of(volume)
    near = None if stored is None else stored.widened((reach(kind),) * 3)
    return near if near is None or onto is None else onto.stored(near)


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


def _sample(volume, kind, block, contrast, mask, seed, fraction, log=say) -> np.ndarray:
    """Features of a stratified random sample, float32 (n, F)."""

    def allowed(where: Box) -> np.ndarray:
        return np.flatnonzero(np.asarray(mask.read(where)).ravel() != IGNORE)

    def size(where: Box) -> int:
        value = None if mask is None else known_value(mask, where)
        if mask is None or value is not None:
            return 0 if value == IGNORE else voxels(where)
        return allowed(where).size

    shape, near, inside = volume.shape, stored_near(volume, kind), None if mask is None else stored_of(mask)
    known = [near] if mask is None else [near, inside]
    beside = 0 if inside is not None and inside.value == IGNORE else 1  # whether a voxel counts where all is known
    tiles, more = [], 0
    for where in boxes_beside_all(shape, block, known):
        n = size(where)
        tiles.append((where, beside * _before(where, shape) + more, n))
        more += n - beside * voxels(where)
    available = beside * math.prod(shape) + more
    if available == 0:
        raise UserError(f"{mask.name}: every voxel is {IGNORE}, none is left to cluster.")
    wanted = min(max(int(fraction * available), MIN_SAMPLE), MAX_SAMPLE, available)
    # Rounding the running total samples every block in proportion to its size, and exactly `wanted` voxels in all.
    drawn = [(where, n, wanted * a // available, wanted * (a + n) // available) for where, a, n in tiles]
    drawn = [tile for tile in drawn if tile[2] < tile[3]]
    sample = None
    if near is not None:
        sample = np.tile(features_of_value(volume, near.value, kind, contrast), (wanted, 1))
        drawn = [tile for tile in drawn if not near.constant(tile[0])]
    for where, n, first, last in progressing(f"baseline {kind}: sample", drawn, "blocks", log):
        number = np.ravel_multi_index(
            [s.start // b for s, b in zip(where, block, strict=True)],
            [-(-n // b) for n, b in zip(shape, block, strict=True)],
        )
        chosen = np.random.default_rng((seed, int(number))).choice(n, last - first, replace=False)
        if mask is not None:
            chosen = allowed(where)[chosen]
        values = features(volume, where, kind, contrast)
        sample = np.empty((wanted, len(values)), np.float32) if sample is None else sample
        sample[first:last] = values.reshape(len(values), -1)[:, chosen].T
    return sample


def _before(where: Box, shape: Sequence[int]) -> int:
    """Voxels of the blocks that come before one in C order."""
    z, y, x = where
    depth, height = z.stop - z.start, y.stop - y.start
    return z.start * shape[1] * shape[2] + depth * y.start * shape[2] + depth * height * x.start
