"""GELU of every platform and dtype against SciPy, and what it keeps for its gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.models.kernels.gelu import gelu

ACCELERATOR = types.SimpleNamespace(platform="gpu")


def assert_exact(x, relative, absolute):
    y, pull = jax.vjp(gelu, x)
    exact = np.float64(x)
    phi, density = scipy.special.ndtr(exact), np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    slope = pull(jnp.ones_like(x))[0]
    assert y.dtype == slope.dtype == x.dtype
    np.testing.assert_allclose(np.float64(y), exact * phi, rtol=relative, atol=absolute)
    np.testing.assert_allclose(np.float64(slope), phi + exact * density, rtol=relative, atol=absolute)


@pytest.mark.parametrize(("dtype", "close"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8), (jnp.float16, 2**-10)])
def test_values_and_slopes_are_exact_to_the_rounding_of_the_dtype(dtype, close):
    with tracing_for(ACCELERATOR):
        assert_exact(jnp.linspace(-9, 9, 4001).astype(dtype), close, 2e-6)


def test_float32_on_a_cpu():
    x = jnp.asarray(np.linspace(-12, 12, 4001), jnp.float32)
    assert_exact(x, 1e-6, 2e-6)
    np.testing.assert_allclose(gelu(x), jax.vjp(gelu, x)[0], atol=2e-6)


def residual_bytes(x):
    return sum(array.nbytes for array in jax.tree.leaves(jax.vjp(gelu, x)[1]))


def test_accelerators_and_half_precision_keep_only_the_input():
    x = jnp.ones((8, 16), jnp.bfloat16)
    assert residual_bytes(x) == x.nbytes
    with tracing_for(ACCELERATOR):
        assert residual_bytes(x.astype(jnp.float32)) == 2 * x.nbytes
