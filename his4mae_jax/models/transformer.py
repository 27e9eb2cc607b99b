"""Pre-LayerNorm transformer blocks as in ViT/MAE: exact GELU, biased fused qkv."""

import flax.linen as nn
import jax.numpy as jnp

from his4mae_jax.models.kernels import cpu
from his4mae_jax.models.kernels.attention import attention
from his4mae_jax.models.kernels.backend import target
from his4mae_jax.models.kernels.gelu import gelu
from his4mae_jax.models.kernels.mixed_precision import HalfDense

LAYER_NORM_EPS = 1e-6
dense_init = nn.initializers.xavier_uniform()


def _cpu_float32(dtype):
    return target().platform == "cpu" and dtype == jnp.float32


def layer_norm(name, dtype):
    if _cpu_float32(dtype):
        return cpu.LayerNorm(epsilon=LAYER_NORM_EPS, name=name)
    # Statistics in float32 whatever the compute dtype: flax does so by itself.
    return nn.LayerNorm(epsilon=LAYER_NORM_EPS, dtype=dtype, name=name)


def mimetic_init(scale):
    """Xavier for a fused qkv kernel, with `scale` times the identity added to query and key.

    Similar tokens then attend to each other from the first step, and tokens with sin-cos
    positions to their neighbours (mimetic initialisation, Trockman and Kolter 2023). 0 is
    plain Xavier.
    """

    def init(key, shape, dtype=jnp.float32):
        D = shape[0]
        eye = scale * jnp.eye(D, dtype=dtype)
        return dense_init(key, shape, dtype) + jnp.concatenate([eye, eye, jnp.zeros((D, D), dtype)], axis=1)

    return init


def dense(features, name, dtype, x, kernel_init=dense_init):
    """A Linear over the last axis, as one 2D product.

    Flattened, because XLA's CPU backend runs the weights' gradient of a 3D product at less
    than half the speed of the 2D one; on accelerators the two are the same.
    """
    kind = nn.Dense if dtype == jnp.float32 else HalfDense
    layer = kind(features, dtype=dtype, kernel_init=kernel_init, name=name)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)); shapes `(B, T, dim)` in and out."""

    dim: int
    num_heads: int
    mlp_ratio: float
    dtype: jnp.dtype = jnp.float32
    mimetic: float = 0.0

    @nn.compact
    def __call__(self, x_BxTxD):
        h = layer_norm("norm1", self.dtype)(x_BxTxD)
        # One fused kernel: Xavier's fan is dim + 3 dim, as in MAE's initialisation.
        h = attention(dense(3 * self.dim, "qkv", self.dtype, h, mimetic_init(self.mimetic)), self.num_heads)
        x_BxTxD = x_BxTxD + dense(self.dim, "proj", self.dtype, h)
        h = layer_norm("norm2", self.dtype)(x_BxTxD)
        h = dense(int(self.dim * self.mlp_ratio), "fc1", self.dtype, h)
        h = cpu.gelu(h) if _cpu_float32(self.dtype) else gelu(h)
        return x_BxTxD + dense(self.dim, "fc2", self.dtype, h)


class Transformer(nn.Module):
    """`depth` blocks and a final LayerNorm."""

    dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    dtype: jnp.dtype = jnp.float32
    mimetic: float = 0.0

    @nn.compact
    def __call__(self, x_BxTxD):
        for i in range(self.depth):
            block = Block(self.dim, self.num_heads, self.mlp_ratio, self.dtype, self.mimetic, name=f"block{i:02d}")
            x_BxTxD = block(x_BxTxD)
        return layer_norm("norm", self.dtype)(x_BxTxD)
