"""Positions of crops in cells, so that crops of one cell lie near each other, and which cells are drawn.

On each axis a crop of the largest extent E has N = S - E + 1 positions in S voxels of content; cells divide [0, N), and
a cell is drawn by drawing a position. A smaller crop, of extent e, has N + E - e positions; cell [a, b) of them is
[a + a (E - e) // N, b + b (E - e) // N). These cells, too, leave no gap and do not overlap, and all crops of a cell lie
in the voxels [a, b + E - 1).

Where chunks of a volume are not stored, a cell is drawn as often as there are stored voxels where its crops may lie:
one that holds none is never drawn.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.sampling.geometry import Geometry
from his4mae_jax.data.stores.chunks.stored import Stored

MOST = 1 << 18  # cells with something stored, of all volumes; with more of them, all cells are drawn
_WEIGHTS = 1 << 30  # of all cells together


@dataclasses.dataclass(frozen=True)
class Filled:
    """The cells that are drawn, those of one volume after those of another.

    Attributes:
      cells_Nx3: their numbers on each axis.
      upto_N: sum of the weights of a cell and of all before it.
      before_V: of each volume, sum of the weights of all cells of those before it.
      weight_V: of each volume, sum of the weights of its cells.
    """

    cells_Nx3: np.ndarray
    upto_N: np.ndarray
    before_V: np.ndarray
    weight_V: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of V volumes, int32 arrays of (z, y, x).

    Attributes:
      low_Vx3: first voxel of the content.
      positions_Vx3: N of the module's docstring.
      reach_Vx3: E of the module's docstring.
      first_Vx3: positions in the first cell.
      step_Vx3: positions in each further cell but the last.
      filled: those that are drawn; None: all, and every position with the same probability.
    """

    low_Vx3: np.ndarray
    positions_Vx3: np.ndarray
    reach_Vx3: np.ndarray
    first_Vx3: np.ndarray
    step_Vx3: np.ndarray
    filled: Filled | None = None

    def draw(self, key: jax.Array, volume: jax.Array) -> jax.Array:
        """The number `(3,)` of a cell of a volume on each axis."""
        if self.filled is None:
            position = jax.random.randint(key, (3,), 0, jnp.asarray(self.positions_Vx3)[volume])
            first, width = jnp.asarray(self.first_Vx3)[volume], jnp.asarray(self.step_Vx3)[volume]
            return (position - first + width) // width
        at = jax.random.randint(key, (), 0, jnp.asarray(self.filled.weight_V)[volume])
        at = at + jnp.asarray(self.filled.before_V)[volume]
        row = jnp.searchsorted(jnp.asarray(self.filled.upto_N), at, side="right")
        return jnp.asarray(self.filled.cells_Nx3)[row]

    def bounds(self, cell: jax.Array, volume: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(first, last + 1) position of cells, `(B, 3)`, relative to the content of volumes `(B,)`."""
        first, width = jnp.asarray(self.first_Vx3)[volume], jnp.asarray(self.step_Vx3)[volume]
        low = jnp.where(cell == 0, 0, first + (cell - 1) * width)
        return low, jnp.minimum(first + cell * width, jnp.asarray(self.positions_Vx3)[volume])

    def start_range(
        self, cell_low: jax.Array, cell_high: jax.Array, volume: jax.Array, extent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Where crops in these cells may begin.

        Args:
          cell_low: `(B, 3)`, of `bounds`.
          cell_high: `(B, 3)`, of `bounds`.
          volume: `(B,)`.
          extent: `(B, 3)` voxels of each crop on each axis.

        Returns:
          (first, last + 1) voxel at which each crop may begin, both `(B, 3)`.
        """
        # In two terms: the product of two positions would not fit an int32.
        more, positions = jnp.asarray(self.reach_Vx3)[volume] - extent, jnp.asarray(self.positions_Vx3)[volume]
        low = jnp.asarray(self.low_Vx3)[volume]
        return tuple(low + p + p * more // positions for p in (cell_low, cell_high))


def make_cells(
    geometry: Geometry, chunks: Sequence[Sequence[int]], side: int, stored: Sequence[Stored | None] = ()
) -> Cells:
    """Divides the positions in a geometry into cells.

    Args:
      geometry: where fields of view may lie.
      chunks: chunk shape (z, y, x) of each volume. Cells begin on chunk borders unless chunks are longer than `side`.
      side: voxels, about, that the crops of a cell lie in on each axis; at least twice those of a field of view.
      stored: for each volume which parts are stored, where others hold nothing but padding.
    """
    low_Vx3, reach_Vx3 = geometry.low_Vx3, geometry.reach_Vx3
    positions_Vx3 = geometry.high_Vx3 - low_Vx3 - reach_Vx3 + 1
    first_Vx3, step_Vx3 = positions_Vx3.copy(), positions_Vx3.copy()  # one cell
    for at in np.ndindex(positions_Vx3.shape):
        positions, reach, chunk = int(positions_Vx3[at]), int(reach_Vx3[at]), int(chunks[at[0]][at[1]])
        room = max(side, 2 * reach) - reach
        if positions <= room:
            continue
        if chunk <= side:
            step_Vx3[at] = max(1, room // chunk) * chunk
            first_Vx3[at] = step_Vx3[at] - low_Vx3[at] % chunk
        else:
            step_Vx3[at] = first_Vx3[at] = -(-positions // -(-positions // room))
    cells = Cells(
        low_Vx3=low_Vx3, positions_Vx3=positions_Vx3, reach_Vx3=reach_Vx3, first_Vx3=first_Vx3, step_Vx3=step_Vx3
    )
    if not any(one is not None for one in stored):
        return cells
    return dataclasses.replace(cells, filled=_filled(cells, stored))


def _filled(cells: Cells, stored: Sequence[Stored | None]) -> Filled | None:
    """The cells in which something is stored; None where there are too many to list."""
    listed, weights = [], []
    for v, own in enumerate(stored):
        begins, ends = _edges(cells, v)
        boxes = [
            (low + b, low + e + reach - 1)
            for b, e, low, reach in zip(begins, ends, cells.low_Vx3[v], cells.reach_Vx3[v], strict=True)
        ]
        if own is None:
            # Positions, not voxels: as without weights.
            counts = functools.reduce(
                np.multiply.outer, [(e - b).astype(float) for b, e in zip(begins, ends, strict=True)]
            )
        else:
            counts = own.voxels_of(boxes)
        if not counts.any():
            return None
        at = np.argwhere(counts)
        if sum(map(len, listed)) + len(at) > MOST:
            return None
        listed.append(at)
        weights.append(counts[tuple(at.T)])
    share = _WEIGHTS // len(stored)
    weights = [np.maximum(1, np.floor(w * (share / w.sum()))).astype(np.int64) for w in weights]
    sums = np.array([w.sum() for w in weights])
    as_int = functools.partial(np.asarray, dtype=np.int32)
    upto, before = np.cumsum(np.concatenate(weights)), np.cumsum(sums) - sums
    return Filled(as_int(np.concatenate(listed)), as_int(upto), as_int(before), as_int(sums))


def _edges(cells: Cells, v: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The positions at which the cells of a volume begin and end, for each axis."""
    begins, ends = [], []
    for n, first, step in zip(cells.positions_Vx3[v], cells.first_Vx3[v], cells.step_Vx3[v], strict=True):
        begins.append(np.append(0, np.arange(first, n, step)))
        ends.append(np.append(begins[-1][1:], n))
    return begins, ends
