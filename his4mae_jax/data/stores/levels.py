"""The levels (resolutions) of a multiscale volume, and which one to open."""

import dataclasses
import math
from collections.abc import Sequence

import tensorstore as ts

from his4mae_jax.data.stores.beside import Beside
from his4mae_jax.data.stores.placement import ZERO
from his4mae_jax.data.stores.units import NM, Triple
from his4mae_jax.progress import say_once

_LARGEST_NM = 1000  # of voxel sizes whose unit is guessed
TOLERANCE = 0.01  # voxel sizes within 1 % of each other count as equal


@dataclasses.dataclass(frozen=True)
class Level:
    """One stored resolution.

    Attributes:
      path: of its array, relative to the group; empty: the volume itself.
      scale: edge lengths (z, y, x) of a voxel in the metadata's units; None if it has none.
      units: of `scale` (z, y, x), as the metadata spells them; None if it has none.
      translation: position (z, y, x) of the centre of voxel (0, 0, 0) in the same units; None: the metadata give none.
    """

    path: str
    scale: Triple | None = None
    units: tuple[str | None, ...] = (None, None, None)
    translation: Triple | None = None

    @property
    def size_nm(self) -> Triple | None:
        """Voxel size in nm as stored (maybe not positive); None unless all units are known."""
        nm = [NM.get(str(u).strip().lower()) for u in self.units]
        if self.scale is None or not all(nm):
            return None
        return tuple(s * u for s, u in zip(self.scale, nm, strict=True))

    @property
    def unknown_units(self) -> tuple[str, ...]:
        """Units in the metadata that are not in `units.NM`."""
        return tuple(sorted({str(u) for u in self.units if u and str(u).strip().lower() not in NM}))


@dataclasses.dataclass(frozen=True)
class Opened:
    """What the reader of a format returns.

    Attributes:
      array: in the order z, y, x.
      voxel_size_nm: (z, y, x); None if it was not given and the metadata has none in known units.
      factors: voxel size (z, y, x) over that of level 0.
      unknown_units: see `Level.unknown_units`.
      origin_nm: centre (z, y, x) of voxel (0, 0, 0), see `placement`.
      inside: path of the data set in a file of several.
      size_from: path of the sidecar that the voxel size is from; empty: the volume itself.
    """

    array: ts.TensorStore
    voxel_size_nm: Triple | None
    factors: Triple = (1.0, 1.0, 1.0)
    unknown_units: tuple[str, ...] = ()
    origin_nm: Triple = ZERO
    inside: str = ""
    size_from: str = ""


@dataclasses.dataclass(frozen=True)
class OpenOptions:
    """The arguments of `open_volume` that the readers of formats need.

    Attributes:
      voxel_size_nm: of level 0, overrides the metadata's; or None.
      target_nm: voxel size to choose a level by; None: level 0.
      missing_chunks: "fill" reads a chunk that is not stored as the fill value, "error" refuses it.
      cache_bytes: decoded chunks kept in memory.
      image: whether values are grey levels; else they are label ids.
      channel: index of the channel to read; None: there is only one.
      beside: the sidecar of the volume.
    """

    voxel_size_nm: Triple | None = None
    target_nm: Triple | None = None
    missing_chunks: str = "fill"
    cache_bytes: int = 32 << 20
    image: bool = True
    channel: int | None = None
    beside: Beside = dataclasses.field(default_factory=Beside, compare=False)


