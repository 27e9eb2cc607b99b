"""Gradients written out by hand are those that JAX derives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from his4mae_jax.models import transformer
from his4mae_jax.models.kernels import cpu


def test_layer_norm_and_its_gradients_are_flax_s():
    rng = np.random.default_rng(0)
    x = jnp.asarray(2 + 3 * rng.normal(size=(4, 5, 16)).astype(np.float32))
    theirs, ours = nn.LayerNorm(epsilon=1e-6), cpu.LayerNorm(epsilon=1e-6)
    params = theirs.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x))
    params = jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    pulled = [jax.vjp(lambda p, x, m=m: m.apply(p, x), params, x) for m in (ours, theirs)]
    grad = jnp.asarray(rng.normal(size=x.shape).astype(np.float32))
    np.testing.assert_allclose(pulled[0][0], pulled[1][0], atol=2e-5)
    for found, want in zip(*(jax.tree.leaves(pull(grad)) for _, pull in pulled), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=2e-5)


def test_a_token_of_equal_features_has_a_finite_gradient():
    x, one, zero = jnp.full((2, 8), 3.0), jnp.ones(8), jnp.zeros(8)
    out, pull = jax.vjp(lambda x: cpu.layer_norm(x, one, zero, 1e-6), x)
    np.testing.assert_array_equal(out, 0)
    assert np.isfinite(pull(jnp.arange(16.0).reshape(2, 8))[0]).all()


def test_gelu_and_its_slope():
    x = np.linspace(-12, 12, 4001).astype(np.float32)
    y, pull = jax.vjp(cpu.gelu, jnp.asarray(x))
    exact = x.astype(np.float64)
    phi, density = scipy.special.ndtr(exact), np.exp(-(exact**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(y, exact * phi, atol=2e-6)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], phi + exact * density, atol=1e-6)
    np.testing.assert_allclose(cpu.gelu(jnp.asarray(x)), y, atol=2e-6)


def test_a_block_of_half_precision_keeps_to_flax(monkeypatch):
    """The kernels are for float32; another dtype takes flax's, with the same parameters."""
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    whole, half = (transformer.Block(dim=8, num_heads=2, mlp_ratio=2.0, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    params = whole.init(jax.random.key(0), x)
    out = half.apply(params, x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(out), whole.apply(params, x), atol=0.1)
