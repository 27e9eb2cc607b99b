"""Operations on a token lattice: Gaussian smoothing, linear expansion to voxels, values at single voxels."""

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

Lattice = np.ndarray | jax.Array

LEAST_VARIANCE = 1e-6  # of a feature within a Gaussian: below it rounding decides
TEXTURE_FEATURES = 16  # whose texture is taken at once: arrays that fit caches are quicker than large ones
BLOCK = 32  # rows of a smoothing matrix, about, that are multiplied by at once


class LatticeAxis(Protocol):
    """One axis of a tile: see `expand_stride.AxisTile`, which has these attributes, as `cover_stride.CoverTile`."""

    @property
    def points(self) -> int: ...
    @property
    def scale(self) -> float: ...
    @property
    def lower(self) -> np.ndarray: ...
    @property
    def fraction(self) -> np.ndarray: ...


def smoothing_matrix(tile: LatticeAxis, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` tokens along one axis of the lattice, `(points, points)`.

    The volume's border is a mirror. Within `smoothing_halo` of a tile's inner border values
    are not those of the whole volume; they are never written.
    """
    eye, radius = np.eye(tile.points, dtype=np.float32), reach(sigma, tile.scale)
    return scipy.ndimage.gaussian_filter1d(eye, sigma * tile.scale, axis=0, mode="reflect", radius=radius)


def smoothing_halo(sigma: float) -> int:
    """Reach in tokens of a Gaussian of `sigma` tokens, which is cut off there."""
    return int(np.ceil(3 * sigma))


def reach(sigma: float, scale: float) -> int:
    """Points beside the diagonal up to which a smoothing matrix has entries; `scale` is `LatticeAxis.scale`."""
    return int(np.ceil(smoothing_halo(sigma) * scale))


def smooth(
    grid_ZxYxXxF: jax.Array,
    matrices: Sequence[jax.Array],
    reaches: Sequence[int | None] = (None,) * 3,
    firsts: Sequence[int | jax.Array] = (0,) * 3,
) -> jax.Array:
    """Applies one smoothing matrix along each of the three axes.

    Args:
      grid_ZxYxXxF: the lattice.
      matrices: `(points, points)` each, or some rows of that.
      reaches: of each matrix, see `reach`: then only entries near the diagonal are multiplied, which is quicker where
        there are many features; None: all are.
      firsts: for each axis the point that the first row of its matrix is of.
    """
    grid = grid_ZxYxXxF
    for axis, (matrix, near, offset) in enumerate(zip(matrices, reaches, firsts, strict=True)):
        letters = "zyx".replace("zyx"[axis], "a")
        product = functools.partial(jnp.einsum, f"a{'zyx'[axis]},zyxf->{letters}f", precision="highest")
        length = grid.shape[axis]
        block = -(-len(matrix) // max(round(len(matrix) / BLOCK), 1))  # all of about one size
        wide = length if near is None else block + 2 * near
        if wide >= length:
            grid = product(matrix, grid)
            continue
        parts = []
        for start in range(0, len(matrix), block):
            rows = matrix[start : start + block]
            first = jnp.clip(start + offset - near, 0, length - wide)
            used = jax.lax.dynamic_slice_in_dim(grid, first, wide, axis)
            parts.append(product(jax.lax.dynamic_slice_in_dim(rows, first, wide, 1), used))
        grid = jnp.concatenate(parts, axis=axis)
    return grid


def texture(grid: jax.Array, smooth_wide: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The standard deviation of each feature in a Gaussian, `(z, y, x, F)`.

    It says what the mean of the tokens around a point does not: how much they differ.

    Args:
      grid: the lattice `(z, y, x, F)` before any smoothing.
      smooth_wide: applies the Gaussian to a lattice of any number of features, and may give some of its points alone.
    """
    features = grid.shape[-1]
    grid = jnp.pad(grid, [(0, 0)] * 3 + [(0, -features % TEXTURE_FEATURES)])
    shape = (*jax.eval_shape(smooth_wide, grid).shape[:3], grid.shape[-1])

    def some(number, out):
        start = number * TEXTURE_FEATURES
        part = jax.lax.dynamic_slice_in_dim(grid, start, TEXTURE_FEATURES, axis=3)
        return jax.lax.dynamic_update_slice_in_dim(out, _deviation(part, smooth_wide), start, axis=3)

    out = jax.lax.fori_loop(0, grid.shape[-1] // TEXTURE_FEATURES, some, jnp.zeros(shape, grid.dtype))
    return out[..., :features]


def put_back(part: jax.Array, firsts: Sequence[jax.Array], like: jax.Array) -> jax.Array:
    """A lattice with the points of `like` that holds `part` from `firsts` on, and zeros elsewhere."""
    whole = jnp.zeros((*like.shape[:3], part.shape[-1]), part.dtype)
    return jax.lax.dynamic_update_slice(whole, part, (*firsts, 0))


def _deviation(grid: Lattice, smooth_wide: Callable[[Lattice], Lattice]) -> Lattice:
    """`texture` in one go, of NumPy and JAX arrays alike."""
    xp = jnp if isinstance(grid, jax.Array) else np
    moments = smooth_wide(xp.concatenate([grid, grid * grid], axis=-1))
    mean, square = moments[..., : grid.shape[-1]], moments[..., grid.shape[-1] :]
    return xp.sqrt(xp.maximum(square - mean * mean, LEAST_VARIANCE))


def along(x: jax.Array, lower: jax.Array, fraction: jax.Array, axis: int) -> jax.Array:
    """Linear interpolation between neighbouring lattice points along one axis."""
    upper = jnp.minimum(lower + 1, x.shape[axis] - 1)
    fraction = fraction.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return jnp.take(x, lower, axis) * (1 - fraction) + jnp.take(x, upper, axis) * fraction


def expand(grid_ZxYxXxF: jax.Array, tiles: Sequence[LatticeAxis]) -> jax.Array:
    """Linear expansion of a lattice to the voxels that tiles (z, y, x) write: `(z, y, x, F)`."""
    for axis, tile in enumerate(tiles):
        grid_ZxYxXxF = along(grid_ZxYxXxF, tile.lower, tile.fraction, axis)
    return grid_ZxYxXxF


def at_voxels(grid_ZxYxXxF: np.ndarray, tiles: Sequence[LatticeAxis], index_Mx3: np.ndarray) -> np.ndarray:
    """What `expand` gives at M of the written voxels (relative to the first), on the host: `(M, F)`."""
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


def few_at_voxels(
    grid_ZxYxXxF: np.ndarray, tiles: Sequence[LatticeAxis], index_Mx3: np.ndarray, smooth: float, texture: float
) -> np.ndarray:
    """What smoothing, texture and `at_voxels` give at M voxels, from the points around these alone, on the host.

    Args:
      grid_ZxYxXxF: the lattice before any smoothing.
      tiles: of the axes (z, y, x).
      index_Mx3: of the written voxels, relative to the first.
      smooth, texture: in tokens, of the Gaussians; 0: none.

    Returns:
      `(M, F)`, or `(M, 2 F)` with texture.
    """
    narrow, wide = (
        [smoothing_matrix(tile, sigma) if sigma else np.eye(tile.points, dtype=np.float32) for tile in tiles]
        for sigma in (smooth, texture)
    )
    near = [reach(max(smooth, texture), tile.scale) for tile in tiles]
    out = []
    for voxel in index_Mx3:
        ends, where, weights = [], [], np.ones((1, 1, 1), np.float32)
        for axis, (tile, at) in enumerate(zip(tiles, voxel, strict=True)):
            lower, fraction = int(tile.lower[at]), tile.fraction[at]
            ends.append([lower, min(lower + 1, tile.points - 1)])
            where.append(slice(max(lower - near[axis], 0), ends[-1][1] + near[axis] + 1))
            weights = weights * np.expand_dims([1 - fraction, fraction], [a for a in range(3) if a != axis])
        part = grid_ZxYxXxF[tuple(where)]
        rows_narrow, rows_wide = ([m[e, s] for m, e, s in zip(x, ends, where, strict=True)] for x in (narrow, wide))
        values = _ends(part, rows_narrow)
        if texture:
            values = np.concatenate([values, _deviation(part, functools.partial(_ends, rows=rows_wide))], axis=-1)
        out.append(np.tensordot(weights, values, 3))
    return np.array(out, np.float32).reshape(len(index_Mx3), -1)


def _ends(part: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    """The Gaussian at the 8 points around a voxel, `(2, 2, 2, F)`, by the rows of the matrices (z, y, x)."""
    z, y, x, features = part.shape
    part = np.matmul(rows[0], part.reshape(z, -1)).reshape(2, y, -1)
    return np.matmul(rows[2], np.matmul(rows[1], part).reshape(2, 2, x, features))
