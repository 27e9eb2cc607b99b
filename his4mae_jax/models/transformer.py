"""Pre-LayerNorm transformer of ViT and MAE: exact GELU, one fused projection to queries, keys and values."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.attention import attention
from his4mae_jax.models.kernels.dense import Dense, dense_init
from his4mae_jax.models.kernels.gelu import gelu
from his4mae_jax.models.kernels.layer_norm import layer_norm


def mimetic_init(scale: float) -> nn.initializers.Initializer:
    """Xavier for a fused qkv kernel, with `scale` times the identity added to query and key.

    Similar tokens then attend to each other from the first step, and tokens with sin-cos positions to their neighbours
    (mimetic initialisation, Trockman and Kolter 2023). A scale of 0 is plain Xavier.
    """

    def init(key, shape, dtype=jnp.float32):
        D = shape[0]
        eye = scale * jnp.eye(D, dtype=dtype)
        return dense_init(key, shape, dtype) + jnp.concatenate([eye, eye, jnp.zeros((D, D), dtype)], axis=1)

    return init


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)); shapes `(B, T, dim)` in and out."""

    dim: int
    num_heads: int
    mlp_ratio: float
    dtype: jnp.dtype = jnp.float32
    mimetic: float = 0.0

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        h = layer_norm(self.dtype, name="norm1")(x_BxTxD)
        # One fused kernel: Xavier's fan is dim + 3 dim, as in MAE's initialisation.
        qkv = Dense(3 * self.dim, self.dtype, mimetic_init(self.mimetic), name="qkv")(h)
        x_BxTxD = x_BxTxD + Dense(self.dim, self.dtype, name="proj")(attention(qkv, self.num_heads))
        h = layer_norm(self.dtype, name="norm2")(x_BxTxD)
        h = gelu(Dense(int(self.dim * self.mlp_ratio), self.dtype, name="fc1")(h))
        return x_BxTxD + Dense(self.dim, self.dtype, name="fc2")(h)


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm; shapes `(B, T, dim)` in and out."""

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    dtype: jnp.dtype = jnp.float32
    mimetic: float = 0.0

    @nn.compact
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        for i in range(self.depth):
            block = Block(self.dim, self.num_heads, self.mlp_ratio, self.dtype, self.mimetic, name=f"block{i:02d}")
            x_BxTxD = block(x_BxTxD)
        return layer_norm(self.dtype, name="norm")(x_BxTxD)
