"""The gradient of a batch, of all its fields of view at once or of microbatches in turn."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.models.kernels.batches import fovs_at_once, largest_divisor
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices.cpu_devices import is_large
from his4mae_jax.training.step.settings import StepSettings


def microbatch(settings: StepSettings, devices: int) -> int:
    """Returns how many fields of view each of `devices` takes at once: a divisor of its part of the batch.

    It is at most `train.microbatch` where that is set. Otherwise it is the whole part, but on CPUs as many as keep the
    arrays of a layer in the cache: larger ones are written to memory and read again. Small steps stay whole, because
    adding gradients costs them more than the cache saves.
    """
    per_device = max(1, settings.batch_size // devices)
    if settings.microbatch > 0:
        return largest_divisor(per_device, settings.microbatch)
    most = fovs_at_once(settings.models) if targets_cpu() and is_large(settings.flop) else per_device
    fitting = largest_divisor(per_device, most)
    # Far fewer than fit the cache do not pay: the matmuls become many and small.
    return fitting if 2 * fitting >= most else per_device


def gradients(
    settings: StepSettings,
    mesh: Mesh,
    params: dict[str, Any],
    teacher: dict[str, Any],
    batch: dict[str, jax.Array],
    rng: jax.Array,
    ready: jax.Array | bool,
) -> tuple[dict[str, Any], tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """Differentiates a batch's loss (equation 5 for HiS4MAE) by `params`.

    The result is the same whatever the microbatch is, but for rounding.

    Args:
      settings: of the step.
      mesh: the devices; `batch` is split over its `data` axis.
      params: the student's side.
      teacher: parameters of the teacher's encoder.
      batch: rendered fields of view, `{"image": (B, fov, fov)}` and for supervised methods `"labels"`.
      rng: key of what the method draws for the batch, such as masks.
      ready: whether distillation has begun.

    Returns:
      `(gradients, (diagnostics, codes))`, the latter as the method's `loss` returns them.
    """
    method = METHODS[settings.method]
    keywords = {"models": settings.models, "settings": settings.loss}
    prepared = method.prepare(rng, batch, **keywords)
    at_once = microbatch(settings, mesh.size)
    parts = settings.batch_size // mesh.size // at_once
    gradient = jax.grad(functools.partial(method.loss, ready=ready, **keywords), has_aux=True)
    if parts == 1:
        return gradient(params, teacher, batch, prepared)

    def accumulate(params, teacher, *arrays):
        """Means over the microbatches of one device, and the codes of all its fields of view."""
        parted = jax.tree.map(lambda x: x.reshape(parts, at_once, *x.shape[1:]), arrays)

        def add(total, part):
            grads, (diagnostics, codes) = gradient(params, teacher, *part)
            return jax.tree.map(jnp.add, total, (grads, diagnostics)), codes

        grads, (diagnostics, _) = jax.eval_shape(gradient, params, teacher, *jax.tree.map(lambda x: x[0], parted))
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, diagnostics))
        total, codes = jax.lax.scan(add, empty, parted)
        # One sum over devices at the end; left to XLA there would be one for each microbatch.
        grads, diagnostics = jax.tree.map(lambda x: jax.lax.pmean(x, "data") / parts, total)
        return grads, (diagnostics, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), codes))

    replicated, split = PartitionSpec(), PartitionSpec("data")
    over_devices = jax.shard_map(
        accumulate,
        mesh=mesh,
        in_specs=(replicated, replicated, split, split),
        out_specs=(replicated, (replicated, split)),
        check_vma=False,
    )
    return over_devices(params, teacher, batch, prepared)
