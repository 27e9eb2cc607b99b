"""MAESTER's loss: equation 2 on the masked patches against NumPy, with and without a cls token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_loss import batch_loss

from his4mae_jax.models.masking import random_visible
from his4mae_jax.pretext import his4mae, maester

RNG = jax.random.key(3)


@pytest.fixture(params=[False, True], ids=["no_cls", "cls"])
def setup(tiny, request):
    """(config, models, params, images)."""
    tiny.model.cls_token = request.param
    models = maester.build(tiny)
    return tiny, models, init(maester, models), jax.random.uniform(RNG, (3, 20, 20))


def init(method, models, seed=0):
    return jax.jit(lambda key: method.init_params(key, models))(jax.random.key(seed))


def run(setup):
    config, models, params, images = setup
    loss = functools.partial(batch_loss, maester, models=models, ready=False, settings=maester.settings(config))
    return jax.jit(loss)(params, None, {"image": images}, RNG)


def forward(models, params, patches, visible):
    encode = jax.jit(functools.partial(models.encoder.apply, with_cls=True))
    tokens = encode({"params": params["encoder"]}, patches, visible)
    return tokens, jax.jit(models.decoder.apply)({"params": params["decoder"]}, tokens, visible)


def squared_errors(setup):
    """`(error_BxN, hidden_BxN)`: each patch's mean squared error, cut and averaged by NumPy loops."""
    _, models, params, images = setup
    visible, _ = random_visible(RNG, 3, 16, 0.5)
    images, chosen = np.asarray(images), np.asarray(visible)
    patches = np.zeros((3, 16, 25), np.float32)
    for n in range(16):
        row, column = 5 * (n // 4), 5 * (n % 4)
        patches[:, n] = images[:, row : row + 5, column : column + 5].reshape(3, 25)
    tokens, predicted = forward(models, params, patches, visible)
    assert tokens.shape[1] == 8 + models.encoder.cls_token
    hidden = np.array([[n not in chosen[b] for n in range(16)] for b in range(3)])
    return ((np.asarray(predicted) - patches) ** 2).mean(-1), hidden


def test_the_loss_is_equation_2_on_the_masked_patches(setup):
    error, hidden = squared_errors(setup)
    total, (metrics, codes) = run(setup)
    np.testing.assert_allclose(total, error[hidden].mean(), rtol=1e-5)
    assert set(metrics) == {"loss", "loss_recon"} and metrics["loss"] == metrics["loss_recon"] == total
    assert codes == {}


def test_on_all_patches_if_the_config_says_so(setup):
    error, hidden = squared_errors(setup)
    setup[0].objective.recon_on = "all"
    np.testing.assert_allclose(run(setup)[0], error.mean(), rtol=1e-5)
    assert abs(error.mean() - error[hidden].mean()) > 1e-4  # the two losses differ


def test_gradients_reach_every_parameter_of_the_student_and_nothing_of_the_teacher(setup):
    config, models, params, images = setup
    teacher = init(maester, models, 1)["encoder"]
    loss = functools.partial(batch_loss, maester, models=models, ready=True, settings=maester.settings(config))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (grads, of_teacher), _ = gradient(params, teacher, {"image": images}, RNG)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)
    assert all(jnp.abs(leaf).max() == 0 for leaf in jax.tree.leaves(of_teacher))
    assert ("cls_token" in grads["encoder"]) == models.encoder.cls_token


def test_his4mae_without_distillation_is_maester(setup):
    config, _, params, images = setup
    config.objective.alpha = config.objective.beta = 0.0
    models = his4mae.build(config)
    more = init(his4mae, models)
    loss = functools.partial(batch_loss, his4mae, models=models, ready=True, settings=his4mae.settings(config))
    total, _ = loss({**more, **params}, more["encoder"], {"image": images}, RNG)
    np.testing.assert_allclose(total, run(setup)[0], rtol=1e-6)


def test_maester_and_his4mae_of_one_seed_start_from_the_same_weights(setup):
    config, _, params, _ = setup
    models = his4mae.build(config)
    others = init(his4mae, models)
    # Up to rounding: each is compiled by itself.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, params, {key: others[key] for key in params})
