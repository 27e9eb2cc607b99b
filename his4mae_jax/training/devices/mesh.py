"""One named mesh: the batch is split along its `data` axis, parameters are replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-dimensional mesh; None: over all devices of all hosts."""
    count = jax.device_count() if devices is None else len(devices)
    # Auto: the newer default, Explicit, rejects the reshapes of patchify and inputs that are not yet split.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def make_local_mesh() -> Mesh:
    """Returns a mesh over the devices of this process alone, for what each process does by itself."""
    return make_mesh(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def stacked_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches stacked along a first axis: the second axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts this host's rows of a batch (a pytree of NumPy arrays) on the devices, as global arrays over the mesh."""
    return _put(batch_sharding(mesh), batch)


def put_stacked(mesh: Mesh, batches: Any) -> Any:
    """Puts this host's rows of several batches, stacked, on the devices, as global arrays over the mesh."""
    return _put(stacked_sharding(mesh), batches)


def _put(sharding: NamedSharding, batch: Any) -> Any:
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
