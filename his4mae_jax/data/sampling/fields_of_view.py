"""Random 2D fields of view of volumes (paper, section 4.2): where they lie, and how they become images.

`Plan.at` decides everything from (seed, step) alone. Raw crops are cut by that plan on the host (`sampling.streaming`)
or on the device (`sampling.resident`), with equal results; `render` resizes, flips and turns them on the device,
inside the jitted step.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.sampling.bricks import Pool
from his4mae_jax.data.sampling.cells import Cells
from his4mae_jax.data.sampling.geometry import Geometry
from his4mae_jax.data.volumes.contrast import apply_window

_SAMPLES_STREAM = 3  # folded into the key of (seed, step); training.step uses the numbers below it


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is sampled at every step, a function of (seed, step).

    Attributes:
      geometry: where fields of view may lie.
      seed: of the run.
      batch_size: B, fields of view of a step.
      crop_min: smallest side of a crop in voxels.
      fov: side of a field of view, and largest side of a crop.
      pool: where bricks lie when fields of view come from a rolling pool of them; None: from anywhere.
      cells: without a pool, where fields of view lie in volumes of which parts are not stored; None: anywhere.
    """

    geometry: Geometry
    seed: int
    batch_size: int
    crop_min: int
    fov: int
    pool: Pool | None = None
    cells: Cells | None = None

    def at(self, step: jax.typing.ArrayLike) -> dict[str, jax.Array]:
        """What is sampled at one step; see `plan`."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), step), _SAMPLES_STREAM)
        return plan(key, self.geometry, self.batch_size, self.crop_min, self.fov, self.pool, step, self.cells)


def plan(
    key: jax.Array,
    geometry: Geometry,
    batch_size: int,
    crop_min: int,
    fov: int,
    pool: Pool | None = None,
    step: jax.typing.ArrayLike = 0,
    cells: Cells | None = None,
) -> dict[str, jax.Array]:
    """Draws what to sample at one step: volume, axis and position uniform, side in crop_min..fov.

    Only integers are drawn, so that every backend draws the same.

    Args:
      key: of this step.
      geometry: where fields of view may lie.
      batch_size: B.
      crop_min: smallest side of a crop in voxels.
      fov: largest side of a crop in voxels.
      pool: bricks that crops must lie in; None: anywhere.
      step: step number, for the pool.
      cells: without a pool, what volumes and crops are drawn by; None: all positions have one probability.

    Returns:
      int32 arrays `volume`, `axis`, `side`, `flip_rows`, `flip_cols`, `transpose`, `(B,)`, and `start`, `(B, 3)`: the
      voxel (z, y, x) at which the crop begins. With a pool also `slot`, `(B,)`: the brick that the crop lies in.
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
    if pool is None and cells is not None:
        cell_Bx3 = jax.vmap(cells.draw)(jax.random.split(jax.random.fold_in(keys[3], 0), B), volume)
        start_range = cells.start_range(*cells.bounds(cell_Bx3, volume), volume, extent_Bx3)
    elif pool is None:
        start_range = low_Vx3[volume], high_Vx3[volume] - extent_Bx3 + 1
    else:
        start_range = pool.start_range(bricks["cell_low"], bricks["cell_high"], volume, extent_Bx3)
    start = jax.random.randint(keys[3], (B, 3), *start_range)
    turns = jax.random.randint(keys[4], (3, B), 0, 2)
    chosen = {
        "volume": volume,
        "axis": axis,
        "side": side,
        "start": start,
        "flip_rows": turns[0],
        "flip_cols": turns[1],
        "transpose": turns[2],
    }
    return chosen if pool is None else {**chosen, "slot": slot}


def _interpolation(side_B: jax.Array, flip_B: jax.Array, fov: int) -> jax.Array:
    """Weights `(B, fov, fov)` (output, crop) that interpolate a crop's `side` pixels linearly to `fov`.

    Half-pixel centres: output pixel i lies at (i + 0.5) * side / fov - 0.5 of the crop.
    """
    out = jnp.arange(fov, dtype=jnp.float32)[None, :]
    out = jnp.where(flip_B[:, None] == 1, fov - 1 - out, out)
    side = side_B[:, None].astype(jnp.float32)
    source_BxF = jnp.clip((out + 0.5) * side / fov - 0.5, 0.0, side - 1.0)
    distance = jnp.abs(source_BxF[:, :, None] - jnp.arange(fov, dtype=jnp.float32))
    return jnp.maximum(0.0, 1.0 - distance)


def render(batch: Mapping[str, jax.Array], fov: int) -> dict[str, jax.Array]:
    """Turns raw crops into fields of view.

    Args:
      batch: a raw batch: `crop`, `(B, fov, fov)`, filled from the top left to `side`, `(B,)`; `contrast`, `(B, 3)`
        (low, high, inverted); `flip_rows`, `flip_cols`, `transpose`, `(B,)`; optionally `labels`, `(B, fov, fov)`.
      fov: side of a field of view.

    Returns:
      `image`, `(B, fov, fov)`, float32 in [0, 1], and where there are labels `labels`, int32: those of the nearest
      voxel.

    Flips and the transposition together give the eight symmetries of the square (flips on both axes and 90 degree
    turns). Grey values: `contrast.apply_window`.
    """
    low, high, inverted = (batch["contrast"][:, i, None, None] for i in range(3))
    images_BxFxF = apply_window(batch["crop"], low, high - low, inverted == 1)
    rows = _interpolation(batch["side"], batch["flip_rows"], fov)
    cols = _interpolation(batch["side"], batch["flip_cols"], fov)
    images_BxFxF = jnp.einsum("brh,bhw,bcw->brc", rows, images_BxFxF, cols, precision="highest")
    views = {"image": images_BxFxF}
    if "labels" in batch:
        # For each output pixel the row and the column of the crop with the largest interpolation weight.
        row_BxFx1, col_Bx1xF = jnp.argmax(rows, axis=2)[:, :, None], jnp.argmax(cols, axis=2)[:, None, :]
        labels = jnp.take_along_axis(batch["labels"].astype(jnp.int32), row_BxFx1, axis=1)
        views["labels"] = jnp.take_along_axis(labels, col_Bx1xF, axis=2)
    turn = batch["transpose"][:, None, None] == 1
    return {k: jnp.where(turn, jnp.swapaxes(v, 1, 2), v) for k, v in views.items()}
