"""Cover-stride inference (MAESTER, Xie et al. 2023): a token for every pixel, by pixel shifts.

At each of patch x patch pixel shifts, fields of view cover a slice so that every token of the
shifted grid is among the central tokens of exactly one of them, and only those are kept. Each
is written at the middle of its patch: pixel p of an axis gets the token whose patch begins at
p - patch // 2. For an odd patch that is the pixel in its middle. For an even one the middle
lies between two pixels, and the later one is taken: its centre is half a pixel after the middle.

MAESTER's release writes each token 2 to 3 pixels after its middle and pads with black; only the
aligned way is offered here, and the border is a mirror (`expand_stride.reflect`).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from his4mae_jax.inference.expand_stride import cut_and_encode, reflect


def central_tokens(tokens):
    """`(first, number)` of the tokens kept along a side of a field of view of `tokens`.

    A quarter of them, as in MAESTER (4 of 16), and one more where a quarter has no middle.
    """
    number = max(tokens // 4, 1)
    number += (tokens - number) % 2
    return (tokens - number) // 2, number


def block_size(fov, patch):
    """Pixels along a side that the fields of view of one place fill, over all shifts."""
    return central_tokens(fov // patch)[1] * patch


def count_fovs(shape, fov, patch, axes):
    """Fields of view to encode for a volume (z, y, x): all voxels, sliced across each of `axes`.

    Only those are counted (and encoded) that give a pixel inside the slice. A slice of
    545 x 1082 takes 140 x 272 = 38,080 at a field of view of 80 and patch 5. MAESTER's release
    takes 142 x 287 = 40,754: its blocks of 20 pixels lie 19 apart, so that neighbours share one.
    Tiles whose sides are multiples of `block_size` repeat none.
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
    """One axis of a tile; its lattice is every voxel written. The counterpart of `AxisTile`."""

    write: tuple[int, int]  # voxels of the volume that this tile labels
    pixels: np.ndarray  # padded pixel -> voxel of the volume (reflection at its border)
    origins: np.ndarray  # first padded pixel of each field of view
    place: np.ndarray  # written voxel -> number of its field of view * tokens kept + which of them

    @property
    def points(self):
        return self.write[1] - self.write[0]

    @property
    def slices(self):
        """Voxel of the volume at each lattice point: where slices are cut."""
        return np.arange(*self.write)

    @property
    def read(self):
        """Voxels of the volume that it reads, `(start, stop)`."""
        # Slices across this axis are cut at the voxels written, which a reflection need not read.
        return min(int(self.pixels.min()), self.write[0]), max(int(self.pixels.max()) + 1, self.write[1])

    @property
    def lower(self):
        """Lattice point of each written voxel ..."""
        return np.arange(self.points)

    @property
    def fraction(self):
        """... and the share of the point above it: none."""
        return np.zeros(self.points, np.float32)

    def moved(self, by):
        """The same, of an axis that begins at voxel `by` of a longer one."""
        return dataclasses.replace(self, write=(self.write[0] + by, self.write[1] + by), pixels=self.pixels + by)

    @property
    def scale(self):
        """Lattice points a voxel."""
        return 1

    def arrays(self, begin):
        """What `token_grid` needs, voxels counted from `begin`: a dict of arrays."""
        return {
            "pixels": self.pixels - begin, "origins": self.origins, "place": self.place,
            "slices": self.slices - begin, "lower": self.lower, "fraction": self.fraction,
        }  # fmt: skip


def axis_tile(length, write, fov, patch):
    """Plan one axis for the voxels `write = (start, stop)` of an axis `length` long.

    The fields of view are those of the whole axis, so tiles agree with the untiled result.
    """
    first, kept = central_tokens(fov // patch)
    token, shift = np.divmod(np.arange(*write), patch)
    block, within = np.divmod(token, kept)
    # One field of view for each block and shift; its first kept patch has its middle at the
    # first pixel of that block and shift.
    begins, number = np.unique(block * kept * patch + shift - first * patch - patch // 2, return_inverse=True)
    start = int(begins[0])
    pixels = reflect(np.arange(start, begins[-1] + fov), length)
    return CoverTile(write=write, pixels=pixels, origins=begins - start, place=number * kept + within)


def token_grid(project, slices_SxHxW, rows, cols, *, fov, patch, batch):
    """The kept tokens of S equal slices, at their pixels: `(S, rows' points, columns' points, F)`.

    `project` maps images `(B, fov, fov)` to `(B, g, g, F)`: tokens themselves, or their C
    scores. `rows` and `cols` are `CoverTile.arrays`, `slices` what the tiles say to read.
    """
    first, kept = central_tokens(fov // patch)
    keep = slice(first, first + kept)
    values = cut_and_encode(lambda x: project(x)[:, keep, keep], slices_SxHxW, rows, cols, fov=fov, batch=batch)
    S, R, C, _, _, F = values.shape
    values = values.swapaxes(2, 3).reshape(S, R * kept, C * kept, F)
    return values[:, rows["place"]][:, :, cols["place"]].astype(jnp.float32)


def fovs_at(box_ZxYxX, tiles, axis, index_Mx3, fov, patch):
    """The fields of view, across `axis`, whose tokens `token_grid` puts at M voxels.

    `box` is what the tiles read, `index` is relative to what they write. Returns `(M, fov, fov)`
    pixels and `(M, 2)`, the row and column of each voxel's token in its field of view.
    """
    first, kept = central_tokens(fov // patch)
    pixels, token = [], []
    for i, tile in enumerate(tiles):
        if i != axis:
            number, within = np.divmod(tile.place[index_Mx3[:, i]], kept)
            pixels.append(tile.pixels[tile.origins[number][:, None] + np.arange(fov)] - tile.read[0])
            token.append(first + within)
    rows, cols = pixels
    across = index_Mx3[:, axis] + tiles[axis].write[0] - tiles[axis].read[0]
    box = np.moveaxis(box_ZxYxX, axis, 0)
    return box[across[:, None, None], rows[:, :, None], cols[:, None, :]], np.stack(token, axis=1)


def tokens_at(encode, box_ZxYxX, tiles, axis, index_Mx3, *, fov, patch, batch, dim):
    """Tokens of `dim` features that `token_grid` puts at M voxels, from slices across `axis`, on the host: `(M, D)`.

    `encode` maps fields of view `(batch, fov, fov)` and, in each, the row and column of one
    token to these tokens. Only the fields of view of the M voxels are cut and encoded.
    """
    # Whole batches, filled up with the first voxel: one shape is compiled.
    full_Nx3 = np.concatenate([index_Mx3, np.zeros((-len(index_Mx3) % batch, 3), int)])
    found = [np.zeros((0, dim), np.float32)]
    for i in range(0, len(full_Nx3), batch):
        fovs, token_Bx2 = fovs_at(box_ZxYxX, tiles, axis, full_Nx3[i : i + batch], fov, patch)
        found.append(np.asarray(encode(fovs, token_Bx2), np.float32))
    return np.concatenate(found)[: len(index_Mx3)]
