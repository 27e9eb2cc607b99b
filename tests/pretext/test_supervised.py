"""Cross-entropy inside annotated pixels against NumPy, and that both baselines learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batch_loss import batch_loss

from his4mae_jax.data.phantom.cell import make_phantom
from his4mae_jax.errors import UserError
from his4mae_jax.inference import expand_stride, lattice
from his4mae_jax.pretext import segmenter, supervised, vit

METHODS = pytest.mark.parametrize("method", [vit, segmenter], ids=["vit", "segmenter"])
IGNORE = 255


@pytest.fixture
def config(tiny):
    tiny.supervised.classes, tiny.supervised.depth, tiny.supervised.num_heads = 3, 1, 2
    return tiny


def test_training_expands_logits_as_segmentation_does():
    logits = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
    got = supervised.pixel_logits(logits, (3, 4), 5)
    want = jnp.asarray(logits).reshape(2, 3, 4, 3)
    for axis, tokens in ((1, 3), (2, 4)):
        tile = expand_stride.axis_tile(5 * tokens, (0, 5 * tokens), fov=5 * tokens, patch=5, stride=5)
        want = lattice.along(want, tile.lower, tile.fraction, axis)
    assert got.shape == (2, 15, 20, 3)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_cross_entropy_counts_annotated_pixels_only():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    labels = rng.choice([0, 1, 2, IGNORE], size=(2, 6, 5)).astype(np.int32)
    costs, right = [], []
    for b, y, x in np.ndindex(*labels.shape):
        if labels[b, y, x] != IGNORE:
            z = np.float64(logits[b, y, x])
            costs.append(np.log(np.exp(z).sum()) - z[labels[b, y, x]])
            right.append(z.argmax() == labels[b, y, x])
    assert 20 < len(costs) < 60  # some of both
    loss_ce, accuracy = supervised.cross_entropy(logits, labels, len(costs))
    np.testing.assert_allclose(loss_ce, np.mean(costs), rtol=1e-5)
    np.testing.assert_allclose(accuracy, np.mean(right), rtol=1e-6)


def test_annotated_pixels_are_counted_over_the_whole_batch():
    labels = np.full((4, 2, 3), IGNORE)
    labels[0], labels[2, 0, :2] = 1, 0
    counted = supervised.prepare(None, {"labels": labels}, models=None, settings=None)["annotated"]
    np.testing.assert_array_equal(counted, [2.0] * 4)  # 6, 0, 2 and 0


def test_an_id_without_a_class_does_not_count_for_nothing():
    labels = np.array([[[0, 3, IGNORE]]])
    assert np.isnan(supervised.cross_entropy(jnp.zeros((1, 1, 3, 3)), labels, 2)[0])


def gradient(method, config, labels):
    models = method.build(config)
    rng = np.random.default_rng(1)  # NumPy's, which take no compilation
    shapes = jax.eval_shape(lambda key: method.init_params(key, models), jax.random.key(0))
    params = jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape).astype(a.dtype), shapes)
    batch = {"image": jax.random.uniform(jax.random.key(1), (2, 20, 20)), "labels": labels}
    loss = functools.partial(batch_loss, method, models=models, ready=True, settings=method.settings(config))
    return jax.jit(jax.grad(loss, has_aux=True))(params, params["encoder"], batch, jax.random.key(2))


@METHODS
def test_gradients_reach_encoder_and_head(config, method):
    labels = jax.random.randint(jax.random.key(3), (2, 20, 20), 0, 3)
    grads, (diagnostics, codes) = gradient(method, config, labels)
    head = {vit: "head", segmenter: "decoder"}[method]
    assert set(grads) == {"encoder"} and set(grads["encoder"]) == {"encoder", head}
    for name, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(name)
    assert diagnostics["loss"] == diagnostics["loss_ce"] > 0 and 0 < diagnostics["accuracy"] < 1
    assert codes == {}


@METHODS
def test_a_batch_without_annotation_teaches_nothing(config, method):
    grads, (diagnostics, _) = gradient(method, config, jnp.full((2, 20, 20), IGNORE))
    assert all(diagnostics[name] == 0 for name in ("loss", "loss_ce", "accuracy"))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


@METHODS
def test_data_without_labels_is_refused(config, method):
    config.supervised.classes = 0
    with pytest.raises(UserError, match=r"no labels.*data\.class_names"):
        method.build(config)


@pytest.fixture(scope="module")
def phantom_slice():
    """Four fields of view, 32 pixels a side, that tile one slice of a synthetic cell."""
    phantom = make_phantom((64, 64, 64), seed=0, voxel_size_nm=16.0)

    def cut(x):
        return x[:, 4].reshape(2, 32, 2, 32).swapaxes(1, 2).reshape(4, 32, 32)

    return cut(phantom.image_ZxYxX / np.float32(255)), cut(phantom.labels_ZxYxX.astype(np.int32))


@METHODS
def test_both_learn_a_slice_by_heart(config, method, phantom_slice):
    images, labels = phantom_slice
    share = np.bincount(labels[labels != IGNORE], minlength=4) / np.sum(labels != IGNORE)
    assert np.any(labels == IGNORE) and share.max() < 0.65  # or it would show nothing
    m = config.model
    m.fov, m.patch_size, m.embed_dim, m.depth = 32, 4, 32, 2
    config.supervised.classes = 4
    models = method.build(config)
    # Segmenter's cosines stay at the largest class for long when it starts without warm-up.
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, warmup_steps=100, decay_steps=600)
    optimizer = optax.adam(rate, b2=0.95)
    batch = {"image": images, "labels": labels}

    @jax.jit
    def train(key):
        params = method.init_params(key, models)

        def step(carry, _):
            params, opt_state = carry
            loss = functools.partial(batch_loss, method, models=models, settings=method.settings(config), ready=True)
            grads, (diagnostics, _) = jax.grad(loss, has_aux=True)(params, None, batch, None)
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), diagnostics

        return jax.lax.scan(step, (params, optimizer.init(params)), length=600)[1]

    curve = jax.tree.map(np.asarray, train(jax.random.key(0)))
    assert curve["accuracy"][-1] > 0.95
    assert curve["loss_ce"][-1] < 0.2 * curve["loss_ce"][0]
