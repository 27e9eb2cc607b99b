"""Equations 2 to 5 against numbers from NumPy, and where their gradients go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_loss import batch_loss

from his4mae_jax.models.masking import random_visible
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import his4mae, maester

SETTINGS = his4mae.Settings(alpha=0.3, beta=0.07, mask_ratio=0.5, recon_on="masked", teacher_input="full")


@pytest.fixture
def setup(tiny):
    models = his4mae.build(tiny)
    init = jax.jit(lambda key: his4mae.init_params(key, models))
    params = init(jax.random.key(0))
    # Codes of the tokens' size, as after their placing; a teacher that is not the student.
    params["codebook"]["codes"] = jax.random.normal(jax.random.key(7), params["codebook"]["codes"].shape)
    teacher = init(jax.random.key(1))["encoder"]
    images = jax.random.uniform(jax.random.key(2), (3, 20, 20))
    return models, params, teacher, images


def run(setup, ready=True, **changes):
    models, params, teacher, images = setup
    settings = dataclasses.replace(SETTINGS, **changes)
    loss = functools.partial(batch_loss, his4mae, models=models, settings=settings, ready=ready)
    return jax.jit(loss)(params, teacher, {"image": images}, jax.random.key(3))


def test_equation_2_counts_masked_patches_only():
    target = np.zeros((2, 4, 3), np.float32)
    predicted = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    mask = np.array([[1, 0, 0, 0], [0, 0, 1, 1]], np.float32)
    hidden = np.concatenate([predicted[0, [0]], predicted[1, [2, 3]]])
    np.testing.assert_allclose(maester.recon_loss(target, predicted, mask), (hidden**2).mean(), rtol=1e-6)
    np.testing.assert_allclose(maester.recon_loss(target, predicted, mask, "all"), (predicted**2).mean(), rtol=1e-6)


def test_equation_3_is_a_plain_mse():
    z, q = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(his4mae.teacher_loss(z, q), (4 + 9) / 4)


def test_equation_4_is_over_features():
    z = np.array([[[3.0, 4.0], [1.0, 0.0]]])
    q = np.array([[[4.0, 3.0], [-2.0, 0.0]]])
    np.testing.assert_allclose(his4mae.student_loss(z, q), ((1 - 24 / 25) + 2) / 2, rtol=1e-5)


def test_equation_4_has_a_finite_gradient_at_zero():
    grad = jax.grad(his4mae.student_loss)(jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 3)))
    assert np.isfinite(grad).all()


def test_the_loss_is_equation_5_on_the_right_tokens(setup):
    models, params, teacher, images = setup
    total, (metrics, codes) = run(setup)
    patches = patchify(images, 5)
    visible, mask = random_visible(jax.random.key(3), 3, 16, 0.5)
    encode, decode = jax.jit(models.encoder.apply), jax.jit(models.decoder.apply)
    z_stu = np.asarray(encode({"params": params["encoder"]}, patches, visible))
    predicted = decode({"params": params["decoder"]}, z_stu, visible)
    recon = ((np.asarray(predicted) - np.asarray(patches)) ** 2).mean(-1)[np.asarray(mask) == 1].mean()
    z_tea = np.asarray(encode({"params": teacher}, patches))
    table = np.asarray(params["codebook"]["codes"])
    index = ((z_tea[:, :, None] - table[None, None]) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(codes["index"], index)
    tea = ((z_tea - table[index]) ** 2).mean()
    stu = []
    for b in range(3):
        for v, n in enumerate(np.asarray(visible)[b]):
            e, z = table[index[b, n]], z_stu[b, v]
            stu.append(1 - e @ z / np.linalg.norm(e) / np.linalg.norm(z))
    for name, want in (("loss_recon", recon), ("loss_tea", tea), ("loss_stu", np.mean(stu))):
        np.testing.assert_allclose(metrics[name], want, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, recon + 0.3 * tea + 0.07 * np.mean(stu), rtol=1e-4)


def test_before_the_codebook_is_placed_only_reconstruction_counts(setup):
    total, (metrics, _) = run(setup, ready=False)
    assert total == metrics["loss_recon"] and metrics["loss_stu"] == metrics["loss_tea"] == 0


def test_teacher_on_visible_patches_sees_what_the_student_sees(setup):
    models, params, _, images = setup
    same = (models, params, params["encoder"], images)
    _, (_, codes) = run(same, teacher_input="visible")
    assert codes["z_tea"].shape == (3, 8, 8)
    _, (_, full) = run(same, teacher_input="full")
    assert full["z_tea"].shape == (3, 16, 8)


def gradients(setup, **changes):
    models, params, teacher, images = setup

    def total(params, teacher):
        batch, settings = {"image": images}, dataclasses.replace(SETTINGS, **changes)
        key = jax.random.key(3)
        return batch_loss(his4mae, params, teacher, batch, key, models=models, settings=settings, ready=True)[0]

    return jax.jit(jax.grad(total, argnums=(0, 1)))(params, teacher)


def size(tree):
    return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_no_gradient_reaches_the_teacher(setup):
    _, teacher = gradients(setup)
    assert size(teacher) == 0.0


def test_each_loss_moves_only_its_own_part(setup):
    only_recon, _ = gradients(setup, alpha=0.0, beta=0.0)
    assert size(only_recon["codebook"]) == 0 and size(only_recon["encoder"]) > 0 and size(only_recon["decoder"]) > 0
    base = only_recon
    with_tea, _ = gradients(setup, beta=0.0)
    assert size(with_tea["codebook"]) > 0
    with_stu, _ = gradients(setup, alpha=0.0)
    assert size(with_stu["codebook"]) == 0

    def difference(a, b):
        return size(jax.tree.map(lambda x, y: x - y, a, b))

    assert difference(with_tea["encoder"], base["encoder"]) == 0  # L_tea leaves the student alone
    assert difference(with_stu["encoder"], base["encoder"]) > 1e-6
    assert difference(with_stu["decoder"], base["decoder"]) == 0  # the decoder knows only L_recon
