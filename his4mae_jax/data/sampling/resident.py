"""Raw crops cut on the device, inside the jitted step: volumes lie in accelerator memory, in their stored dtype.

The same plan gives the same crops as on the host (`sampling.streaming`); after the start no image crosses from host to
device.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import PLANE_AXES
from his4mae_jax.data.sampling.streaming import check_labels, total_bytes
from his4mae_jax.data.volumes.blocks import slabs
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, progress, say


def resident_bytes(volumes: Sequence[VolumeLike], labels: Sequence[VolumeLike] | None = None) -> int:
    """Bytes of accelerator memory that volumes and labels take on each device."""
    return total_bytes(volumes) + sum(math.prod(v.shape) for v in labels or ())


def free_bytes() -> int | None:
    """Free memory of the fullest of this host's devices; None where the backend does not report it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if not all(s and "bytes_limit" in s for s in stats):
        return None
    return min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats)


def check_fits(volumes: Sequence[VolumeLike], labels: Sequence[VolumeLike] | None = None) -> None:
    """Raises `UserError` if volumes and labels need more than the free device memory, where that is known."""
    need, free = resident_bytes(volumes, labels), free_bytes()
    if free is not None and need > free:
        raise UserError(
            f"config key data.sampler is 'device', but the volumes take {need / 1e9:.1f} GB and the device has "
            f"{free / 1e9:.1f} GB free: set data.sampler to 'host'"
        )


class ResidentSampler:
    """Batches of raw crops from volumes that lie whole in the memory of every device of a mesh.

    Each device cuts its own rows of the batch, which is split along the mesh's `data` axis. Time grows with the number
    of volumes: every row is looked up in each of them.

    Attributes:
      plan: what is sampled at every step.
      arrays: the volumes on the devices, an argument of the jitted step; `batch` is called inside it.
    """

    def __init__(
        self,
        plan: Plan,
        volumes: Sequence[VolumeLike],
        contrasts: Sequence[Contrast],
        mesh: Mesh,
        *,
        labels: Sequence[VolumeLike] | None = None,
        num_classes: int = 0,
        log: Log = say,
    ) -> None:
        """Reads the volumes slab by slab into device memory.

        Args:
          plan: what is sampled at every step.
          volumes: the images.
          contrasts: grey window of each volume.
          mesh: with an axis `data`.
          labels: a label volume for each volume: batches then contain their crops, too.
          num_classes: label ids must be below it, or `IGNORE`.
          log: prints a line of progress.

        Raises:
          UserError: there are unknown label ids where fields of view lie.
        """
        self.plan, self._mesh = plan, mesh
        self._dtype = np.result_type(*[v.dtype for v in volumes])
        self._contrast_Vx3 = np.asarray([[c.low, c.high, c.invert] for c in contrasts], np.float32)
        total = resident_bytes(volumes, labels) / 1e6
        with progress("train: volumes to device memory", total, unit="MB", log=log) as bar:

            def advance(n_bytes: int) -> None:
                bar.advance(n_bytes / 1e6)

            self.arrays = {"volumes": tuple(upload(v, v.dtype, mesh, advance=advance) for v in volumes)}
            if labels:
                low_Vx3, high_Vx3 = plan.geometry.low_Vx3, plan.geometry.high_Vx3
                boxes = [tuple(map(slice, low, high)) for low, high in zip(low_Vx3, high_Vx3, strict=True)]
                self.arrays["labels"] = tuple(
                    upload(
                        volume,
                        np.uint8,
                        mesh,
                        check=functools.partial(_check_slab, box=box, num_classes=num_classes),
                        advance=advance,
                    )
                    for volume, box in zip(labels, boxes, strict=True)
                )

    def describe(self) -> str:
        """Where the volumes are, for the log."""
        size = sum(x.nbytes for x in jax.tree.leaves(self.arrays))
        return f"volumes in device memory ({size / 1e9:.2f} GB)"

    def batch(self, arrays: Mapping[str, Any], step: jax.Array) -> dict[str, jax.Array]:
        """The raw batch of one step as `HostSampler.batch` returns it, split over the mesh.

        Args:
          arrays: the sampler's own `arrays`, as the jitted step received them.
          step: step number.
        """
        split = NamedSharding(self._mesh, PartitionSpec("data"))
        chosen = jax.lax.with_sharding_constraint(self.plan.at(step), split)
        batch = {k: chosen[k] for k in ("side", "flip_rows", "flip_cols", "transpose")}
        batch["contrast"] = jnp.asarray(self._contrast_Vx3)[chosen["volume"]]
        batch["crop"] = self._cut(arrays["volumes"], chosen, self._dtype, 0)
        if "labels" in arrays:
            batch["labels"] = self._cut(arrays["labels"], chosen, np.uint8, IGNORE)
        return batch

    def _cut(
        self, volumes: Sequence[jax.Array], chosen: Mapping[str, jax.Array], dtype: np.dtype, fill: int
    ) -> jax.Array:
        own = functools.partial(cut, fov=self.plan.fov, dtype=dtype, fill=fill)
        everywhere, split = PartitionSpec(), PartitionSpec("data")
        return jax.shard_map(own, mesh=self._mesh, in_specs=(everywhere, split), out_specs=split)(volumes, chosen)


def cut(
    volumes: Sequence[jax.Array], chosen: Mapping[str, jax.Array], *, fov: int, dtype: np.dtype, fill: int
) -> jax.Array:
    """Cuts the crops of a plan out of 3D arrays.

    Each axis is indexed separately, so that volumes of more than 2^31 voxels need no wider integers.

    Args:
      volumes: 3D arrays.
      chosen: the plan's `volume`, `axis`, `side`, `(B,)`, and `start`, `(B, 3)`.
      fov: side of the crops returned.
      dtype: of the crops returned.
      fill: value outside a crop's `side`.

    Returns:
      `(B, fov, fov)`, filled from the top left.
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
        values_BxFxF = array.at[index].get(mode="promise_in_bounds").astype(dtype)
        crops_BxFxF = jnp.where(own_BxFxF, values_BxFxF, crops_BxFxF)
    return crops_BxFxF


def upload(
    volume: VolumeLike,
    dtype: np.dtype,
    mesh: Mesh,
    *,
    check: Callable[[int, np.ndarray], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> jax.Array:
    """Copies a volume to every device of the mesh; the host has one slab of it in memory at a time.

    Args:
      volume: the volume to read.
      dtype: of the array on the device.
      mesh: the devices.
      check: called as `check(z, slab)` with each slab and its first plane; may raise.
      advance: called with the bytes of each slab that is on the device.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    put = functools.partial(_replicate, sharding=everywhere)
    zeros = functools.partial(jnp.zeros, volume.shape, dtype)
    place = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
    place = jax.jit(place, donate_argnums=0, out_shardings=everywhere)
    whole = None
    for box in slabs(volume, whole_chunks=True):
        z, slab = box[0].start, volume.read(box)
        if check:
            check(z, slab)
        slab = np.asarray(slab).astype(dtype, copy=False)
        if slab.shape == volume.shape:
            whole = put(slab)
        else:
            whole = jax.jit(zeros, out_shardings=everywhere)() if whole is None else whole
            whole = place(whole, put(slab), put(np.int32(z)))
        if advance:
            advance(slab.nbytes)
    return whole


def _replicate(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _check_slab(z: int, slab: np.ndarray, box: Box, num_classes: int) -> None:
    """Checks the label ids of a slab, inside the box that is sampled."""
    inside = slice(max(box[0].start - z, 0), max(box[0].stop - z, 0))
    check_labels(slab[inside, box[1], box[2]], num_classes)
