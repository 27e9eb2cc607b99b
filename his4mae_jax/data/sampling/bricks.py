"""A rolling pool of bricks, from which fields of view are cut when volumes do not fit in memory.

A batch of fields of view anywhere in a large volume touches a thousand chunks. Here every field of view of a step lies
in one of `slots` bricks (boxes of voxels whose lower faces lie on chunk borders). A brick stays for `slots * every`
steps; every `every` steps one of them is replaced.

The brick in a slot at a step is a function of (seed, slot, step) alone, so that a resumed run has the pool of a run
that never stopped. Over time each position has the same probability as without a pool. On each axis a crop of the
largest extent E has N = S - E + 1 positions in S voxels of content; bricks divide [0, N) into cells, and a brick is
drawn by drawing a position and taking its cell. A smaller crop, of extent e, has N + E - e positions; cell [a, b) of
them is [a + a (E - e) // N, b + b (E - e) // N). These cells, too, leave no gap and do not overlap, and all crops of a
cell lie in the voxels [a, b + E - 1).
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.sampling.geometry import Geometry

_BRICKS_STREAM = np.uint32(2**32 - 1)  # folded into the seed's key, where steps are folded in too: none is so large


@dataclasses.dataclass(frozen=True)
class Pool:
    """Where bricks of V volumes may lie, int32 arrays of (z, y, x), and how long they stay.

    Attributes:
      seed: of the run.
      slots: number of bricks at any step.
      every: steps between two replacements.
      low_Vx3: first voxel of the content.
      positions_Vx3: N of the module's docstring.
      reach_Vx3: E of the module's docstring.
      first_Vx3: positions in the first cell.
      step_Vx3: positions in each further cell but the last.
    """

    seed: int
    slots: int
    every: int
    low_Vx3: np.ndarray
    positions_Vx3: np.ndarray
    reach_Vx3: np.ndarray
    first_Vx3: np.ndarray
    step_Vx3: np.ndarray

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
        low, positions, reach, first, width = (
            jnp.asarray(a) for a in (self.low_Vx3, self.positions_Vx3, self.reach_Vx3, self.first_Vx3, self.step_Vx3)
        )
        generation = self.generations(step)
        base = jax.random.fold_in(jax.random.key(self.seed), _BRICKS_STREAM)

        def draw(slot, generation):
            keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(base, slot), generation))
            volume = jax.random.randint(keys[0], (), 0, len(self.low_Vx3))
            return volume, jax.random.randint(keys[1], (3,), 0, positions[volume])

        volume, position = jax.vmap(draw)(jnp.arange(self.slots), generation)
        first, width = first[volume], width[volume]
        cell = (position - first + width) // width
        cell_low = jnp.where(cell == 0, 0, first + (cell - 1) * width)
        cell_high = jnp.minimum(first + cell * width, positions[volume])
        return {
            "generation": generation,
            "volume": volume,
            "cell_low": cell_low,
            "cell_high": cell_high,
            "start": low[volume] + cell_low,
            "stop": low[volume] + cell_high + reach[volume] - 1,
        }

    def start_range(
        self, cell_low: jax.Array, cell_high: jax.Array, volume: jax.Array, extent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Where crops in these cells may begin.

        Args:
          cell_low: `(B, 3)`, of `bricks`.
          cell_high: `(B, 3)`, of `bricks`.
          volume: `(B,)`.
          extent: `(B, 3)` voxels of each crop on each axis.

        Returns:
          (first, last + 1) voxel at which each crop may begin, both `(B, 3)`.
        """
        # In two terms: the product of two positions would not fit an int32.
        more, positions = jnp.asarray(self.reach_Vx3)[volume] - extent, jnp.asarray(self.positions_Vx3)[volume]
        low = jnp.asarray(self.low_Vx3)[volume]
        return tuple(low + p + p * more // positions for p in (cell_low, cell_high))


def make_pool(
    geometry: Geometry, chunks: Sequence[Sequence[int]], *, seed: int, slots: int, every: int, brick: int
) -> Pool:
    """Makes the pool of a geometry.

    Args:
      geometry: where fields of view may lie.
      chunks: chunk shape (z, y, x) of each volume. Cells begin on chunk borders unless chunks are longer than a brick.
      seed: of the run.
      slots: number of bricks at any step.
      every: steps between two replacements.
      brick: approximate side in voxels; a brick is at least twice as long as a field of view.
    """
    low_Vx3, reach_Vx3 = geometry.low_Vx3, geometry.reach_Vx3
    positions_Vx3 = geometry.high_Vx3 - low_Vx3 - reach_Vx3 + 1
    first_Vx3, step_Vx3 = positions_Vx3.copy(), positions_Vx3.copy()  # one cell
    for at in np.ndindex(positions_Vx3.shape):
        positions, reach, chunk = int(positions_Vx3[at]), int(reach_Vx3[at]), int(chunks[at[0]][at[1]])
        room = max(brick, 2 * reach) - reach
        if positions <= room:
            continue
        if chunk <= brick:
            step_Vx3[at] = max(1, room // chunk) * chunk
            first_Vx3[at] = step_Vx3[at] - low_Vx3[at] % chunk
        else:
            step_Vx3[at] = first_Vx3[at] = -(-positions // -(-positions // room))
    return Pool(seed, slots, every, low_Vx3, positions_Vx3, reach_Vx3, first_Vx3, step_Vx3)
