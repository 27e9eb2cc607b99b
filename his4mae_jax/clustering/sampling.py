"""The sample that cluster centres are fitted on: features at random voxels, and how much tokens vary by themselves."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.padding import padding_mask, stored_beside
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.inference.tiling import EncodedTile, Tile, Tiling, neighbours
from his4mae_jax.inference.volume_encoder import VolumeEncoder, advance_to
from his4mae_jax.progress import Log, progress, say

NOISE_POINTS = 30_000  # points at most where noise is measured: covariances need no more


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Features of random voxels of a volume.

    Attributes:
      features_MxD: float32.
      index_Mx3: the voxels.
      noises: arrays `(N, D)` for `whitening.noise_whitening`: differences between lattice points one patch apart and,
        with several axes, what each axis differs by from their mean. Not smoothed.
      encoded: the lattices of the volume where one tile holds all of it, for `VolumeEncoder.label`; else None.
    """

    features_MxD: np.ndarray
    index_Mx3: np.ndarray
    noises: list[np.ndarray]
    encoded: EncodedTile | None = None


def sample(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    fraction: float,
    max_tiles: int,
    seed: int,
    mask: VolumeLike | None = None,
    *,
    inside: Box | None = None,
    least: int = 0,
    most: int | None = None,
    noise: bool = True,
    log: Log = say,
) -> Sample:
    """Encodes random voxels of a volume; the same seed gives the same sample.

    The sample is stratified over the tiles that hold voxels to sample. At most `max_tiles` of them are encoded: where
    there are more, one drawn at random from each of as many groups of neighbours, for all of its group.

    Args:
      encoder: bound to the volume's grey levels.
      volume: to sample.
      fraction: of the voxels inside the mask.
      max_tiles: tiles encoded at most.
      seed: of the random tiles and voxels.
      mask: label volume; voxels of `IGNORE` are left out.
      inside: the part of the volume to sample; None: all of it.
      least: voxels at least, where there are so many: centres of few voxels depend on which were drawn.
      most: voxels at most.
      noise: whether noises are measured.
      log: prints a line of progress.
    """
    rng = np.random.default_rng(seed)
    tiling = encoder.coverage.fit_tiles(volume.shape, inside=inside)
    strata = _strata(rng, tiling, volume, mask, encoder.padding, max_tiles)
    voxels = sum(stratum.voxels for stratum in strata)
    wanted = min(max(fraction * voxels, least), most or math.inf)
    size = sum(math.prod(stratum.tile.shape) for stratum in strata)
    nothing = np.zeros((0, encoder.coverage.dim), np.float32)
    features, steps, views, encoded = [nothing], [nothing], [nothing], None
    voxels_at = [np.zeros((0, 3), int)]
    with progress("fit: encoding the sample", size, unit="voxels", log=log) as bar:
        bar.note("compiling")
        for stratum in strata:
            tile, density = stratum.tile, wanted * stratum.voxels / voxels / stratum.of_tile
            done = advance_to(bar, math.prod(tile.shape))
            index_Mx3 = _voxels(rng, min(1.0, density), tile, volume, mask, encoder.padding)
            if len(index_Mx3):
                voxels_at.append(index_Mx3 + [s.start for s in tile.write])
                noisy_Nx3 = index_Mx3[: NOISE_POINTS // len(strata) + 1] if noise else index_Mx3[:0]
                if encoder.coverage.cover:
                    parts = _cover_sample(encoder, volume, tile, index_Mx3, noisy_Nx3, done)
                else:
                    *parts, means = _expand_sample(encoder, volume, tile, index_Mx3, noisy_Nx3, done)
                    if len(tiling) == 1:  # so small a volume need not be encoded again to be labelled
                        encoded = EncodedTile(volume, tile.lattices, means)
                for total, part in zip((features, steps, views), parts, strict=True):
                    total += part
            done(1.0)
    noises = [np.concatenate(n) for n in (steps, views)]
    return Sample(np.concatenate(features), np.concatenate(voxels_at), [n for n in noises if len(n)], encoded)


@dataclasses.dataclass(frozen=True)
class _Stratum:
    """A tile that is encoded for a group of neighbouring ones: voxels to sample from in the group and in the tile."""

    tile: Tile
    voxels: int
    of_tile: int


def _strata(
    rng: np.random.Generator,
    tiling: Tiling,
    volume: VolumeLike,
    mask: VolumeLike | None,
    padding: Sequence[float],
    most: int,
) -> list[_Stratum]:
    """The tiles to encode, in order; those without a voxel inside the mask, or all of padding, are left out."""
    rank, found = rng.permutation(len(tiling)), []
    stored = stored_beside(volume, padding)
    for i, tile in enumerate(tiling):
        if stored is not None and stored.constant(tile.write):
            continue
        if mask is not None:
            allowed = np.count_nonzero(mask.read(tile.write) != IGNORE)
        elif stored is not None:
            allowed = stored.voxels(tile.write)  # the others are known to be padding
        else:
            allowed = math.prod(tile.shape)
        if allowed:
            found.append((i, int(allowed)))
    groups = [[found[n] for n in group] for group in neighbours(len(found), most)]
    chosen = [(min(group, key=lambda entry: rank[entry[0]]), group) for group in groups]
    return [_Stratum(tiling[i], sum(voxels for _, voxels in group), own) for (i, own), group in chosen]


def _voxels(rng, density, tile, volume, mask, padding):
    """Random voxels of a tile, relative to the first it writes, `(M, 3)`: inside the mask and outside padding."""
    # With replacement: at so low a density it is the same, and needs no permutation.
    count = max(1, round(density * math.prod(tile.shape)))
    index_Mx3 = np.stack([rng.integers(0, n, count) for n in tile.shape], axis=1)
    if mask is not None:
        index_Mx3 = index_Mx3[(mask.read(tile.write) != IGNORE)[tuple(index_Mx3.T)]]
    empty = padding_mask(volume, tile.write, padding)
    return index_Mx3 if empty is None else index_Mx3[~empty[tuple(index_Mx3.T)]]


def _expand_sample(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    tile: Tile,
    index_Mx3: np.ndarray,
    noisy_Nx3: np.ndarray,
    done: Callable[[float], None],
):
    """Features from a tile's lattices, differences and views at the `noisy` voxels, and the mean lattices."""
    lattices = encoder.lattices(volume, tile, done)
    means = [sum(by_axis) / len(by_axis) for by_axis in lattices]
    grid, mean = tile.grids[0], means[0]
    point = np.stack([axis.lower[n] for axis, n in zip(grid, noisy_Nx3.T, strict=True)], axis=1)
    steps = []
    for axis, plan in enumerate(grid):
        ahead = point + max(round(plan.scale), 1) * (np.arange(3) == axis)
        there = ahead[:, axis] < plan.points
        steps.append(mean[tuple(ahead[there].T)] - mean[tuple(point[there].T)])
    by_axis = [lattice[tuple(point.T)] for lattice in lattices[0]]
    return [encoder.expand_at(means, tile, index_Mx3)], steps, _views(by_axis), means


def _cover_sample(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    tile: Tile,
    index_Mx3: np.ndarray,
    noisy_Nx3: np.ndarray,
    done: Callable[[float], None],
):
    """Features from the fields of view of single voxels and, at the first N, of those one patch ahead."""
    box, grid = volume.read(tile.read), tile.grids[0]
    total = len(index_Mx3) + 3 * len(noisy_Nx3)
    finished = len(index_Mx3) / total
    by_axis = encoder.cover_features(box, tile, index_Mx3, lambda fraction: done(finished * fraction))
    features, steps = np.mean(by_axis, axis=0), []
    for axis, plan in enumerate(grid):
        ahead = noisy_Nx3 + encoder.coverage.patch * (np.arange(3) == axis)
        there = ahead[:, axis] < plan.points
        here = features[: len(noisy_Nx3)][there]
        steps.append(np.mean(encoder.cover_features(box, tile, ahead[there]), axis=0) - here)
        finished += len(noisy_Nx3) / total
        done(finished)
    return [features], steps, _views([view[: len(noisy_Nx3)] for view in by_axis])


def _views(by_axis):
    """What the features of each of several axes differ by from their mean at the same points."""
    return [view - np.mean(by_axis, axis=0) for view in by_axis] if len(by_axis) > 1 else []
