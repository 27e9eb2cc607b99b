"""The gradient of a batch, of all its fields of view at once or of some at a time."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.models.kernels.batches import fovs_at_once, largest_divisor
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices.cpu_devices import is_large


def microbatch(config, models, devices):
    """Fields of view that each of `devices` takes at once: a divisor of its share of the batch.

    At most `train.microbatch`. By itself the whole share, but on CPUs as many as keep a layer's arrays in the cache:
    otherwise each is written to memory and read again. Small steps lose more by adding gradients than they win.
    """
    share = max(1, config.train.batch_size // devices)
    most, chosen = config.train.microbatch, config.train.microbatch > 0
    if not chosen:
        most = fovs_at_once(models) if targets_cpu() and is_large(config) else share
    fitting = largest_divisor(share, most)
    # Far fewer than fit are not worth it: more and smaller products.
    return fitting if chosen or 2 * fitting >= most else share


def gradients(config, models, mesh, params, teacher, batch, rng, ready):
    """Gradients of a batch's loss by `params`, and what the method's loss returns besides.

    `batch` are the rendered fields of view, split over the devices of `mesh`; `rng` is the key of what the method
    draws; `ready` as in the loss. Returns `(grads, (diagnostics, codes))`, the same but for rounding whatever
    `train.microbatch` is.
    """
    method, devices = METHODS[config.method], mesh.size
    static = {"models": models, "settings": method.settings(config)}
    prepared = method.prepare(rng, batch, **static)
    at_once = microbatch(config, models, devices)
    parts = config.train.batch_size // devices // at_once
    gradient = jax.grad(functools.partial(method.loss, ready=ready, **static), has_aux=True)
    if parts == 1:
        return gradient(params, teacher, batch, prepared)

    def in_parts(params, teacher, *arrays):
        """Means over the parts of one device's share, and all its codes."""
        parted = jax.tree.map(lambda x: x.reshape(parts, at_once, *x.shape[1:]), arrays)

        def add(total, part):
            grads, (diagnostics, codes) = gradient(params, teacher, *part)
            return jax.tree.map(jnp.add, total, (grads, diagnostics)), codes

        grads, (diagnostics, _) = jax.eval_shape(gradient, params, teacher, *jax.tree.map(lambda x: x[0], parted))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, diagnostics))
        total, codes = jax.lax.scan(add, empty, parted)
        # One sum over devices at the end, and not one a part as XLA would have it.
        grads, diagnostics = jax.tree.map(lambda x: jax.lax.pmean(x, "data") / parts, total)
        return grads, (diagnostics, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), codes))

    whole, split = PartitionSpec(), PartitionSpec("data")
    shared = jax.shard_map(
        in_parts, mesh=mesh, in_specs=(whole, whole, split, split), out_specs=(whole, (whole, split)), check_vma=False
    )
    return shared(params, teacher, batch, prepared)
