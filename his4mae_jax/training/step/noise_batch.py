"""Batches of noise in the format of the samplers: to compile, measure and test the step without volumes."""

from typing import Any

import jax
import ml_collections
import numpy as np

from his4mae_jax.config import SUPERVISED


def noise_batch(config: ml_collections.ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """A raw batch of 8-bit noise, cropped at the full field of view, neither flipped nor turned.

    Returns the arrays that `HostSampler.batch` gives: `crop` `(B, fov, fov)` uint8, `contrast` `(B, 3)`, `side`,
    `flip_rows`, `flip_cols`, `transpose` `(B,)`, and for supervised methods `labels` `(B, fov, fov)`, all 0.
    """
    B, F = config.train.batch_size, config.model.fov
    batch = {name: np.zeros(B, np.int32) for name in ("flip_rows", "flip_cols", "transpose")}
    batch["crop"] = np.random.default_rng(seed).integers(0, 256, (B, F, F), dtype=np.uint8)
    batch["contrast"] = np.tile(np.float32([0, 255, 0]), (B, 1))
    batch["side"] = np.full(B, F, np.int32)
    if config.method in SUPERVISED:
        batch["labels"] = np.zeros((B, F, F), np.uint8)
    return batch


def batch_like(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Shapes and dtypes of `noise_batch`, as `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), noise_batch(config))
