"""Where fields of view may lie in volumes: the box of their content, and the axes across which slices hold one."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError

PLANE_AXES = np.array([[1, 2], [0, 2], [0, 1]])  # rows and columns of a slice across z, y, x


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where fields of view of V volumes may lie, int32 arrays of (z, y, x).

    Attributes:
      low_Vx3: first voxel of the content.
      high_Vx3: voxel behind the last one of the content.
      axes_Vx3: the axes across which slices are taken, filled up by repeating them.
      num_axes_V: how many of those are distinct.
      reach_Vx3: most voxels that a field of view has on an axis: fov, or 1 on the only axis that is sliced across.
    """

    low_Vx3: np.ndarray
    high_Vx3: np.ndarray
    axes_Vx3: np.ndarray
    num_axes_V: np.ndarray
    reach_Vx3: np.ndarray


def make_geometry(volumes: Sequence[VolumeLike], boxes: Sequence[Box], axes: str | Sequence[str], fov: int) -> Geometry:
    """Finds the axes of every volume across which a slice holds a field of view.

    Args:
      volumes: V volumes.
      boxes: the content of each, in voxels.
      axes: some of "zyx" for all volumes, or one such string for each.
      fov: side of a field of view in voxels.

    Raises:
      UserError: no slice of a volume across its axes is at least fov x fov.
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
