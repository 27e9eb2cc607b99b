"""What cluster centres are fitted on: features at random voxels, and how much tokens vary for themselves alone."""

import math

import numpy as np

from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.padding import padding_mask

NOISE_POINTS = 30_000  # places at most where noise is measured: covariances need no more


def sample(segmenter, volume, fraction, max_tiles, seed, mask=None, *, inside=None, most=None, noise=True):
    """What the fit of centres needs: `(features (M, D), noises)`.

    Features are those at a random `fraction` of the voxels (at most `most` of them), stratified over
    tiles: at most `max_tiles` tiles are encoded, drawn at random, with more voxels of each where
    not all are. Noises are arrays `(N, D)` for `centres.noise_whitening`, not smoothed:
    differences between places one patch apart, and with several axes what each differs
    from their mean; none are measured without `noise`. `mask` (a label volume) leaves voxels of
    255 out of all. The same seed gives the same sample.
    """
    rng = np.random.default_rng(seed)
    tiling = segmenter.fit_tiles(volume.shape, inside=inside)
    chosen = [tiling[i] for i in sorted(rng.permutation(len(tiling))[:max_tiles])]
    voxels = math.prod(volume.shape if inside is None else [s.stop - s.start for s in inside])
    wanted = min(fraction * voxels, most or math.inf)
    share = min(1.0, wanted / sum(math.prod(tile.shape) for tile in chosen))
    nothing = np.zeros((0, segmenter.models.encoder.embed_dim), np.float32)
    features, steps, views = [nothing], [nothing], [nothing]
    for tile in chosen:
        # With replacement: for so small a share it is the same, and needs no permutation.
        count = max(1, round(share * math.prod(tile.shape)))
        index = np.stack([rng.integers(0, n, count) for n in tile.shape], axis=1)
        if mask is not None:
            known = mask.read(tile.write) != IGNORE
            index = index[known[tuple(index.T)]]
        empty = padding_mask(volume, tile.write, segmenter.padding)
        if empty is not None:
            index = index[~empty[tuple(index.T)]]
        if not len(index):
            continue
        noisy = index[: NOISE_POINTS // len(chosen) + 1] if noise else index[:0]
        if segmenter.cover:
            found = _cover_sample(segmenter, volume, tile, index, noisy)
        else:
            found = _expand_sample(segmenter, volume, tile, index, noisy, hold=len(tiling) == 1)
        for total, part in zip((features, steps, views), found, strict=True):
            total += part
    noises = [np.concatenate(n) for n in (steps, views)]
    return np.concatenate(features), [n for n in noises if len(n)]


def _expand_sample(segmenter, volume, tile, index_Mx3, noisy_Nx3, hold):
    """`sample` of one tile, by its lattices: features, and at `noisy` voxels steps and views."""
    found = segmenter.lattices(volume, tile)
    means = [sum(by_axis) / len(by_axis) for by_axis in found]
    if hold:  # so small a volume need not be encoded again to be labelled
        segmenter.held = (volume, tile.write, means)
    grid, mean = tile.grids[0], means[0]
    point = np.stack([axis.lower[n] for axis, n in zip(grid, noisy_Nx3.T, strict=True)], axis=1)
    steps = []
    for axis, plan in enumerate(grid):
        ahead = point + max(round(plan.scale), 1) * (np.arange(3) == axis)
        there = ahead[:, axis] < plan.points
        steps.append(mean[tuple(ahead[there].T)] - mean[tuple(point[there].T)])
    by_axis = [lattice[tuple(point.T)] for lattice in found[0]]
    return [segmenter.at_voxels(means, tile, index_Mx3)], steps, _views(by_axis)


def _cover_sample(segmenter, volume, tile, index_Mx3, noisy_Nx3):
    """`sample` of one tile, by the fields of view of its voxels and, of the first N, of those one patch on."""
    box, grid = volume.read(tile.read), tile.grids[0]
    by_axis = segmenter.features_at(box, grid, index_Mx3)
    features, steps = np.mean(by_axis, axis=0), []
    for axis, plan in enumerate(grid):
        ahead = noisy_Nx3 + segmenter.patch * (np.arange(3) == axis)
        there = ahead[:, axis] < plan.points
        here = features[: len(noisy_Nx3)][there]
        steps.append(np.mean(segmenter.features_at(box, grid, ahead[there]), axis=0) - here)
    return [features], steps, _views([view[: len(noisy_Nx3)] for view in by_axis])


def _views(by_axis):
    """What the features of each of several axes differ by from their mean at the same places."""
    return [view - np.mean(by_axis, axis=0) for view in by_axis] if len(by_axis) > 1 else []
