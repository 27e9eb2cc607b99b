"""Images to patches and back, positions of tokens, and their linear expansion to pixels (paper section 3.3)."""

import jax
import jax.numpy as jnp
import numpy as np


def patchify(images_BxHxW: jax.Array, patch_size: int) -> jax.Array:
    """Cut images into square patches in raster order.

    Returns:
      `(B, N, patch_size**2)` with `N = (H // patch_size) * (W // patch_size)`.

    Raises:
      ValueError: if H or W is not a multiple of `patch_size`.
    """
    B, H, W = images_BxHxW.shape
    if H % patch_size or W % patch_size:
        raise ValueError(f"an image of {H}x{W} does not divide into patches of {patch_size}")
    rows, cols = H // patch_size, W // patch_size
    x = images_BxHxW.reshape(B, rows, patch_size, cols, patch_size)
    return x.transpose(0, 1, 3, 2, 4).reshape(B, rows * cols, patch_size * patch_size)


def unpatchify(patches_BxNxP: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Invert `patchify`, `(B, H, W)`; `grid` is the number of patches, (rows, columns)."""
    B, _, P = patches_BxNxP.shape
    rows, cols = grid
    side = int(round(P**0.5))
    x = patches_BxNxP.reshape(B, rows, cols, side, side)
    return x.transpose(0, 1, 3, 2, 4).reshape(B, rows * side, cols * side)


def _sincos_1d(positions, dim):
    omega = 1.0 / 10000 ** (np.arange(dim // 2) / (dim / 2.0))
    angles = positions.reshape(-1)[:, None] * omega[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_positions(dim: int, grid: tuple[int, int]) -> jax.Array:
    """Return the fixed 2D sin-cos positions of MAE, `(rows * columns, dim)` float32.

    The first half of the features encodes the column, the second the row, each as
    [sin, cos] of `position / 10000**(2i / (dim/2))`.

    Raises:
      ValueError: if `dim` is not divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"2D sin-cos positions need a dimension divisible by 4, not {dim}")
    rows, cols = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    halves = [_sincos_1d(cols.astype(np.float64), dim // 2), _sincos_1d(rows.astype(np.float64), dim // 2)]
    return jnp.asarray(np.concatenate(halves, axis=1), jnp.float32)


def token_positions(pixels: np.ndarray, patch_size: int, tokens: int) -> np.ndarray:
    """Return where pixels lie on an axis of tokens, float64 in [0, tokens - 1].

    Token i lies at pixel patch_size * i + (patch_size - 1) / 2, the middle of its patch. Pixels beyond the outermost
    tokens lie at these.
    """
    return np.clip((pixels - (patch_size - 1) / 2) / patch_size, 0, tokens - 1)


def expansion_weights(tokens: int, patch_size: int) -> np.ndarray:
    """Return the weights of linear interpolation from tokens to pixels, `(tokens * patch_size, tokens)` float32."""
    positions = token_positions(np.arange(tokens * patch_size), patch_size, tokens)
    return np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(tokens))).astype(np.float32)
