"""The VAE's loss against NumPy, where its gradients go, and that it learns."""

import functools

import jax
import numpy as np
import optax
import pytest
from batch_loss import batch_loss
from scipy.ndimage import gaussian_filter

from his4mae_jax.models.patches import patchify
from his4mae_jax.models.vae import sample
from his4mae_jax.pretext import vae


@pytest.fixture
def config(tiny):
    tiny.vae.width, tiny.vae.blocks, tiny.vae.kl_weight = 4, 1, 0.02
    return tiny


@pytest.fixture
def setup(config):
    models = vae.build(config)
    rng = np.random.default_rng(1)  # NumPy's, which take no compilation
    shapes = jax.eval_shape(lambda key: vae.init_params(key, models), jax.random.key(0))
    params = jax.tree.map(lambda a: 0.2 * rng.normal(size=a.shape).astype(a.dtype), shapes)
    return models, params, jax.random.uniform(jax.random.key(2), (3, 20, 20))


def test_noise_is_standard_normal_and_a_function_of_its_key(setup):
    models, _, _ = setup
    batch = {"image": np.zeros((2000, 20, 20), np.float32)}
    first, again, other = (
        vae.prepare(jax.random.key(k), batch, models=models, settings=None)["noise"] for k in (0, 0, 1)
    )
    assert first.shape == (2000, 16, 8)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    np.testing.assert_allclose([first.mean(), first.std()], [0, 1], atol=0.02)


def run(setup, rng=3, kl_weight=0.02):
    models, params, images = setup
    key = jax.random.key(rng)
    loss = functools.partial(batch_loss, vae, models=models, settings=vae.Settings(kl_weight), ready=False)
    return jax.jit(loss)(params, params["encoder"], {"image": images}, key)


def test_kl_is_the_integral_that_defines_it():
    mean, log_variance = np.array([[0.0, 1.0], [-2.0, 0.5]]), np.array([[0.0, -1.0], [0.7, 1.2]])
    x, step = np.linspace(-40, 40, 400_001, retstep=True)
    want = []
    for m, v in zip(mean.flat, np.exp(log_variance).flat, strict=True):
        log_q = -0.5 * (x - m) ** 2 / v - 0.5 * np.log(2 * np.pi * v)
        log_p = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
        want.append(np.sum(np.exp(log_q) * (log_q - log_p)) * step)
    assert want[0] == 0
    np.testing.assert_allclose(vae.kl_divergence(mean, log_variance), np.mean(want), rtol=1e-5)


def test_the_loss_is_reconstruction_and_weighted_kl(setup):
    models, params, images = setup
    total, (diagnostics, codes) = run(setup)
    encode = jax.jit(functools.partial(models.encoder.apply, with_log_variance=True))
    mean, log_variance = encode({"params": params["encoder"]}, patchify(images, 5))
    drawn = sample(jax.random.normal(jax.random.key(3), mean.shape), mean, log_variance)
    predicted = jax.jit(models.decoder.apply)({"params": params["decoder"]}, drawn)
    recon = np.mean((np.float64(predicted) - np.float64(images)) ** 2)
    mean, log_variance = np.float64(mean), np.float64(log_variance)
    kl = np.mean((mean**2 + np.exp(log_variance) - 1 - log_variance) / 2)
    np.testing.assert_allclose(diagnostics["loss_recon"], recon, rtol=1e-5)
    np.testing.assert_allclose(diagnostics["loss_kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(total, recon + 0.02 * kl, rtol=1e-5)
    assert total == diagnostics["loss"] and codes == {}


def test_different_keys_draw_different_latents(setup):
    first, second = run(setup)[1][0], run(setup, rng=4)[1][0]
    assert first["loss_recon"] != second["loss_recon"]
    assert first["loss_kl"] == second["loss_kl"]


def test_gradients_reach_every_parameter_of_both_parts(setup):
    models, params, images = setup
    gradient = jax.jit(jax.grad(lambda p, w: run((models, p, images), kl_weight=w)[0]))
    for name, leaf in jax.tree_util.tree_leaves_with_path(gradient(params, 0.02)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(name)
    # Reconstruction alone moves the encoder, too, through the drawn latents: mean and variance.
    moments = gradient(params, 0.0)["encoder"]["moments"]["bias"]
    assert np.abs(moments).min() > 0


def test_a_short_training_learns_the_images(config):
    config.model.patch_size = 4
    models = vae.build(config)
    noise = np.random.default_rng(0).normal(size=(4, 20, 20))
    images = gaussian_filter(noise, (0, 2, 2))
    images = (0.5 + 0.2 * images / images.std()).astype(np.float32)
    optimizer = optax.adam(3e-3)
    loss = functools.partial(batch_loss, vae, models=models, settings=vae.Settings(kl_weight=1e-4), ready=True)

    @jax.jit
    def train(key):
        params = vae.init_params(key, models)

        def step(carry, rng):
            params, opt_state = carry
            grads, (diagnostics, _) = jax.grad(loss, has_aux=True)(params, None, {"image": images}, rng)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), diagnostics

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 150))[1]

    curve = jax.tree.map(np.asarray, train(jax.random.key(0)))
    assert curve["loss"][-10:].mean() < 0.3 * curve["loss"][:3].mean()
    assert curve["loss_recon"][-10:].mean() < 0.5 * images.var()  # a constant grey has images.var()


def test_settings_come_from_the_config(config):
    assert vae.settings(config) == vae.Settings(kl_weight=0.02)
    config.model.patch_size, config.model.embed_dim = 4, 12
    models = vae.build(config)
    assert (models.encoder.grid, models.encoder.embed_dim, models.patch_size) == ((5, 5), 12, 4)
