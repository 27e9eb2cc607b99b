"""Multi-head softmax attention on fused projections, by the quickest way that the backend has.

On a CPU the time of plain attention goes into score maps: written, read and written again through
memory that the system must first clear. There it is computed for few images at a time, whose scores
stay in the cache, and the gradient computes them anew from what the forward pass keeps: the output
and the logarithm of each row's sum (as flash attention does; Dao et al. 2022).
"""

import functools

import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.backend import target

SCORES_BYTES = 2**20  # of the score maps of one tile: a core's share of the cache
CUDNN_HEAD_DIM = 256  # the most, on Hopper and later; 128 before


def attention(qkv_BxTxF, num_heads):
    """Multi-head softmax attention on fused projections, `(B, T, 3 D)` to `(B, T, D)`."""
    if target().platform == "cpu":
        return _tiled_attention(qkv_BxTxF, num_heads)
    B, T, F = qkv_BxTxF.shape
    q, k, v = jnp.moveaxis(qkv_BxTxF.reshape(B, T, 3, num_heads, -1), 2, 0)
    out = jax.nn.dot_product_attention(q, k, v, implementation=implementation(q.dtype, q.shape[-1]))
    return out.reshape(B, T, F // 3)


def implementation(dtype, head_dim):
    """`implementation` of jax.nn.dot_product_attention on an accelerator: "cudnn" where it may be used, else "xla".

    cuDNN's flash attention keeps no score maps in memory; it takes half precision alone, and heads of up
    to 256 features (128 before Hopper) in multiples of 8.
    """
    device = target()
    if device.platform != "gpu" or not device.compute_capability[0].isdigit():  # AMD's are named "gfx..."
        return "xla"
    capability = float(device.compute_capability)
    most = CUDNN_HEAD_DIM if capability >= 9 else CUDNN_HEAD_DIM // 2
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits = half and head_dim % 8 == 0 and head_dim <= most and capability >= 8
    return "cudnn" if fits else "xla"


def images_at_once(batch, num_heads, tokens):
    """Images of one tile on CPUs: a divisor of `batch` whose score maps take about `SCORES_BYTES` a device."""
    # Within shard_map a batch is one device's already.
    devices = 1 if jax.sharding.get_abstract_mesh().manual_axes else jax.device_count()
    most = max(1, SCORES_BYTES // (4 * num_heads * tokens**2)) * devices
    # A multiple of the devices, so that each takes its own images in every tile; the whole batch where there is none.
    return next((n for n in range(min(most, batch), 0, -1) if batch % n == 0 and n % devices == 0), batch)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tiled_attention(qkv_BxTxF, num_heads):
    return _forward(qkv_BxTxF, num_heads)[0]


def _forward(qkv_BxTxF, num_heads):
    out, log_sum = _in_tiles(functools.partial(_forward_tile, num_heads), num_heads, qkv_BxTxF)
    return out, (qkv_BxTxF, out, log_sum)


def _backward(num_heads, kept, grad_BxTxD):
    return _in_tiles(functools.partial(_backward_tile, num_heads), num_heads, *kept, grad_BxTxD)


_tiled_attention.defvjp(_forward, _backward)


def _heads(x_BxTxD, num_heads):
    """`(B, T, D)` to head-major `(B * num_heads, T, D / num_heads)`."""
    B, T, _ = x_BxTxD.shape
    return jnp.swapaxes(x_BxTxD.reshape(B, T, num_heads, -1), 1, 2).reshape(B * num_heads, T, -1)


def _projections(qkv_BxTxF, num_heads):
    """Queries, divided by the root of their features, keys and values; head-major."""
    q, k, v = (_heads(x, num_heads) for x in jnp.split(qkv_BxTxF, 3, axis=-1))
    return q * q.shape[-1] ** -0.5, k, v


def _forward_tile(num_heads, qkv_BxTxF):
    """The output `(B, T, D)`, and of each head and query the logarithm of its sum, `(B, heads, T)`."""
    B, T, F = qkv_BxTxF.shape
    q, k, v = _projections(qkv_BxTxF, num_heads)
    scores = jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    total = jnp.sum(weights, axis=-1)
    # Divided after the product: D numbers a query in place of T.
    out = jnp.einsum("bts,bsd->btd", weights.astype(v.dtype), v) / total[..., None].astype(v.dtype)
    out = jnp.swapaxes(out.reshape(B, num_heads, T, -1), 1, 2).reshape(B, T, F // 3)
    return out, (top + jnp.log(total)).reshape(B, num_heads, T)


def _backward_tile(num_heads, qkv_BxTxF, out, log_sum, grad):
    """The gradient of the fused projections, `(B, T, 3 D)` (in a tuple)."""
    B, T, F = qkv_BxTxF.shape
    q, k, v = _projections(qkv_BxTxF, num_heads)
    out, grad = _heads(out, num_heads), _heads(grad, num_heads)
    weights = jnp.exp(jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32) - log_sum.reshape(-1, T, 1))
    # Softmax's gradient needs sum_s weights_ts (grad_t . v_s), which is grad_t . out_t.
    along_out = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    d_scores = weights * (jnp.einsum("btd,bsd->bts", grad, v).astype(jnp.float32) - along_out)
    weights, d_scores = weights.astype(v.dtype), d_scores.astype(v.dtype)
    # Features first: XLA runs these products at a third of the speed when they must come out transposed, and the
    # barrier keeps it from merging the transposition.
    dv, dk = jax.lax.optimization_barrier(
        (jnp.einsum("btd,bts->bds", grad, weights), jnp.einsum("btd,bts->bds", q, d_scores))
    )
    dq = jnp.einsum("bts,bsd->btd", d_scores, k) * q.shape[-1] ** -0.5
    parts = jnp.stack([dq, jnp.swapaxes(dk, 1, 2), jnp.swapaxes(dv, 1, 2)])
    return (jnp.moveaxis(parts.reshape(3, B, num_heads, T, -1), (0, 2), (2, 3)).reshape(B, T, F),)


def _in_tiles(fn, num_heads, *arrays):
    """`fn` of arrays `(B, ...)`, which returns a tuple of such, for `images_at_once` at a time."""
    B, T = arrays[0].shape[:2]
    at_once = images_at_once(B, num_heads, T)
    tiles = B // at_once
    if tiles == 1:
        return fn(*arrays)
    # Tiles along the inner axis: a batch that is split over devices stays split.
    arrays = [x.reshape(at_once, tiles, *x.shape[1:]) for x in arrays]

    def take(i):
        return [jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False) for x in arrays]

    def body(i, done):
        return tuple(
            jax.lax.dynamic_update_index_in_dim(whole, part, i, axis=1)
            for whole, part in zip(done, fn(*take(i)), strict=True)
        )

    like = jax.eval_shape(lambda: fn(*take(0)))
    empty = tuple(jnp.zeros((at_once, tiles, *x.shape[1:]), x.dtype) for x in like)
    return tuple(x.reshape(B, *x.shape[2:]) for x in jax.lax.fori_loop(0, tiles, body, empty))
