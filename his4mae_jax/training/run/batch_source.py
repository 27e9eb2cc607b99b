"""Where batches come from: the host, which puts them on the device ahead of the step, or volumes on the device."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from his4mae_jax.data.sampling import bricks, resident
from his4mae_jax.data.sampling.cells import make_cells
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import make_geometry
from his4mae_jax.data.sampling.streaming import HostSampler, total_bytes
from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.padding import padding_values, stored_beside
from his4mae_jax.data.volumes.volume import Box, VolumeLike, chunks_of
from his4mae_jax.errors import UserError
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.training.devices import mesh as meshes

PREFETCH = 3  # dispatches whose batches are read, and put on the device, ahead of the step
MAX_STEPS = 25  # in one dispatch
CPU_DISPATCH_FLOP = 1e12  # of one dispatch on a CPU: seconds, so that a signal to stop is soon followed
POOL_BRICKS = 64  # of data.pool_bricks = -1, for volumes that do not fit in memory


def make_plan(
    config: ml_collections.ConfigDict,
    volumes: Sequence[VolumeLike],
    boxes: Sequence[Box],
    axes: str | Sequence[str],
    labels: Sequence[VolumeLike] | None = None,
    *,
    in_memory_gb: float | None = None,
) -> Plan:
    """Returns the sampling plan of a run, which depends on its configuration and data alone.

    Args:
      config: the whole configuration.
      volumes: to train on.
      boxes: where fields of view may lie in each.
      axes: some of "zyx" for all volumes, or one such string for each.
      labels: a label volume for each, for supervised methods.
      in_memory_gb: the `data.in_memory_gb` that the training began with, on which an automatic `data.pool_bricks`
        depends, so that a training that is resumed with more or less memory draws the same samples; None: as
        configured.

    Raises:
      UserError: a volume is too small.
    """
    d = config.data
    geometry = make_geometry(volumes, boxes, axes, config.model.fov)
    slots, pool, cells = d.pool_bricks, None, None
    if slots < 0:
        limit_gb = d.in_memory_gb if in_memory_gb is None else in_memory_gb
        slots = POOL_BRICKS if total_bytes((*volumes, *(labels or ()))) > int(limit_gb * 2**30) else 0
    chunks = [chunks_of(v) for v in volumes]
    stored = [stored_beside(v, padding_values(v, box)) for v, box in zip(volumes, boxes, strict=True)]
    if slots:
        pool = bricks.make_pool(
            geometry, chunks, seed=config.seed, slots=slots, every=d.steps_per_brick, brick=d.brick, stored=stored
        )
    elif any(own is not None for own in stored):
        cells = make_cells(geometry, chunks, 2 * config.model.fov, stored)
        cells = cells if cells.filled else None
    return Plan(geometry, config.seed, config.train.batch_size, d.crop_min, config.model.fov, pool, cells)


def memory_bytes(config: ml_collections.ConfigDict) -> int:
    """Returns the size up to which volumes are read into the host's memory, in bytes (`data.in_memory_gb`)."""
    return int(config.data.in_memory_gb * 2**30)


def on_device(
    config: ml_collections.ConfigDict, volumes: Sequence[VolumeLike], labels: Sequence[VolumeLike] | None = None
) -> bool:
    """Returns whether volumes lie in device memory (`data.sampler`); the same on every host.

    Raises:
      UserError: they are configured to, and do not fit.
    """
    d = config.data
    if d.sampler == "device":
        resident.check_fits(volumes, labels)
    if d.sampler != "auto":
        return d.sampler == "device"
    free = None if jax.default_backend() == "cpu" else resident.free_bytes()
    fits = free is not None and resident.resident_bytes(volumes, labels) <= d.device_fraction * free
    if jax.process_count() > 1:  # all hosts must run the same program
        from jax.experimental import multihost_utils

        fits = bool(multihost_utils.process_allgather(np.asarray(fits)).all())
    return fits


