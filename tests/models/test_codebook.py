"""Nearest codes, usage, initialisation, equation 6 and EMA updates against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.models import codebook


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(1, 8), st.integers(0, 100))
def test_nearest_code_is_the_nearest(num_codes, dim, seed):
    rng = np.random.default_rng(seed)
    z, codes = rng.normal(size=(30, dim)).astype(np.float32), rng.normal(size=(num_codes, dim)).astype(np.float32)
    index = np.asarray(codebook.nearest_code(z, codes))
    distance = ((z[:, None] - codes[None]) ** 2).sum(-1)
    np.testing.assert_allclose(distance[np.arange(30), index], distance.min(1), atol=1e-4)


def test_codebook_module_returns_its_codes():
    module = codebook.Codebook(4, 3)
    codes = jnp.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 5]], jnp.float32)
    z = jnp.array([[[0.9, 0.1, 0], [0, 1.7, 0]], [[0, 0, 4], [-1, 0, 0]]], jnp.float32)
    index, quantised = module.apply({"params": {"codes": codes}}, z)
    np.testing.assert_array_equal(index, [[1, 2], [3, 0]])
    np.testing.assert_array_equal(quantised, codes[index])


def test_usage_and_its_statistics():
    usage = codebook.count_usage(jnp.array([0, 1, 1, 3, 1, 0]), 5)
    np.testing.assert_array_equal(usage, [2, 3, 0, 1, 0])
    fraction = np.array([2, 3, 1]) / 6
    perplexity, dead = codebook.usage_statistics(usage, 0.05)
    np.testing.assert_allclose(perplexity, np.exp(-(fraction * np.log(fraction)).sum()), rtol=1e-6)
    np.testing.assert_allclose(dead, 2 / 5)
    perplexity, dead = codebook.usage_statistics(jnp.full((7,), 3.0), 0.05)
    np.testing.assert_allclose([perplexity, dead], [7, 0], atol=1e-5)


def test_isolated_codes_move_towards_used_ones_by_equation_6():
    codes = jnp.array([[1.0, 0], [0, 1], [10, 10], [-4, 4]])
    usage = jnp.array([90.0, 0, 110, 1])  # the mean is 50.25; isolated below 5 % of it
    moved = np.asarray(codebook.update_isolated(jax.random.key(0), codes, usage, gamma=0.8, threshold=0.05))
    np.testing.assert_array_equal(moved[[0, 2]], codes[np.array([0, 2])])
    for k in (1, 3):
        candidates = [0.8 * np.asarray(codes[p]) + 0.2 * np.asarray(codes[k]) for p in (0, 2)]
        assert any(np.allclose(moved[k], c, atol=1e-6) for c in candidates)


def test_partners_are_drawn_in_proportion_to_usage():
    K = 4000
    codes = jnp.concatenate([jnp.array([[1.0], [2.0]]), jnp.zeros((K - 2, 1))])
    usage = jnp.zeros(K).at[0].set(3e6).at[1].set(1e6)
    moved = np.asarray(codebook.update_isolated(jax.random.key(1), codes, usage, gamma=0.5, threshold=0.05))[2:, 0]
    assert set(np.unique(moved)) == {0.5, 1.0}
    np.testing.assert_allclose((moved == 0.5).mean(), 0.75, atol=0.04)


def test_no_code_moves_when_all_are_used():
    codes = jnp.eye(3)
    np.testing.assert_array_equal(codebook.update_isolated(jax.random.key(0), codes, jnp.ones(3), 0.8, 0.05), codes)


def test_init_finds_separated_groups():
    rng = np.random.default_rng(0)
    means = np.array([[10, 0], [0, 10], [-10, 0], [0, -10]], np.float32)
    z = np.concatenate([m + rng.normal(size=(50, 2)).astype(np.float32) for m in means])
    codes = np.asarray(codebook.init_codes(jax.random.key(3), jnp.asarray(z), 24, 10))
    # Every group has codes, and each code is near a group: none is left at the origin.
    nearest = ((codes[:, None] - means[None]) ** 2).sum(-1)
    assert set(nearest.argmin(1)) == {0, 1, 2, 3} and nearest.min(1).max() < 20
    samples = np.asarray(codebook.init_codes(jax.random.key(3), jnp.asarray(z), 24, 0))
    assert all((s == z).all(1).any() for s in samples) and len(np.unique(samples, axis=0)) == 24


def test_lloyd_iterations_lower_the_quantisation_error():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(300, 4)), jnp.float32)

    def error(iterations):
        codes = codebook.init_codes(jax.random.key(0), z, 10, iterations)
        return float(((z[:, None] - codes[None]) ** 2).sum(-1).min(1).mean())

    assert error(10) < error(1) < error(0)


def test_ema_update_equals_numpy():
    rng = np.random.default_rng(0)
    codes, count, total = rng.normal(size=(3, 2)), np.array([1.0, 2.0, 0.0]), rng.normal(size=(3, 2))
    z, index = rng.normal(size=(5, 2)), np.array([0, 0, 1, 0, 1])
    new, new_count, new_total = codebook.ema_update(
        jnp.float32(codes), jnp.float32(count), jnp.float32(total), index, jnp.float32(z), 0.9
    )
    for k in range(3):
        members = z[index == k]
        want_count = 0.9 * count[k] + 0.1 * len(members)
        want_total = 0.9 * total[k] + 0.1 * members.sum(0)
        np.testing.assert_allclose(new_count[k], want_count, rtol=1e-5)
        np.testing.assert_allclose(new_total[k], want_total, rtol=1e-5)
        # A code that has faded (count 0) stays.
        np.testing.assert_allclose(new[k], want_total / want_count if want_count > 0 else codes[k], rtol=1e-5)
