"""Vanilla ViT and Segmenter against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.models.autoencoder import Encoder
from his4mae_jax.models.segmenter import MaskTransformer, Segmenter, VanillaViT
from his4mae_jax.models.transformer import Transformer

GRID, D, C = (3, 4), 8, 3


def apply(module, params, x):
    return jax.jit(module.apply)({"params": params}, x)


def init(module, x):
    """Random parameters, none 0 or 1 as at the start; NumPy's, which take no compilation."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda a: 0.3 * rng.normal(size=a.shape).astype(a.dtype), shapes)


@pytest.fixture
def patches():
    return np.random.default_rng(0).uniform(size=(2, 12, 16)).astype(np.float32)


@pytest.mark.parametrize("cls_token", [False, True])
def test_the_vits_logits_are_linear_in_the_encoders_tokens(patches, cls_token):
    encoder = Encoder(GRID, D, 1, 1, cls_token=cls_token)
    vit = VanillaViT(encoder, C)
    params = init(vit, patches)
    tokens = np.asarray(apply(encoder, params["encoder"], patches))
    want = tokens @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    np.testing.assert_allclose(apply(vit, params, patches), want, atol=1e-5)
    assert (vit.grid, vit.embed_dim) == (GRID, C)


def test_segmenters_logits_are_normalised_cosines_of_patch_and_class_tokens():
    decoder = MaskTransformer(C, dim=D, depth=2, num_heads=2)
    tokens = np.random.default_rng(0).normal(size=(2, 12, 6)).astype(np.float32)
    params = init(decoder, tokens)
    p = jax.tree.map(np.float64, params)

    embedded = tokens @ p["embed"]["kernel"] + p["embed"]["bias"]
    x = np.concatenate([embedded, np.repeat(p["class_tokens"], 2, axis=0)], axis=1)
    x = apply(Transformer(D, 2, 2, 2.0), params["transformer"], x.astype(np.float32))
    patch, classes = np.float64(x[:, :12]), np.float64(x[:, 12:])
    patch, classes = patch @ p["project_patches"]["kernel"], classes @ p["project_classes"]["kernel"]
    want = np.zeros((2, 12, C))
    for b, n, c in np.ndindex(2, 12, C):
        u, v = patch[b, n], classes[b, c]
        want[b, n, c] = u @ v / np.sqrt((u @ u) * (v @ v))
    want = (want - want.mean(-1, keepdims=True)) / np.sqrt(want.var(-1, keepdims=True) + 1e-5)
    want = want * p["mask_norm"]["scale"] + p["mask_norm"]["bias"]
    np.testing.assert_allclose(apply(decoder, params, tokens), want, atol=3e-3)


def test_segmenters_classes_have_no_order():
    decoder = MaskTransformer(C, dim=D, depth=1, num_heads=1)
    tokens = np.random.default_rng(0).normal(size=(2, 12, 6)).astype(np.float32)
    params = init(decoder, tokens)
    order = np.array([2, 0, 1])
    permuted = dict(params)
    permuted["class_tokens"] = params["class_tokens"][:, order]
    permuted["mask_norm"] = jax.tree.map(lambda a: a[order], params["mask_norm"])
    logits = apply(decoder, params, tokens)
    assert np.abs(logits[..., order] - logits).mean() > 0.1
    np.testing.assert_allclose(apply(decoder, permuted, tokens), logits[..., order], atol=3e-3)


def test_segmenter_runs_its_decoder_on_the_encoders_tokens(patches):
    encoder, decoder = Encoder(GRID, D, 1, 1), MaskTransformer(C, dim=D, depth=1, num_heads=2)
    network = Segmenter(encoder, decoder)
    params = init(network, patches)
    tokens = apply(encoder, params["encoder"], patches)
    want = apply(decoder, params["decoder"], tokens)
    np.testing.assert_allclose(apply(network, params, patches), want, atol=1e-6)
    assert want.shape == (2, 12, C)
    assert (network.grid, network.embed_dim) == (GRID, C)


def test_logits_are_float32_whatever_the_compute_dtype(patches):
    half = jnp.bfloat16
    encoder = Encoder(GRID, D, 1, 1, dtype=half)
    for network in (VanillaViT(encoder, C), Segmenter(encoder, MaskTransformer(C, D, 1, 1, 2.0, half))):
        params = init(network, patches)
        assert apply(network, params, patches).dtype == jnp.float32
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
