"""Tiled attention against the plain formula, over tile sizes and devices; the implementation on accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.models.kernels import attention


def plain(qkv_BxTxF, num_heads):
    """The textbook formula, differentiated by JAX."""
    B, T, F = qkv_BxTxF.shape
    q, k, v = jnp.moveaxis(qkv_BxTxF.reshape(B, T, 3, num_heads, -1), (2, 3), (0, 2))
    weights = jax.nn.softmax(q @ jnp.swapaxes(k, 2, 3) / np.sqrt(q.shape[-1]), axis=-1)
    return jnp.swapaxes(weights @ v, 1, 2).reshape(B, T, F // 3)


def value_and_gradient(fn, qkv, heads):
    cosines = np.cos(np.arange(qkv.size // 3)).reshape(*qkv.shape[:-1], -1)

    @jax.jit  # a new function each time, because the tile size is read during tracing
    def both(qkv):
        out, pull = jax.vjp(lambda x: fn(x, heads), qkv)
        return out, pull(jnp.asarray(cosines, out.dtype))[0]

    return both(qkv)


@settings(max_examples=12, deadline=None)
@given(
    batch=st.integers(1, 6), heads=st.sampled_from([1, 2, 4]), tokens=st.sampled_from([1, 5, 16]),
    scale=st.sampled_from([0.1, 1.0, 30.0]), images=st.integers(1, 6),
)  # fmt: skip
def test_values_and_gradients_in_tiles_of_any_size(batch, heads, tokens, scale, images):
    rng = np.random.default_rng(batch + 10 * tokens)
    qkv = jnp.asarray(scale * rng.normal(size=(batch, tokens, 3 * 4 * heads)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORES_BYTES", images * 4 * heads * tokens**2)
        assert batch % attention.images_at_once(batch, heads, tokens) == 0
        got = value_and_gradient(attention.attention, qkv, heads)
    # Scores grow with the square of the scale, and the rounding of a score reaches gradients times the scale.
    atol = max(2e-5 * scale, np.finfo(np.float32).eps * scale**3)
    for value, want in zip(got, value_and_gradient(plain, qkv, heads), strict=True):
        np.testing.assert_allclose(value, want, rtol=2e-4, atol=atol)


def test_scores_beyond_the_range_of_exp_stay_finite():
    qkv = jnp.full((2, 3, 12), 1e3).at[0, 0].set(-1e3)
    out, gradient = value_and_gradient(attention.attention, qkv, 1)
    assert np.isfinite(out).all() and np.isfinite(gradient).all()


def test_half_precision_in_and_out():
    qkv = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 24)), jnp.bfloat16)
    out, gradient = value_and_gradient(attention.attention, qkv, 2)
    assert out.dtype == gradient.dtype == jnp.bfloat16
    want = value_and_gradient(plain, qkv.astype(jnp.float32), 2)
    np.testing.assert_allclose(np.float32(out), want[0], atol=0.03)
    np.testing.assert_allclose(np.float32(gradient), want[1], atol=0.06)


def test_tiles_fit_the_cache_and_contain_images_of_every_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert attention.images_at_once(32, 8, 256) == 1  # 2 MB of scores per image
    assert attention.images_at_once(32, 1, 128) == 16
    assert attention.images_at_once(30, 1, 128) == 15
    assert attention.images_at_once(64, 1, 25) == 64
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert attention.images_at_once(32, 8, 256) == 8
    assert attention.images_at_once(6, 8, 256) == 6


class Device:
    """The attributes of a device that `implementation` reads."""

    def __init__(self, platform, capability, version="cuda 13"):
        self.platform, self.compute_capability = platform, capability
        self.client = type("Client", (), {"platform_version": version})


@pytest.mark.parametrize(("device", "dtype", "head_dim", "want"), [
    (Device("gpu", "9.0"), jnp.bfloat16, 192, "cudnn"),
    (Device("gpu", "9.0"), jnp.float32, 192, "xla"),
    (Device("gpu", "9.0"), jnp.bfloat16, 12, "xla"),
    (Device("gpu", "8.0"), jnp.bfloat16, 192, "xla"),
    (Device("gpu", "8.0"), jnp.bfloat16, 16, "cudnn"),
    (Device("gpu", "7.0"), jnp.bfloat16, 16, "xla"),
    (Device("gpu", "gfx942", "rocm 6"), jnp.bfloat16, 16, "xla"),
    (Device("tpu", None), jnp.bfloat16, 16, "xla"),
])  # fmt: skip
def test_flash_attention_is_used_where_cudnn_supports_it(monkeypatch, device, dtype, head_dim, want):
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert attention.implementation(jnp.dtype(dtype), head_dim) == want
