"""3x3 convolutions whose gradients are as fast on a CPU inside a loop as outside of one."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.models.kernels.dense import dense_init


def convolution(features: int, dtype: jnp.dtype, name: str) -> nn.Module:
    """Return a 3x3 convolution of stride 1, zero-padded: `(B, H, W, I)` to `(B, H, W, features)`."""
    implementation = _same_convolution_for_flax if targets_cpu() else None
    return nn.Conv(
        features, (3, 3), dtype=dtype, kernel_init=dense_init, conv_general_dilated=implementation, name=name
    )


def _same_convolution_for_flax(x, kernel, *strides_and_padding, **other_options):
    """`same_convolution` under the signature that `nn.Conv` calls; its strides and padding are the only ones used."""
    return same_convolution(x, kernel)


@jax.custom_vjp
def same_convolution(x_BxHxWxI: jax.Array, kernel_KxKxIxO: jax.Array) -> jax.Array:
    """Convolve at stride 1, zero-padded to the input's size: `(B, H, W, O)`; K is odd.

    XLA's CPU backend runs a convolution through Eigen only if its channels come last. In a derived gradient they do
    not; XLA transposes them, but not inside a loop (such as several training steps in one dispatch), where its own
    fallback is 25 times slower. Here the input's gradient is a convolution like this one, and the kernel's gradient is
    one matmul with the K^2 pixels that each output sees, which are copied out for it.
    """
    return jax.lax.conv_general_dilated(
        x_BxHxWxI, kernel_KxKxIxO, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x_BxHxWxI, kernel_KxKxIxO):
    return same_convolution(x_BxHxWxI, kernel_KxKxIxO), (x_BxHxWxI, kernel_KxKxIxO)


def _backward(residuals, dy_BxHxWxO):
    x_BxHxWxI, kernel_KxKxIxO = residuals
    dx_BxHxWxI = same_convolution(dy_BxHxWxO, jnp.swapaxes(kernel_KxKxIxO[::-1, ::-1], 2, 3))
    (_, H, W, _), K = x_BxHxWxI.shape, len(kernel_KxKxIxO)
    padded = jnp.pad(x_BxHxWxI, ((0, 0), (K // 2, K // 2), (K // 2, K // 2), (0, 0)))
    seen = jnp.concatenate([padded[:, i : i + H, j : j + W] for i, j in itertools.product(range(K), repeat=2)], axis=-1)
    product = jnp.einsum("bhwi,bhwo->io", seen, dy_BxHxWxO, preferred_element_type=jnp.float32)
    return dx_BxHxWxI, product.reshape(kernel_KxKxIxO.shape).astype(kernel_KxKxIxO.dtype)


same_convolution.defvjp(_forward, _backward)
