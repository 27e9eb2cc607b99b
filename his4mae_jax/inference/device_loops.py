"""Loops whose rounds are shared by the devices of this host."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from his4mae_jax.inference.encode import in_batches


def split_map(mesh, fn, xs):
    """`jax.lax.map(fn, xs)` under jit, its rounds cut into equal parts, one for each device of `mesh`.

    Every round is computed as one device alone would, though the compiler may take sums in another order. What `fn`
    closes over lies on all devices. Where rounds do not divide, the last is computed anew to fill up.
    """
    if mesh.size == 1:
        return jax.lax.map(fn, xs)
    rounds = len(xs)
    xs = jnp.concatenate([xs, jnp.repeat(xs[-1:], -rounds % mesh.size, axis=0)])
    share = PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(
        lambda part: jax.lax.map(fn, part), mesh=mesh, in_specs=share, out_specs=share, check_vma=False
    )
    return jax.tree.map(lambda x: x[:rounds], mapped(xs))


def split_batches(mesh, fn, x_BxS, batch):
    """`in_batches(fn, x, batch)`, its rows shared out equally among the devices of `mesh` (B: a multiple)."""
    parts = x_BxS.reshape(mesh.size, -1, *x_BxS.shape[1:])
    out = split_map(mesh, lambda part: in_batches(fn, part, batch), parts)
    return out.reshape(-1, *out.shape[2:])
