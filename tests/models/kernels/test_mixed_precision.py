"""A Linear of half precision: flax's values and parameters, gradients summed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.kernels.mixed_precision import HalfDense, linear
from his4mae_jax.models.transformer import dense_init


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    x, grad = (jnp.asarray(rng.normal(size=(4096, n)) + 1, jnp.bfloat16) for n in (8, 6))
    return x, jnp.asarray(rng.normal(size=(8, 6)), jnp.float32), jnp.asarray(rng.normal(size=6), jnp.float32), grad


def test_gradients_of_parameters_are_summed_in_float32(given):
    x, kernel, bias, grad = given
    _, pull = jax.vjp(linear, x, kernel, bias)
    dx, d_kernel, d_bias = pull(grad)
    assert (dx.dtype, d_kernel.dtype, d_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    wide_x, wide_grad = np.float64(x), np.float64(grad)
    np.testing.assert_allclose(d_kernel, wide_x.T @ wide_grad, rtol=1e-5)
    np.testing.assert_allclose(d_bias, wide_grad.sum(0), rtol=1e-5)
    exact = wide_grad @ np.float64(kernel.astype(jnp.bfloat16)).T
    np.testing.assert_allclose(np.float64(dx), exact, rtol=2**-8, atol=2**-8)


def test_it_is_flaxs_dense_in_values_and_parameters(given):
    x = given[0]
    ours, flaxs = (kind(6, dtype=jnp.bfloat16, kernel_init=dense_init) for kind in (HalfDense, nn.Dense))
    params = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, flaxs.init(jax.random.key(0), x))
    np.testing.assert_allclose(*(np.float32(layer.apply(params, x)) for layer in (ours, flaxs)), rtol=2**-7, atol=1e-2)
