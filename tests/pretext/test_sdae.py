"""SdAE and SdAE-recon: folds, targets and losses against NumPy, and where the gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_loss import batch_loss

from his4mae_jax.models.masking import random_visible
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester, sdae, sdae_recon

RNG = jax.random.key(3)
N, HIDDEN, B = 16, 8, 3  # of the tiny config
METHODS = pytest.mark.parametrize("method", [sdae, sdae_recon], ids=["sdae", "sdae_recon"])


def make(config, method):
    """(config, method, models, params, teacher, images); the teacher is not the student."""
    models = method.build(config)
    init = jax.jit(lambda key: method.init_params(key, models))
    params, teacher = init(jax.random.key(0)), init(jax.random.key(1))["encoder"]
    # As after training: before it, tokens leave the last norm standardised already.
    teacher["transformer"]["norm"]["bias"] += jnp.arange(config.model.embed_dim) - 1.0
    return config, method, models, params, teacher, jax.random.uniform(jax.random.key(2), (B, 20, 20))


def run(setup):
    """The loss before distillation would begin elsewhere (ready=False): SdAE needs its teacher at once."""
    config, method, models, params, teacher, images = setup
    loss = functools.partial(batch_loss, method, models=models, ready=False, settings=method.settings(config))
    return jax.jit(loss)(params, teacher, {"image": images}, RNG)


@pytest.mark.parametrize("folds", [1, 2, 4, 8])
def test_folds_partition_the_hidden_tokens(folds):
    visible, mask = random_visible(jax.random.key(0), 5, N, 0.5)
    fold = np.asarray(sdae.random_folds(RNG, mask, HIDDEN, folds))
    assert fold.shape == (5, folds, HIDDEN // folds)
    for b in range(5):
        assert sorted(fold[b].ravel()) == sorted(set(range(N)) - set(np.asarray(visible[b]).tolist()))


def test_folds_are_random_for_each_image_by_itself():
    images = 2000
    mask = jnp.tile(jnp.arange(N) % 2, (images, 1)).astype(jnp.float32)  # odd tokens, in every image
    fold = np.asarray(sdae.random_folds(RNG, mask, HIDDEN, 2))
    in_first = np.stack([(fold[:, 0] == n).any(-1) for n in range(1, N, 2)], axis=1)
    np.testing.assert_allclose(in_first.mean(0), 0.5, atol=5 * 0.5 / images**0.5)
    # Two given tokens share a fold as often as chance has it: 3 of the 7 others are in one's fold.
    together = (in_first[:, 0] == in_first[:, 1]).mean()
    np.testing.assert_allclose(together, 3 / 7, atol=5 * 0.5 / images**0.5)
    again = np.asarray(sdae.random_folds(jax.random.key(4), mask, HIDDEN, 2))
    assert (np.sort(again, -1) != np.sort(fold, -1)).any()


def test_standardised_targets():
    z = np.random.default_rng(0).normal(3.0, 2.0, (2, 4, 6)).astype(np.float32)
    want = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(sdae.standardise(z), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sdae.standardise(np.full((1, 1, 4), 7.0)), 0.0)  # finite for constant tokens
    assert sdae.standardise(jnp.asarray(z, jnp.bfloat16)).dtype == jnp.float32


def outputs(models, params, patches, visible):
    """Predicted features and, with a pixel decoder, predicted pixels: dict by decoder."""
    encode = jax.jit(functools.partial(models.encoder.apply, with_cls=True))
    tokens = encode({"params": params["encoder"]}, patches, visible)
    decoders = {name: getattr(models, name) for name in params if name != "encoder"}
    return {name: jax.jit(d.apply)({"params": params[name]}, tokens, visible) for name, d in decoders.items()}


def numpy_losses(setup):
    """`(loss_align, loss_recon)`: the teacher runs image by image and fold by fold, cosines in NumPy."""
    config, _, models, params, teacher, images = setup
    patches = np.asarray(patchify(images, 5))
    mask_rng, fold_rng = jax.random.split(RNG)
    visible, mask = random_visible(mask_rng, B, N, 0.5)
    fold = sdae.random_folds(fold_rng, mask, HIDDEN, config.sdae.folds)
    predicted = jax.tree.map(np.asarray, outputs(models, params, patches, visible))
    features = predicted["feature_decoder"].astype(np.float64)
    assert features.shape == (B, N, config.model.embed_dim)
    encode = jax.jit(lambda seen, where: models.encoder.apply({"params": teacher}, seen, where))
    losses = []
    for b in range(B):
        for index in np.asarray(fold[b]):
            seen = np.zeros((1, N, 25), np.float32)
            seen[0, index] = patches[b, index]  # nothing but this fold's pixels
            for n, target in zip(index, np.asarray(encode(seen, index[None])[0], np.float64), strict=True):
                target = (target - target.mean()) / np.sqrt(target.var() + 1e-6)
                cosine = features[b, n] @ target / np.linalg.norm(features[b, n]) / np.linalg.norm(target)
                losses.append(1 - cosine)
    assert len(losses) == B * HIDDEN
    if "decoder" not in predicted:
        return np.mean(losses), None
    return np.mean(losses), ((predicted["decoder"] - patches) ** 2).mean(-1)[np.asarray(mask) == 1].mean()


@METHODS
@pytest.mark.parametrize(("cls_token", "folds"), [(False, 1), (True, 4)], ids=["one_fold", "cls_and_four_folds"])
def test_the_loss_against_numpy(tiny, method, cls_token, folds):
    tiny.model.cls_token, tiny.sdae.folds, tiny.sdae.align_weight = cls_token, folds, 0.3
    setup = make(tiny, method)
    loss_align, loss_recon = numpy_losses(setup)
    total, (metrics, codes) = run(setup)
    np.testing.assert_allclose(metrics["loss_align"], loss_align, rtol=1e-4)
    if method is sdae:
        assert set(metrics) == {"loss", "loss_align"}
        np.testing.assert_allclose(total, 0.3 * loss_align, rtol=1e-4)
    else:
        assert set(metrics) == {"loss", "loss_align", "loss_recon"}
        np.testing.assert_allclose(metrics["loss_recon"], loss_recon, rtol=1e-4)
        np.testing.assert_allclose(total, loss_recon + 0.3 * loss_align, rtol=1e-4)
    assert metrics["loss"] == total and codes == {}


def test_the_teacher_sees_one_fold_at_a_time(tiny):
    _, _, models, _, teacher, images = make(tiny, sdae)
    patches = patchify(images[:1], 5)
    fold = jnp.array([[[1, 5, 8, 2], [0, 9, 12, 15]]])
    encode = jax.jit(lambda patches: sdae.teacher_tokens(models.encoder, teacher, patches, fold))
    before = encode(patches)
    after = encode(patches.at[0, 9].add(0.5))  # in the second fold
    moved = np.abs(after - before).max(-1)[0]
    assert (moved[:4] == 0).all() and (moved[4:] > 1e-4).all()
    np.testing.assert_array_equal(encode(patches.at[0, 3].add(0.5)), before)  # in neither


def size(tree):
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


@METHODS
def test_gradients_reach_the_student_and_its_decoders_but_not_the_teacher(tiny, method):
    tiny.model.cls_token = True
    config, _, models, params, teacher, images = make(tiny, method)
    settings = method.settings(config)

    def loss(params, teacher, align_weight):
        changed = dataclasses.replace(settings, align_weight=align_weight)
        batch = {"image": images}
        return batch_loss(method, params, teacher, batch, RNG, models=models, settings=changed, ready=True)[0]

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    student, of_teacher = gradients(params, teacher, 1.0)
    assert size(of_teacher) == 0
    assert set(student) == {"encoder", "feature_decoder"} | ({"decoder"} if method is sdae_recon else set())
    for path, leaf in jax.tree_util.tree_leaves_with_path(student):
        assert size(leaf) > 0, jax.tree_util.keystr(path)
    # Without the alignment the reconstruction, if there is one, moves its own parts alone.
    unaligned, _ = gradients(params, teacher, 0.0)
    moved = {name for name, part in unaligned.items() if size(part) > 0}
    assert moved == ({"encoder", "decoder"} if method is sdae_recon else set())


def test_methods_of_one_seed_start_from_the_same_weights(tiny):
    plain = jax.jit(lambda key: maester.init_params(key, maester.build(tiny)))(jax.random.key(0))
    feature, both = make(tiny, sdae)[3], make(tiny, sdae_recon)[3]
    # Up to rounding: each is compiled by itself.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, plain["encoder"], feature["encoder"])
    jax.tree.map(close, both, {**plain, **feature})
