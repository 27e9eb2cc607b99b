"""Loops inside jit whose rounds are divided among the devices of this host, and the count of what they finished."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from his4mae_jax.inference.encode import in_batches


def split_map(mesh: Mesh, fn: Callable[..., Any], xs: jax.Array, *shared: jax.Array) -> Any:
    """`fn(x, *shared)` for each x of `xs` under jit, in rounds that the devices of `mesh` divide equally.

    Every round is computed as one device alone would, though the compiler may take sums in another order. Where the
    rounds do not divide evenly, the last is computed again to fill up.

    Args:
      mesh: the devices.
      fn: a function of one x; what it closes over is replicated.
      xs: one x a round, along the first axis.
      shared: arrays that every round takes whole. Arrays that are sharded over `mesh`, replicated or not, are passed
        here, not closed over, if they are indexed.
    """
    if mesh.size == 1:
        return jax.lax.map(lambda x: fn(x, *shared), xs)
    rounds = len(xs)
    xs = jnp.concatenate([xs, jnp.repeat(xs[-1:], -rounds % mesh.size, axis=0)])
    split = PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(
        lambda part, *shared: jax.lax.map(lambda x: fn(x, *shared), part),
        mesh=mesh, in_specs=(split, *[PartitionSpec()] * len(shared)), out_specs=split, check_vma=False,
    )  # fmt: skip
    return jax.tree.map(lambda x: x[:rounds], mapped(xs, *shared))


def split_once(mesh: Mesh, fn: Callable[..., jax.Array], xs: jax.Array, *shared: jax.Array) -> jax.Array:
    """`split_map` of one round for each device, without a loop.

    XLA inlines a loop of one round unless it has side effects. Inlined or not decides the last bits of a result.
    """

    def run(part, *shared):
        return fn(part[0], *shared)[None]

    if mesh.size == 1:
        return run(xs, *shared)
    split = PartitionSpec(mesh.axis_names)
    specs = (split, *[PartitionSpec()] * len(shared))
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)(xs, *shared)


def split_some(
    mesh: Mesh,
    fn: Callable[..., jax.Array],
    out: jax.Array,
    xs: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    *shared: jax.Array,
) -> jax.Array:
    """Some rounds of `split_map`: those from `start` to `stop` of every device's own, put into `out`.

    `start` and `stop` are values, not shapes: a long loop is cut into dispatches of any length with one compilation.

    Args:
      mesh: the devices.
      fn: see `split_map`; of one array.
      out: results so far, `(rounds, ...)`, sharded over the devices as `xs`.
      xs: one x a round, along the first axis; a multiple of the devices.
      start, stop: integers.
      shared: see `split_map`.
    """

    def run(out, xs, start, stop, *shared):
        def body(i, out):
            return jax.lax.dynamic_update_index_in_dim(out, fn(xs[i], *shared), i, 0)

        return jax.lax.fori_loop(start, stop, body, out)

    if mesh.size == 1:
        return run(out, xs, start, stop, *shared)
    split, whole = PartitionSpec(mesh.axis_names), [PartitionSpec()] * (2 + len(shared))
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(split, split, *whole), out_specs=split, check_vma=False)
    return mapped(out, xs, start, stop, *shared)


def split_batches(mesh: Mesh, fn: Callable[[jax.Array], jax.Array], x_BxS: jax.Array, batch: int) -> jax.Array:
    """`in_batches(fn, x, batch)`, its rows divided equally among the devices of `mesh` (B is a multiple of them)."""
    parts = x_BxS.reshape(mesh.size, -1, *x_BxS.shape[1:])
    out = split_map(mesh, lambda part: in_batches(fn, part, batch), parts)
    return out.reshape(-1, *out.shape[2:])


def slices_of_round(fovs: int, batch: int, number: int, most: int) -> int:
    """How many slices to encode together, so that fewest batches are needed in all.

    Args:
      fovs: fields of view of a slice.
      batch: fields of view encoded at once.
      number: of slices in all.
      most: fields of view of a round at most (but at least one slice).
    """
    choices = range(1, max(1, min(most // fovs, number)) + 1)
    return min(choices, key=lambda s: (-(-number // s) * -(-s * fovs // batch), s))


class BatchCount:
    """Batches of a tile that are encoded; devices add to it from threads of their own."""

    def __init__(self, total: int, done: Callable[[float], None]):
        """Args:
        total: batches of the tile.
        done: called with the fraction that is finished, after each addition.
        """
        self._total, self._done, self._batches, self._lock = total, done, 0, threading.Lock()

    def add(self, batches: int) -> None:
        """Counts so many more batches."""
        if batches:
            with self._lock:
                self._batches += batches
                self._done(self._batches / self._total)
