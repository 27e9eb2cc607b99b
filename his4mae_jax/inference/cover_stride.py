"""Cover-stride inference (MAESTER, Xie et al. 2023): a token for every pixel, by pixel shifts.

At each of patch x patch pixel shifts, fields of view cover a slice so that every token of the shifted lattice is among
the central tokens of exactly one of them; only those are kept. Each is written at the middle of its patch: pixel p of
an axis gets the token whose patch begins at p - patch // 2. For an odd patch that is the pixel in its middle. For an
even one the middle lies between two pixels, and the later one is taken, half a pixel after the middle.

MAESTER's release writes each token 2 to 3 pixels after its middle and pads with black. Here tokens are aligned, and
the border is a mirror (`expand_stride.reflect`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.data.volumes.grid import Line, between_voxels, nearest_voxels
from his4mae_jax.inference.expand_stride import SAME, Images, cut_and_encode, reflect


def central_tokens(tokens: int) -> tuple[int, int]:
    """(first, number) of the tokens kept along a side of a field of view of `tokens`.

    A quarter of them, as in MAESTER (4 of 16), and one more where a quarter has no middle.
    """
    number = max(tokens // 4, 1)
    number += (tokens - number) % 2
    return (tokens - number) // 2, number


def block_size(fov: int, patch: int) -> int:
    """Pixels along a side that the kept tokens of one field of view and all its pixel shifts fill."""
    return central_tokens(fov // patch)[1] * patch


def count_fovs(shape: Sequence[int], fov: int, patch: int, axes: str) -> int:
    """Fields of view to encode for a volume (z, y, x): all voxels, sliced across each of `axes`.

    Only those that give a pixel inside the slice are counted (and encoded). A slice of 545 x 1082 takes
    140 x 272 = 38,080 at a field of view of 80 and patch 5. MAESTER's release takes 142 x 287 = 40,754: its blocks of
    20 pixels lie 19 apart and overlap by one. Tiles whose sides are multiples of `block_size` encode none twice.
    """
    kept = central_tokens(fov // patch)[1]

    def along(length):
        return sum(-(-len(range(shift, length, patch)) // kept) for shift in range(patch))

    return sum(
        shape[axis] * int(np.prod([along(n) for i, n in enumerate(shape) if i != axis]))
        for axis in ("zyx".index(a) for a in axes)
    )


@dataclasses.dataclass(frozen=True)
class CoverTile:
    """One axis of a tile; its lattice is voxels of the volume. The counterpart of `expand_stride.AxisTile`.

    Attributes:
      write: the voxels that this tile labels, (start, stop).
      nearest: for each of them the voxel of the volume that it lies in, or the nearest.
      slices: the lattice points, as voxels of the volume: where labels are written on its grid, those written.
      pixels: voxel of the volume for each padded pixel (mirrored at the volume's border).
      origins: first padded pixel of each field of view.
      token: for each lattice point its token, as field of view * tokens kept + which of them.
      lower: for each written voxel the lattice point below it.
      fraction: and the weight of the point above: 0 where labels are written on the volume's grid.
      first: index of the first lattice point in the lattice of the whole axis.
    """

    write: tuple[int, int]
    nearest: np.ndarray
    slices: np.ndarray
    pixels: np.ndarray
    origins: np.ndarray
    token: np.ndarray
    lower: np.ndarray
    fraction: np.ndarray
    first: int

    @property
    def points(self) -> int:
        """Number of lattice points."""
        return len(self.slices)

    @property
    def positions(self) -> np.ndarray:
        """Where each lattice point lies, in voxels of the volume (float)."""
        return self.slices.astype(np.float64)

    @property
    def read(self) -> tuple[int, int]:
        """Voxels of the volume that it reads, (start, stop)."""
        # Slices across this axis are cut at the lattice points; mirrored pixels need not include all of them.
        voxels = np.concatenate([self.pixels, self.slices])
        return int(voxels.min()), int(voxels.max()) + 1

    def moved(self, by: int) -> Self:
        """The same tile of an axis that begins at voxel `by` of a longer one."""
        moved = {key: getattr(self, key) + by for key in ("nearest", "slices", "pixels", "first")}
        return dataclasses.replace(self, **moved)

    @property
    def scale(self) -> float:
        """See `AxisTile.scale`; there is no smoothing here that would use it."""
        return 1

    def arrays(self, begin: int) -> dict[str, np.ndarray]:
        """The arrays that `token_grid` takes, with voxels counted from `begin`."""
        return {
            "pixels": self.pixels - begin, "origins": self.origins, "token": self.token,
            "slices": self.slices - begin, "lower": self.lower, "fraction": self.fraction,
        }  # fmt: skip


def axis_tile(length: int, write: tuple[int, int], fov: int, patch: int, line: Line = SAME) -> CoverTile:
    """Plans one axis of a tile. The fields of view are those of the whole axis: tiles agree with the untiled result.

    Args:
      length: of the axis in voxels of the volume.
      write: voxels to label, (start, stop).
      fov, patch: sides of a field of view and of a patch in pixels.
      line: where the voxels to label lie.
    """
    keep_from, kept = central_tokens(fov // patch)
    lower, fraction, needed = between_voxels(line.at(*write), length)
    slices = np.arange(*needed)
    token, shift = np.divmod(slices, patch)
    block, within = np.divmod(token, kept)
    # One field of view for each block and shift; its first kept patch has its middle at the
    # first pixel of that block and shift.
    begins, number = np.unique(block * kept * patch + shift - keep_from * patch - patch // 2, return_inverse=True)
    start = int(begins[0])
    return CoverTile(
        write=write, nearest=nearest_voxels(line.at(*write), length), slices=slices,
        pixels=reflect(np.arange(start, begins[-1] + fov), length), origins=begins - start,
        token=number * kept + within, lower=lower - needed[0], fraction=fraction, first=needed[0],
    )  # fmt: skip


def token_grid(
    project: Images,
    slices_SxHxW: jax.Array,
    rows: Mapping[str, jax.Array],
    cols: Mapping[str, jax.Array],
    *,
    fov: int,
    patch: int,
    batch: int,
) -> jax.Array:
    """The kept tokens of S slices at their pixels, `(S, points of rows, points of cols, F)` float32.

    Arguments are those of `expand_stride.token_grid`, with `CoverTile.arrays` for rows and columns.
    """
    first, kept = central_tokens(fov // patch)
    keep = slice(first, first + kept)
    values = cut_and_encode(lambda x: project(x)[:, keep, keep], slices_SxHxW, rows, cols, fov=fov, batch=batch)
    S, R, C, _, _, F = values.shape
    values = values.swapaxes(2, 3).reshape(S, R * kept, C * kept, F)
    return values[:, rows["token"]][:, :, cols["token"]].astype(jnp.float32)


def fovs_at(
    box_ZxYxX: np.ndarray, tiles: Sequence[CoverTile], axis: int, index_Mx3: np.ndarray, fov: int, patch: int
) -> tuple[np.ndarray, np.ndarray]:
    """The fields of view of slices across `axis` whose tokens `token_grid` puts at M voxels.

    Args:
      box_ZxYxX: the box that the tiles read.
      tiles: of the axes z, y, x.
      axis: 0, 1 or 2.
      index_Mx3: lattice points of the tiles.
      fov, patch: sides of a field of view and of a patch in pixels.

    Returns:
      `(M, fov, fov)` pixels and `(M, 2)`, the row and column of each voxel's token in its field of view.
    """
    first, kept = central_tokens(fov // patch)
    pixels, token = [], []
    for i, tile in enumerate(tiles):
        if i != axis:
            number, within = np.divmod(tile.token[index_Mx3[:, i]], kept)
            pixels.append(tile.pixels[tile.origins[number][:, None] + np.arange(fov)] - tile.read[0])
            token.append(first + within)
    rows, cols = pixels
    across = tiles[axis].slices[index_Mx3[:, axis]] - tiles[axis].read[0]
    box = np.moveaxis(box_ZxYxX, axis, 0)
    return box[across[:, None, None], rows[:, :, None], cols[:, None, :]], np.stack(token, axis=1)


def tokens_at(
    encode: Callable[[np.ndarray, np.ndarray], jax.Array],
    box_ZxYxX: np.ndarray,
    tiles: Sequence[CoverTile],
    axis: int,
    index_Mx3: np.ndarray,
    *,
    fov: int,
    patch: int,
    batch: int,
    dim: int,
    done: Callable[[float], None] = lambda fraction: None,
) -> np.ndarray:
    """The tokens that `token_grid` puts at M voxels; only the fields of view of these voxels are cut and encoded.

    Args:
      encode: fields of view `(batch, fov, fov)` and in each the row and column of one token, `(batch, 2)`, to these
        tokens, `(batch, dim)`.
      box_ZxYxX, tiles, axis, index_Mx3, fov, patch: see `fovs_at`.
      batch: fields of view in a dispatch.
      dim: features of a token, D.
      done: called with the fraction that is finished, after each dispatch.

    Returns:
      `(M, D)` float32, on the host.
    """
    # Whole batches, filled up with the first voxel: one shape is compiled.
    full_Nx3 = np.concatenate([index_Mx3, np.zeros((-len(index_Mx3) % batch, 3), int)])
    tokens = [np.zeros((0, dim), np.float32)]
    for i in range(0, len(full_Nx3), batch):
        fovs, token_Bx2 = fovs_at(box_ZxYxX, tiles, axis, full_Nx3[i : i + batch], fov, patch)
        tokens.append(np.asarray(encode(fovs, token_Bx2), np.float32))
        done((i + batch) / len(full_Nx3))
    return np.concatenate(tokens)[: len(index_Mx3)]
