"""Multi-head softmax attention on fused projections, by the fastest implementation that the backend has.

On a CPU, plain attention spends its time on score maps: they are written to memory, which must first be cleared, then
read and written again. There we compute a few images at a time, so that their scores stay in the cache. The gradient
recomputes the scores from what the forward pass keeps: the output and each row's log-sum-exp, as in FlashAttention
(Dao et al. 2022).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.backend import target_device, targets_cpu

SCORES_BYTES = 2**20  # of one tile's score maps: one core's part of the cache
CUDNN_HEAD_DIM = 256  # largest head of cuDNN's attention from Hopper on; 128 before


def attention(qkv_BxTxF: jax.Array, num_heads: int) -> jax.Array:
    """Multi-head softmax attention.

    Args:
      qkv_BxTxF: queries, keys and values side by side, `(B, T, 3 D)`, each head-major.
      num_heads: divides D.

    Returns:
      `(B, T, D)` in the same dtype.
    """
    if targets_cpu():
        return _tiled_attention(qkv_BxTxF, num_heads)
    B, T, F = qkv_BxTxF.shape
    q, k, v = jnp.moveaxis(qkv_BxTxF.reshape(B, T, 3, num_heads, -1), 2, 0)
    out = jax.nn.dot_product_attention(q, k, v, implementation=implementation(q.dtype, q.shape[-1]))
    return out.reshape(B, T, F // 3)


def implementation(dtype: jnp.dtype, head_dim: int) -> str:
    """Return the `implementation` of `jax.nn.dot_product_attention` for accelerators: "cudnn" if supported, or "xla".

    cuDNN's flash attention keeps no score maps in memory. It supports half precision only, and head sizes up to 256
    (128 before Hopper) that are multiples of 8.
    """
    device = target_device()
    if device.platform != "gpu" or not device.compute_capability[0].isdigit():  # AMD's are named "gfx..."
        return "xla"
    capability = float(device.compute_capability)
    max_head_dim = CUDNN_HEAD_DIM if capability >= 9 else CUDNN_HEAD_DIM // 2
    half = dtype in (jnp.bfloat16, jnp.float16)
    supported = half and head_dim % 8 == 0 and head_dim <= max_head_dim and capability >= 8
    return "cudnn" if supported else "xla"


def images_at_once(batch: int, num_heads: int, tokens: int) -> int:
    """Return the images per tile on CPUs: a divisor of `batch` whose scores take about `SCORES_BYTES` per device."""
    # Inside shard_map the batch is already that of one device.
    devices = 1 if jax.sharding.get_abstract_mesh().manual_axes else jax.device_count()
    limit = max(1, SCORES_BYTES // (4 * num_heads * tokens**2)) * devices
    # A multiple of the devices, so that every tile has images of each; the whole batch if there is none.
    return next((n for n in range(min(limit, batch), 0, -1) if batch % n == 0 and n % devices == 0), batch)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _tiled_attention(qkv_BxTxF, num_heads):
    return _forward(qkv_BxTxF, num_heads)[0]


def _forward(qkv_BxTxF, num_heads):
    out, log_sum = _in_tiles(functools.partial(_forward_tile, num_heads), num_heads, qkv_BxTxF)
    return out, (qkv_BxTxF, out, log_sum)


def _backward(num_heads, residuals, grad_BxTxD):
    return _in_tiles(functools.partial(_backward_tile, num_heads), num_heads, *residuals, grad_BxTxD)


_tiled_attention.defvjp(_forward, _backward)


def _head_major(x_BxTxD, num_heads):
    """`(B, T, D)` to `(B * num_heads, T, D / num_heads)`."""
    B, T, _ = x_BxTxD.shape
    return jnp.swapaxes(x_BxTxD.reshape(B, T, num_heads, -1), 1, 2).reshape(B * num_heads, T, -1)


def _projections(qkv_BxTxF, num_heads):
    """Head-major queries, keys and values; the queries are divided by the root of the head size."""
    q, k, v = (_head_major(x, num_heads) for x in jnp.split(qkv_BxTxF, 3, axis=-1))
    return q * q.shape[-1] ** -0.5, k, v


def _forward_tile(num_heads, qkv_BxTxF):
    """The output `(B, T, D)` and the log-sum-exp of each head and query, `(B, heads, T)`."""
    B, T, F = qkv_BxTxF.shape
    q, k, v = _projections(qkv_BxTxF, num_heads)
    scores = jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32)
    top = jnp.max(scores, axis=-1)
    weights = jnp.exp(scores - top[..., None])
    total = jnp.sum(weights, axis=-1)
    # Divided after the matmul: D numbers per query instead of T.
    out = jnp.einsum("bts,bsd->btd", weights.astype(v.dtype), v) / total[..., None].astype(v.dtype)
    out = jnp.swapaxes(out.reshape(B, num_heads, T, -1), 1, 2).reshape(B, T, F // 3)
    return out, (top + jnp.log(total)).reshape(B, num_heads, T)


def _backward_tile(num_heads, qkv_BxTxF, out, log_sum, grad):
    """The gradient of the fused projections, `(B, T, 3 D)`, in a tuple."""
    B, T, F = qkv_BxTxF.shape
    q, k, v = _projections(qkv_BxTxF, num_heads)
    out, grad = _head_major(out, num_heads), _head_major(grad, num_heads)
    weights = jnp.exp(jnp.einsum("btd,bsd->bts", q, k).astype(jnp.float32) - log_sum.reshape(-1, T, 1))
    # Softmax's gradient needs sum_s weights_ts (grad_t . v_s), which is grad_t . out_t.
    along_out = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    d_scores = weights * (jnp.einsum("btd,bsd->bts", grad, v).astype(jnp.float32) - along_out)
    weights, d_scores = weights.astype(v.dtype), d_scores.astype(v.dtype)
    # Features first: XLA runs these matmuls at a third of the speed if their results come out transposed. The barrier
    # keeps it from merging the transposition into them.
    dv, dk = jax.lax.optimization_barrier(
        (jnp.einsum("btd,bts->bds", grad, weights), jnp.einsum("btd,bts->bds", q, d_scores))
    )
    dq = jnp.einsum("bts,bsd->btd", d_scores, k) * q.shape[-1] ** -0.5
    parts = jnp.stack([dq, jnp.swapaxes(dk, 1, 2), jnp.swapaxes(dv, 1, 2)])
    return (jnp.moveaxis(parts.reshape(3, B, num_heads, T, -1), (0, 2), (2, 3)).reshape(B, T, F),)


def _in_tiles(tile_fn: Callable[..., tuple], num_heads: int, *arrays: jax.Array) -> tuple:
    """Apply `tile_fn`, from arrays `(B, ...)` to a tuple of such, to `images_at_once` images at a time."""
    B, T = arrays[0].shape[:2]
    at_once = images_at_once(B, num_heads, T)
    tiles = B // at_once
    if tiles == 1:
        return tile_fn(*arrays)
    # Tiles along the inner axis, so that a batch that is sharded over devices stays sharded.
    arrays = [x.reshape(at_once, tiles, *x.shape[1:]) for x in arrays]

    def take(i):
        return [jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False) for x in arrays]

    def body(i, results):
        return tuple(
            jax.lax.dynamic_update_index_in_dim(whole, part, i, axis=1)
            for whole, part in zip(results, tile_fn(*take(i)), strict=True)
        )

    shapes = jax.eval_shape(lambda: tile_fn(*take(0)))
    empty = tuple(jnp.zeros((at_once, tiles, *x.shape[1:]), x.dtype) for x in shapes)
    return tuple(x.reshape(B, *x.shape[2:]) for x in jax.lax.fori_loop(0, tiles, body, empty))
