"""Images to patches and back, and the fixed 2D sin-cos positions of their tokens."""

import jax.numpy as jnp
import numpy as np


def patchify(images_BxHxW, patch_size):
    """Cut square images into patches in raster order.

    Returns `(B, N, patch_size**2)` with `N = (H // patch_size) * (W // patch_size)`;
    H and W must be multiples of `patch_size`.
    """
    B, H, W = images_BxHxW.shape
    if H % patch_size or W % patch_size:
        raise ValueError(f"an image of {H}x{W} does not divide into patches of {patch_size}")
    rows, cols = H // patch_size, W // patch_size
    x = images_BxHxW.reshape(B, rows, patch_size, cols, patch_size)
    return x.transpose(0, 1, 3, 2, 4).reshape(B, rows * cols, patch_size * patch_size)


def unpatchify(patches_BxNxP, grid):
    """Inverse of `patchify`; `grid` is (rows, cols) of patches."""
    B, _, P = patches_BxNxP.shape
    rows, cols = grid
    side = int(round(P**0.5))
    x = patches_BxNxP.reshape(B, rows, cols, side, side)
    return x.transpose(0, 1, 3, 2, 4).reshape(B, rows * side, cols * side)


def _sincos_1d(positions, dim):
    omega = 1.0 / 10000 ** (np.arange(dim // 2) / (dim / 2.0))
    angles = positions.reshape(-1)[:, None] * omega[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_positions(dim, grid):
    """Fixed 2D sin-cos positions as in MAE, `(rows * cols, dim)` float32.

    The first half of the features encodes the column, the second the row, each as
    [sin, cos] of `position / 10000**(2i / (dim/2))`. `dim` must be divisible by 4.
    """
    if dim % 4:
        raise ValueError(f"2D sin-cos positions need a dimension divisible by 4, not {dim}")
    rows, cols = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    halves = [_sincos_1d(cols.astype(np.float64), dim // 2), _sincos_1d(rows.astype(np.float64), dim // 2)]
    return jnp.asarray(np.concatenate(halves, axis=1), jnp.float32)
