"""Per-image random masking of patches (uniform, without replacement)."""

import jax
import jax.numpy as jnp

from his4mae_jax.settings.derived import num_visible


def random_visible(rng: jax.Array, batch: int, num_patches: int, mask_ratio: float) -> tuple[jax.Array, jax.Array]:
    """Choose the visible patches of each image independently.

    Returns:
      `(visible_BxV, mask_BxN)`: int32 indices in ascending order, and a float32 mask that is 1 where a patch is
      hidden (m_i = 1 in equation 2) and 0 where it is visible.
    """
    V = num_visible(num_patches, mask_ratio)
    # A full sort rather than top_k, which XLA does not partition over devices.
    order_BxN = jnp.argsort(jax.random.uniform(rng, (batch, num_patches)), axis=1)
    visible_BxV = jnp.sort(order_BxN[:, :V], axis=1).astype(jnp.int32)
    return visible_BxV, 1.0 - jax.nn.one_hot(visible_BxV, num_patches).sum(axis=1)


def take_tokens(tokens_BxNxD: jax.Array, index_BxV: jax.Array) -> jax.Array:
    """Gather tokens along the second axis, `(B, V, D)`."""
    return jnp.take_along_axis(tokens_BxNxD, index_BxV[:, :, None], axis=1)


def place_tokens(tokens_BxVxD: jax.Array, index_BxV: jax.Array, num_patches: int, filler_1x1xD: jax.Array) -> jax.Array:
    """Scatter tokens to their indices among `num_patches`, with the filler everywhere else: `(B, N, D)`."""
    # A matmul with one-hot rows: it and its gradient stay on their device, whereas XLA gathers the whole
    # batch from all devices for a scatter. "highest", so that nothing is rounded.
    one_hot_BxVxN = jax.nn.one_hot(index_BxV, num_patches, dtype=tokens_BxVxD.dtype)
    placed_BxNxD = jnp.einsum("bvn,bvd->bnd", one_hot_BxVxN, tokens_BxVxD, precision="highest")
    return placed_BxNxD + (1 - one_hot_BxVxN.sum(axis=1))[:, :, None] * filler_1x1xD
