"""Random fields and axes, shared by the phantom's layout and drawing."""

from collections.abc import Sequence

import numpy as np


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> np.ndarray:
    """Draws a Gaussian random field: white noise smoothed with `sigma` voxels.

    The noise is drawn on a grid as coarse as `sigma` allows and interpolated with one small matrix per axis, which is
    many times faster than filtering the full volume.

    Returns:
      float32 of `shape`, with mean 0 and variance 1.
    """
    step = 1.25 * sigma
    field = rng.standard_normal([int(np.ceil(side / step)) + 7 for side in shape], dtype=np.float32)
    for side in shape:
        node_N = (np.arange(field.shape[0]) - 3) * step
        weight_SxN = np.exp(-0.5 * ((np.arange(side)[:, None] - node_N) / sigma) ** 2)
        weight_SxN /= np.sqrt((weight_SxN**2).sum(axis=1, keepdims=True))
        # Contracts the first axis and appends the new one: three rounds restore the order.
        field = np.tensordot(field, weight_SxN.astype(np.float32), (0, 1))
    return field


def random_frame(rng: np.random.Generator) -> np.ndarray:
    """Draws orthonormal axes `(3, 3)`, one per row."""
    return np.linalg.qr(rng.standard_normal((3, 3)))[0]
