"""Expand-stride inference (paper section 3.3) on the token grid of a whole slice.

Fields of view at stride S cover a slice. Where they overlap, their tokens are averaged on
the slice's own token grid, and only then expanded linearly to pixels: no seams.

Distances to cluster centres are linear in the features up to |z|^2, which is the same for
all centres: |z - c|^2 - |z|^2 = |c|^2 - 2 z.c. Averaging and linear expansion commute with
it, so tokens become C scores first and C maps are expanded instead of D features.

What depends on where a tile lies is in its `AxisTile`s, arrays that the functions here take as
arguments: all tiles of equal shapes share what is compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from his4mae_jax.inference.encode import in_batches
from his4mae_jax.models.patches import token_positions


def reflect(index, length):
    """Indices mirrored into [0, length) without repeating the border pixel."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.where(folded >= length, period - folded, folded)


def fov_origins(length, fov, patch, stride, overhang=0):
    """First pixel of each field of view along an axis.

    They start at the border and the last ends there; with an `overhang` they begin up to that
    many pixels outside it (whole strides) and end as far beyond, on mirrored pixels. Tokens at the
    border are then seen at the same places of a field of view as those inside.
    """
    padded = max(-(-length // patch) * patch, fov)
    origins = np.arange(-(overhang // stride) * stride, padded - fov + overhang + 1, stride)
    return origins if origins[-1] >= padded - fov else np.append(origins, padded - fov)


def count_fovs(shape, fov, patch, stride, axes, overhang=0, shifts=1):
    """Fields of view to encode for a volume (z, y, x) as one tile."""
    dense = len(axes) == 1
    total = 0
    for shift in grid_shifts(patch, shifts):
        along = [len(fov_origins(n + shift, fov, patch, stride, overhang)) for n in shape]
        for axis in ("zyx".index(a) for a in axes):
            rows, cols = (n for i, n in enumerate(along) if i != axis)
            total += (shape[axis] if dense else -(-(shape[axis] + shift) // patch)) * rows * cols
    return total


def grid_shifts(patch, shifts):
    """Pixels by which each of `shifts` token grids begins before the slice: 0, and even steps of a patch."""
    return [patch * i // shifts for i in range(shifts)]


@dataclasses.dataclass(frozen=True)
class AxisTile:
    """One axis of a tile: where fields of view lie, the lattice kept, what to write.

    The lattice of an axis is that of the tokens of the whole slice (token i sits at pixel
    patch * i + (patch - 1) / 2, less the grid's shift), or every voxel for the axis across which
    slices are taken one by one (`scale` is then the patch, else 1: lattice points a token).
    """

    write: tuple[int, int]  # voxels of the volume that this tile labels
    pixels: np.ndarray  # padded pixel -> voxel of the volume (reflection at its border)
    origins: np.ndarray  # first padded pixel of each field of view
    cover_PxK: np.ndarray  # lattice point -> the tokens that see it, as field of view * tokens a side + token
    weight_PxK: np.ndarray  # ... and their shares in its mean
    slices: np.ndarray  # voxel of the volume at each lattice point: where slices are cut
    lower: np.ndarray  # written voxel -> lattice point below it ...
    fraction: np.ndarray  # ... and the share of the point above
    scale: float = 1

    @property
    def points(self):
        return len(self.slices)

    @property
    def read(self):
        """Voxels of the volume that it reads, `(start, stop)`."""
        found = np.concatenate([self.pixels, self.slices])
        return int(found.min()), int(found.max()) + 1

    def moved(self, by):
        """The same, of an axis that begins at voxel `by` of a longer one."""
        write = (self.write[0] + by, self.write[1] + by)
        return dataclasses.replace(self, write=write, pixels=self.pixels + by, slices=self.slices + by)

    def arrays(self, begin):
        """What the functions below need, voxels counted from `begin`: a dict of arrays."""
        return {
            "pixels": self.pixels - begin, "origins": self.origins, "cover": self.cover_PxK,
            "weight": self.weight_PxK, "slices": self.slices - begin, "lower": self.lower, "fraction": self.fraction,
        }  # fmt: skip


def axis_tile(length, write, fov, patch, stride, halo=0, overhang=0, expansion="linear", edge_weight=1.0, shift=0):
    """Plan one axis for the voxels `write = (start, stop)` of an axis `length` long.

    All fields of view are those of the whole axis, so tiles agree with the untiled result.
    `halo` more lattice points are kept on each side, for smoothing. With the "nearest"
    `expansion` a voxel gets the token whose patch it lies in: shares of 0 and 1. A field of view's
    outermost tokens weigh `edge_weight` in the means. `shift` moves the token grid so many pixels
    to the front, on mirrored pixels.
    """
    tokens = fov // patch
    last_token = max(-(-(length + shift) // patch), tokens) - 1
    if expansion == "nearest":
        where = (np.arange(*write) + shift) // patch
    else:
        where = token_positions(np.arange(*write) + shift, patch, last_token + 1)
    lower = np.minimum(where.astype(np.int64), max(last_token - 1, 0))
    fraction = (where - lower).astype(np.float32)
    # Points whose middle lies outside the volume hold reflections only; smoothing treats the
    # volume's border as a mirror, too, so they are not needed beyond the next one.
    first, last = max(lower[0] - halo, 0), min(lower[-1] + 1 + halo, last_token)
    starts = fov_origins(length + shift, fov, patch, stride, overhang) // patch
    starts = starts[(starts <= last) & (starts + tokens > first)]
    begin, end = starts[0], starts[-1] + tokens
    points = np.arange(first, last + 1)
    cover, weight = _covering(points, starts, token_weights(tokens, edge_weight), max(-(-fov // stride) + 1, 1))
    return AxisTile(
        write=write, pixels=reflect(np.arange(begin * patch, end * patch) - shift, length),
        origins=(starts - begin) * patch, cover_PxK=cover, weight_PxK=weight,
        slices=reflect(points * patch + patch // 2 - shift, length), lower=lower - first, fraction=fraction,
    )  # fmt: skip


def _covering(points, starts, weights, most):
    """Of each lattice point the tokens that see it, in the order of their fields of view, and their shares."""
    tokens = len(weights)
    token = points[:, None] - starts[None, :]
    number, point = np.meshgrid(np.arange(len(starts)), np.arange(len(points)))
    sees = (token >= 0) & (token < tokens)
    share = np.where(sees, weights[np.clip(token, 0, tokens - 1)], 0.0).astype(np.float64)
    share /= share.sum(axis=1, keepdims=True)
    # `most` places a point, unused ones of share 0: the same sum in every tile, to the last bit.
    cover, weight = np.zeros((len(points), most), np.int32), np.zeros((len(points), most), np.float32)
    place = np.cumsum(sees, axis=1) - 1
    cover[point[sees], place[sees]] = number[sees] * tokens + token[sees]
    weight[point[sees], place[sees]] = share[sees]
    return cover, weight


def dense_tile(length, write, halo=0, scale=1):
    """Plan the axis across which slices are taken at every voxel; `halo` in voxels, `scale` voxels a token."""
    first, last = max(write[0] - halo, 0), min(write[1] + halo, length)
    nothing = np.zeros(0, np.int64)
    return AxisTile(
        write=write, pixels=nothing, origins=nothing, cover_PxK=np.zeros((0, 1), np.int32),
        weight_PxK=np.zeros((0, 1), np.float32), slices=np.arange(first, last), lower=np.arange(*write) - first,
        fraction=np.zeros(write[1] - write[0], np.float32), scale=scale,
    )  # fmt: skip


def token_weights(tokens, edge_weight):
    """Weight of each token row of a field of view: `edge_weight` outermost, 1 in the middle."""
    inward = np.minimum(np.arange(tokens), np.arange(tokens)[::-1])
    return (edge_weight + (1 - edge_weight) * inward / max(inward.max(), 1)).astype(np.float32)


def cut_and_encode(project, slices_SxHxW, rows, cols, *, fov, batch):
    """Every field of view of S slices through `project`, in batches: `(S, R, C, ...)`.

    Cut batch by batch: all fields of view at once would be the slice's pixels several times over.
    """
    padded = slices_SxHxW[:, rows["pixels"]][:, :, cols["pixels"]]
    S, R, C = len(slices_SxHxW), len(rows["origins"]), len(cols["origins"])
    at_Nx3 = jnp.stack(jnp.meshgrid(jnp.arange(S), rows["origins"], cols["origins"], indexing="ij"), -1).reshape(-1, 3)
    values = in_batches(
        lambda at_Bx3: project(jax.vmap(lambda at: jax.lax.dynamic_slice(padded, at, (1, fov, fov))[0])(at_Bx3)),
        at_Nx3, batch,
    )  # fmt: skip
    return values.reshape(S, R, C, *values.shape[1:])


def token_grid(project, slices_SxHxW, rows, cols, *, fov, batch):
    """Averaged tokens of S equal slices: `(S, rows' points, columns' points, F)`.

    `project` maps images `(B, fov, fov)` to `(B, g, g, F)`: tokens themselves, or their C
    scores. `rows` and `cols` are `AxisTile.arrays`, and `slices` what the tiles say to read.
    """
    values = cut_and_encode(project, slices_SxHxW, rows, cols, fov=fov, batch=batch).astype(jnp.float32)
    S, R, C, g, _, F = values.shape
    grid = _mean(values.swapaxes(2, 3).reshape(S, R * g, C * g, F), rows, 1)
    return _mean(grid, cols, 2)


def _mean(values, plan, axis):
    """Each lattice point's weighted mean of the tokens that see it, along one axis."""
    total = 0.0
    for k in range(plan["cover"].shape[1]):  # one after the other: the order of a sum decides its last bits
        weight = plan["weight"][:, k].reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        total = total + jnp.take(values, plan["cover"][:, k], axis) * weight
    return total


def smoothing_matrix(tile, sigma):
    """Gaussian of `sigma` tokens along one axis of the lattice, `(points, points)`.

    The volume's border is a mirror. Within `smoothing_halo` of a tile's inner border values
    are not those of the whole volume; they are never written.
    """
    eye = np.eye(tile.points, dtype=np.float32)
    radius = int(np.ceil(smoothing_halo(sigma) * tile.scale))
    return scipy.ndimage.gaussian_filter1d(eye, sigma * tile.scale, axis=0, mode="reflect", radius=radius)


def smoothing_halo(sigma):
    """Tokens that a Gaussian of `sigma` tokens reaches; it is cut there."""
    return int(np.ceil(3 * sigma))


def smooth(grid_ZxYxXxF, matrices):
    """Apply one smoothing matrix along each of the three axes."""
    z, y, x = matrices
    grid = jnp.einsum("az,zyxf->ayxf", z, grid_ZxYxXxF, precision="highest")
    grid = jnp.einsum("ay,zyxf->zaxf", y, grid, precision="highest")
    return jnp.einsum("ax,zyxf->zyaf", x, grid, precision="highest")


def along(x, lower, fraction, axis):
    """Linear interpolation between neighbouring lattice points along one axis."""
    upper = jnp.minimum(lower + 1, x.shape[axis] - 1)
    fraction = fraction.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return jnp.take(x, lower, axis) * (1 - fraction) + jnp.take(x, upper, axis) * fraction


def expand(grid_ZxYxXxF, tiles):
    """Linear expansion of a lattice to the voxels written: `(z, y, x, F)`."""
    for axis, tile in enumerate(tiles):
        grid_ZxYxXxF = along(grid_ZxYxXxF, tile.lower, tile.fraction, axis)
    return grid_ZxYxXxF


def at_voxels(grid_ZxYxXxF, tiles, index_Mx3):
    """What `expand` gives at M written voxels (relative to the tile), on the host: `(M, F)`."""
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        where, weight = [], np.ones(len(index_Mx3), np.float32)
        for axis, up in enumerate(corner):
            tile = tiles[axis]
            lower, fraction = tile.lower[index_Mx3[:, axis]], tile.fraction[index_Mx3[:, axis]]
            where.append(np.minimum(lower + up, tile.points - 1))
            weight = weight * (fraction if up else 1 - fraction)
        total = total + weight[:, None] * grid_ZxYxXxF[tuple(where)]
    return total


def scores(features, weights_CxD, offset_C):
    """offset + z.weights for each centre (`Centres.linear`), `(..., C)`; the least is nearest."""
    # "highest": labels must not depend on how a backend rounds a matrix product.
    return offset_C + jnp.einsum("...d,cd->...c", features.astype(jnp.float32), weights_CxD, precision="highest")


def nearest(maps, sizes, groups=None):
    """Labels of several clusterings from their stacked score maps: `(len(sizes), ...)` uint8.

    `sizes` are the numbers of centres. `groups` has for each clustering the label of each centre
    (uint8), or None where the label is the centre's own number.
    """
    labels = []
    for part, group in zip(jnp.split(maps, np.cumsum(sizes)[:-1], axis=-1), groups or [None] * len(sizes), strict=True):
        found = jnp.argmin(part, axis=-1)
        labels.append(found.astype(jnp.uint8) if group is None else group[found])
    return jnp.stack(labels)


def probabilities(maps, sizes, groups, of, variance):
    """Softmax of the scores of one clustering, `of` = (its number, C): `(C, ...)` uint8, 255 for probability 1.

    With squared distances d to the centres it is that of -d / (2 variance): what a mixture of equal
    spheres (`Centres.variance`) has for each. Centres that share a label add up.
    """
    number, labels = of
    part = jnp.split(maps, np.cumsum(sizes)[:-1], axis=-1)[number]
    shares = jnp.moveaxis(jax.nn.softmax(-part / (2.0 * variance), axis=-1), -1, 0)
    if groups[number] is not None:
        shares = jax.ops.segment_sum(shares, groups[number].astype(jnp.int32), num_segments=labels)
    return jnp.round(255.0 * shares).astype(jnp.uint8)
