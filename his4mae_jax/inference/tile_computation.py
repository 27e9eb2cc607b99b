"""The jitted computations of a tile: raw voxels to lattices of features or score maps, and these to labels.

Slices are encoded in rounds. Several rounds make a dispatch, in which the devices of this host share the rounds; a
tile takes a few dispatches of one shape, so that progress can be shown while it is encoded. The next dispatch is
enqueued before the last one is waited for: devices are never idle.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.volumes.contrast import Contrast, apply_window
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference.coverage import EXPAND_SLICES, Coverage
from his4mae_jax.inference.device_loops import split_batches, split_map
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.inference.lattice import along, smooth
from his4mae_jax.inference.score_maps import LinearScores, nearest, probabilities, scores
from his4mae_jax.training.devices.mesh import make_local_mesh, replicated

Done = Callable[[float], None]  # called with the fraction that is finished
AxisArrays = dict[str, np.ndarray]  # `Tile.arrays` of one axis

ROUND_BATCHES = 4  # a round is of so many slices that they make so many batches,
ROUND_BYTES = 2**25  # or more, up to such a size of their tokens' features or scores
DISPATCH_BATCHES = 64  # at least, on each device, where a tile has so many: a dispatch costs a CPU 1 ms


@dataclasses.dataclass(frozen=True)
class StackedScores:
    """Several clusterings as the arguments of jitted functions.

    Attributes:
      weights_CxD, offset_C: the centres of all clusterings, one after the other.
      groups: for each clustering the label of each centre (uint8) or None.
      counts: number of centres of each clustering.
      probable: (index, number of labels) of the clustering whose probabilities are wanted, or None.
      variance: of that clustering.
    """

    weights_CxD: np.ndarray
    offset_C: np.ndarray
    groups: tuple[jax.Array | None, ...]
    counts: tuple[int, ...]
    probable: tuple[int, int] | None
    variance: np.float32

    @classmethod
    def of(cls, clusterings: Mapping[int, LinearScores], probabilities_of: int | None) -> "StackedScores":
        """Stacks `{number of labels: LinearScores}`."""
        each = tuple(clusterings.values())
        probable = variance = None
        if probabilities_of is not None:
            probable = (list(clusterings).index(probabilities_of), probabilities_of)
            variance = clusterings[probabilities_of].variance
        return cls(
            np.concatenate([c.weights_CxD for c in each]),
            np.concatenate([c.offset_C for c in each]),
            tuple(None if c.group_C is None else jnp.asarray(c.group_C, jnp.uint8) for c in each),
            tuple(len(c.offset_C) for c in each),
            probable,
            np.float32(1.0 if variance is None else variance),
        )

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """The arguments of `score_maps.scores` behind the features."""
        return self.weights_CxD, self.offset_C


class TileComputation:
    """The computations of all tiles of one coverage; each is compiled once for each set of shapes."""

    def __init__(self, models: Any, coverage: Coverage, batch: int):
        """Args:
        models: of any pretext method: `encoder` and `patch_size`.
        coverage: where fields of view lie.
        batch: fields of view that a device encodes at once.
        """
        self.coverage, self.batch, self.mesh = coverage, batch, make_local_mesh()
        self._grid, self._encode = models.encoder.grid, make_encode(models, coverage.symmetries)
        self._encode_rounds = jax.jit(self._rounds)
        self._planes = jax.jit(jnp.moveaxis, static_argnums=(1, 2))
        self._encode_tokens = jax.jit(self._tokens)
        static = ("counts", "probable")
        self._label_features = jax.jit(self._labels_of_features, static_argnames=static)
        self._label_parts = jax.jit(self._labels_of_parts, static_argnames=static)

    def features(
        self, params: Any, box: np.ndarray, arrays: Sequence[Sequence[AxisArrays]], contrast: Contrast, done: Done
    ) -> list[list[np.ndarray]]:
        """The lattices of features of a tile, for each shift and each of `axes`: `(z, y, x, D)`, filled up.

        Args:
          params: of the encoder.
          box: `Tile.box`.
          arrays: `Tile.arrays`.
          contrast: of the volume.
          done: called with the fraction of the tile that is encoded, after each dispatch.
        """
        parts = self._parts(params, box, arrays, contrast, None, done)
        return [
            [
                np.moveaxis(np.concatenate([np.asarray(x) for x in found])[: len(grid[axis]["slices"])], 0, axis)
                for axis, found in zip(self._axes, by_axis, strict=True)
            ]
            for by_axis, grid in zip(parts, arrays, strict=True)
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
        parts = self._parts(params, box, arrays, contrast, stacked.linear, done)
        return self._label_parts(
            parts, arrays, stacked.groups, stacked.variance, counts=stacked.counts, probable=stacked.probable
        )

    def labels_of_features(
        self, lattices: Sequence[np.ndarray], arrays: Sequence[Sequence[AxisArrays]], stacked: StackedScores
    ) -> tuple[jax.Array, jax.Array | None]:
        """As `labels`, from lattices of features (the mean over axes, for each shift) encoded before."""
        return self._label_features(
            lattices, arrays, stacked.linear, stacked.groups, stacked.variance, counts=stacked.counts,
            probable=stacked.probable,
        )  # fmt: skip

    def tokens(self, params: Any, fovs_BxFxF: np.ndarray, contrast: Contrast, token_Bx2: np.ndarray) -> jax.Array:
        """One token of each raw field of view, at its row and column: `(B, D)`; B is a multiple of the devices."""
        return self._encode_tokens(params, fovs_BxFxF, contrast.window, token_Bx2)

    @property
    def _axes(self) -> list[int]:
        return ["zyx".index(a) for a in self.coverage.axes]

    # Raw voxels to lattices.

    def _parts(self, params, box, arrays, contrast, linear, done):
        """For each shift and axis, the lattice of slices across it in parts `(slices, rows, cols, F)`.

        F is D or, with `linear`, C. All parts together have at least the slices of the tile: the last is filled up.
        """
        window = contrast.window
        box = jax.device_put(box, replicated(self.mesh))
        dispatches = [[self._dispatches(grid, axis, linear) for axis in self._axes] for grid in arrays]
        total, enqueued = sum(len(takes) for by_axis in dispatches for takes in by_axis), []
        parts = [[[] for _ in self._axes] for _ in arrays]
        for number, axis in enumerate(self._axes):
            planes = self._planes(box, axis, 0)
            for grid, takes, into in zip(arrays, dispatches, parts, strict=True):
                rows, cols = (_for_encoding(grid[i]) for i in range(3) if i != axis)
                for take in takes[number]:
                    enqueued.append(self._encode_rounds(params, planes, rows, cols, take, window, linear))
                    into[number].append(enqueued[-1])
                    if len(enqueued) > 1:
                        jax.block_until_ready(enqueued[-2])
                        done((len(enqueued) - 1) / total)
        jax.block_until_ready(enqueued[-1])
        done(1.0)
        return parts

    def _dispatches(self, grid, axis, linear):
        """Which slices across `axis` each dispatch encodes: arrays (rounds, slices of a round)."""
        slices = grid[axis]["slices"]
        fovs = math.prod(len(grid[i]["origins"]) for i in range(3) if i != axis)  # of a slice
        values = len(linear[0]) if linear else self.coverage.dim
        most = max(ROUND_BATCHES * self.batch, ROUND_BYTES // (4 * values * math.prod(self._grid)))
        in_round = slices_of_round(fovs, self.batch, -(-len(slices) // self.mesh.size), most)
        rounds = -(-len(slices) // (in_round * self.mesh.size))  # of each device
        least = -(-DISPATCH_BATCHES // -(-in_round * fovs // self.batch))
        in_dispatch = rounds_of_dispatch(rounds, least) * self.mesh.size
        filled = np.pad(slices, (0, -len(slices) % (in_round * in_dispatch)), "edge")
        return list(filled.reshape(-1, in_dispatch, in_round))

    def _rounds(self, params, planes, rows, cols, take_RxS, window, linear):
        """The lattice of some slices: rounds of `S` of `planes`, divided among the devices."""
        size = dict(fov=self.coverage.fov, batch=self.batch)
        if self.coverage.cover:
            token_grid = functools.partial(cs.token_grid, patch=self.coverage.patch, **size)
        else:
            token_grid = functools.partial(es.token_grid, **size)

        def project(images):
            tokens = self._encode(params, images)
            return scores(tokens, *linear) if linear else tokens

        def encode(take, planes):
            return token_grid(project, apply_window(planes[take], *window), rows, cols)

        out = split_map(self.mesh, encode, take_RxS, planes)
        return out.reshape(-1, *out.shape[2:])

    def _tokens(self, params, fovs_BxFxF, window, token_Bx2):
        images_BxFxF = apply_window(fovs_BxFxF, *window)
        tokens = split_batches(self.mesh, lambda x: self._encode(params, x), images_BxFxF, self.batch)
        return tokens[jnp.arange(len(fovs_BxFxF)), token_Bx2[:, 0], token_Bx2[:, 1]]

    # Lattices to labels.

    def _labels_of_parts(self, parts, arrays, groups, variance, *, counts, probable):
        lattices = []
        for by_axis, grid in zip(parts, arrays, strict=True):
            whole = [
                jnp.moveaxis(jnp.concatenate(found)[: len(grid[axis]["slices"])], 0, axis)
                for axis, found in zip(self._axes, by_axis, strict=True)
            ]
            lattices.append(sum(whole) / len(whole))
        return self._expand(lattices, arrays, groups, variance, counts, probable)

    def _labels_of_features(self, lattices, arrays, linear, groups, variance, *, counts, probable):
        return self._expand([scores(x, *linear) for x in lattices], arrays, groups, variance, counts, probable)

    def _expand(self, lattices, arrays, groups, variance, counts, probable):
        """Score maps on the lattice (one for each shift) to labels and probabilities, a few slices at a time."""
        if self.coverage.smooth:
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


def _merge(chunks, depth):
    """Chunks `(chunk, n, z, y, x)` as `(n, depth, y, x)`."""
    return jnp.moveaxis(chunks, 0, 1).reshape(chunks.shape[1], -1, *chunks.shape[3:])[:, :depth]


def _for_encoding(arrays: AxisArrays) -> AxisArrays:
    """The arrays that `token_grid` takes; others may have other shapes along other axes, and compile anew."""
    return {key: value for key, value in arrays.items() if key in ("pixels", "origins", "cover", "weight", "token")}


def slices_of_round(fovs: int, batch: int, number: int, most: int) -> int:
    """How many slices to encode together, so that fewest batches are needed in all.

    Args:
      fovs: fields of view of a slice.
      batch: fields of view encoded at once.
      number: of slices in all.
      most: fields of view of a round at most (but at least one slice).
    """
    choices = range(1, max(1, min(most // fovs, number)) + 1)
    return min(choices, key=lambda s: (-(-number // s) * -(-s * fovs // batch), s))


def rounds_of_dispatch(rounds: int, least: int) -> int:
    """How many of `rounds` to dispatch together: `least` or a few more, so that filling up adds 1 % at most."""
    return next(n for n in range(min(least, rounds), rounds + 1) if 100 * (-rounds % n) <= rounds)
