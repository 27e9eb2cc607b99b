"""GELU for accelerators against SciPy, and what it keeps for its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from his4mae_jax.models.kernels.gelu import gelu


@pytest.mark.parametrize(("dtype", "close"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8), (jnp.float16, 2**-10)])
def test_values_and_slopes_are_exact_to_the_rounding_of_the_dtype(dtype, close):
    x = jnp.linspace(-9, 9, 4001).astype(dtype)
    y, pull = jax.vjp(gelu, x)
    exact = np.float64(x)
    phi, density = scipy.special.ndtr(exact), np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.float64(y), exact * phi, rtol=close, atol=2e-6)
    np.testing.assert_allclose(np.float64(pull(jnp.ones_like(x))[0]), phi + exact * density, rtol=close, atol=2e-6)


def test_only_the_input_is_kept():
    x = jnp.ones((8, 16), jnp.bfloat16)
    kept = jax.tree.leaves(jax.vjp(gelu, x)[1])
    assert sum(array.nbytes for array in kept) == x.nbytes
