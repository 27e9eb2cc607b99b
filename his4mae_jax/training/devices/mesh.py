"""One named mesh: the batch is split along its `data` axis, parameters are replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def make_mesh():
    """A one-dimensional mesh over all devices of all hosts."""
    # Auto: the newer default, Explicit, rejects the reshapes of patchify.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def make_local_mesh():
    """The same over the devices of this process alone: for what processes do each for themselves."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh):
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    """Leading axis split over devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def stacked_sharding(mesh):
    """Second axis split over devices: batches stacked along the first."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def put_batch(mesh, batch):
    """This host's part of a batch (NumPy arrays) as global arrays over the mesh."""
    return _put(batch_sharding(mesh), batch)


def put_stacked(mesh, batches):
    """This host's part of several batches, stacked, as global arrays over the mesh."""
    return _put(stacked_sharding(mesh), batches)


def _put(sharding, batch):
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
