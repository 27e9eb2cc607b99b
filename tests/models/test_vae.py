"""The VAE's networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.patches import patchify
from his4mae_jax.models.vae import ImageDecoder, VariationalEncoder, sample

GRID, D = (3, 2), 6


def images(patch, seed=0):
    return np.random.default_rng(seed).uniform(size=(2, GRID[0] * patch, GRID[1] * patch)).astype(np.float32)


def initialised(module, inputs, **options):
    """The module as a compiled function of its inputs, and its parameters (NumPy's: no compilation)."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda key: module.init(key, inputs, **options), jax.random.key(0))
    params = jax.tree.map(lambda a: 0.2 * rng.normal(size=a.shape).astype(a.dtype), shapes)
    return jax.jit(lambda x: module.apply(params, x, **options)), params


@pytest.mark.parametrize("patch", [4, 5])
def test_one_latent_distribution_per_patch_and_back_to_the_image(patch):
    patches = patchify(images(patch), patch)
    encode, _ = initialised(VariationalEncoder(GRID, D, width=4, blocks=1), patches, with_log_variance=True)
    mean, log_variance = encode(patches)
    assert mean.shape == log_variance.shape == (2, 6, D)
    assert np.abs(mean - log_variance).max() > 1e-3
    decode, _ = initialised(ImageDecoder(GRID, patch, width=4, blocks=1), mean)
    assert decode(mean).shape == images(patch).shape


def test_segmentation_gets_the_mean_and_no_noise():
    encoder = VariationalEncoder(GRID, D, width=4, blocks=1)
    patches = patchify(images(4), 4)
    encode, params = initialised(encoder, patches)
    tokens = encode(patches)  # without any key for random numbers
    both = jax.jit(lambda p, x: encoder.apply(p, x, with_log_variance=True))(params, patches)
    np.testing.assert_allclose(tokens, both[0], atol=1e-6)
    np.testing.assert_array_equal(tokens, encode(patches))


def test_a_token_stands_for_its_own_patch():
    """Without blocks only the stem's 3x3 looks beyond the patch: what changes in one moves its own token most."""
    patches = np.asarray(patchify(images(4), 4))
    tokens = np.random.default_rng(1).normal(size=(2, 6, D)).astype(np.float32)
    encode, _ = initialised(VariationalEncoder(GRID, D, width=4, blocks=0), patches)
    decode, _ = initialised(ImageDecoder(GRID, 4, width=4, blocks=0), tokens)
    for inputs, function in ((patches, encode), (tokens, lambda z: patchify(decode(z), 4))):
        before = function(inputs)
        for n in range(6):
            changed = inputs.copy()
            changed[:, n] += 2.0
            moved = np.abs(function(changed) - before).sum(-1)
            np.testing.assert_array_equal(moved.argmax(axis=1), n)
            row, col = np.divmod(np.arange(6), GRID[1])
            far = np.maximum(np.abs(row - row[n]), np.abs(col - col[n])) > 1
            assert np.all(moved[:, far] == 0)


def test_the_grey_level_of_a_field_of_view_stays_in_its_tokens():
    """Dark and bright fields of view without texture must not get the same tokens."""
    flat = np.stack([np.full((6, 16), grey, np.float32) for grey in (0.2, 0.4)])
    encode, _ = initialised(VariationalEncoder(GRID, D, width=4, blocks=1), flat)
    dark, bright = np.asarray(encode(flat))
    assert np.abs(dark - bright).max() > 0.05 * np.abs(bright).max()


def test_samples_have_the_mean_and_the_variance_they_are_given():
    mean, log_variance = jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.25, 4.0]))
    noise = jax.random.normal(jax.random.key(0), (20_000, 2))
    draws = sample(noise, mean, log_variance)
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(draws.var(0), jnp.exp(log_variance), rtol=0.05)


def test_latents_and_pixels_are_float32_whatever_the_compute_dtype():
    patches = patchify(images(4), 4)
    half = dict(width=4, blocks=1, dtype=jnp.bfloat16)
    encode, encoder_params = initialised(VariationalEncoder(GRID, D, **half), patches, with_log_variance=True)
    mean, log_variance = encode(patches)
    decode, decoder_params = initialised(ImageDecoder(GRID, 4, **half), mean)
    assert {mean.dtype, log_variance.dtype, decode(mean).dtype} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves((encoder_params, decoder_params))} == {jnp.dtype(jnp.float32)}
