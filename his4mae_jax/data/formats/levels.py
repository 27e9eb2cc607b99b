"""The resolutions that a multiscale volume is stored at, and the choice of one of them."""

import dataclasses
import math
from collections.abc import Sequence

import tensorstore as ts

from his4mae_jax.data.formats.units import NM, Triple

TOLERANCE = 0.01  # a voxel within 1 % of the size asked for has that size


@dataclasses.dataclass(frozen=True)
class Level:
    """One stored resolution.

    Attributes:
      path: of its array, relative to the group; empty: the volume itself.
      scale: edges of a voxel (z, y, x) in the metadata's own units; None where it names none.
      units: of `scale`, as the metadata spell them; None where they name none.
    """

    path: str
    scale: Triple | None = None
    units: tuple[str | None, ...] = (None, None, None)

    @property
    def size_nm(self) -> Triple | None:
        """Voxel size in nm, as the metadata say it (maybe not positive); None unless with units that are known."""
        nm = [NM.get(str(u).strip().lower()) for u in self.units]
        if self.scale is None or not all(nm):
            return None
        return tuple(s * u for s, u in zip(self.scale, nm, strict=True))

    @property
    def unknown_units(self) -> tuple[str, ...]:
        """Units that the metadata name and nobody here knows."""
        return tuple(sorted({str(u) for u in self.units if u and str(u).strip().lower() not in NM}))


@dataclasses.dataclass(frozen=True)
class Opened:
    """What the reader of a format hands on.

    Attributes:
      array: in the order z, y, x.
      voxel_size_nm: None where it neither is given nor in the metadata with known units.
      factors: edges of its voxels over those of level 0 (z, y, x).
      unknown_units: as `Level.unknown_units`.
    """

    array: ts.TensorStore
    voxel_size_nm: Triple | None
    factors: Triple = (1.0, 1.0, 1.0)
    unknown_units: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What `open_volume` is asked for, as the readers of formats need it.

    Attributes:
      given: voxel size of level 0 in nm, which goes before the metadata's; or None.
      target_nm: voxel size that a level is chosen for; None: level 0.
      missing_chunks: "fill" reads a chunk that is not stored as the fill value, "error" refuses it.
      cache_bytes: decoded chunks kept in memory.
    """

    given: Triple | None = None
    target_nm: Triple | None = None
    missing_chunks: str = "fill"
    cache_bytes: int = 32 << 20


def choose(levels: Sequence[Level], wanted: Wanted) -> tuple[Level, Triple | None, Triple]:
    """Picks the coarsest level whose voxels are, on every axis, no larger than the target's.

    Level 0 where none is so fine, where no target is asked for, or where sizes are not known.

    Args:
      levels: from the finest.
      wanted: with `given`, the other levels' sizes follow from their scales.

    Returns:
      (level, its voxel size in nm or None, its voxel's edges over those of level 0).
    """
    sizes = [level.size_nm for level in levels]
    if wanted.given:
        sizes = [_times(wanted.given, _factors(level, levels[0])) for level in levels]
        sizes[0] = wanted.given
    best = 0
    if wanted.target_nm and all(sizes):
        limit = [t * (1 + TOLERANCE) for t in wanted.target_nm]
        fine = [i for i, size in enumerate(sizes) if all(s <= m for s, m in zip(size, limit, strict=True))]
        best = max(fine, key=lambda i: math.prod(sizes[i]), default=0)
    return levels[best], sizes[best], _factors(levels[best], levels[0]) or (1.0, 1.0, 1.0)


def _factors(level: Level, first: Level) -> Triple | None:
    if level is first:
        return (1.0, 1.0, 1.0)
    if level.scale is None or first.scale is None or not all(s > 0 for s in first.scale):
        return None
    return tuple(a / b for a, b in zip(level.scale, first.scale, strict=True))


def _times(size: Triple, factors: Triple | None) -> Triple | None:
    return None if factors is None else tuple(a * b for a, b in zip(size, factors, strict=True))