def with_unit(level: Level, options: OpenOptions, name: str) -> Level:
    """Takes a voxel size without any unit for nm where it can be one of electron microscopy; says so once.

    funlib, daisy, gunpowder and Paintera write `resolution` in nm and no unit. Sizes of 1 on every axis stand for none,
    and smaller ones are in µm more often than not: those stay without a unit.

    Args:
      level: with the voxel size of the metadata.
      options: nothing is said where they give a voxel size.
      name: of the volume, for the message; empty: nothing is said.
    """
    if level.scale is None or any(level.units):
        return level
    if not all(1 <= s <= _LARGEST_NM for s in level.scale) or all(s == 1 for s in level.scale):
        return level
    if options.voxel_size_nm is None and (sidecar := options.beside.found()) and sidecar.size_nm:
        return level  # a size with a unit goes before a guess
    if name and options.voxel_size_nm is None:
        size = ", ".join(f"{s:g}" for s in level.scale)
        say_once(
            f"{name}: the voxel size in its metadata ({size}, z, y, x) has no unit and is taken for nm; if that is "
            "wrong, give the right one as voxel_size_nm in Python, or as the config key data.file_voxel_size_nm"
        )
    return dataclasses.replace(level, units=("nm",) * 3)


def choose(levels: Sequence[Level], options: OpenOptions) -> tuple[Level, Triple | None, Triple]:
    """Picks the coarsest level whose voxels are no larger than the target on any axis.

    That is level 0 if no level is fine enough, without a target, and if voxel sizes are unknown.

    Args:
      levels: from the finest.
      options: if it has a voxel size, the other levels' sizes follow from their scales.

    Returns:
      (level, its voxel size in nm or None, its voxel size over that of level 0).
    """
    sizes = [level.size_nm for level in levels]
    if options.voxel_size_nm:
        sizes = [_times(options.voxel_size_nm, _factors(level, levels[0])) for level in levels]
        sizes[0] = options.voxel_size_nm
    best = 0
    if options.target_nm and all(sizes):
        limit = [t * (1 + TOLERANCE) for t in options.target_nm]
        fine = [i for i, size in enumerate(sizes) if all(s <= m for s, m in zip(size, limit, strict=True))]
        best = max(fine, key=lambda i: math.prod(sizes[i]), default=0)
    return levels[best], sizes[best], _factors(levels[best], levels[0]) or (1.0, 1.0, 1.0)


def origin_nm(level: Level, first: Level, size_nm: Triple | None) -> Triple:
    """Returns the centre (z, y, x) of voxel (0, 0, 0) of a level in nm; 0 where the metadata give none.

    A level without a translation of its own holds blocks of voxels of level 0: it begins at the same corner.

    Args:
      level: the level that is opened.
      first: level 0 of the same volume.
      size_nm: voxel size of `level`; where it differs from that of the metadata, the position is scaled with it.
    """
    if level.scale is None or size_nm is None or not all(s > 0 for s in level.scale):
        return ZERO
    position = level.translation
    if position is None:
        base, fine = first.translation or ZERO, first.scale or level.scale
        position = tuple(b + (s - f) / 2 for b, s, f in zip(base, level.scale, fine, strict=True))
    if size_nm == level.size_nm:
        return tuple(p * NM[str(u).strip().lower()] for p, u in zip(position, level.units, strict=True))
    return tuple(p / s * nm for p, s, nm in zip(position, level.scale, size_nm, strict=True))


def opened(array: ts.TensorStore, level: Level, options: OpenOptions) -> Opened:
    """What the reader of a format with a single level returns.

    Args:
      array: in the order z, y, x.
      level: with voxel size and position of the metadata.
      options: if it has a voxel size, that takes the place of the metadata's.
    """
    size = options.voxel_size_nm or level.size_nm
    return Opened(array, size, unknown_units=level.unknown_units, origin_nm=origin_nm(level, level, size))


def _factors(level: Level, first: Level) -> Triple | None:
    if level is first:
        return (1.0, 1.0, 1.0)
    if level.scale is None or first.scale is None or not all(s > 0 for s in first.scale):
        return None
    return tuple(a / b for a, b in zip(level.scale, first.scale, strict=True))


def _times(size: Triple, factors: Triple | None) -> Triple | None:
    return None if factors is None else tuple(a * b for a, b in zip(size, factors, strict=True))
