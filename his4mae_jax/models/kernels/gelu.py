"""The exact GELU, x Phi(x) with the normal distribution function Phi, with a cheap gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.models.kernels.backend import targets_cpu


def gelu(x: jax.Array) -> jax.Array:
    """Apply the exact (erf) GELU elementwise; computed in float32, returned in the dtype of `x`."""
    if targets_cpu() and x.dtype == jnp.float32:
        return _gelu_keeping_slope(x)
    # The derived gradient alone would keep three arrays of x's size in memory. Recomputing them from x costs
    # arithmetic, of which an accelerator has plenty at these sizes (docs/performance.md). prevent_cse=False: the
    # barriers against common subexpressions also stop fusions, and XLA keeps only x without them.
    return jax.checkpoint(_exact_gelu, prevent_cse=False)(x)


def _exact_gelu(x: jax.Array) -> jax.Array:
    x_f32 = x.astype(jnp.float32)
    return (x_f32 * _phi(x_f32)).astype(x.dtype)


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jax.lax.erf(x * np.float32(0.5**0.5)))


@jax.custom_vjp
def _gelu_keeping_slope(x: jax.Array) -> jax.Array:
    """GELU that keeps its slope for the gradient: XLA's CPU backend would evaluate the error function again."""
    return x * _phi(x)


def _forward(x):
    phi = _phi(x)
    return x * phi, phi + x * jnp.exp(-0.5 * x * x) * np.float32((2 * np.pi) ** -0.5)


def _backward(slope, grad):
    return (grad * slope,)


_gelu_keeping_slope.defvjp(_forward, _backward)
