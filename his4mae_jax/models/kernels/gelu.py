"""The exact GELU for accelerators: in float32, and only its input kept for the gradient."""

import jax
import jax.numpy as jnp
import numpy as np


@jax.custom_vjp
def gelu(x):
    """x Phi(x), Phi the normal distribution's; computed in float32, in the dtype of `x`.

    Derived gradients keep three arrays of x's size, which are written and read again; recomputed, they cost
    arithmetic alone, which an accelerator has to spare at these sizes (docs/performance.md).
    """
    wide = x.astype(jnp.float32)
    return (wide * _phi(wide)).astype(x.dtype)


def _phi(x):
    return 0.5 * (1.0 + jax.lax.erf(x * np.float32(0.5**0.5)))


def _backward(x, grad):
    wide = x.astype(jnp.float32)
    slope = _phi(wide) + wide * jnp.exp(-0.5 * wide * wide) * np.float32((2 * np.pi) ** -0.5)
    return ((grad.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _backward)
