"""Streams a volume through the encoder: fit centres on a sample, then label tile by tile.

Slices across one axis (the paper's z) or all three are encoded; where several axes are used,
slices lie one patch apart, so that the lattice is that of the tokens on every axis. Averages
over axes, symmetries of the field of view and shifts of the token grid, and Gaussian smoothing are
linear, as is the expansion to voxels: labels need only the C score maps of a tile, whatever the
feature dimension. Features themselves are held for the fit alone, those of one tile of at most
`FIT_TILE` voxels a side.

A tile goes from raw voxels to labels in one jitted function, in which the devices of this host share slices; tiles
of one volume have equal shapes and share it. While a tile is computed the next is read.

With cover-stride every voxel has a token of its own (`cover_stride`). The fit then encodes only
the fields of view of the voxels sampled; the score maps of a tile are held at every voxel.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.clustering import sampling
from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.contrast import Contrast, apply_window
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.padding import padding_mask
from his4mae_jax.errors import UserError
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference.device_loops import split_batches, split_map
from his4mae_jax.inference.encode import SYMMETRIES, make_encode
from his4mae_jax.inference.tiling import Tiling, spans
from his4mae_jax.models.kernels.batches import fovs_at_once
from his4mae_jax.training.devices.mesh import make_local_mesh

FIT_TILE = 256  # voxels a side at most of the cube that holds as much as a tile of the fit
FEATURES_BYTES = 2**28  # of such a tile's lattice of features; smaller tiles where they would be more
EXPAND_SLICES = 8  # slices of score maps expanded to voxels at once
MAPS_BYTES = 2**30  # of a tile's score maps and labels at most; smaller tiles where there are many
GROUP = 4  # slices are encoded together until they make so many batches,
GROUP_BYTES = 2**25  # or more, up to such a size of their tokens' features or scores
FEW = 32  # fields of view that cover-stride's fit gives a device in one call, or one batch if that is more


@dataclasses.dataclass
class Segmenter:
    """An encoder, its parameters and the way a volume is covered.

    `axes`, `stride`, `overhang`, `edge_weight`, `smooth`, `symmetries`, `shifts`, `batch` and `tile`
    are the `segment.` settings of these names (`batch_fovs`; 0: `fovs_at_once`). `inference` is "expand" or
    "cover", which has no stride, overhang, edge weight, shifts or smoothing; `expansion` of tokens to voxels is
    "linear" (the paper's) or "nearest". `spacing` is the voxel size (z, y, x) over the smallest of the three:
    smoothing is isotropic in nm. `padding` are the grey levels of constant regions that are neither sampled nor
    labelled (`data.padding`). Raises `UserError` for settings that do not go together.
    """

    models: object
    params: dict
    contrast: Contrast
    axes: str
    stride: int
    edge_weight: float
    smooth: float
    batch: int
    tile: int
    overhang: int = 0
    inference: str = "expand"
    expansion: str = "linear"
    symmetries: int = 1
    shifts: int = 1
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    padding: tuple[float, ...] = ()

    def __post_init__(self):
        for key, choices in (
            ("inference", ("expand", "cover")), ("expansion", ("linear", "nearest")), ("symmetries", tuple(SYMMETRIES)),
        ):  # fmt: skip
            if getattr(self, key) not in choices:
                raise UserError(
                    f"config key segment.{key} is {getattr(self, key)!r}: choose one of {', '.join(map(repr, choices))}"
                )
        self.patch = self.models.patch_size
        self.fov = self.models.encoder.grid[0] * self.patch
        self.batch = self.batch or fovs_at_once(self.models)
        self.cover = self.inference == "cover"
        for key, value in (("smooth", 0), ("expansion", "linear"), ("shifts", 1)):
            if self.cover and getattr(self, key) != value:
                raise UserError(
                    f"config key segment.{key} is {getattr(self, key)!r}: cover-stride has a token for every voxel "
                    f"and no grid to smooth, shift or expand; leave it {value!r}, or set segment.inference to 'expand'"
                )
        if not 1 <= self.shifts <= self.patch:
            raise UserError(
                f"config key segment.shifts is {self.shifts}: give 1 to {self.patch} shifts of the token grid within a "
                "patch (model.patch_size)"
            )
        self._encode, self._mesh = make_encode(self.models, self.symmetries), make_local_mesh()
        self._features, self._tokens = jax.jit(self._lattices), jax.jit(self._tokens_of)
        self._label = jax.jit(self._label_tile, static_argnames=("counts", "of"))
        self._label_held = jax.jit(self._label_lattices, static_argnames=("counts", "of"))
        self.held = None

    def check_size(self, shape):
        """Slices across every axis used must hold a field of view; returns the offending axis or None."""
        for axis in self.axes:
            sides = [n for n, a in zip(shape, "zyx", strict=True) if a != axis]
            if min(sides) < self.fov:
                return axis
        return None

    def count_fovs(self, shape):
        """Fields of view to encode for the labels of a volume (z, y, x) as one tile."""
        if self.cover:
            return self.symmetries * cs.count_fovs(shape, self.fov, self.patch, self.axes)
        return self.symmetries * es.count_fovs(
            shape, self.fov, self.patch, self.stride, self.axes, self.overhang, self.shifts
        )

    # How a volume is cut.

    def tiles(self, shape, side=None, *, inside=None, block=(1, 1, 1)):
        """The `Tiling` of a volume of `shape` into tiles of about side^3 voxels; `side` is `tile` by default.

        `inside` (slices) is the part that is wanted, and `block` what tiles are multiples of.
        """
        inside = inside or tuple(slice(0, n) for n in shape)
        sides = self._sides(side or self.tile)
        if self.cover:  # whole blocks of cover-stride, where that can be: neighbours then encode no field of view twice
            whole = [math.lcm(b, cs.block_size(self.fov, self.patch)) for b in block]
            block = tuple(w if w <= n else b for w, b, n in zip(whole, block, sides, strict=True))
        found = [spans(w.start, w.stop, n, b) for w, n, b in zip(inside, sides, block, strict=True)]
        origin, extent = [w.start for w in inside], [w.stop - w.start for w in inside]
        make = lambda axis, write, shift: self._axis_tile(axis, extent[axis], write, shift, origin[axis])  # noqa: E731
        return Tiling(found, make, es.grid_shifts(self.patch, self.shifts), self.smooth)

    def fit_tiles(self, shape, **kwargs):
        """The `Tiling` that the fit of centres takes its sample from."""
        per_point = 4 * self.models.encoder.embed_dim
        held = lambda n: 0 if self.cover else per_point * n**3 / self._voxels_per_point  # noqa: E731
        return self.tiles(shape, self._fitting(min(self.tile, FIT_TILE), held, FEATURES_BYTES), **kwargs)

    def label_tiles(self, shape, outputs, maps, **kwargs):
        """The `Tiling` that is labelled, with `outputs` bytes a voxel written, from `maps` score maps."""
        if self.cover:
            side = self._fitting(self.tile, lambda n: (4 * maps + outputs) * n**3, MAPS_BYTES)
            return self.tiles(shape, side, **kwargs)
        per_voxel = max(4 * maps / self._voxels_per_point, outputs)
        held = lambda n: max(per_voxel * n**3, 4 * maps * EXPAND_SLICES * self._sides(n)[1] * self._sides(n)[2])  # noqa: E731
        return self.tiles(shape, self._fitting(self.tile, held, MAPS_BYTES), **kwargs)

    @property
    def _voxels_per_point(self):
        return 1 if self.cover else self.patch ** (2 if len(self.axes) == 1 else 3)

    def _fitting(self, side, held, most):
        """`side`, or less where `held(side)` bytes are more than `most`."""
        while side > self.patch and held(side) > most:
            side = max(int(side * 0.8), self.patch)
        return side

    def _sides(self, side):
        """Sides (z, y, x) of a tile of about side^3 voxels: flat ones where slices are across one axis alone, whose
        neighbours in the plane share fields of view."""
        if self.cover or len(self.axes) > 1:
            return (side,) * 3
        return tuple(max(side // 4, 1) if "zyx"[axis] == self.axes else 2 * side for axis in range(3))

    def _axis_tile(self, axis, length, write, shift, origin):
        """The plan of one axis of a tile, of the part of the volume that begins at `origin`."""
        write = tuple(w - origin for w in write)
        halo = es.smoothing_halo(self.smooth)
        if self.axes == "zyx"[axis]:
            # At so many slices a token's side: the Gaussian is as wide in nm as within the slices.
            scale = self.patch / self.spacing[axis]
            tile = es.dense_tile(length, write, math.ceil(halo * scale), scale)
        elif self.cover:
            tile = cs.axis_tile(length, write, self.fov, self.patch)
        else:
            tile = es.axis_tile(
                length, write, self.fov, self.patch, self.stride, halo, self.overhang, self.expansion,
                self.edge_weight, shift,
            )  # fmt: skip
        return tile.moved(origin)

    def memory_bytes(self, volume, outputs, maps):
        """Bytes held at most, by their largest parts, while `volume` is fitted and labelled."""
        raw = volume.dtype.itemsize
        tokens, dim = (self.fov // self.patch) ** 2, self.models.encoder.embed_dim
        encoder = 4 * self.batch * tokens * (16 * dim + 2 * tokens)
        parameters = sum(x.nbytes for x in jax.tree.leaves(self.params))

        def of(tiling, per_point, per_voxel):
            tile = tiling[0]
            points = max(math.prod(s["slices"] for s in sizes) for sizes in tile.sizes)
            lattices = points * per_point * (len(self.axes) + 2) * self.shifts
            voxels = math.prod(s["lower"] for s in tile.sizes[0])
            return 3 * raw * math.prod(tile.read_shape) + lattices + voxels * per_voxel

        fit = 0 if self.cover else of(self.fit_tiles(volume.shape), 4 * dim, 0)
        label = of(self.label_tiles(volume.shape, outputs, maps), 4 * maps, 2 * outputs)
        return parameters + encoder + max(fit, label)

    # On the device.

    def _project(self, params, linear):
        """Images to tokens or, given `linear`, to the scores of centres."""
        return lambda x: es.scores(self._encode(params, x), *linear) if linear else self._encode(params, x)

    def _axis_lattice(self, params, box, grid, axis, window, linear):
        """The lattice that slices across one axis give, `(z, y, x, F)`."""
        rows, cols = (grid[i] for i in range(3) if i != axis)
        planes, where = jnp.moveaxis(box, axis, 0), grid[axis]["slices"]
        share = -(-len(where) // self._mesh.size)
        per_slice = len(rows["origins"]) * len(cols["origins"])
        values = len(linear[0]) if linear else self.models.encoder.embed_dim
        together = GROUP_BYTES // (4 * values * math.prod(self.models.encoder.grid))
        at_once = _slices_at_once(per_slice, self.batch, share, max(GROUP * self.batch, together))
        filled = jnp.concatenate([where, jnp.repeat(where[-1:], -len(where) % at_once)])
        size = dict(fov=self.fov, batch=self.batch, **({"patch": self.patch} if self.cover else {}))
        token_grid = cs.token_grid if self.cover else es.token_grid

        def encode(take):
            return token_grid(self._project(params, linear), apply_window(planes[take], *window), rows, cols, **size)

        out = split_map(self._mesh, encode, filled.reshape(-1, at_once))
        return jnp.moveaxis(out.reshape(-1, *out.shape[2:])[: len(where)], 0, axis)

    def _lattices(self, params, box, grids, window, linear=None):
        """Of each shift of the token grid, the lattices of slices across each of `axes`."""
        axes = ["zyx".index(a) for a in self.axes]
        return [[self._axis_lattice(params, box, grid, a, window, linear) for a in axes] for grid in grids]

    def _smoothed(self, lattice, grid):
        return es.smooth(lattice, [axis["smooth"] for axis in grid]) if self.smooth else lattice

    def _label_tile(self, params, box, grids, window, linear, groups, variance, *, counts, of):
        found = self._lattices(params, box, grids, window, linear)
        lattices = [sum(by_axis) / len(by_axis) for by_axis in found]
        return self._expand(lattices, grids, groups, variance, counts, of)

    def _label_lattices(self, lattices, grids, linear, groups, variance, *, counts, of):
        """Labels from lattices of features that were kept."""
        return self._expand([es.scores(x, *linear) for x in lattices], grids, groups, variance, counts, of)

    def _expand(self, lattices, grids, groups, variance, counts, of):
        """Labels `(clusterings, z, y, x)` and, `of` one of them, probabilities; a few slices at a time."""
        lattices = [self._smoothed(x, grid) for x, grid in zip(lattices, grids, strict=True)]
        depth = len(grids[0][0]["lower"])
        chunks = np.minimum(np.arange(-(-depth // EXPAND_SLICES) * EXPAND_SLICES), depth - 1).reshape(-1, EXPAND_SLICES)

        def some(z):
            maps = 0.0
            for lattice, grid in zip(lattices, grids, strict=True):
                part = es.along(lattice, grid[0]["lower"][z], grid[0]["fraction"][z], 0)
                for axis in (1, 2):
                    part = es.along(part, grid[axis]["lower"], grid[axis]["fraction"], axis)
                maps = maps + part
            maps = maps / len(lattices)
            labels = es.nearest(maps, counts, groups)
            return labels, None if of is None else es.probabilities(maps, counts, groups, of, variance)

        labels, shares = split_map(self._mesh, some, jnp.asarray(chunks))
        merge = lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :depth]  # noqa: E731
        return merge(labels), None if shares is None else merge(shares)

    def lattices(self, volume, tile):
        """Of each shift, the lattices of features by axis before smoothing, NumPy `(z, y, x, D)` each."""
        found = self._features(self.params, tile.box(volume), tile.arrays(), self.contrast.window)
        return [
            [np.asarray(x)[tuple(slice(axis.points) for axis in grid)] for x in by_axis]
            for by_axis, grid in zip(found, tile.grids, strict=True)
        ]

    def features(self, volume, tile, index_Mx3):
        """Features, as they are clustered, at M voxels (relative to what a tile writes): `(M, D)`."""
        if self.cover:
            return np.mean(self.features_at(volume.read(tile.read), tile.grids[0], index_Mx3), axis=0)
        means = [np.mean(by_axis, axis=0) for by_axis in self.lattices(volume, tile)]
        return self.at_voxels(means, tile, index_Mx3)

    def at_voxels(self, means, tile, index_Mx3):
        """Features at voxels from the mean lattice of each shift, smoothed."""
        total = 0.0
        for mean, grid in zip(means, tile.grids, strict=True):
            matrices = [es.smoothing_matrix(axis, self.smooth) for axis in grid] if self.smooth else None
            mean = np.asarray(jax.jit(es.smooth)(mean, matrices)) if self.smooth else mean
            total = total + es.at_voxels(mean, grid, index_Mx3)
        return total / len(means)

    def _tokens_of(self, params, fovs, window, token_Bx2):
        """One token of each field of view, `(B, D)`."""
        tokens = split_batches(self._mesh, lambda x: self._encode(params, x), apply_window(fovs, *window), self.batch)
        return tokens[jnp.arange(len(fovs)), token_Bx2[:, 0], token_Bx2[:, 1]]

    def features_at(self, box, tiles, index_Mx3):
        """Cover-stride features at M voxels written by a tile: an array `(M, D)` for each of `axes`.

        `box` is what the tile reads. Only the fields of view of these voxels are encoded, one
        for each voxel and axis.
        """
        encode = lambda fovs, token_Bx2: self._tokens(self.params, fovs, self.contrast.window, token_Bx2)  # noqa: E731
        a_call = self._mesh.size * self.batch * max(1, FEW // self.batch)
        size = dict(fov=self.fov, patch=self.patch, batch=a_call, dim=self.models.encoder.embed_dim)
        return [cs.tokens_at(encode, box, tiles, "zyx".index(a), index_Mx3, **size) for a in self.axes]

    def sample(self, *args, **kwargs):
        """What the fit of centres needs: `sampling.sample` of this segmenter."""
        return sampling.sample(self, *args, **kwargs)

    def label(self, volume, centres_by_size, tiles=None, *, probabilities_of=None):
        """Yields `(tile, {C: labels}, probabilities)` for each of `tiles` (all of `label_tiles`), in their order.

        Labels are uint8 of the tile's shape; probabilities of the clustering `probabilities_of`
        are uint8 `(C, z, y, x)`, 255 for 1, or None. Of two tiles that follow each other one is read and the
        other computed at the same time. What is held is set by the tiles, whatever the volume's size.
        """
        all_centres = tuple(centres_by_size.values())
        counts = tuple(len(c.centres_CxM) for c in all_centres)
        tiles = tiles or self.label_tiles(volume.shape, len(counts), sum(counts))
        groups = tuple(None if c.group_C is None else jnp.asarray(c.group_C, jnp.uint8) for c in all_centres)
        weights, offsets = zip(*(c.linear() for c in all_centres), strict=True)
        linear = np.concatenate(weights), np.concatenate(offsets)
        of = None if probabilities_of is None else (list(centres_by_size).index(probabilities_of), probabilities_of)
        variance = np.float32(1.0 if of is None else centres_by_size[probabilities_of].variance)

        def read(tile):
            empty = padding_mask(volume, tile.write, self.padding)
            held = self.held and self.held[0] is volume and self.held[1] == tile.write
            if held or (empty is not None and empty.all()):
                return tile, empty, None, tile.arrays()
            return tile, empty, tile.box(volume), tile.arrays()

        for tile, empty, box, arrays in in_order(read, tiles, workers=1):
            if empty is not None and empty.all():
                nothing = np.full(tile.shape, IGNORE, np.uint8)
                shares = None if of is None else np.zeros((of[1], *tile.shape), np.uint8)
                yield tile, dict.fromkeys(centres_by_size, nothing), shares
                continue
            if box is None:
                lattices = [_filled(x, sizes) for x, sizes in zip(self.held[2], tile.sizes, strict=True)]
                found = self._label_held(lattices, arrays, linear, groups, variance, counts=counts, of=of)
            else:
                what = (self.params, box, arrays, self.contrast.window, linear, groups, variance)
                found = self._label(*what, counts=counts, of=of)
            cut = tuple(slice(n) for n in tile.shape)
            labels, shares = (None if x is None else np.asarray(x)[(slice(None), *cut)] for x in found)
            if empty is not None:
                labels = np.where(empty, np.uint8(IGNORE), labels)
                shares = None if shares is None else np.where(empty, np.uint8(0), shares)
            yield tile, dict(zip(centres_by_size, labels, strict=True)), shares


def _slices_at_once(per_slice, batch, number, most):
    """How many of `number` slices are encoded together, of at most `most` fields of view: fewest batches in all."""
    choices = range(1, max(1, min(most // per_slice, number)) + 1)
    return min(choices, key=lambda s: (-(-number // s) * -(-s * per_slice // batch), s))


def _filled(lattice, sizes):
    """A lattice filled up with zeros to the sizes that all tiles share."""
    return np.pad(lattice, [(0, s["slices"] - n) for s, n in zip(sizes, lattice.shape, strict=False)] + [(0, 0)])
