"""The discrete codebook: nearest codes, usage, isolated codes (equation 6), EMA updates (paper section 3.2).

Tokens are `(T, D)`, codes `(K, D)`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def nearest_code(z_TxD: jax.Array, codes_KxD: jax.Array) -> jax.Array:
    """Return the index of each token's nearest code, argmin_k |z - e_k|^2, `(T,)` int32.

    |z|^2 is the same for all codes, so |e|^2 - 2 z.e is compared; in float32, because close
    codes differ by less than a bf16 step.
    """
    z_TxD, codes_KxD = z_TxD.astype(jnp.float32), codes_KxD.astype(jnp.float32)
    scores_TxK = jnp.sum(codes_KxD**2, axis=1)[None, :] - 2.0 * z_TxD @ codes_KxD.T
    return jnp.argmin(scores_TxK, axis=1).astype(jnp.int32)


def count_usage(index_T: jax.Array, num_codes: int) -> jax.Array:
    """Count how often each code was chosen, `(K,)` float32."""
    return jnp.zeros((num_codes,), jnp.float32).at[index_T].add(1.0)


class Codebook(nn.Module):
    """An embedding layer of `num_codes x dim` (the paper's k x embed_dim)."""

    num_codes: int = 512
    dim: int = 192

    @nn.compact
    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Quantise tokens `(..., dim)`.

        Returns:
          `(index, quantised)` of shapes `(...)` and `(..., dim)`. Gradients reach the codes through `quantised`;
          the choice itself has none.
        """
        # Small random codes only until `init_codes` draws them from the teacher's tokens.
        codes_KxD = self.param("codes", nn.initializers.normal(0.02), (self.num_codes, self.dim))
        flat_TxD = jax.lax.stop_gradient(z.reshape(-1, self.dim))
        index_T = nearest_code(flat_TxD, jax.lax.stop_gradient(codes_KxD))
        return index_T.reshape(z.shape[:-1]), codes_KxD[index_T].reshape(z.shape)


def init_codes(rng: jax.Array, z_TxD: jax.Array, num_codes: int, lloyd_iterations: int) -> jax.Array:
    """Initialise the codes by k-means of the teacher's tokens: random tokens, then Lloyd iterations, `(K, D)`.

    After a LayerNorm tokens have a norm of about sqrt(dim). Of codes that start near the origin one would win all
    tokens, and the codebook would collapse. Codes without tokens stay where they are. With fewer tokens than codes,
    tokens are drawn with replacement.
    """
    z_TxD = z_TxD.astype(jnp.float32)
    T = z_TxD.shape[0]
    codes_KxD = z_TxD[jax.random.choice(rng, T, (num_codes,), replace=T < num_codes)]

    def lloyd(_, codes_KxD):
        index_T = nearest_code(z_TxD, codes_KxD)
        count_K = count_usage(index_T, num_codes)
        sums_KxD = jnp.zeros_like(codes_KxD).at[index_T].add(z_TxD)
        return jnp.where(count_K[:, None] > 0, sums_KxD / jnp.maximum(count_K, 1)[:, None], codes_KxD)

    return jax.lax.fori_loop(0, lloyd_iterations, lloyd, codes_KxD)


def usage_statistics(usage_K: jax.Array, threshold: float) -> tuple[jax.Array, jax.Array]:
    """Return the perplexity exp(H(usage)) and the fraction of isolated codes over an epoch, two scalars."""
    fraction_K = usage_K / jnp.maximum(usage_K.sum(), 1.0)
    entropy = -jnp.sum(jnp.where(fraction_K > 0, fraction_K * jnp.log(jnp.maximum(fraction_K, 1e-30)), 0.0))
    return jnp.exp(entropy), jnp.mean(isolated_codes(usage_K, threshold).astype(jnp.float32))


def isolated_codes(usage_K: jax.Array, threshold: float) -> jax.Array:
    """Return which codes were isolated over the epoch, `(K,)` bool: chosen less than `threshold` times T / K."""
    K = usage_K.shape[0]
    return usage_K < threshold * usage_K.sum() / K


def update_isolated(
    rng: jax.Array, codes_KxD: jax.Array, usage_K: jax.Array, gamma: float, threshold: float
) -> jax.Array:
    """Move isolated codes by equation 6: e_iso <- gamma * e_sur + (1 - gamma) * e_iso.

    The "surrounded" partner e_sur of each isolated code is a code in use, drawn in proportion to
    its usage, so that crowded regions get more codes. All other codes stay as they are.
    """
    isolated_K = isolated_codes(usage_K, threshold)
    logits_K = jnp.where(isolated_K, -jnp.inf, jnp.log(jnp.maximum(usage_K, 1e-30)))
    # Without any usage (no step in this epoch) no code is isolated, and none moves.
    partner_K = jax.random.categorical(rng, logits_K, shape=isolated_K.shape)
    moved_KxD = gamma * codes_KxD[partner_K] + (1.0 - gamma) * codes_KxD
    return jnp.where(isolated_K[:, None], moved_KxD, codes_KxD)


def ema_update(
    codes_KxD: jax.Array,
    ema_count_K: jax.Array,
    ema_sum_KxD: jax.Array,
    index_T: jax.Array,
    z_TxD: jax.Array,
    decay: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Update the codes by VQ-VAE's moving averages, an alternative to the gradient of equation 3.

    Returns:
      The new `(codes, ema_count, ema_sum)`: each code is the running mean of the tokens that chose it. A code
      whose running count has decayed to nothing stays where it is.
    """
    K = codes_KxD.shape[0]
    sums_KxD = jnp.zeros_like(codes_KxD).at[index_T].add(z_TxD.astype(jnp.float32))
    count_K = decay * ema_count_K + (1.0 - decay) * count_usage(index_T, K)
    sum_KxD = decay * ema_sum_KxD + (1.0 - decay) * sums_KxD
    new_KxD = jnp.where(count_K[:, None] > 1e-3, sum_KxD / jnp.maximum(count_K, 1e-3)[:, None], codes_KxD)
    return new_KxD, count_K, sum_KxD
