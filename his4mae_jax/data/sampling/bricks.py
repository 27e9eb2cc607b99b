"""A rolling pool of bricks, from which fields of view are cut when volumes do not fit in memory.

A batch of fields of view anywhere in a large volume touches a thousand chunks. Here every field of view of a step lies
in one of `slots` bricks (boxes of voxels whose lower faces lie on chunk borders). A brick stays for `slots * every`
steps; every `every` steps one of them is replaced.

The brick in a slot at a step is a function of (seed, slot, step) alone, so that a resumed run has the pool of a run
that never stopped. Bricks hold the crops of one of the cells of `sampling.cells`: over time each position has the same
probability as without a pool.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.sampling.cells import Cells, make_cells
from his4mae_jax.data.sampling.geometry import Geometry
from his4mae_jax.data.stores.chunks.stored import Stored

_BRICKS_STREAM = np.uint32(2**32 - 1)  # folded into the seed's key, where steps are folded in too: none is so large


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool(Cells):
    """Where bricks of V volumes may lie, and how long they stay.

    Attributes:
      seed: of the run.
      slots: number of bricks at any step.
      every: steps between two replacements.
    """

    seed: int
    slots: int
    every: int

    def slot_range(self, row: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """(first, count) of the slots from which row `row` of a batch may take its field of view.

        Slots are divided among the rows in order: each brick serves an equal part of a batch, and a host that reads
        some of the rows needs some of the bricks only.
        """
        first = row * self.slots // batch_size
        return first, np.maximum((row + 1) * self.slots // batch_size - first, 1)

    def generations(self, step: jax.typing.ArrayLike) -> jax.Array:
        """How often each slot was refilled before `step`, `(slots,)`."""
        return (step + jnp.arange(self.slots) * self.every) // (self.slots * self.every)

    def bricks(self, step: jax.typing.ArrayLike) -> dict[str, jax.Array]:
        """The bricks of all slots at one step.

        Args:
          step: step number; may be traced.

        Returns:
          `generation` and `volume`, `(slots,)`; `cell_low` and `cell_high`, `(slots, 3)`: positions relative to the
          content; `start` and `stop`, `(slots, 3)`: voxels of the volume.
        """
        low, reach = jnp.asarray(self.low_Vx3), jnp.asarray(self.reach_Vx3)
        generation = self.generations(step)
        base = jax.random.fold_in(jax.random.key(self.seed), _BRICKS_STREAM)

        def draw(slot, generation):
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(base, slot), generation))
            volume = jax.random.randint(keys[0], (), 0, len(self.low_Vx3))
            return volume, self.draw(keys[1], volume)

        volume, cell = jax.vmap(draw)(jnp.arange(self.slots), generation)
        cell_low, cell_high = self.bounds(cell, volume)
        return {
            "generation": generation,
            "volume": volume,
            "cell_low": cell_low,
            "cell_high": cell_high,
            "start": low[volume] + cell_low,
            "stop": low[volume] + cell_high + reach[volume] - 1,
        }


def make_pool(
    geometry: Geometry,
    chunks: Sequence[Sequence[int]],
    *,
    seed: int,
    slots: int,
    every: int,
    brick: int,
    stored: Sequence[Stored | None] = (),
) -> Pool:
    """Makes the pool of a geometry.

    Args:
      geometry: where fields of view may lie.
      chunks: chunk shape (z, y, x) of each volume. Cells begin on chunk borders unless chunks are longer than a brick.
      seed: of the run.
      slots: number of bricks at any step.
      every: steps between two replacements.
      brick: approximate side in voxels; a brick is at least twice as long as a field of view.
      stored: see `make_cells`.
    """
    cells = make_cells(geometry, chunks, brick, stored)
    own = {field.name: getattr(cells, field.name) for field in dataclasses.fields(cells)}
    return Pool(seed=seed, slots=slots, every=every, **own)
