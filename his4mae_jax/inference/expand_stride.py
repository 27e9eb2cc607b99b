"""Expand-stride inference (paper section 3.3) on the token lattice of a whole slice.

Fields of view at stride S cover a slice. Where they overlap, their tokens are averaged on the slice's own token
lattice, and only then expanded linearly to pixels (`lattice`): no seams. Both steps are linear, so they apply to score
maps (`score_maps`) as to features.

Where a tile lies is described by its `AxisTile`s, whose arrays are arguments of the functions here: all tiles of equal
shapes share one compiled program.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.volumes.grid import Line, between_voxels, nearest_voxels
from his4mae_jax.inference.encode import in_batches
from his4mae_jax.models.patches import token_positions

SAME = Line()  # labels are written on the grid of the volume
Images = Callable[[jax.Array], jax.Array]  # images (B, fov, fov) to tokens, or their scores, (B, g, g, F)


def reflect(index: np.ndarray, length: int) -> np.ndarray:
    """Mirrors indices into [0, length) without repeating the border pixel."""
    if length == 1:
        return np.zeros_like(index)
    period = 2 * (length - 1)
    folded = np.abs(index) % period
    return np.where(folded >= length, period - folded, folded)


def fov_origins(length: int, fov: int, patch: int, stride: int, overhang: int = 0) -> np.ndarray:
    """First pixel of each field of view along an axis of `length` pixels.

    The first field of view starts at the border and the last ends there. With an `overhang` they begin up to that
    many pixels outside (whole strides) and end as far beyond, on mirrored pixels: tokens at the border are then seen
    at the same positions within a field of view as those inside.
    """
    padded = max(-(-length // patch) * patch, fov)
    origins = np.arange(-(overhang // stride) * stride, padded - fov + overhang + 1, stride)
    return origins if origins[-1] >= padded - fov else np.append(origins, padded - fov)


def count_fovs(
    shape: Sequence[int], fov: int, patch: int, stride: int, axes: str, overhang: int = 0, shifts: int = 1
) -> int:
    """Fields of view to encode for a volume (z, y, x) as one tile."""
    dense = len(axes) == 1
    total = 0
    for shift in grid_shifts(patch, shifts):
        along = [len(fov_origins(n + shift, fov, patch, stride, overhang)) for n in shape]
        for axis in ("zyx".index(a) for a in axes):
            rows, cols = (n for i, n in enumerate(along) if i != axis)
            total += (shape[axis] if dense else -(-(shape[axis] + shift) // patch)) * rows * cols
    return total


def grid_shifts(patch: int, shifts: int) -> list[int]:
    """Pixels by which each of `shifts` token lattices begins before the slice: 0, and even steps of a patch."""
    return [patch * i // shifts for i in range(shifts)]


@dataclasses.dataclass(frozen=True)
class AxisTile:
    """One axis of a tile: where its fields of view lie, which lattice points it keeps, which voxels it writes.

    The lattice of an axis is that of the tokens of the whole slice: token i sits at pixel
    patch * i + (patch - 1) / 2, less the lattice's shift. Along the axis across which slices are taken one by one it
    is every voxel.

    Labels may be written on another grid than that of the volume: "written voxels" are those of that grid.

    Attributes:
      write: the voxels that this tile labels, (start, stop).
      nearest: for each of them the voxel of the volume that it lies in, or the nearest.
      pixels: voxel of the volume for each padded pixel (mirrored at the volume's border).
      origins: first padded pixel of each field of view.
      cover_PxK: for each lattice point the tokens that see it, as field of view * tokens a side + token.
      weight_PxK: and their weights in its mean, which sum to 1.
      slices: voxel of the volume where the slice of each lattice point is cut.
      lower: for each written voxel the lattice point below it.
      fraction: and the weight of the point above.
      first: index of this tile's first lattice point in the lattice of the whole axis.
      positions: where each lattice point lies, in voxels of the volume (float).
      scale: lattice points in the length of a token: the patch where every voxel is a point, else 1.
    """

    write: tuple[int, int]
    nearest: np.ndarray
    pixels: np.ndarray
    origins: np.ndarray
    cover_PxK: np.ndarray
    weight_PxK: np.ndarray
    slices: np.ndarray
    lower: np.ndarray
    fraction: np.ndarray
    first: int
    positions: np.ndarray
    scale: float = 1

    @property
    def points(self) -> int:
        """Number of lattice points."""
        return len(self.slices)

    @property
    def read(self) -> tuple[int, int]:
        """Voxels of the volume that it reads, (start, stop)."""
        voxels = np.concatenate([self.pixels, self.slices])
        return int(voxels.min()), int(voxels.max()) + 1

    def moved(self, by: int) -> Self:
        """The same tile of an axis that begins at voxel `by` of a longer one."""
        moved = {key: getattr(self, key) + by for key in ("nearest", "pixels", "slices", "positions")}
        return dataclasses.replace(self, **moved)

    def arrays(self, begin: int) -> dict[str, np.ndarray]:
        """The arrays that the functions below take, with voxels counted from `begin`."""
        return {
            "pixels": self.pixels - begin, "origins": self.origins, "cover": self.cover_PxK,
            "weight": self.weight_PxK, "slices": self.slices - begin, "lower": self.lower, "fraction": self.fraction,
        }  # fmt: skip


def axis_tile(
    length: int,
    write: tuple[int, int],
    fov: int,
    patch: int,
    stride: int,
    halo: int = 0,
    overhang: int = 0,
    expansion: str = "linear",
    edge_weight: float = 1.0,
    shift: int = 0,
    line: Line = SAME,
) -> AxisTile:
    """Plans one axis of a tile. All fields of view are those of the whole axis, so tiles agree with the untiled result.

    Args:
      length: of the axis in voxels of the volume.
      write: voxels to label, (start, stop).
      fov, patch, stride, overhang: see `fov_origins`.
      halo: lattice points kept beyond those that the written voxels need, on each side, for smoothing.
      expansion: "linear", or "nearest": a voxel gets the token in whose patch it lies.
      edge_weight: weight in the means of a field of view's outermost tokens.
      shift: pixels by which the lattice begins before the slice, on mirrored pixels.
      line: where the voxels to label lie.
    """
    tokens = fov // patch
    last_token = max(-(-(length + shift) // patch), tokens) - 1
    at = line.at(*write)
    if expansion == "nearest":
        where = (nearest_voxels(at, length) + shift) // patch
    else:
        where = token_positions(at + shift, patch, last_token + 1)
    lower = np.minimum(where.astype(np.int64), max(last_token - 1, 0))
    fraction = (where - lower).astype(np.float32)
    # Points whose middle lies outside the volume hold reflections only; smoothing treats the
    # volume's border as a mirror, too, so they are not needed beyond the next one.
    first, last = max(lower[0] - halo, 0), min(lower[-1] + 1 + halo, last_token)
    starts = fov_origins(length + shift, fov, patch, stride, overhang) // patch
    starts = starts[(starts <= last) & (starts + tokens > first)]
    begin, end = starts[0], starts[-1] + tokens
    points = np.arange(first, last + 1)
    slots = max(-(-fov // stride) + 1, 1)
    cover, weight = _covering(points, starts, token_weights(tokens, edge_weight), slots)
    return AxisTile(
        write=write, nearest=nearest_voxels(at, length),
        pixels=reflect(np.arange(begin * patch, end * patch) - shift, length),
        origins=(starts - begin) * patch, cover_PxK=cover, weight_PxK=weight,
        slices=reflect(points * patch + patch // 2 - shift, length), lower=lower - first, fraction=fraction,
        first=int(first), positions=points * patch + (patch - 1) / 2 - shift,
    )  # fmt: skip


def _covering(points, starts, token_weight, slots):
    """`AxisTile.cover_PxK` and `weight_PxK`: the tokens of each point in the order of their fields of view.

    A point has `slots` terms, unused ones of weight 0: the same sum in every tile, to the last bit.
    """
    tokens = len(token_weight)
    token = points[:, None] - starts[None, :]
    number, point = np.meshgrid(np.arange(len(starts)), np.arange(len(points)))
    sees = (token >= 0) & (token < tokens)
    relative = np.where(sees, token_weight[np.clip(token, 0, tokens - 1)], 0.0).astype(np.float64)
    relative /= relative.sum(axis=1, keepdims=True)
    cover, weight = np.zeros((len(points), slots), np.int32), np.zeros((len(points), slots), np.float32)
    slot = np.cumsum(sees, axis=1) - 1
    cover[point[sees], slot[sees]] = number[sees] * tokens + token[sees]
    weight[point[sees], slot[sees]] = relative[sees]
    return cover, weight


def dense_tile(length: int, write: tuple[int, int], halo: int = 0, scale: float = 1, line: Line = SAME) -> AxisTile:
    """Plans the axis across which slices are taken at every voxel; `halo` in voxels, `scale` voxels a token."""
    lower, fraction, (start, stop) = between_voxels(line.at(*write), length)
    first, last = max(start - halo, 0), min(stop + halo, length)
    nothing = np.zeros(0, np.int64)
    return AxisTile(
        write=write, nearest=nearest_voxels(line.at(*write), length), pixels=nothing, origins=nothing,
        cover_PxK=np.zeros((0, 1), np.int32), weight_PxK=np.zeros((0, 1), np.float32), slices=np.arange(first, last),
        lower=lower - first, fraction=fraction, scale=scale, first=first,
        positions=np.arange(first, last, dtype=np.float64),
    )  # fmt: skip


def token_weights(tokens: int, edge_weight: float) -> np.ndarray:
    """Weight of each token of a field of view along an axis: `edge_weight` outermost, 1 in the middle."""
    inward = np.minimum(np.arange(tokens), np.arange(tokens)[::-1])
    return (edge_weight + (1 - edge_weight) * inward / max(inward.max(), 1)).astype(np.float32)


def cut_and_encode(
    project: Images,
    slices_SxHxW: jax.Array,
    rows: Mapping[str, jax.Array],
    cols: Mapping[str, jax.Array],
    *,
    fov: int,
    batch: int,
) -> jax.Array:
    """Every field of view of S slices through `project`, in batches: `(S, R, C, ...)`.

    They are cut batch by batch: all fields of view at once would be the slice's pixels several times over.
    """
    padded = slices_SxHxW[:, rows["pixels"]][:, :, cols["pixels"]]
    S, R, C = len(slices_SxHxW), len(rows["origins"]), len(cols["origins"])
    at_Nx3 = jnp.stack(jnp.meshgrid(jnp.arange(S), rows["origins"], cols["origins"], indexing="ij"), -1).reshape(-1, 3)
    values = in_batches(
        lambda at_Bx3: project(jax.vmap(lambda at: jax.lax.dynamic_slice(padded, at, (1, fov, fov))[0])(at_Bx3)),
        at_Nx3, batch,
    )  # fmt: skip
    return values.reshape(S, R, C, *values.shape[1:])


def token_grid(
    project: Images,
    slices_SxHxW: jax.Array,
    rows: Mapping[str, jax.Array],
    cols: Mapping[str, jax.Array],
    *,
    fov: int,
    batch: int,
) -> jax.Array:
    """The token lattice of S slices, overlapping fields of view averaged.

    Args:
      project: images `(B, fov, fov)` to tokens, or their scores, `(B, g, g, F)`.
      slices_SxHxW: the pixels that the tiles read.
      rows, cols: `AxisTile.arrays` of the two axes.
      fov: side of a field of view in pixels.
      batch: fields of view encoded at once.

    Returns:
      `(S, points of rows, points of cols, F)` float32.
    """
    values = cut_and_encode(project, slices_SxHxW, rows, cols, fov=fov, batch=batch).astype(jnp.float32)
    S, R, C, g, _, F = values.shape
    grid = _mean(values.swapaxes(2, 3).reshape(S, R * g, C * g, F), rows, 1)
    return _mean(grid, cols, 2)


def _mean(values, plan, axis):
    """Each lattice point's weighted mean of the tokens that see it, along one axis."""
    total = 0.0
    for k in range(plan["cover"].shape[1]):  # one after the other: the order of a sum decides its last bits
        weight = plan["weight"][:, k].reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        total = total + jnp.take(values, plan["cover"][:, k], axis) * weight
    return total
