"""Where a grid lies whose axes are vectors in space, as NIfTI and NRRD have them."""

from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.stores.units import Triple
from his4mae_jax.progress import say_once

# Signs of the axes x, y, z along those of space: the same, or with x and y against them, as files of ITK have it.
_PLACED = ((1, 1, 1), (-1, -1, 1))


def grid_of(
    steps: Sequence[Sequence[float]], origin: Sequence[float] | None, name: str
) -> tuple[Triple, Triple | None]:
    """Returns the voxel size and the position of the first voxel, each z, y, x, in the units of the vectors.

    Voxels stay in the order in which they are stored. Where x and y run against space, positions are counted along
    them. A grid that lies in space in another way has no position, and that is said once.

    Args:
      steps: (3, 3), the vector from a voxel to its neighbour along x, y and z.
      origin: (x, y, z) of the first voxel; None: not known.
      name: of the volume, for the message.
    """
    matrix = np.asarray(steps, float)
    lengths = np.linalg.norm(matrix, axis=1)
    size = tuple(float(n) for n in lengths[::-1])
    if origin is None or not np.isfinite(matrix).all() or not lengths.all():
        return size, None
    across = np.abs(matrix - np.diag(np.diag(matrix))).max(axis=1) > 1e-3 * lengths
    signs = tuple(int(s) for s in np.sign(np.diag(matrix)))
    if across.any() or signs not in _PLACED:
        say_once(
            f"{name}: its axes run across those of space, or against some of them; it is read as it is stored, without "
            "a position, and labels have to be stored in the same way"
        )
        return size, None
    return size, tuple(float(o) * s for o, s in zip(origin, signs, strict=True))[::-1]
