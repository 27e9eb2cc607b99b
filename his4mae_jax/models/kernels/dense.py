"""A linear layer: one 2D matmul, and in half precision gradients of its parameters in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

dense_init = nn.initializers.xavier_uniform()  # as in MAE


class Dense(nn.Module):
    """`flax.linen.Dense` over the last axis, with its parameters `kernel` and `bias` (float32).

    The input is flattened to 2D, because XLA's CPU backend computes the kernel's gradient of a 3D input at less than
    half the speed; on accelerators the two are equally fast.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = dense_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        D = x.shape[-1]
        kernel_DxF = self.param("kernel", self.kernel_init, (D, self.features), jnp.float32)
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        linear = _linear if self.dtype == jnp.float32 else half_linear
        y_TxF = linear(x.reshape(-1, D).astype(self.dtype), kernel_DxF, bias_F)
        return y_TxF.reshape(*x.shape[:-1], self.features)


def _linear(x_TxD, kernel_DxF, bias_F):
    return x_TxD @ kernel_DxF + bias_F.reshape(1, -1)


@jax.custom_vjp
def half_linear(x_TxD: jax.Array, kernel_DxF: jax.Array, bias_F: jax.Array) -> jax.Array:
    """Return x W + b in the half precision of `x`, for float32 parameters with float32 gradients.

    The derived gradients would be rounded to half precision, and the all-reduce over devices would sum them in it.
    """
    return x_TxD @ kernel_DxF.astype(x_TxD.dtype) + bias_F.astype(x_TxD.dtype)


def _forward(x_TxD, kernel_DxF, bias_F):
    return half_linear(x_TxD, kernel_DxF, bias_F), (x_TxD, kernel_DxF)


def _backward(residuals, grad_TxF):
    x_TxD, kernel_DxF = residuals
    d_kernel_DxF = jnp.einsum("td,tf->df", x_TxD, grad_TxF, preferred_element_type=jnp.float32)
    return grad_TxF @ kernel_DxF.astype(x_TxD.dtype).T, d_kernel_DxF, jnp.sum(grad_TxF, axis=0, dtype=jnp.float32)


half_linear.defvjp(_forward, _backward)
