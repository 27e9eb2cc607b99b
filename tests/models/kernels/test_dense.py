"""The linear layer: flax's values and parameters; in half precision gradients summed in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.kernels.dense import Dense, dense_init, half_linear


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    x, grad = (jnp.asarray(rng.normal(size=(4096, n)) + 1, jnp.bfloat16) for n in (8, 6))
    return x, jnp.asarray(rng.normal(size=(8, 6)), jnp.float32), jnp.asarray(rng.normal(size=6), jnp.float32), grad


def test_gradients_of_parameters_are_summed_in_float32(given):
    x, kernel, bias, grad = given
    _, pull = jax.vjp(half_linear, x, kernel, bias)
    dx, d_kernel, d_bias = pull(grad)
    assert (dx.dtype, d_kernel.dtype, d_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    wide_x, wide_grad = np.float64(x), np.float64(grad)
    np.testing.assert_allclose(d_kernel, wide_x.T @ wide_grad, rtol=1e-5)
    np.testing.assert_allclose(d_bias, wide_grad.sum(0), rtol=1e-5)
    exact = wide_grad @ np.float64(kernel.astype(jnp.bfloat16)).T
    np.testing.assert_allclose(np.float64(dx), exact, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize(("dtype", "relative", "absolute"), [(jnp.bfloat16, 2**-7, 1e-2), (jnp.float32, 1e-6, 1e-6)])
def test_it_is_flaxs_dense_in_values_and_parameters(given, dtype, relative, absolute):
    x = given[0].astype(dtype).reshape(64, 64, 8)
    ours, theirs = Dense(6, dtype), nn.Dense(6, dtype=dtype, kernel_init=dense_init)
    params = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
    got, want = (layer.apply(params, x) for layer in (ours, theirs))
    assert got.shape == want.shape and got.dtype == want.dtype == dtype
    np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=relative, atol=absolute)
