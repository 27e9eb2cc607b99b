"""What the training step is fed: batches from the host, put on the device ahead of the step, or resident volumes."""

import jax
import numpy as np

from his4mae_jax.data.sampling import bricks, resident
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import make_geometry
from his4mae_jax.data.sampling.streaming import HostSampler, total_bytes
from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.volume import chunks_of
from his4mae_jax.errors import UserError
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step.flop import flop_per_image

PREFETCH = 3  # calls whose batches are read, and put on the device, ahead of the step
PER_CALL = 25  # steps in one call, at most
CPU_CALL_FLOP = 1e12  # of one call on a CPU: seconds, so that one which is told to stop does soon
POOL_BRICKS = 64  # of data.pool_bricks = -1, for volumes that do not fit in memory


def make_plan(config, volumes, boxes, axes, labels=None, *, in_memory_gb=None):
    """The plan of a run, from its config and data alone. Raises `UserError` for volumes too small.

    `in_memory_gb` is `data.in_memory_gb` as the training began with it, which an automatic `data.pool_bricks` goes by:
    a training that goes on with more or less memory draws the same samples. None: as configured.
    """
    d, batch_size = config.data, config.train.batch_size
    geometry = make_geometry(volumes, boxes, axes, config.model.fov)
    slots, pool = d.pool_bricks, None
    if slots < 0:
        most = d.in_memory_gb if in_memory_gb is None else in_memory_gb
        slots = POOL_BRICKS if total_bytes((*volumes, *(labels or ()))) > int(most * 2**30) else 0
    if slots:
        pool = bricks.make_pool(
            geometry, [chunks_of(v) for v in volumes], seed=config.seed, slots=slots, every=d.steps_per_brick,
            brick=d.brick,
        )  # fmt: skip
    return Plan(geometry, config.seed, batch_size, d.crop_min, config.model.fov, pool)


def memory_bytes(config):
    """Bytes up to which volumes are held in the host's memory."""
    return int(config.data.in_memory_gb * 2**30)


def on_device(config, volumes, labels=None):
    """Whether volumes are to lie in device memory (`data.sampler`); the same on every host."""
    d = config.data
    if d.sampler == "device":
        resident.check_fits(volumes, labels)
    if d.sampler != "auto":
        return d.sampler == "device"
    free = None if jax.default_backend() == "cpu" else resident.free_bytes()
    fits = free is not None and resident.resident_bytes(volumes, labels) <= d.device_fraction * free
    if jax.process_count() > 1:  # hosts must not come to different programs
        from jax.experimental import multihost_utils

        fits = bool(multihost_utils.process_allgather(np.asarray(fits)).all())
    return fits


def steps_per_call(config, cuts_itself):
    """Optimiser steps in one call: as configured, or by itself.

    On a CPU a call's memory is asked for and cleared once, and starting a call of a small model takes a quarter
    of its time: several there, of about `CPU_CALL_FLOP` together. An accelerator fed by the host takes one at a time;
    one that cuts its own batches `PER_CALL`.
    """
    if config.train.steps_per_call:
        return config.train.steps_per_call
    if jax.default_backend() != "cpu":
        return PER_CALL if cuts_itself else 1
    return int(np.clip(CPU_CALL_FLOP / (config.train.batch_size * flop_per_image(config)["step"]), 1, PER_CALL))


def host_rows(batch_size):
    """This host's rows of the global batch."""
    if batch_size % jax.device_count():
        raise UserError(
            f"config key train.batch_size is {batch_size}: make it a multiple of the {jax.device_count()} devices"
        )
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


class Feed:
    """The data of each call of `calls.compile_calls`: `resident` is what it must be told of, None for the host's."""

    def __init__(self, config, plan, volumes, contrasts, mesh, labels=None):
        self.plan, self._mesh = plan, mesh
        self._rows = host_rows(plan.batch_size)
        self.resident = self._host = None
        known = dict(labels=labels, num_classes=config.supervised.classes)
        if on_device(config, volumes, labels):
            self.resident = resident.ResidentSampler(plan, volumes, contrasts, mesh, **known)
        else:
            self._host = HostSampler(
                plan, volumes, contrasts, workers=config.data.workers, in_memory_bytes=memory_bytes(config), **known
            )
        self.per_call = steps_per_call(config, self.resident is not None)

    def describe(self):
        """The sampler, for the log."""
        which = "device" if self.resident else "host"
        return f"{which} sampler, {(self.resident or self._host).describe()}"

    def calls(self, spans):
        """Yield the data of each `(first step, count)`, in order."""
        if self.resident:
            yield from (self.resident.arrays for _ in spans)
            return
        yield from in_order(self._put, spans, workers=1, ahead=PREFETCH)

    def _put(self, span):
        """Batches of one call on the device; a call of several is filled up by its last."""
        first, count = span
        batches = [self._host.batch(first + i, self._rows) for i in range(count)]
        if self.per_call == 1:
            return meshes.put_batch(self._mesh, batches[0])
        batches += batches[-1:] * (self.per_call - count)
        return meshes.put_stacked(self._mesh, jax.tree.map(lambda *x: np.stack(x), *batches))
