"""LayerNorm over the last axis, with float32 statistics whatever the compute dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.backend import targets_cpu

EPSILON = 1e-6  # as in ViT and MAE


def layer_norm(dtype: jnp.dtype, name: str) -> nn.Module:
    """Return a LayerNorm module that computes in `dtype`, with the parameters `scale` and `bias`."""
    if targets_cpu() and dtype == jnp.float32:
        return CpuLayerNorm(epsilon=EPSILON, name=name)
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)


class CpuLayerNorm(nn.Module):
    """`flax.linen.LayerNorm` in float32, same parameters, with the gradient of `normalise`."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D = x.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (D,))
        bias_D = self.param("bias", nn.initializers.zeros, (D,))
        return normalise(x.reshape(-1, D), scale_D, bias_D, self.epsilon).reshape(x.shape)


@jax.custom_vjp
def normalise(x_TxD: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + bias, statistics over the last axis.

    The gradient is written out: in the derived one, XLA's CPU backend repeats the reductions inside its loops.
    """
    return _forward(x_TxD, scale_D, bias_D, epsilon)[0]


def _forward(x_TxD, scale_D, bias_D, epsilon):
    mean_Tx1 = jnp.mean(x_TxD, axis=-1, keepdims=True)
    variance_Tx1 = jnp.maximum(jnp.mean(x_TxD * x_TxD, axis=-1, keepdims=True) - mean_Tx1**2, 0.0)
    inverse_Tx1 = jax.lax.rsqrt(variance_Tx1 + epsilon)
    return (x_TxD - mean_Tx1) * (inverse_Tx1 * scale_D) + bias_D, (x_TxD, mean_Tx1, inverse_Tx1, scale_D)


def _backward(residuals, grad_TxD):
    x_TxD, mean_Tx1, inverse_Tx1, scale_D = residuals
    D = len(scale_D)
    normed_TxD = (x_TxD - mean_Tx1) * inverse_Tx1
    # Means over the features of grad * scale and of grad * scale * normed, as products of a matrix and a vector.
    mean_grad_T, mean_along_T = grad_TxD @ scale_D / D, (grad_TxD * normed_TxD) @ scale_D / D
    dx_TxD = inverse_Tx1 * (grad_TxD * scale_D - mean_grad_T[:, None] - normed_TxD * mean_along_T[:, None])
    return dx_TxD, jnp.sum(grad_TxD * normed_TxD, axis=0), jnp.sum(grad_TxD, axis=0), None


normalise.defvjp(_forward, _backward)
