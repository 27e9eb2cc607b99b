"""How a volume is covered by fields of view and cut into tiles, and the bytes that its tiles take."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from his4mae_jax.data.volumes.grid import Line, VoxelMap
from his4mae_jax.data.volumes.volume import Box
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference.lattice import reach, smoothing_halo
from his4mae_jax.inference.tiling import Tiling, spans

Shape = tuple[int, int, int]

FIT_TILE = 256  # voxels a side at most of the cube that holds as much as a tile encoded for the fit
FEATURES_BYTES = 2**28  # of such a tile's lattice of features; smaller tiles where they would be more
EXPAND_SLICES = 8  # slices of score maps expanded to voxels at once
MAPS_BYTES = 2**30  # of a tile's score maps and labels at most; smaller tiles where there are many

# Fields of `Coverage` that are keys of `config.segment`, under the same names.
_SETTINGS = ("stride", "edge_weight", "smooth", "tile", "overhang", "inference", "expansion", "symmetries", "shifts")


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Where fields of view lie in a volume, and how the volume is cut into tiles.

    Values are not checked here: `config.segment` has been validated.

    Attributes:
      fov: side of a field of view in pixels.
      patch: side of a patch in pixels.
      dim: features of a token, D.
      axes: across which slices are taken: some of the letters z, y, x.
      stride, edge_weight, smooth, tile, overhang, inference, expansion, symmetries, shifts: the `segment.` settings
        of these names. With `inference` "cover" neither stride, edge weight, overhang, smoothing, shifts nor
        expansion matters.
      spacing: voxel size (z, y, x) over the smallest of the three: smoothing is isotropic in nm.
      texture: sigma, in tokens, of the Gaussian in which the spread of features counts as further features
        (`lattice.texture`); 0: none.
    """

    fov: int
    patch: int
    dim: int
    axes: str = "z"
    stride: int = 40
    edge_weight: float = 1.0
    smooth: float = 0.0
    tile: int = 512
    overhang: int = 0
    inference: str = "expand"
    expansion: str = "linear"
    symmetries: int = 1
    shifts: int = 1
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    texture: float = 0.0

    @classmethod
    def of_models(cls, models: Any, **settings) -> Self:
        """The coverage by the fields of view of `models` (of any pretext method)."""
        return cls(models.encoder.grid[0] * models.patch_size, models.patch_size, models.encoder.embed_dim, **settings)

    @classmethod
    def from_settings(cls, models: Any, segment: Mapping[str, Any], axes: str, **settings) -> Self:
        """The coverage that the settings `config.segment` (or a mapping with the same keys) describe."""
        return cls.of_models(models, axes=axes, **{key: segment[key] for key in _SETTINGS}, **settings)

    @property
    def cover(self) -> bool:
        """Whether every voxel has a token of its own (cover-stride)."""
        return self.inference == "cover"

    @property
    def width(self) -> int:
        """Features of a voxel: those of a token, and their texture."""
        return self.dim * (2 if self.texture else 1)

    def reaches(self, sigma: float) -> tuple[int, int, int]:
        """For each axis `lattice.reach` of a Gaussian of `sigma` tokens."""
        return tuple(reach(sigma, self._scale(axis) if self.axes == "zyx"[axis] else 1.0) for axis in range(3))

    def _scale(self, axis: int) -> float:
        """Slices a token, across the only axis: the Gaussian is as wide in nm as within the slices."""
        return self.patch / self.spacing[axis]

    @property
    def voxels_per_point(self) -> int:
        """Voxels for each point of the token lattice."""
        return 1 if self.cover else self.patch ** (2 if len(self.axes) == 1 else 3)

    def axis_too_small(self, shape: Shape) -> str | None:
        """The first axis across which slices are smaller than a field of view; None where all slices hold one."""
        for axis in self.axes:
            sides = [n for n, a in zip(shape, "zyx", strict=True) if a != axis]
            if min(sides) < self.fov:
                return axis
        return None

    def count_fovs(self, shape: Shape) -> int:
        """Fields of view to encode for the labels of a volume (z, y, x) as one tile."""
        if self.cover:
            return self.symmetries * cs.count_fovs(shape, self.fov, self.patch, self.axes)
        return self.symmetries * es.count_fovs(
            shape, self.fov, self.patch, self.stride, self.axes, self.overhang, self.shifts
        )

    def tiles(
        self,
        shape: Shape,
        side: int | None = None,
        *,
        inside: Box | None = None,
        block: Sequence[int] = (1, 1, 1),
        onto: VoxelMap | None = None,
    ) -> Tiling:
        """Cuts a volume into tiles.

        Args:
          shape: of the volume (z, y, x).
          side: tiles are of about side^3 voxels of the volume; None: `tile`.
          inside: the part of the volume to cut; None: all of it.
          block: tiles begin and end at multiples of it, in the voxels that are written.
          onto: the grid that is written, among the voxels of the volume; None: that of the volume.
        """
        onto = onto or VoxelMap(shape)
        inside = inside or tuple(slice(0, n) for n in shape)
        written = onto.inside(inside, shape)
        sides = tuple(
            max(round(n / line.step), 1) for n, line in zip(self._sides(side or self.tile), onto.lines, strict=True)
        )
        if self.cover:  # whole blocks of cover-stride, where that can be: neighbours then encode no field of view twice
            kept = [cs.block_size(self.fov, self.patch) if line == es.SAME else 1 for line in onto.lines]
            whole = [math.lcm(b, k) for b, k in zip(block, kept, strict=True)]
            block = tuple(w if w <= n else b for w, b, n in zip(whole, block, sides, strict=True))
        boxes = [spans(w.start, w.stop, n, b) for w, n, b in zip(written, sides, block, strict=True)]
        axes = list(zip(inside, onto.lines, boxes, strict=True))
        plans = [
            [
                [self._axis_tile(axis, part, write, shift, line) for write in along]
                for axis, (part, line, along) in enumerate(axes)
            ]
            for shift in es.grid_shifts(self.patch, self.shifts)
        ]
        return Tiling(plans, {"smooth": self.smooth, "texture": self.texture})

    def feature_tiles(self, shape: Shape, side: int | None = None, **kwargs) -> Tiling:
        """`tiles` whose lattices of features take at most `FEATURES_BYTES` each."""
        per_voxel = 4 * self.dim / self.voxels_per_point
        return self.tiles(shape, self._fitting(side or self.tile, lambda n: per_voxel * n**3, FEATURES_BYTES), **kwargs)

    def fit_tiles(self, shape: Shape, side: int = FIT_TILE, **kwargs) -> Tiling:
        """The `tiles` that the fit of centres takes its sample from, of about `side`^3 voxels."""
        side = min(self.tile, side)
        if self.cover:  # whose fit encodes only the fields of view of the voxels sampled
            return self.tiles(shape, side, **kwargs)
        return self.feature_tiles(shape, side, **kwargs)

    def label_tiles(self, shape: Shape, outputs: int, maps: int, *, onto: VoxelMap | None = None, **kwargs) -> Tiling:
        """The `tiles` that are labelled: `outputs` bytes written for each voxel, from `maps` score maps."""
        onto = onto or VoxelMap(shape)
        each = [1 / line.step for line in onto.lines]  # written voxels for each voxel of the volume, along an axis
        per_voxel = max(4 * maps / self.voxels_per_point, outputs * math.prod(each))
        if self.cover:
            per_voxel = 4 * maps + outputs * math.prod(each)

        def most_bytes(n: int) -> float:
            _, height, width = self._sides(n)
            # Cover-stride without interpolation between voxels holds no expanded maps beside those of the lattice.
            expanded = 0 if self.cover and set(each) == {1} else height * each[1] * width * each[2]
            return max(per_voxel * n**3, 4 * maps * EXPAND_SLICES * expanded)

        return self.tiles(shape, self._fitting(self.tile, most_bytes, MAPS_BYTES), onto=onto, **kwargs)

    def array_bytes(self, shape: Shape, itemsize: int, outputs: int, maps: int, onto: VoxelMap | None = None) -> int:
        """Bytes at most of the arrays of one tile, while a volume of `shape` is fitted and labelled.

        Args:
          shape: of the volume (z, y, x).
          itemsize: bytes of a voxel of it.
          outputs, maps, onto: see `label_tiles`.
        """

        def largest(tiling: Tiling, per_point: int, per_voxel: int) -> int:
            tile = tiling[0]
            points = max(math.prod(s["slices"] for s in sizes) for sizes in tile.sizes)
            lattices = points * per_point * (len(self.axes) + 2) * self.shifts
            voxels = math.prod(s["lower"] for s in tile.sizes[0])
            return 3 * itemsize * math.prod(tile.read_shape) + lattices + voxels * per_voxel

        fit = 0 if self.cover else largest(self.fit_tiles(shape), 4 * self.dim, 0)
        return max(fit, largest(self.label_tiles(shape, outputs, maps, onto=onto), 4 * maps, 2 * outputs))

    def _fitting(self, side: int, n_bytes: Callable[[int], float], most: int) -> int:
        """`side`, or less where `n_bytes(side)` is more than `most`."""
        while side > self.patch and n_bytes(side) > most:
            side = max(int(side * 0.8), self.patch)
        return side

    def _sides(self, side: int) -> Shape:
        """Sides (z, y, x) of a tile of about side^3 voxels: flat ones where slices are across one axis alone, whose
        neighbours in the plane encode the same fields of view."""
        if self.cover or len(self.axes) > 1:
            return (side,) * 3
        return tuple(max(side // 4, 1) if "zyx"[axis] == self.axes else 2 * side for axis in range(3))

    def _axis_tile(self, axis: int, part: slice, write: tuple[int, int], shift: int, line: Line):
        """The plan of one axis of a tile, of a part of the volume."""
        length, line = part.stop - part.start, line.seen_from(part.start)
        halo = max(smoothing_halo(self.smooth), smoothing_halo(self.texture))
        if self.axes == "zyx"[axis]:
            scale = self._scale(axis)
            tile = es.dense_tile(length, write, math.ceil(halo * scale), scale, line)
        elif self.cover:
            tile = cs.axis_tile(length, write, self.fov, self.patch, line)
        else:
            tile = es.axis_tile(
                length, write, self.fov, self.patch, self.stride, halo, self.overhang, self.expansion,
                self.edge_weight, shift, line,
            )  # fmt: skip
        return tile.moved(part.start)
