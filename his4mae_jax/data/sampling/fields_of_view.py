"""Random 2D fields of view from volumes: which, and how they are rendered.

`Plan.at` decides everything from (seed, step) alone. Raw crops are cut by that plan on the host
(`data.streaming`) or on the device (`data.resident`), and both give the same; `render` resizes,
flips and turns them on the device, inside the jitted step.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.sampling.bricks import Pool
from his4mae_jax.data.volumes.contrast import apply_window
from his4mae_jax.errors import UserError

PLANE_AXES = np.array([[1, 2], [0, 2], [0, 1]])  # rows and columns of a slice across z, y, x
SAMPLES = 3  # folded into the key of (seed, step); training.step uses the numbers below it


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where fields of view may lie: content boxes and usable axes of V volumes, int32."""

    low_Vx3: np.ndarray
    high_Vx3: np.ndarray
    axes_Vx3: np.ndarray  # the usable axes first
    num_axes_V: np.ndarray
    reach_Vx3: np.ndarray  # most voxels a field of view has on an axis: fov, or 1 where that is only sliced across


def make_geometry(volumes, boxes, axes, fov):
    """Check every volume against the field of view; an axis is used when its slices hold one.

    `axes` is some of "zyx" for all volumes, or a sequence of such strings, one a volume. Raises
    `UserError` naming a volume of which no slice along its axes is at least fov x fov.
    """
    axes = [axes] * len(volumes) if isinstance(axes, str) else list(axes)
    low, high, table, count, reach = [], [], [], [], []
    for volume, box, allowed in zip(volumes, boxes, axes, strict=True):
        sides = [s.stop - s.start for s in box]
        usable = [a for a in range(3) if "zyx"[a] in allowed and min(sides[i] for i in PLANE_AXES[a]) >= fov]
        if not usable:
            raise UserError(
                f"{volume.name}: {'x'.join(map(str, sides))} voxels (z, y, x) at {volume.voxel_size_nm[0]:g} nm hold "
                f"no slice of {fov}x{fov} along axes '{allowed}': use a larger volume, a smaller data.voxel_size_nm or "
                "a smaller model.fov"
            )
        low.append([s.start for s in box])
        high.append([s.stop for s in box])
        table.append((usable * 3)[:3])
        count.append(len(usable))
        reach.append([fov if any(a != u for u in usable) else 1 for a in range(3)])
    as_int = functools.partial(np.asarray, dtype=np.int32)
    return Geometry(as_int(low), as_int(high), as_int(table), as_int(count), as_int(reach))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is sampled at every step, whatever cuts it: a function of (seed, step).

    `pool` says where bricks lie when fields of view come from a rolling pool of them; None: from
    anywhere.
    """

    geometry: Geometry
    seed: int
    batch_size: int
    crop_min: int
    fov: int
    pool: Pool | None = None

    def at(self, step):
        """The batch of one step, see `plan`."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), step), SAMPLES)
        return plan(key, self.geometry, self.batch_size, self.crop_min, self.fov, self.pool, step)


