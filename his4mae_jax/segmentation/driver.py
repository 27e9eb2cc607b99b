"""Streams a volume through the encoder: fit centres on a sample, then label tile by tile."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from his4mae_jax.data.contrast import Contrast
from his4mae_jax.segmentation import expand_stride
from his4mae_jax.segmentation.encode import make_encode


@dataclasses.dataclass
class Segmenter:
    """An encoder, its parameters and the way slices are covered.

    `stride`, `edge_weight` and `batch` are `segment.stride`, `.edge_weight` and
    `.batch_fovs`; `tile` the largest piece of a slice held at once, in pixels.
    """

    models: object
    params: dict
    contrast: Contrast
    stride: int
    edge_weight: float
    batch: int
    tile: int

    def __post_init__(self):
        self.fov = self.models.encoder.grid[0] * self.models.patch_size
        self._encode = make_encode(self.models)
        self._compiled: dict[tuple, Callable] = {}
        # A multiple of the stride: interior tiles then share one compiled function.
        self.tile = max(self.tile // self.stride, 1) * self.stride

    def _cover(self):
        return dict(fov=self.fov, patch=self.models.patch_size, edge_weight=self.edge_weight, batch=self.batch)

    def _axis_tile(self, length, write):
        return expand_stride.axis_tile(length, write, self.fov, self.models.patch_size, self.stride)

    def tiles(self, shape):
        """Pairs of (rows, cols) `AxisTile`s that cover a slice of `shape` (y, x)."""
        spans = [[(a, min(a + self.tile, n)) for a in range(0, n, self.tile)] for n in shape]
        for row_span in spans[0]:
            rows = self._axis_tile(shape[0], row_span)
            for col_span in spans[1]:
                yield rows, self._axis_tile(shape[1], col_span)

    def slices_at_once(self, rows, cols):
        """As many slices as fill one batch of fields of view."""
        return max(1, self.batch // (len(rows.origins) * len(cols.origins)))

    def _read(self, volume, z, rows, cols):
        raw = volume.read((slice(*z), slice(*rows.read), slice(*cols.read)))
        return self.contrast.apply(raw)

    def _function(self, kind, make, rows, cols):
        # Tiles of equal geometry share a compiled function whatever their place.
        arrays = (t for tile in (rows, cols) for t in (tile.gather, tile.origins, tile.lower, tile.fraction))
        key = (kind, *(a.tobytes() for a in arrays))
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    def sample_features(self, volume, num_slices, fraction, seed, mask=None):
        """Features `(M, D)` at a stratified random `fraction` of the voxels.

        Slices are evenly spaced with a random offset, at most `num_slices`; within each,
        voxels are uniform, more of them where fewer slices are read. `mask` (a label
        volume) leaves voxels of 255 out. Seeded: the same sample for the same seed.
        """
        rng = np.random.default_rng(seed)
        depth, *plane = volume.shape
        count = min(num_slices, depth)
        z_of = np.floor((np.arange(count) + rng.uniform(size=count)) * depth / count).astype(int)
        share = min(1.0, fraction * depth / count)
        features = []
        for z in z_of:
            for rows, cols in self.tiles(plane):
                size = (rows.write[1] - rows.write[0], cols.write[1] - cols.write[0])
                draw = max(1, round(share * size[0] * size[1]))
                where = np.sort(rng.choice(size[0] * size[1], draw, replace=False))
                row, col = np.divmod(where, size[1])
                keep = np.ones(draw, bool)
                if mask is not None:
                    inside = mask.read((slice(z, z + 1), slice(*rows.write), slice(*cols.write)))[0]
                    keep = inside[row, col] != 255
                    if not keep.any():
                        continue
                sample = self._function(
                    "sample",
                    lambda r=rows, c=cols: expand_stride.make_sample_features(self._encode, r, c, **self._cover()),
                    rows, cols,
                )  # fmt: skip
                slices = self._read(volume, (z, z + 1), rows, cols)
                found = sample(self.params, slices, row[None], col[None])
                features.append(np.asarray(found)[0][keep])
        return np.concatenate(features) if features else np.zeros((0, self.models.encoder.embed_dim), np.float32)

    def label(self, volume, centres_by_size, write, *, z_range=None, z_chunk=64, progress=lambda n: None):
        """Label every voxel; `write(size, slices, labels)` gets uint8 blocks of `z_chunk` slices.

        At most one block of labels and one of input are held, whatever the volume's size.
        """
        sizes = tuple(centres_by_size)
        centres = np.concatenate([centres_by_size[size] for size in sizes])
        start, stop = z_range or (0, volume.shape[0])
        for rows, cols in self.tiles(volume.shape[1:]):
            label = self._function(
                ("label", sizes),
                lambda r=rows, c=cols: expand_stride.make_label_slices(self._encode, r, c, sizes, **self._cover()),
                rows, cols,
            )  # fmt: skip
            at_once = self.slices_at_once(rows, cols)
            span = (slice(*rows.write), slice(*cols.write))
            for z0 in range(start, stop, z_chunk):
                z1 = min(z0 + z_chunk, stop)
                slab = self._read(volume, (z0, z1), rows, cols)
                out = np.empty((len(sizes), z1 - z0, *(s.stop - s.start for s in span)), np.uint8)
                for i in range(0, z1 - z0, at_once):
                    part = slab[i : i + at_once]
                    missing = at_once - len(part)
                    if missing:  # keep one compiled shape: repeat the last slice, drop its labels
                        part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
                    found = np.asarray(jax.device_get(label(self.params, centres, part)))
                    out[:, i : i + at_once] = found[:, : at_once - missing]
                for size, labels in zip(sizes, out, strict=True):
                    write(size, (slice(z0, z1), *span), labels)
                progress((z1 - z0) * (span[0].stop - span[0].start) * (span[1].stop - span[1].start))
