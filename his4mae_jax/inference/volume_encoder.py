"""An encoder bound to its parameters, to a volume's grey levels and to a coverage: features and labels of volumes."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import VoxelMap
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.lattice import at_voxels, few_at_voxels
from his4mae_jax.inference.score_maps import LinearScores, StackedScores, texture_of
from his4mae_jax.inference.tile_computation import Done, TileComputation
from his4mae_jax.inference.tiling import Encoded, Tile, filled_up, needed_points
from his4mae_jax.models.kernels.batches import fovs_at_once
from his4mae_jax.progress import Progress

POINTS_FOR_VOXEL = 100  # of a lattice can be smoothed in the time that the surroundings of one voxel take
COVER_FOVS = 32  # fields of view of a dispatch on a device where cover-stride encodes single voxels, or one batch


@dataclasses.dataclass(frozen=True, eq=False)
class VolumeEncoder:
    """Features, score maps and labels of volumes by one trained encoder.

    A tile goes from raw voxels to labels on the devices of this host, which share its slices. While a tile is computed
    the next is read. The memory that is used depends on the tiles, whatever the volume's size.

    Attributes:
      models: of any pretext method: `encoder` and `patch_size`.
      params: of the student's encoder or the teacher's.
      contrast: window of grey levels of the volumes.
      coverage: where fields of view lie, and how volumes are cut into tiles.
      batch_fovs: fields of view that a device encodes at once; 0: what is quickest (`fovs_at_once`).
      padding: grey levels of constant regions that are neither sampled nor labelled (`data.padding`).
      fov_flop: FLOP of encoding one field of view (`flop_per_image`); 0: unknown, progress is then in larger steps.
    """

    models: Any
    params: Any
    contrast: Contrast
    coverage: Coverage
    batch_fovs: int = 0
    padding: tuple[float, ...] = ()
    fov_flop: float = 0.0

    @functools.cached_property
    def batch(self) -> int:
        """Fields of view that a device encodes at once."""
        return self.batch_fovs or fovs_at_once(self.models)

    @functools.cached_property
    def _computation(self) -> TileComputation:
        return TileComputation(self.models, self.coverage, self.batch, self.fov_flop)

    def memory_bytes(self, volume: VolumeLike, outputs: int, maps: int, onto: VoxelMap | None = None) -> int:
        """Bytes at most of the largest arrays while `volume` is fitted and labelled.

        Args:
          volume: to segment.
          outputs: bytes written for each voxel.
          maps: number of score maps.
          onto: see `label`.
        """
        tokens, dim = (self.coverage.fov // self.coverage.patch) ** 2, self.coverage.dim
        encoder = 4 * self.batch * tokens * (16 * dim + 2 * tokens)
        parameters = sum(x.nbytes for x in jax.tree.leaves(self.params))
        itemsize = volume.dtype.itemsize
        return parameters + encoder + self.coverage.array_bytes(volume.shape, itemsize, outputs, maps, onto)

    # Features.

    def lattices(
        self, volume: VolumeLike, tile: Tile, done: Done = lambda fraction: None
    ) -> list[list[np.ndarray]]:  # fmt: skip
        """The lattices of features of a tile before smoothing, `(z, y, x, D)` each: for each shift, by axis.

        Args:
          volume: to read.
          tile: of `coverage.tiles` of the volume's shape.
          done: called with the fraction of the tile that is encoded, now and then.
        """
        filled = self._computation.features(self.params, tile.box(volume), tile.arrays(), self.contrast, done)
        return [
            [x[tuple(slice(axis.points) for axis in grid)] for x in by_axis]
            for by_axis, grid in zip(filled, tile.grids, strict=True)
        ]

    def features_at(
        self, volume: VolumeLike, tile: Tile, index_Mx3: np.ndarray, encoded: Encoded | None = None
    ) -> np.ndarray:
        """Features, as they are clustered, at M voxels relative to the first that a tile writes: `(M, D)`."""
        if encoded is not None and encoded.holds(volume, tile):
            return self.expand_at(encoded.of(tile), tile, index_Mx3)
        if self.coverage.cover:
            return np.mean(self.cover_features(volume.read(tile.read), tile, index_Mx3), axis=0)
        means = [np.mean(by_axis, axis=0) for by_axis in self.lattices(volume, tile)]
        return self.expand_at(means, tile, index_Mx3)

    def expand_at(self, means: Sequence[np.ndarray], tile: Tile, index_Mx3: np.ndarray) -> np.ndarray:
        """Features at M voxels `(M, D)` (or, with texture, 2 D) from the lattices of each shift (means over axes)."""
        total, cover = 0.0, self.coverage
        for shift, (mean, grid) in enumerate(zip(means, tile.grids, strict=True)):
            if math.prod(mean.shape[:3]) > POINTS_FOR_VOXEL * len(index_Mx3):
                total = total + few_at_voxels(mean, grid, index_Mx3, cover.smooth, cover.texture)
            else:
                total = total + at_voxels(self._smoothed(mean, tile, shift), grid, index_Mx3)
        return total / len(means)

    def cover_features(
        self, box: np.ndarray, tile: Tile, index_Mx3: np.ndarray, done: Done = lambda fraction: None
    ) -> list[np.ndarray]:
        """Cover-stride features at M voxels of a tile by encoding only their fields of view, one a voxel and axis.

        Args:
          box: the box that the tile reads.
          tile: of `coverage.tiles`.
          index_Mx3: voxels relative to the first that the tile writes.
          done: called with the fraction that is encoded, now and then.

        Returns:
          For each of `axes` an array `(M, D)`.
        """
        axes, computation = self.coverage.axes, self._computation
        size = dict(
            fov=self.coverage.fov, patch=self.coverage.patch, dim=self.coverage.dim,
            batch=computation.mesh.size * self.batch * max(1, COVER_FOVS // self.batch),
        )  # fmt: skip

        def encode(fovs, token_Bx2):
            return computation.tokens(self.params, fovs, self.contrast, token_Bx2)

        return [
            cs.tokens_at(
                encode, box, tile.grids[0], "zyx".index(axis), index_Mx3, **size,
                done=lambda fraction, number=number: done((number + fraction) / len(axes)),
            )
            for number, axis in enumerate(axes)
        ]  # fmt: skip

    def features(
        self, volume: VolumeLike, *, bar: Progress | None = None
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
        """The token lattice of a whole volume that fits in memory, averaged over axes and smoothed.

        With several shifts of the lattice it is that of the first. By `lattice.along` (or any linear interpolation)
        it gives what is clustered at every voxel.

        Args:
          volume: to encode; no smaller than a field of view within slices.
          bar: advanced by the voxels that are encoded.

        Returns:
          (features, positions): `(z, y, x, D)` float32, and for each axis (z, y, x) where its lattice points lie, in
          voxels (float). The last point may lie up to half a patch beyond the volume's border.
        """
        tiling = self.coverage.feature_tiles(volume.shape)
        shape = [plan.first + needed_points(plan).stop for plan in tiling[len(tiling) - 1].grids[0]]
        out, positions = np.empty((*shape, self.coverage.width), np.float32), [np.empty(n) for n in shape]
        for tile in tiling:
            grid, done = tile.grids[0], advance_to(bar, math.prod(tile.shape))
            mean = self._smoothed(np.mean(self.lattices(volume, tile, done)[0], axis=0), tile, 0)
            needed = [needed_points(plan) for plan in grid]
            at = [slice(plan.first + s.start, plan.first + s.stop) for plan, s in zip(grid, needed, strict=True)]
            out[tuple(at)] = mean[tuple(needed)]
            for axis, plan in enumerate(grid):
                positions[axis][at[axis]] = plan.positions[needed[axis]]
        return out, tuple(positions)

    def _smoothed(self, mean: np.ndarray, tile: Tile, shift: int) -> np.ndarray:
        """The lattice of one shift of a tile (the mean over axes) as it is clustered, filled up."""
        return self._computation.smoothed(filled_up(mean, tile.sizes[shift]), tile.arrays()[shift])

    # Labels.

    def textured(self, texture: float) -> "VolumeEncoder":
        """This encoder with `Coverage.texture`: features of voxels, and tiles, are as clusterings of it take them.

        Raises:
          UserError: by cover-stride, whose tokens have no lattice while the fit is sampled.
        """
        if texture == self.coverage.texture:
            return self
        if texture and self.coverage.cover:
            raise UserError(
                'config key segment.inference is "cover", but these classes count the texture of a token lattice '
                '(probe.texture); set segment.inference to "expand", or probe.texture to 0 and probe again'
            )
        return dataclasses.replace(self, coverage=dataclasses.replace(self.coverage, texture=texture))

    def labels(
        self,
        volume: VolumeLike,
        clusterings: Mapping[int, LinearScores],
        *,
        onto: VoxelMap | None = None,
        encoded: Encoded | None = None,
        bar: Progress | None = None,
    ) -> dict[int, np.ndarray]:
        """Labels of a whole volume that fits in memory, uint8 `(z, y, x)` by number of labels; see `label`."""
        onto = onto or VoxelMap(tuple(volume.shape))
        out = {size: np.empty(onto.shape, np.uint8) for size in clusterings}
        for tile, labels, _ in self.label(volume, clusterings, onto=onto, encoded=encoded, bar=bar):
            for size, block in labels.items():
                out[size][tile.write] = block
        return out

    def label(
        self,
        volume: VolumeLike,
        clusterings: Mapping[int, LinearScores],
        tiles: Sequence[Tile] | None = None,
        *,
        onto: VoxelMap | None = None,
        probabilities_of: int | None = None,
        encoded: Encoded | None = None,
        bar: Progress | None = None,
    ) -> Iterator[tuple[Tile, dict[int, np.ndarray], np.ndarray | None]]:
        """Labels a volume tile by tile.

        Args:
          volume: to label.
          clusterings: by number of labels.
          tiles: of `coverage.label_tiles` (or an iterator over some of them); None: all.
          onto: the grid to label all of, where `tiles` is None; None: that of the volume.
          probabilities_of: the clustering (number of labels) whose probabilities are wanted.
          encoded: what has been encoded before.
          bar: advanced by the voxels that are labelled, also within a tile.

        Yields:
          (tile, {number of labels: labels}, probabilities) in the order of `tiles`. Labels are uint8 of the tile's
          shape, ids from 1, and `UNLABELLED` in padding; probabilities uint8 `(labels, z, y, x)`, 255 for 1, or None.
        """
        if texture_of(clusterings) not in (0.0, self.coverage.texture):
            raise ValueError("these clusterings have a texture: take VolumeEncoder.textured first")
        stacked = StackedScores.of(clusterings, probabilities_of)
        if tiles is None:
            tiles = self.coverage.label_tiles(
                volume.shape, len(stacked.counts), sum(c.maps for c in clusterings.values()), onto=onto
            )
        if bar is not None:
            bar.note("compiling")

        def read(tile):
            empty = tile.padding(volume, self.padding)
            if empty is not None and empty.all():
                return tile, empty, None, None, tile.arrays()
            if encoded is not None and encoded.holds(volume, tile):
                return tile, empty, None, encoded.of(tile), tile.arrays()
            return tile, empty, tile.box(volume), None, tile.arrays()

        for tile, empty, box, kept, arrays in in_order(read, tiles, workers=1):
            done = advance_to(bar, math.prod(tile.shape))
            if empty is not None and empty.all():
                nothing = np.full(tile.shape, UNLABELLED, np.uint8)
                labels = [nothing] * len(clusterings)
                posterior = probabilities_of and np.zeros((probabilities_of, *tile.shape), np.uint8)
            else:
                if box is None:
                    lattices = [filled_up(x, sizes) for x, sizes in zip(kept, tile.sizes, strict=True)]
                    filled = self._computation.labels_of_features(lattices, arrays, stacked)
                else:
                    filled = self._computation.labels(self.params, box, arrays, self.contrast, stacked, done)
                inside = tuple(slice(n) for n in tile.shape)
                labels, posterior = (None if x is None else np.asarray(x)[(slice(None), *inside)] for x in filled)
                if empty is not None:
                    labels = np.where(empty, np.uint8(UNLABELLED), labels)
                    posterior = None if posterior is None else np.where(empty, np.uint8(0), posterior)
            done(1.0)
            yield tile, dict(zip(clusterings, labels, strict=True)), posterior


def advance_to(bar: Progress | None, units: float) -> Done:
    """A function that is called with the fraction done of `units` of a bar, and advances it by what is new."""
    reported = 0.0

    def done(fraction: float) -> None:
        nonlocal reported
        if bar is not None:
            bar.note("")
            bar.advance(units * fraction - reported)
            reported = units * fraction

    return done
