"""Features at chosen voxels of a volume: only the tiles that hold them are encoded."""

import math
import os
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.padding import padding_mask
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.inference.tiling import Encoded, Tiling, neighbours
from his4mae_jax.inference.volume_encoder import VolumeEncoder, advance_to
from his4mae_jax.progress import Log, progress, say

SAMPLE_TILE = 64  # voxels a side, about
SIDES = (256, 128, 64, 32)  # of tiles to choose from, in voxels


def random_voxels(
    encoder: VolumeEncoder, volume: VolumeLike, inside: Box, count: int, most_tiles: int, seed: int
) -> np.ndarray:
    """Voxels outside padding, at random in small random tiles all over the volume: `(M, 3)`, M is about `count`.

    Args:
      encoder: bound to the volume.
      volume: to draw from.
      inside: the box that is not padding.
      count: voxels wanted.
      most_tiles: tiles to draw from, see `sample_tiles`.
      seed: of the draw.
    """
    rng, tiling = np.random.default_rng(seed), sample_tiles(encoder, volume, inside)
    tiles = [tiling[int(rng.choice(group))] for group in neighbours(len(tiling), most_tiles)]
    total = sum(math.prod(tile.shape) for tile in tiles)
    drawn = []
    for tile in tiles:
        number = max(1, round(count * math.prod(tile.shape) / total))
        index = np.stack([rng.integers(0, n, number) for n in tile.shape], axis=1)
        empty = padding_mask(volume, tile.write, encoder.padding)
        index = index if empty is None else index[~empty[tuple(index.T)]]
        drawn.append(index + [s.start for s in tile.write])
    return np.concatenate(drawn)


def sample_tiles(encoder: VolumeEncoder, volume: VolumeLike, inside: Box) -> Tiling:
    """The tiles from which random voxels are drawn: many small ones say more of a volume than a few large ones."""
    return encoder.coverage.fit_tiles(volume.shape, SAMPLE_TILE, inside=inside)


def features_at(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    inside: Box,
    index_Mx3: np.ndarray,
    *,
    encoded: Encoded | None = None,
    log: Log = say,
) -> np.ndarray:
    """Features at M voxels of a volume, as `coverage` describes them: `(M, D)` float32, with texture `(M, 2 D)`.

    Args:
      encoder: bound to the volume.
      volume: to read.
      inside: the box that is not padding: slices are mirrored at its border, as when the volume is labelled.
      index_Mx3: voxels inside that box.
      encoded: what has been encoded before.
      log: prints a line of progress.
    """
    tiling, by_tile = cheapest_tiles(encoder, volume.shape, inside, index_Mx3)
    out = np.zeros((len(index_Mx3), encoder.coverage.width), np.float32)
    with progress("probe: encoding", len(by_tile), unit="tiles", log=log) as bar:
        bar.note("compiling")

        def of_tile(item):
            number, rows = item
            tile = tiling[number]
            at = index_Mx3[rows] - [s.start for s in tile.write]
            return rows, encoder.features_at(volume, tile, at, encoded)

        # What has been encoded is smoothed around single voxels on the host: by all cores.
        workers = 1 if encoded is None else os.cpu_count() or 1
        for rows, features in in_order(of_tile, by_tile.items(), workers, ahead=workers):
            done = advance_to(bar, 1)
            out[rows] = features
            done(1.0)
    return out


def cheapest_tiles(
    encoder: VolumeEncoder, shape: Sequence[int], inside: Box, index_Mx3: np.ndarray
) -> tuple[Tiling, dict[int, np.ndarray]]:
    """The tiles by which fewest voxels are read, and for each that is needed, by number, which voxels it holds."""
    best = None
    for side in SIDES:
        tiling = encoder.coverage.feature_tiles(shape, side, inside=inside)
        by_tile = tiling.holding(index_Mx3)
        cost = len(by_tile) * math.prod(tiling.read_shape)
        if best is None or cost < best[0]:
            best = cost, tiling, by_tile
    return best[1:]
