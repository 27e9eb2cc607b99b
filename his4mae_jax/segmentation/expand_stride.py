"""Expand-stride inference (paper section 3.3) on the token grid of a whole slice.

Fields of view at stride S cover a slice. Where they overlap, their tokens are averaged on
the slice's own token grid, and only then expanded linearly to pixels: no seams.

Distances to cluster centres are linear in the features up to |z|^2, which is the same for
all centres: |z - c|^2 - |z|^2 = |c|^2 - 2 z.c. Averaging and linear expansion commute with
it, so tokens become C scores first and C maps are expanded instead of D features.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.segmentation.encode import in_batches


def reflect(index, length):
    """Indices mirrored into [0, length) without repeating the border pixel."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.where(folded >= length, period - folded, folded)


def fov_origins(length, fov, patch, stride):
    """First pixel of each field of view along an axis; the last ends at the padded border."""
    padded = max(-(-length // patch) * patch, fov)
    return np.unique(np.append(np.arange(0, padded - fov + 1, stride), padded - fov))


def count_fovs(shape, fov, patch, stride):
    """Fields of view to encode for a volume (z, y, x), slices across z."""
    return shape[0] * len(fov_origins(shape[1], fov, patch, stride)) * len(fov_origins(shape[2], fov, patch, stride))


@dataclasses.dataclass(frozen=True)
class AxisTile:
    """One axis of a tile: what to read, where its fields of view lie, what to write."""

    write: tuple[int, int]  # pixels of the slice that this tile labels
    read: tuple[int, int]  # pixels of the slice it reads
    gather: np.ndarray  # padded pixel -> pixel read (reflection at the slice's border)
    origins: np.ndarray  # first token of each field of view, on the tile's token grid
    num_tokens: int  # side of the tile's token grid
    lower: np.ndarray  # written pixel -> token below it ...
    fraction: np.ndarray  # ... and the share of the token above


def axis_tile(length, write, fov, patch, stride):
    """Plan one axis for the pixels `write = (start, stop)` of a slice `length` long.

    All fields of view are those of the whole slice, so tiles agree with the untiled result.
    """
    last_token = max(-(-length // patch), fov // patch) - 1
    # Half-pixel centres: token i sits at pixel patch * i + (patch - 1) / 2.
    where = (np.arange(*write) - (patch - 1) / 2) / patch
    where = np.clip(where, 0, last_token)
    lower = np.minimum(where.astype(np.int64), max(last_token - 1, 0))
    fraction = (where - lower).astype(np.float32)
    first, last = lower[0], min(lower[-1] + 1, last_token)
    tokens = fov // patch
    starts = fov_origins(length, fov, patch, stride) // patch
    starts = starts[(starts <= last) & (starts + tokens > first)]
    begin, end = starts[0], starts[-1] + tokens
    pixels = reflect(np.arange(begin * patch, end * patch), length)
    return AxisTile(
        write=write, read=(int(pixels.min()), int(pixels.max()) + 1), gather=pixels - pixels.min(),
        origins=starts - begin, num_tokens=int(end - begin), lower=lower - begin, fraction=fraction,
    )  # fmt: skip


def token_weights(tokens, edge_weight):
    """Weight of each token row of a field of view: `edge_weight` outermost, 1 in the middle."""
    inward = np.minimum(np.arange(tokens), np.arange(tokens)[::-1])
    return (edge_weight + (1 - edge_weight) * inward / max(inward.max(), 1)).astype(np.float32)


def _norm(tile, weights):
    total = np.zeros(tile.num_tokens, np.float32)
    for origin in tile.origins:
        total[origin : origin + len(weights)] += weights
    # Tokens between the chosen fields of view and the slice's others are never written.
    return np.where(total > 0, total, 1.0)


def token_grid(project, slices_SxHxW, rows, cols, *, fov, patch, edge_weight, batch):
    """Averaged tokens of S equal slices: `(S, rows.num_tokens, cols.num_tokens, F)`.

    `project` maps images `(B, fov, fov)` to `(B, g, g, F)`: tokens themselves, or their C
    scores. `rows` and `cols` are `AxisTile`s and `slices` what they say to read.
    """
    S, tokens = slices_SxHxW.shape[0], fov // patch
    padded = slices_SxHxW[:, rows.gather][:, :, cols.gather]
    origins_Fx2 = np.stack(np.meshgrid(rows.origins, cols.origins, indexing="ij"), -1).reshape(-1, 2)
    cut = lambda image, origin: jax.lax.dynamic_slice(image, origin * patch, (fov, fov))  # noqa: E731
    fovs = jax.vmap(jax.vmap(cut, (None, 0)), (0, None))(padded, jnp.asarray(origins_Fx2))
    values = in_batches(project, fovs.reshape(-1, fov, fov), batch)
    weights = token_weights(tokens, edge_weight)
    values = values * (weights[:, None] * weights[None, :])[None, :, :, None]
    values = values.reshape(S, len(origins_Fx2), tokens, tokens, -1)
    row_index = origins_Fx2[:, 0, None, None] + np.arange(tokens)[None, :, None]
    col_index = origins_Fx2[:, 1, None, None] + np.arange(tokens)[None, None, :]
    total = jnp.zeros((S, rows.num_tokens, cols.num_tokens, values.shape[-1]), jnp.float32)
    total = total.at[:, row_index, col_index].add(values)
    norm = _norm(rows, weights)[:, None] * _norm(cols, weights)[None, :]
    return total / norm[None, :, :, None]


def expand(grid_SxGxGxF, rows, cols):
    """Linear expansion of a token grid to the pixels written: `(S, H, W, F)`."""

    def along(x, tile, axis):
        fraction = tile.fraction.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        upper = np.minimum(tile.lower + 1, tile.num_tokens - 1)
        return jnp.take(x, tile.lower, axis) * (1 - fraction) + jnp.take(x, upper, axis) * fraction

    return along(along(grid_SxGxGxF, rows, 1), cols, 2)


def scores(features, centres_CxD):
    """|c|^2 - 2 z.c for each centre, `(..., C)`; its argmin is the nearest centre."""
    # "highest": labels must not depend on how a backend rounds a matrix product.
    product = jnp.einsum("...d,cd->...c", features.astype(jnp.float32), centres_CxD, precision="highest")
    return jnp.sum(centres_CxD**2, -1) - 2.0 * product


def make_label_slices(encode, rows, cols, sizes, *, fov, patch, edge_weight, batch):
    """A jitted `label(params, centres, slices_SxHxW) -> uint8 labels (len(sizes), S, h, w)`.

    `centres` `(sum(sizes), D)` stacks the centres of several clusterings, of `sizes`
    clusters each: one pass of the encoder serves them all. Slices are float32 in [0, 1].
    """

    @jax.jit
    def label(params, centres, slices_SxHxW):
        project = lambda images: scores(encode(params, images), centres)  # noqa: E731
        grid = token_grid(project, slices_SxHxW, rows, cols, fov=fov, patch=patch, edge_weight=edge_weight, batch=batch)
        maps = expand(grid, rows, cols)
        groups = jnp.split(maps, np.cumsum(sizes)[:-1], axis=-1)
        return jnp.stack([jnp.argmin(g, axis=-1).astype(jnp.uint8) for g in groups])

    return label


def make_sample_features(encode, rows, cols, *, fov, patch, edge_weight, batch):
    """A jitted `sample(params, slices_SxHxW, rows_SxM, cols_SxM) -> features (S, M, D)`.

    The linearly expanded features at M pixels of each slice, without expanding the rest.
    """

    @jax.jit
    def sample(params, slices_SxHxW, row_SxM, col_SxM):
        grid = token_grid(
            functools.partial(encode, params), slices_SxHxW, rows, cols,
            fov=fov, patch=patch, edge_weight=edge_weight, batch=batch,
        )  # fmt: skip
        lower_r, fraction_r = jnp.asarray(rows.lower)[row_SxM], jnp.asarray(rows.fraction)[row_SxM][..., None]
        lower_c, fraction_c = jnp.asarray(cols.lower)[col_SxM], jnp.asarray(cols.fraction)[col_SxM][..., None]
        upper_r, upper_c = jnp.minimum(lower_r + 1, rows.num_tokens - 1), jnp.minimum(lower_c + 1, cols.num_tokens - 1)
        at = lambda r, c: jax.vmap(lambda g, i, j: g[i, j])(grid, r, c)  # noqa: E731
        low = at(lower_r, lower_c) * (1 - fraction_c) + at(lower_r, upper_c) * fraction_c
        high = at(upper_r, lower_c) * (1 - fraction_c) + at(upper_r, upper_c) * fraction_c
        return low * (1 - fraction_r) + high * fraction_r

    return sample