def in_accelerator_gb(
    config: ml_collections.ConfigDict, volumes: Sequence[VolumeLike], labels: Sequence[VolumeLike] | None = None
) -> int:
    """Returns the size of volumes that lie in device memory in GiB, rounded up; 0 where they do not (`on_device`).

    They need no pool of bricks. A training that began so is to have none later either, whatever it is resumed on: as
    `data.in_memory_gb` of its beginning this size makes `make_plan` see to it.
    """
    return math.ceil(total_bytes((*volumes, *(labels or ()))) / 2**30) if on_device(config, volumes, labels) else 0


def steps_per_dispatch(config: ml_collections.ConfigDict, resident: bool) -> int:
    """Returns the number of optimiser steps in one dispatch: `train.steps_per_call`, or a choice by the device.

    On a CPU the memory of a dispatch is allocated and cleared once, and starting that of a small model takes a quarter
    of its time: there it is several steps, of about `CPU_DISPATCH_FLOP` together. An accelerator takes one step at a
    time if the host cuts its batches, and `MAX_STEPS` if it cuts them itself.

    Args:
      config: the whole configuration.
      resident: whether the device cuts its own batches.
    """
    if config.train.steps_per_call:
        return config.train.steps_per_call
    if jax.default_backend() != "cpu":
        return MAX_STEPS if resident else 1
    flop = config.train.batch_size * flop_per_image(config)["step"]
    return int(np.clip(CPU_DISPATCH_FLOP / flop, 1, MAX_STEPS))


def host_rows(batch_size: int) -> slice:
    """Returns this host's rows of the global batch.

    Raises:
      UserError: the devices cannot share the batch equally.
    """
    if batch_size % jax.device_count():
        raise UserError(
            f"config key train.batch_size is {batch_size}: make it a multiple of the {jax.device_count()} devices"
        )
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


class BatchSource:
    """The data of each dispatch of `StepPrograms`.

    Attributes:
      resident: the sampler on the device, which `StepPrograms` needs; None where the host cuts the batches.
      per_dispatch: most optimiser steps in one dispatch.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        plan: Plan,
        volumes: Sequence[VolumeLike],
        contrasts: Sequence[Contrast],
        mesh: Mesh,
        labels: Sequence[VolumeLike] | None = None,
    ):
        """Reads the volumes, if they are to lie in the memory of the host or the device.

        Args:
          config: the whole configuration.
          plan: what is sampled at each step.
          volumes: to train on.
          contrasts: of each volume.
          mesh: the devices.
          labels: a label volume for each, for supervised methods.

        Raises:
          UserError: the batch cannot be divided, a volume cannot be read or has unknown label ids.
        """
        self._rows, self._mesh = host_rows(plan.batch_size), mesh
        self.resident: resident.ResidentSampler | None = None
        self._host: HostSampler | None = None
        supervised = dict(labels=labels, num_classes=config.supervised.classes)
        if on_device(config, volumes, labels):
            self.resident = resident.ResidentSampler(plan, volumes, contrasts, mesh, **supervised)
        else:
            limit = memory_bytes(config)
            self._host = HostSampler(
                plan, volumes, contrasts, workers=config.data.workers, in_memory_bytes=limit, **supervised
            )
        self.per_dispatch = steps_per_dispatch(config, self.resident is not None)

    def describe(self) -> str:
        """Returns a few words on the sampler, for the log."""
        name = "device" if self.resident else "host"
        return f"{name} sampler, {(self.resident or self._host).describe()}"

    def dispatches(self, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Any]]:
        """Yields `(first step, count, data)` of each dispatch, in order; batches of the host are prepared ahead.

        Args:
          spans: `(first step, count)` of each dispatch; taken as they are needed.
        """
        if self.resident:
            return ((first, count, self.resident.arrays) for first, count in spans)
        return in_order(self._put, spans, workers=1, ahead=PREFETCH)

    def _put(self, span: tuple[int, int]) -> tuple[int, int, Any]:
        """Puts the batches of one dispatch on the device; fewer than `per_dispatch` are padded by the last one."""
        first, count = span
        batches = [self._host.batch(first + i, self._rows) for i in range(count)]
        if self.per_dispatch == 1:
            return first, count, meshes.put_batch(self._mesh, batches[0])
        batches += batches[-1:] * (self.per_dispatch - count)
        return first, count, meshes.put_stacked(self._mesh, jax.tree.map(lambda *x: np.stack(x), *batches))
