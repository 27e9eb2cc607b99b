"""Patches, positions, masks and the linear expansion of tokens to pixels."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.models.masking import random_visible, take_tokens
from his4mae_jax.models.patches import expansion_weights, patchify, sincos_positions, unpatchify
from his4mae_jax.settings.derived import num_visible


def test_patchify_takes_patches_in_raster_order():
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    patches = np.asarray(patchify(image, 3))
    assert patches.shape == (1, 4, 9)
    np.testing.assert_array_equal(patches[0, 1].reshape(3, 3), image[0, :3, 3:])
    np.testing.assert_array_equal(patches[0, 2].reshape(3, 3), image[0, 3:, :3])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_unpatchify_is_the_inverse(rows, cols, patch):
    images = np.random.default_rng(0).normal(size=(2, rows * patch, cols * patch)).astype(np.float32)
    np.testing.assert_array_equal(unpatchify(patchify(images, patch), (rows, cols)), images)


def test_patchify_refuses_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match="does not divide"):
        patchify(np.zeros((1, 7, 10)), 5)


def test_positions_match_the_formula():
    D, rows, cols = 8, 3, 5
    positions = np.asarray(sincos_positions(D, (rows, cols))).reshape(rows, cols, D)
    for r in range(rows):
        for c in range(cols):
            want = []
            for value in (c, r):  # column first, as MAE's grid gives it
                omega = [1 / 10000 ** (i / (D / 4)) for i in range(D // 4)]
                want += [np.sin(value * w) for w in omega] + [np.cos(value * w) for w in omega]
            np.testing.assert_allclose(positions[r, c], want, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 64), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_masks_are_per_image_and_partition_the_patches(num_patches, ratio, seed):
    visible, mask = random_visible(jax.random.key(seed), 3, num_patches, ratio)
    visible, mask = np.asarray(visible), np.asarray(mask)
    assert visible.shape == (3, num_visible(num_patches, ratio))
    for row, hidden in zip(visible, mask, strict=True):
        assert len(set(row)) == len(row) and list(row) == sorted(row)
        assert set(row) == set(np.flatnonzero(hidden == 0))


def test_masks_differ_between_images_and_are_uniform():
    visible, mask = random_visible(jax.random.key(0), 2000, 16, 0.5)
    assert len({tuple(v) for v in np.asarray(visible)}) > 1000
    np.testing.assert_allclose(np.asarray(mask).mean(axis=0), 0.5, atol=0.06)


@pytest.mark.parametrize(("n", "ratio", "want"), [(256, 0.5, 128), (256, 0.75, 64), (10, 0.9, 1)])
def test_number_of_visible_patches(n, ratio, want):
    assert num_visible(n, ratio) == want


def test_take_tokens():
    tokens = np.arange(24).reshape(2, 4, 3)
    taken = take_tokens(tokens, np.array([[3, 0], [1, 1]]))
    np.testing.assert_array_equal(taken, [[tokens[0, 3], tokens[0, 0]], [tokens[1, 1], tokens[1, 1]]])


@pytest.mark.parametrize(("tokens", "patch"), [(4, 5), (5, 4), (1, 5)])
def test_expansion_is_linear_between_half_pixel_centres(tokens, patch):
    values = np.random.default_rng(0).normal(size=tokens)
    centres = patch * np.arange(tokens) + (patch - 1) / 2
    want = np.interp(np.arange(tokens * patch), centres, values)
    np.testing.assert_allclose(expansion_weights(tokens, patch) @ values, want, atol=1e-6)
