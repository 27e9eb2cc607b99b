"""The discrete codebook: nearest codes, losses' targets, usage, isolated codes (paper 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def nearest_code(z_TxD, codes_KxD):
    """Index of the nearest code, argmin_k |z - e_k|^2, `(T,)` int32.

    |z|^2 is the same for all codes, so |e|^2 - 2 z.e decides; in float32, because close
    codes differ by less than a bf16 step.
    """
    z_TxD, codes_KxD = z_TxD.astype(jnp.float32), codes_KxD.astype(jnp.float32)
    scores_TxK = jnp.sum(codes_KxD**2, axis=1)[None, :] - 2.0 * z_TxD @ codes_KxD.T
    return jnp.argmin(scores_TxK, axis=1).astype(jnp.int32)


def count_usage(index_T, num_codes):
    """How often each code was chosen, `(K,)` float32."""
    return jnp.zeros((num_codes,), jnp.float32).at[index_T].add(1.0)


class Codebook(nn.Module):
    """An embedding layer of `num_codes x dim` (the paper's k x embed_dim).

    Called on `(..., dim)` tokens it returns `(index, quantised)` of shapes `(...)` and
    `(..., dim)`. Gradients reach the codes through `quantised`; the choice itself has none.
    """

    num_codes: int = 512
    dim: int = 192

    @nn.compact
    def __call__(self, z):
        # Small random codes only until `init_codes` places them among teacher tokens.
        codes_KxD = self.param("codes", nn.initializers.normal(0.02), (self.num_codes, self.dim))
        flat_TxD = jax.lax.stop_gradient(z.reshape(-1, self.dim))
        index_T = nearest_code(flat_TxD, jax.lax.stop_gradient(codes_KxD))
        return index_T.reshape(z.shape[:-1]), codes_KxD[index_T].reshape(z.shape)


def init_codes(rng, z_TxD, num_codes, lloyd_iterations):
    """Place codes among the teacher's tokens: random tokens, then Lloyd iterations.

    LayerNorm's tokens have norm about sqrt(dim); codes that start near the origin would
    all lose to one and collapse. Codes without members keep their place. With fewer tokens
    than codes, tokens are drawn with replacement.
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


def usage_statistics(usage_K, threshold):
    """Perplexity exp(H(usage)) and the fraction of isolated codes over an epoch.

    A code is isolated when its share of all assignments is below `threshold` of a uniform
    share 1/K.
    """
    share_K = usage_K / jnp.maximum(usage_K.sum(), 1.0)
    entropy = -jnp.sum(jnp.where(share_K > 0, share_K * jnp.log(jnp.maximum(share_K, 1e-30)), 0.0))
    return jnp.exp(entropy), jnp.mean(isolated_codes(usage_K, threshold).astype(jnp.float32))


def isolated_codes(usage_K, threshold):
    """Boolean `(K,)`: used less than `threshold` times the uniform share over the epoch."""
    K = usage_K.shape[0]
    return usage_K < threshold * usage_K.sum() / K


def update_isolated(rng, codes_KxD, usage_K, gamma, threshold):
    """Equation 6: e_iso <- gamma * e_sur + (1 - gamma) * e_iso.

    The "surrounded" partner of each isolated code is a code in use, drawn in proportion to
    its usage, so that crowded regions get more codes. Used codes stay as they are.
    """
    isolated_K = isolated_codes(usage_K, threshold)
    logits_K = jnp.where(isolated_K, -jnp.inf, jnp.log(jnp.maximum(usage_K, 1e-30)))
    # If nothing was counted (no step this epoch), no code is isolated and none moves.
    partner_K = jax.random.categorical(rng, logits_K, shape=isolated_K.shape)
    moved_KxD = gamma * codes_KxD[partner_K] + (1.0 - gamma) * codes_KxD
    return jnp.where(isolated_K[:, None], moved_KxD, codes_KxD)


def ema_update(codes_KxD, ema_count_K, ema_sum_KxD, index_T, z_TxD, decay):
    """VQ-VAE's EMA code update (an alternative to the gradient of equation 3).

    Returns new `(codes, ema_count, ema_sum)`: each code is the running mean of the tokens
    it was chosen for. A code whose running count has faded keeps its place.
    """
    K = codes_KxD.shape[0]
    sums_KxD = jnp.zeros_like(codes_KxD).at[index_T].add(z_TxD.astype(jnp.float32))
    count_K = decay * ema_count_K + (1.0 - decay) * count_usage(index_T, K)
    sum_KxD = decay * ema_sum_KxD + (1.0 - decay) * sums_KxD
    new_KxD = jnp.where(count_K[:, None] > 1e-3, sum_KxD / jnp.maximum(count_K, 1e-3)[:, None], codes_KxD)
    return new_KxD, count_K, sum_KxD
