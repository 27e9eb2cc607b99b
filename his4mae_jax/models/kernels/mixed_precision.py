"""A Linear of half precision whose parameters' gradients are float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp


@jax.custom_vjp
def linear(x_TxD, kernel_DxF, bias_F):
    """x W + b in the dtype of `x`, of float32 parameters, whose gradients are summed and given in float32.

    Derived ones are rounded to half precision, and what devices tell each other is then summed in it.
    """
    return x_TxD @ kernel_DxF.astype(x_TxD.dtype) + bias_F.astype(x_TxD.dtype)


def _backward(kept, grad_TxF):
    x_TxD, kernel_DxF = kept
    d_kernel_DxF = jnp.einsum("td,tf->df", x_TxD, grad_TxF, preferred_element_type=jnp.float32)
    return grad_TxF @ kernel_DxF.astype(x_TxD.dtype).T, d_kernel_DxF, jnp.sum(grad_TxF, axis=0, dtype=jnp.float32)


linear.defvjp(lambda x_TxD, kernel_DxF, bias_F: (linear(x_TxD, kernel_DxF, bias_F), (x_TxD, kernel_DxF)), _backward)


class HalfDense(nn.Module):
    """`flax.linen.Dense` of 2D input, with its parameters, on `linear`."""

    features: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x_TxD):
        kernel_DxF = self.param("kernel", self.kernel_init, (x_TxD.shape[-1], self.features), jnp.float32)
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return linear(x_TxD.astype(self.dtype), kernel_DxF, bias_F)
