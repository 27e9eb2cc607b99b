"""The jitted computations of a tile: raw voxels to lattices of features or score maps, and these to labels.

Slices are encoded in rounds. Several rounds make a dispatch, in which the devices of this host share the rounds; a
tile takes several dispatches, so that progress can be shown while it is encoded. The next dispatch is enqueued before
the last one is waited for: devices are never idle. On a CPU a round of a large model can take a minute; there the
program itself reports each batch.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.volumes.contrast import Contrast, apply_window
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference.coverage import EXPAND_SLICES, Coverage
from his4mae_jax.inference.device_loops import (
    BatchCount,
    slices_of_round,
    split_batches,
    split_map,
    split_once,
    split_some,
)
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.inference.lattice import along, put_back, smooth, texture
from his4mae_jax.inference.score_maps import StackedScores, head_scores, nearest, probabilities, scores
from his4mae_jax.inference.tiling import AxisArrays, for_encoding, lattice_points
from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.training.devices.mesh import batch_sharding, make_local_mesh, replicated

Done = Callable[[float], None]  # called with the fraction that is finished

ROUND_BATCHES = 4  # a round is of so many slices that they make so many batches,
ROUND_BYTES = 2**25  # or more, up to such a size of their tokens' features or scores
DISPATCH_BATCHES = 64  # at least, on each device, where a tile has so many: a dispatch costs a CPU 1 ms
REPORT_FLOP = 1e9  # of a batch that a CPU reports by itself: it takes 20 ms at least, the report 0.1 ms


class TileComputation:
    """The computations of all tiles of one coverage; each is compiled once for each set of shapes."""

    def __init__(self, models: Any, coverage: Coverage, batch: int, fov_flop: float = 0.0):
        """Args:
        models: of any pretext method: `encoder` and `patch_size`.
        coverage: where fields of view lie.
        batch: fields of view that a device encodes at once.
        fov_flop: FLOP of encoding one field of view; 0: unknown, progress is then shown by dispatches alone.
        """
        self.coverage, self.batch, self.mesh = coverage, batch, make_local_mesh()
        self._reports = targets_cpu() and batch * coverage.symmetries * fov_flop >= REPORT_FLOP
        self._batches_done = BatchCount(0, lambda fraction: None)  # of the tile that is encoded
        self._grid, self._encode = models.encoder.grid, make_encode(models, coverage.symmetries)
        self._encode_round = jax.jit(self._one_round, static_argnames="report")
        self._encode_rounds = jax.jit(self._some_rounds, donate_argnums=0, static_argnames="report")
        self._planes = jax.jit(jnp.moveaxis, static_argnums=(1, 2))
        self._encode_tokens = jax.jit(self._tokens)
        static = ("counts", "probable")
        self._label_features = jax.jit(self._labels_of_features, static_argnames=static)
        self._label_rounds = jax.jit(self._labels_of_rounds, static_argnames=static)
        self._smooth = jax.jit(self._smoothed)

    def features(
        self, params: Any, box: np.ndarray, arrays: Sequence[Sequence[AxisArrays]], contrast: Contrast, done: Done
    ) -> list[list[np.ndarray]]:
        """The lattices of features of a tile, for each shift and each of `axes`: `(z, y, x, D)`, filled up.

        Args:
          params: of the encoder.
          box: `Tile.box`.
          arrays: `Tile.arrays`.
          contrast: of the volume.
          done: called with the fraction of the tile that is encoded, after each dispatch or each batch; possibly
            from another thread.
        """
        lattices = self._lattices(params, box, arrays, contrast, None, done)
        return [
            [
                _slices_across(np.asarray(x), axis, len(grid[axis]["slices"]))
                for axis, x in zip(self._axes, by_axis, strict=True)
            ]
            for by_axis, grid in zip(lattices, arrays, strict=True)
        ]

    def labels(
        self,
        params: Any,
        box: np.ndarray,
        arrays: Sequence[Sequence[AxisArrays]],
        contrast: Contrast,
        stacked: StackedScores,
        done: Done,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Labels of a tile, `(clusterings, z, y, x)` uint8, and probabilities `(labels, z, y, x)` uint8 or None.

        Arguments are those of `features`, and the clusterings. Both results are filled up.
        """
        lattices = self._lattices(params, box, arrays, contrast, stacked.linear, done)
        heads = None if stacked.linear else stacked.heads  # linear scores are taken of single tokens already
        return self._label_rounds(
            lattices, arrays, stacked.groups, stacked.variance, heads, counts=stacked.counts, probable=stacked.probable
        )

    def labels_of_features(
        self, lattices: Sequence[np.ndarray], arrays: Sequence[Sequence[AxisArrays]], stacked: StackedScores
    ) -> tuple[jax.Array, jax.Array | None]:
        """As `labels`, from lattices of features (the mean over axes, for each shift) encoded before."""
        return self._label_features(
            lattices, arrays, stacked.linear or stacked.heads, stacked.groups, stacked.variance, counts=stacked.counts,
            probable=stacked.probable,
        )  # fmt: skip

    def smoothed(self, lattice: np.ndarray, grid: Sequence[AxisArrays]) -> np.ndarray:
        """A lattice of features (the mean over axes, filled up) as it is clustered: `(z, y, x, D)`, or 2 D.

        It is smoothed, and where texture counts that stands behind. `grid` are the arrays of its shift.
        """
        return np.asarray(self._smooth(lattice, grid))

    def tokens(self, params: Any, fovs_BxFxF: np.ndarray, contrast: Contrast, token_Bx2: np.ndarray) -> jax.Array:
        """One token of each raw field of view, at its row and column: `(B, D)`; B is a multiple of the devices."""
        return self._encode_tokens(params, fovs_BxFxF, contrast.window, token_Bx2)

    @property
    def _axes(self) -> list[int]:
        return ["zyx".index(a) for a in self.coverage.axes]

    # Raw voxels to lattices.

    def _lattices(self, params, box, arrays, contrast, linear, done):
        """For each shift and axis, the lattice of slices across it in rounds, `(rounds, slices, rows, cols, F)`.

        F is D or, with `linear`, C. All rounds together have at least the slices of the tile: the last is filled up.
        """
        box = jax.device_put(box, replicated(self.mesh))
        takes = [[self._takes(grid, axis, linear) for axis in self._axes] for grid in arrays]
        total = sum(len(take) * batches for by_axis in takes for take, batches in by_axis)
        count = self._batches_done = BatchCount(total, done)
        waiting, lattices = [], [[] for _ in arrays]

        def wait(most):
            while len(waiting) > most:
                unreported, signal = waiting.pop(0)
                jax.block_until_ready(signal)
                count.add(unreported)

        for number, axis in enumerate(self._axes):
            planes = self._planes(box, axis, 0)
            for grid, by_axis, into in zip(arrays, takes, lattices, strict=True):
                rows, cols = (for_encoding(grid[i]) for i in range(3) if i != axis)
                take_RxS, batches = by_axis[number]
                # XLA inlines a loop or a buffer of one round, and then rounds some sums in another way. With several
                # axes a second round that is never run keeps the loop: tiles of all shapes give the same bits. With
                # one axis the loop is inlined, as it always was: such a tile agrees with tiles of several rounds only
                # up to float32 rounding, and labels differ where the two nearest centres are as near.
                rounds, report = len(take_RxS) // self.mesh.size, self._reports and batches > 1
                if len(self._axes) == 1 and rounds == 1:
                    fixed = (take_RxS, contrast.window, linear)
                    into.append(self._encode_round(params, planes, rows, cols, *fixed, report=report))
                    waiting.append((0 if report else self.mesh.size * batches, into[-1]))
                    continue
                spare = 2 if rounds == 1 else 1
                take_RxS, step = np.repeat(take_RxS, spare, axis=0), -(-DISPATCH_BATCHES // batches)
                values = len(linear[0]) if linear else self.coverage.dim
                shape = (*take_RxS.shape, lattice_points(rows), lattice_points(cols), values)
                out = jnp.zeros(shape, jnp.float32, device=batch_sharding(self.mesh))
                for start in range(0, rounds, step):
                    stop = min(start + step, rounds)
                    span, fixed = (np.int32(start), np.int32(stop)), (take_RxS, contrast.window, linear)
                    out, signal = self._encode_rounds(out, *span, params, planes, rows, cols, *fixed, report=report)
                    waiting.append((0 if report else (stop - start) * self.mesh.size * batches, signal))
                    wait(1)
                into.append(out[::spare] if spare > 1 else out)
        wait(0)
        return lattices

    def _takes(self, grid, axis, linear):
        """Slices of each round, `(rounds, slices)`, with as many rounds for every device, and batches of a round."""
        slices = grid[axis]["slices"]
        fovs = math.prod(len(grid[i]["origins"]) for i in range(3) if i != axis)  # of a slice
        values = len(linear[0]) if linear else self.coverage.dim
        most = max(ROUND_BATCHES * self.batch, ROUND_BYTES // (4 * values * math.prod(self._grid)))
        in_round = slices_of_round(fovs, self.batch, -(-len(slices) // self.mesh.size), most)
        filled = np.pad(slices, (0, -len(slices) % (in_round * self.mesh.size)), "edge")
        return filled.reshape(-1, in_round), -(-in_round * fovs // self.batch)

    def _one_round(self, params, planes, rows, cols, take_RxS, window, linear, *, report):
        """The lattice of the only round of every device."""
        encode = self._round(params, rows, cols, window, linear, report)
        # XLA inlines the loop of `split_map`, but not one that reports.
        return (split_once if report else split_map)(self.mesh, encode, take_RxS, planes)

    def _round(self, params, rows, cols, window, linear, report=False):
        """A function of the slices of a round, and of the planes they are taken from, to their lattice.

        With `report` each batch is counted while the program runs.
        """
        size = dict(fov=self.coverage.fov, batch=self.batch)
        if self.coverage.cover:
            token_grid = functools.partial(cs.token_grid, patch=self.coverage.patch, **size)
        else:
            token_grid = functools.partial(es.token_grid, **size)

        def project(images):
            tokens = self._encode(params, images)
            if report:
                jax.debug.callback(self._count_batch)
            return scores(tokens, *linear) if linear else tokens

        return lambda take, planes: token_grid(project, apply_window(planes[take], *window), rows, cols)

    def _count_batch(self):
        self._batches_done.add(1)

    def _some_rounds(self, out, start, stop, params, planes, rows, cols, take_RxS, window, linear, *, report):
        """`out` with the rounds from `start` to `stop` of every device, and an array that is ready when they are."""
        encode = self._round(params, rows, cols, window, linear, report)
        return split_some(self.mesh, encode, out, take_RxS, start, stop, planes), stop + 0

    def _tokens(self, params, fovs_BxFxF, window, token_Bx2):
        images_BxFxF = apply_window(fovs_BxFxF, *window)
        tokens = split_batches(self.mesh, lambda x: self._encode(params, x), images_BxFxF, self.batch)
        return tokens[jnp.arange(len(fovs_BxFxF)), token_Bx2[:, 0], token_Bx2[:, 1]]

    # Lattices to labels.

    def _labels_of_rounds(self, rounds, arrays, groups, variance, heads, *, counts, probable):
        lattices = []
        for by_axis, grid in zip(rounds, arrays, strict=True):
            whole = [
                _slices_across(x, axis, len(grid[axis]["slices"])) for axis, x in zip(self._axes, by_axis, strict=True)
            ]
            lattices.append(sum(whole) / len(whole))
        return self._expand(lattices, arrays, groups, variance, counts, probable, heads)

    def _labels_of_features(self, lattices, arrays, linear, groups, variance, *, counts, probable):
        if isinstance(linear[0], tuple):
            return self._expand(lattices, arrays, groups, variance, counts, probable, linear)
        return self._expand([scores(x, *linear) for x in lattices], arrays, groups, variance, counts, probable)

    def _expand(self, lattices, arrays, groups, variance, counts, probable, heads=None):
        """Score maps on the lattice (with `heads`: features), for each shift, to labels, a few slices at a time."""
        if heads is not None:
            lattices = [self._head_scores(x, grid, heads) for x, grid in zip(lattices, arrays, strict=True)]
        elif self.coverage.smooth:
            lattices = [smooth(x, [axis["smooth"] for axis in grid]) for x, grid in zip(lattices, arrays, strict=True)]
        depth = len(arrays[0][0]["lower"])
        chunks = np.minimum(np.arange(-(-depth // EXPAND_SLICES) * EXPAND_SLICES), depth - 1).reshape(-1, EXPAND_SLICES)

        def expand(z):
            maps = 0.0
            for lattice, grid in zip(lattices, arrays, strict=True):
                part = along(lattice, grid[0]["lower"][z], grid[0]["fraction"][z], 0)
                for axis in (1, 2):
                    part = along(part, grid[axis]["lower"], grid[axis]["fraction"], axis)
                maps = maps + part
            maps = maps / len(lattices)
            labels = nearest(maps, counts, groups)
            return labels, None if probable is None else probabilities(maps, counts, groups, *probable, variance)

        labels, posterior = split_map(self.mesh, expand, jnp.asarray(chunks))
        return _merge(labels, depth), None if posterior is None else _merge(posterior, depth)

    def _head_scores(self, tokens, grid, heads):
        """Score maps of a lattice of features by `heads`, smoothed; of textures too where these count."""
        narrow, wide, back = self._gaussians(tokens, grid)
        return head_scores(tokens, heads, narrow, texture(tokens, wide) if wide else None, back)

    def _smoothed(self, tokens, grid):
        narrow, wide, back = self._gaussians(tokens, grid)
        mean = narrow(tokens) if narrow else tokens
        return jnp.concatenate([mean, back(texture(tokens, wide))], axis=-1) if wide else mean

    def _gaussians(self, tokens, grid):
        """The Gaussians "smooth" and "texture" (of the points from "first" on), and what puts these among all again."""
        firsts, found = [axis["first"] for axis in grid], []
        for name, of in (("smooth", (0, 0, 0)), ("texture", firsts)):
            sigma, matrices = getattr(self.coverage, name), [axis.get(name) for axis in grid]
            of_name = dict(matrices=matrices, reaches=self.coverage.reaches(sigma), firsts=of)
            found.append(functools.partial(smooth, **of_name) if sigma else None)
        return *found, functools.partial(put_back, firsts=firsts, like=tokens)


def _slices_across(rounds, axis, number):
    """A lattice `(z, y, x, F)` from the rounds of its slices across `axis`, `(rounds, slices, rows, cols, F)`."""
    moveaxis = jnp.moveaxis if isinstance(rounds, jax.Array) else np.moveaxis
    return moveaxis(rounds.reshape(-1, *rounds.shape[2:])[:number], 0, axis)


def _merge(chunks, depth):
    """Chunks `(chunk, n, z, y, x)` as `(n, depth, y, x)`."""
    return jnp.moveaxis(chunks, 0, 1).reshape(chunks.shape[1], -1, *chunks.shape[3:])[:, :depth]
