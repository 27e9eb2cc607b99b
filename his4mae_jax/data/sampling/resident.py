"""Raw crops cut on the device, inside the jitted step: volumes lie in accelerator memory, in their stored dtype.

The same plan as on the host (`data.streaming`) gives the same crops; no image crosses from host to
device after the start.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from his4mae_jax.data.sampling.fields_of_view import PLANE_AXES
from his4mae_jax.data.sampling.streaming import check_labels, total_bytes
from his4mae_jax.data.volumes.blocks import slabs
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError


def resident_bytes(volumes, labels=None):
    """Bytes of accelerator memory that volumes and labels take on each device."""
    return total_bytes(volumes) + sum(math.prod(v.shape) for v in labels or ())


def free_bytes():
    """Free memory of the fullest of this host's devices; None where the backend does not say."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if not all(s and "bytes_limit" in s for s in stats):
        return None
    return min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats)


class ResidentSampler:
    """Batches of raw crops from volumes that every device of a mesh holds whole.

    `arrays` is what the jitted step must be given; `batch` is called inside it. Each device cuts
    its own rows of the batch, split along the mesh's `data` axis. Time grows with the number of
    volumes: each is looked up for every row.
    """

    def __init__(self, plan, volumes, contrasts, mesh, *, labels=None, num_classes=0):
        """Reads the volumes slab by slab into device memory. Raises `UserError` for unknown label ids."""
        self.plan, self._mesh = plan, mesh
        self._dtype = np.result_type(*[v.dtype for v in volumes])
        self._contrast_Vx3 = np.asarray([[c.low, c.high, c.invert] for c in contrasts], np.float32)
        self.arrays = {"volumes": tuple(upload(v, v.dtype, mesh) for v in volumes)}
        if labels:
            geometry = plan.geometry
            boxes = [
                tuple(map(slice, low, high)) for low, high in zip(geometry.low_Vx3, geometry.high_Vx3, strict=True)
            ]
            self.arrays["labels"] = tuple(
                upload(v, np.uint8, mesh, functools.partial(_check_slab, box=box, num_classes=num_classes))
                for v, box in zip(labels, boxes, strict=True)
            )

    def describe(self):
        """Where volumes are, for the log."""
        size = sum(x.nbytes for x in jax.tree.leaves(self.arrays))
        return f"volumes in device memory ({size / 1e9:.2f} GB)"

    def batch(self, arrays, step):
        """The raw batch of one step as `HostSampler.batch` gives it, split over the mesh."""
        split = NamedSharding(self._mesh, PartitionSpec("data"))
        chosen = jax.lax.with_sharding_constraint(self.plan.at(step), split)
        batch = {k: chosen[k] for k in ("side", "flip_rows", "flip_cols", "transpose")}
        batch["contrast"] = jnp.asarray(self._contrast_Vx3)[chosen["volume"]]
        batch["crop"] = self._cut(arrays["volumes"], chosen, self._dtype, 0)
        if "labels" in arrays:
            batch["labels"] = self._cut(arrays["labels"], chosen, np.uint8, IGNORE)
        return batch

    def _cut(self, volumes, chosen, dtype, fill):
        own = functools.partial(cut, fov=self.plan.fov, dtype=dtype, fill=fill)
        everywhere, split = PartitionSpec(), PartitionSpec("data")
        return jax.shard_map(own, mesh=self._mesh, in_specs=(everywhere, split), out_specs=split)(volumes, chosen)


def cut(volumes, chosen, *, fov, dtype, fill):
    """Crops `(B, fov, fov)` of 3D arrays by the plan's `volume`, `axis`, `side` and `start`.

    Filled from the top left to `side`, `fill` elsewhere. Each axis is indexed by itself, so that
    volumes of more than 2^31 voxels need no wider integers.
    """
    plane_Bx2 = jnp.asarray(PLANE_AXES)[chosen["axis"]]
    row_Fx1, col_1xF = jnp.arange(fov)[:, None], jnp.arange(fov)[None, :]
    side = chosen["side"][:, None, None]
    inside_BxFxF = (row_Fx1 < side) & (col_1xF < side)
    where = [
        chosen["start"][:, d, None, None]
        + jnp.where((plane_Bx2[:, 0] == d)[:, None, None], row_Fx1, 0)
        + jnp.where((plane_Bx2[:, 1] == d)[:, None, None], col_1xF, 0)
        for d in range(3)
    ]
    crops_BxFxF = jnp.full((), fill, dtype)
    for v, array in enumerate(volumes):
        own_BxFxF = (chosen["volume"] == v)[:, None, None] & inside_BxFxF
        index = tuple(jnp.where(own_BxFxF, w, 0) for w in where)  # in bounds, and cheap for other volumes' rows
        found = array.at[index].get(mode="promise_in_bounds").astype(dtype)
        crops_BxFxF = jnp.where(own_BxFxF, found, crops_BxFxF)
    return crops_BxFxF


def upload(volume, dtype, mesh, check=lambda z, slab: None):
    """A volume on every device of the mesh, as `dtype`; the host holds one slab at a time.

    `check(z, slab)` may refuse what was read, planes from z on.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    put = functools.partial(_replicated, sharding=everywhere)
    zeros = functools.partial(jnp.zeros, volume.shape, dtype)
    place = lambda whole, slab, z: jax.lax.dynamic_update_slice_in_dim(whole, slab, z, 0)  # noqa: E731
    place = jax.jit(place, donate_argnums=0, out_shardings=everywhere)
    whole = None
    for box in slabs(volume, whole_chunks=True):
        z, slab = box[0].start, volume.read(box)
        check(z, slab)
        slab = np.asarray(slab).astype(dtype, copy=False)
        if slab.shape == volume.shape:
            return put(slab)
        whole = jax.jit(zeros, out_shardings=everywhere)() if whole is None else whole
        whole = place(whole, put(slab), put(np.int32(z)))
    return whole


def _replicated(array, sharding):
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _check_slab(z, slab, box, num_classes):
    """Label ids of a slab, inside the box that is sampled."""
    inside = slice(max(box[0].start - z, 0), max(box[0].stop - z, 0))
    check_labels(slab[inside, box[1], box[2]], num_classes)


def check_fits(volumes, labels=None):
    """Raise `UserError` unless the free device memory holds volumes and labels, as far as the backend tells."""
    need, free = resident_bytes(volumes, labels), free_bytes()
    if free is not None and need > free:
        raise UserError(
            f"config key data.sampler is 'device', but the volumes take {need / 1e9:.1f} GB and the device has "
            f"{free / 1e9:.1f} GB free: set data.sampler to 'host'"
        )
