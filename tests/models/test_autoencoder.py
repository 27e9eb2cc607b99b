"""Encoder, decoder and transformer blocks against NumPy; parameter counts of the paper."""

import types

import jax
import numpy as np
import pytest
import scipy.special

from his4mae_jax.config import get_default
from his4mae_jax.models import autoencoder, patches, transformer
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.pretext import his4mae


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("cls_token", "encoder"), [(True, 4_163_904), (False, 4_163_712)])
def test_parameter_counts_are_the_papers(cls_token, encoder):
    config = get_default()
    config.model.cls_token = cls_token
    models = his4mae.build(config)
    params = jax.eval_shape(lambda: his4mae.init_params(jax.random.key(0), models))
    assert count(params["encoder"]) == encoder
    assert count(params["decoder"]) == 955_673
    assert count(params["codebook"]) == 512 * 192
    if cls_token:
        assert count(params["encoder"]) + count(params["decoder"]) == 5_119_577


def numpy_block(x, p, heads):
    """Pre-LN block written out with loops over images and heads."""

    def norm(x, p):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]

    def linear(x, p):
        return x @ p["kernel"] + p["bias"]

    D = x.shape[-1]
    d = D // heads
    qkv = linear(norm(x, p["norm1"]), p["qkv"])
    out = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(heads):
            q, k, v = (qkv[b, :, part * D + h * d : part * D + (h + 1) * d] for part in range(3))
            out[b, :, h * d : (h + 1) * d] = scipy.special.softmax(q @ k.T / np.sqrt(d), axis=-1) @ v
    x = x + linear(out, p["proj"])
    h = linear(norm(x, p["norm2"]), p["fc1"])
    gelu = h * 0.5 * (1 + scipy.special.erf(h / np.sqrt(2)))
    return x + linear(gelu, p["fc2"])


@pytest.mark.parametrize("heads", [1, 4])
def test_block_equals_numpy(heads):
    block = transformer.Block(dim=8, num_heads=heads, mlp_ratio=2.0)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: a + 0.1 * np.random.default_rng(1).normal(size=a.shape).astype(np.float32), params)
    want = numpy_block(x.astype(np.float64), jax.tree.map(np.float64, params), heads)
    np.testing.assert_allclose(jax.jit(block.apply)({"params": params}, x), want, atol=2e-5)


def test_a_block_for_accelerators_is_the_same_function():
    block = transformer.Block(dim=24, num_heads=2, mlp_ratio=2.0)
    x = np.random.default_rng(0).normal(size=(2, 6, 24)).astype(np.float32)
    params = jax.jit(block.init)(jax.random.key(0), x)

    def traced():
        def run(x):  # a new function each time, because JAX caches traces by function
            return block.apply(params, x)

        return str(jax.make_jaxpr(run)(x)), *jax.vjp(jax.jit(run), x)

    program, here, pull = traced()
    with tracing_for(types.SimpleNamespace(platform="tpu")):
        other_program, there, pull_there = traced()
    assert program != other_program
    np.testing.assert_allclose(here, there, atol=1e-5)
    np.testing.assert_allclose(pull(here)[0], pull_there(here)[0], atol=1e-4)


def test_mimetic_start_lets_mask_tokens_look_at_their_neighbours():
    """Attention of the decoder's first block, from the initial weights, over positions alone."""
    grid, D = (8, 8), 64
    x = np.asarray(patches.sincos_positions(D, grid))
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)

    def nearness(scale):
        kernel = np.asarray(transformer.mimetic_init(scale)(jax.random.key(0), (D, 3 * D)))
        weights = scipy.special.softmax(x @ kernel[:, :D] @ (x @ kernel[:, D : 2 * D]).T / np.sqrt(D), axis=-1)
        place = np.stack(np.unravel_index(np.arange(64), grid), -1)
        distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
        return (weights * distance).sum(-1).mean()

    assert nearness(1.0) < 0.7 * nearness(0.0)


@pytest.fixture(params=[False, True], ids=["no cls", "cls"])
def encoder(request):
    return autoencoder.Encoder((4, 4), 8, 2, 1, cls_token=request.param)


def test_masked_encoder_sees_only_visible_patches(encoder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, 25)).astype(np.float32)
    params, apply = jax.jit(encoder.init)(jax.random.key(0), x), jax.jit(encoder.apply)
    visible = np.array([[0, 5, 9], [2, 3, 15]])
    z = apply(params, x, visible)
    changed = x.copy()
    changed[0, [1, 2, 14]] += 3.0  # hidden patches of image 0
    np.testing.assert_array_equal(apply(params, changed, visible), z)
    changed[0, 5] += 3.0
    assert not np.allclose(apply(params, changed, visible)[0], z[0])
    assert z.shape == (2, 3, 8)


def test_masked_with_all_visible_equals_unmasked(encoder):
    x = np.random.default_rng(0).normal(size=(2, 16, 25)).astype(np.float32)
    params, apply = jax.jit(encoder.init)(jax.random.key(0), x), jax.jit(encoder.apply)
    everything = np.broadcast_to(np.arange(16), (2, 16))
    np.testing.assert_allclose(apply(params, x, everything), apply(params, x), atol=1e-5)


def test_tokens_are_layer_normalised(encoder):
    x = np.random.default_rng(0).normal(size=(2, 16, 25)).astype(np.float32)
    z = np.asarray(jax.jit(encoder.apply)(jax.jit(encoder.init)(jax.random.key(0), x), x))
    np.testing.assert_allclose(z.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(-1), 1, atol=1e-2)


def test_decoder_puts_visible_tokens_in_their_place():
    # Depth 0: each patch's pixels depend on its own token alone.
    decoder = autoencoder.Decoder((4, 4), 25, 8, depth=0, num_heads=1)
    z = np.random.default_rng(0).normal(size=(1, 3, 6)).astype(np.float32)
    visible = np.array([[1, 7, 12]])
    params, apply = jax.jit(decoder.init)(jax.random.key(0), z, visible), jax.jit(decoder.apply)
    pixels = np.asarray(apply(params, z, visible))
    assert pixels.shape == (1, 16, 25)
    z[0, 1] += 1.0
    moved = np.flatnonzero(np.abs(np.asarray(apply(params, z, visible)) - pixels).max(axis=(0, 2)) > 1e-6)
    np.testing.assert_array_equal(moved, [7])


def test_positions_distinguish_places_and_are_damped_in_the_encoder():
    encoder = autoencoder.Encoder((4, 4), 8, 0, 1)
    x = np.zeros((1, 16, 25), np.float32)
    params = encoder.init(jax.random.key(0), x)
    # Undo the final LayerNorm by comparing with the formula, normalised the same way.
    want = autoencoder.ENCODER_POSITION_SCALE * np.asarray(patches.sincos_positions(8, (4, 4)))
    want = (want - want.mean(-1, keepdims=True)) / np.sqrt(want.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(encoder.apply(params, x)[0], want, atol=1e-4)
