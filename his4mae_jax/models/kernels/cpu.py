"""LayerNorm and GELU with gradients written out, in few passes over memory: float32 on a CPU.

XLA's CPU backend recomputes the reductions of LayerNorm's derived gradient inside its loops, and the
derived GELU evaluates the error function's complement twice. On accelerators LayerNorm's derived gradient is as quick;
their GELU is in `models/kernels/gelu.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@jax.custom_vjp
def gelu(x):
    """x Phi(x), Phi the normal distribution's: the exact GELU."""
    return x * _phi(x)


def _phi(x):
    return 0.5 * (1.0 + jax.lax.erf(x * np.float32(0.5**0.5)))


def _gelu_forward(x):
    phi = _phi(x)
    return x * phi, phi + x * jnp.exp(-0.5 * x * x) * np.float32((2 * np.pi) ** -0.5)


gelu.defvjp(_gelu_forward, lambda slope, grad: (grad * slope,))


@jax.custom_vjp
def layer_norm(x_TxD, scale_D, bias_D, eps):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis."""
    return _norm_forward(x_TxD, scale_D, bias_D, eps)[0]


def _norm_forward(x_TxD, scale_D, bias_D, eps):
    mean_Tx1 = jnp.mean(x_TxD, axis=-1, keepdims=True)
    variance_Tx1 = jnp.maximum(jnp.mean(x_TxD * x_TxD, axis=-1, keepdims=True) - mean_Tx1**2, 0.0)
    inverse_Tx1 = jax.lax.rsqrt(variance_Tx1 + eps)
    return (x_TxD - mean_Tx1) * (inverse_Tx1 * scale_D) + bias_D, (x_TxD, mean_Tx1, inverse_Tx1, scale_D)


def _norm_backward(kept, grad_TxD):
    x_TxD, mean_Tx1, inverse_Tx1, scale_D = kept
    D = len(scale_D)
    normed_TxD = (x_TxD - mean_Tx1) * inverse_Tx1
    # The means of grad * scale and of that times `normed`, over the features, as products with a vector.
    mean_grad_T, mean_along_T = grad_TxD @ scale_D / D, (grad_TxD * normed_TxD) @ scale_D / D
    dx_TxD = inverse_Tx1 * (grad_TxD * scale_D - mean_grad_T[:, None] - normed_TxD * mean_along_T[:, None])
    return dx_TxD, jnp.sum(grad_TxD * normed_TxD, axis=0), jnp.sum(grad_TxD, axis=0), None


layer_norm.defvjp(_norm_forward, _norm_backward)


class LayerNorm(nn.Module):
    """`flax.linen.LayerNorm` in float32, with its parameters, on `layer_norm`."""

    epsilon: float

    @nn.compact
    def __call__(self, x):
        D = x.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (D,))
        bias_D = self.param("bias", nn.initializers.zeros, (D,))
        return layer_norm(x.reshape(-1, D), scale_D, bias_D, self.epsilon).reshape(x.shape)
