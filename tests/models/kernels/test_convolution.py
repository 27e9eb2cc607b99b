"""The convolution for CPUs against loops over the kernel: values and gradients, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.kernels.convolution import same_convolution


def plain(x, kernel):
    """Convolution by loops over the kernel's pixels, differentiated by JAX."""
    K, (_, H, W, _) = len(kernel), x.shape
    padded = jnp.pad(x, ((0, 0), (K // 2, K // 2), (K // 2, K // 2), (0, 0)))
    return sum(padded[:, i : i + H, j : j + W] @ kernel[i, j] for i in range(K) for j in range(K))


@pytest.mark.parametrize(("shape", "size"), [((2, 5, 7, 3, 4), 3), ((1, 4, 4, 1, 2), 5), ((3, 2, 1, 2, 1), 3)])
def test_values_and_gradients(shape, size):
    rng, (B, H, W, I, O) = np.random.default_rng(0), shape  # noqa: E741
    x, kernel = rng.normal(size=(B, H, W, I)).astype("f"), rng.normal(size=(size, size, I, O)).astype("f")
    weight = rng.normal(size=(B, H, W, O)).astype("f")

    def both(convolve):
        def loss(x, kernel):
            return jnp.sum(weight * convolve(x, kernel) ** 2)

        return jax.jit(lambda *a: (convolve(*a), jax.grad(loss, argnums=(0, 1))(*a)))(x, kernel)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), both(same_convolution), both(plain)
    )


def test_half_precision_in_and_out():
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((2, 6, 6, 3), (3, 3, 3, 4)))
    value, pull = jax.vjp(jax.jit(same_convolution), x, kernel)
    gradients = pull(value)
    assert {a.dtype for a in (value, *gradients)} == {jnp.dtype("bfloat16")}
    wide = [a.astype(jnp.float32) for a in (x, kernel)]
    value, pull = jax.vjp(jax.jit(plain), *wide)
    for got, want in zip(gradients, pull(value), strict=True):
        np.testing.assert_allclose(np.float32(got), want, atol=0.03 * np.abs(want).max())
