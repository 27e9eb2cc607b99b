"""LayerNorm against flax's: parameters, values, gradients; half precision."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.models.kernels.layer_norm import layer_norm, normalise


def test_values_and_gradients_are_those_of_flax():
    rng = np.random.default_rng(0)
    x = jnp.asarray(2 + 3 * rng.normal(size=(4, 5, 16)).astype(np.float32))
    theirs, ours = nn.LayerNorm(epsilon=1e-6), layer_norm(jnp.float32, name="norm")
    assert not isinstance(ours, nn.LayerNorm)
    params = theirs.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x))
    params = jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    pulled = [jax.vjp(lambda p, x, m=m: m.apply(p, x), params, x) for m in (ours, theirs)]
    grad = jnp.asarray(rng.normal(size=x.shape).astype(np.float32))
    np.testing.assert_allclose(pulled[0][0], pulled[1][0], atol=2e-5)
    for got, want in zip(*(jax.tree.leaves(pull(grad)) for _, pull in pulled), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)


def test_a_token_of_equal_features_has_a_finite_gradient():
    x, one, zero = jnp.full((2, 8), 3.0), jnp.ones(8), jnp.zeros(8)
    out, pull = jax.vjp(lambda x: normalise(x, one, zero, 1e-6), x)
    np.testing.assert_array_equal(out, 0)
    assert np.isfinite(pull(jnp.arange(16.0).reshape(2, 8))[0]).all()


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", jnp.bfloat16), ("gpu", jnp.float32), ("tpu", jnp.bfloat16)])
def test_accelerators_and_half_precision_use_flax_with_the_same_parameters(platform, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(6, 8)), dtype)
    exact = layer_norm(jnp.float32, name="norm")
    params = exact.init(jax.random.key(0), x)
    with tracing_for(types.SimpleNamespace(platform=platform)):
        module = layer_norm(dtype, name="norm")
        assert isinstance(module, nn.LayerNorm)
        y = module.apply(params, x)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.float32(y), exact.apply(params, x.astype(jnp.float32)), atol=2e-2)