def plan(key, geometry, batch_size, crop_min, fov, pool=None, step=0):
    """What to sample at one step: volume, axis and position uniform, side in crop_min..fov.

    Integers only, so that every backend draws the same. Returns a dict of `(B,)` arrays
    `volume`, `axis`, `side`, `flip_rows`, `flip_cols`, `transpose`, and `start` `(B, 3)`:
    the voxel (z, y, x) at which the crop begins. With a pool also `slot` `(B,)`: the brick that
    holds the crop.
    """
    keys = jax.random.split(key, 5)
    B = batch_size
    low_Vx3, high_Vx3 = jnp.asarray(geometry.low_Vx3), jnp.asarray(geometry.high_Vx3)
    if pool is None:
        volume = jax.random.randint(keys[0], (B,), 0, low_Vx3.shape[0])
    else:
        first, count = pool.slot_range(np.arange(B), B)
        slot = jnp.asarray(first) + jax.random.randint(keys[0], (B,), 0, jnp.asarray(count))
        bricks = {k: v[slot] for k, v in pool.bricks(step).items()}
        volume = bricks["volume"]
    axis = jnp.asarray(geometry.axes_Vx3)[
        volume, jax.random.randint(keys[1], (B,), 0, jnp.asarray(geometry.num_axes_V)[volume])
    ]
    side = jax.random.randint(keys[2], (B,), crop_min, fov + 1)
    is_axis_Bx3 = jnp.arange(3)[None, :] == axis[:, None]
    extent_Bx3 = jnp.where(is_axis_Bx3, 1, side[:, None])
    if pool is None:
        start_range = low_Vx3[volume], high_Vx3[volume] - extent_Bx3 + 1
    else:
        start_range = pool.start_range(bricks["cell_low"], bricks["cell_high"], volume, extent_Bx3)
    start = jax.random.randint(keys[3], (B, 3), *start_range)
    turns = jax.random.randint(keys[4], (3, B), 0, 2)
    return {
        "volume": volume, "axis": axis, "side": side, "start": start,
        "flip_rows": turns[0], "flip_cols": turns[1], "transpose": turns[2],
        **({} if pool is None else {"slot": slot}),
    }  # fmt: skip


def _interpolation(side_B, flip_B, fov):
    """Linear interpolation from a crop's `side` pixels to `fov`, `(B, fov, fov)` weights.

    Half-pixel centres: output i lies at (i + 0.5) * side / fov - 0.5 of the crop.
    """
    out = jnp.arange(fov, dtype=jnp.float32)[None, :]
    out = jnp.where(flip_B[:, None] == 1, fov - 1 - out, out)
    side = side_B[:, None].astype(jnp.float32)
    source_BxF = jnp.clip((out + 0.5) * side / fov - 0.5, 0.0, side - 1.0)
    distance = jnp.abs(source_BxF[:, :, None] - jnp.arange(fov, dtype=jnp.float32))
    return jnp.maximum(0.0, 1.0 - distance)


def render(batch, fov):
    """Raw crops to fields of view: `{"image": (B, fov, fov)}`, float32 in [0, 1].

    `batch` is a raw batch: `crop` `(B, fov, fov)`, filled from the top left to `side` `(B,)`;
    `contrast` `(B, 3)` (low, high, inverted); `flip_rows`, `flip_cols`, `transpose` `(B,)`. With
    `labels` `(B, fov, fov)` in it there is also `"labels"`, int32: those of the nearest voxel.

    Flips and the transposition together give the eight symmetries of the square (flips on
    both axes and 90 degree turns). Grey levels: `contrast.apply_window`.
    """
    low, high, inverted = (batch["contrast"][:, i, None, None] for i in range(3))
    images_BxFxF = apply_window(batch["crop"], low, high - low, inverted == 1)
    rows = _interpolation(batch["side"], batch["flip_rows"], fov)
    cols = _interpolation(batch["side"], batch["flip_cols"], fov)
    images_BxFxF = jnp.einsum("brh,bhw,bcw->brc", rows, images_BxFxF, cols, precision="highest")
    views = {"image": images_BxFxF}
    if "labels" in batch:
        # One row and one column of the crop each: its nearest by the weights of the interpolation.
        row_BxFx1, col_Bx1xF = jnp.argmax(rows, axis=2)[:, :, None], jnp.argmax(cols, axis=2)[:, None, :]
        labels = jnp.take_along_axis(batch["labels"].astype(jnp.int32), row_BxFx1, axis=1)
        views["labels"] = jnp.take_along_axis(labels, col_Bx1xF, axis=2)
    turn = batch["transpose"][:, None, None] == 1
    return {k: jnp.where(turn, jnp.swapaxes(v, 1, 2), v) for k, v in views.items()}
