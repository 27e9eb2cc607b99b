"""Results of a segmentation: labels that are computed when they are read, and the centres of their clusters."""

import collections
import dataclasses
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.clustering.choice import Choice
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import Box, Triple, Volume, VolumeLike, box_bounds, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.files import writing
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.tiling import EncodedTile, Tile, Tiling
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.library.failures import one_family
from his4mae_jax.output.outputs import add_pyramid
from his4mae_jax.progress import Log, progress, say

KEPT_TILES = 2  # tiles of labels kept in memory, for neighbouring reads


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterCentres:
    """Cluster centres in the feature space of one encoder.

    Attributes:
      clusters: number of labels.
      centres: the centres themselves, with the linear map of features before distances are taken; or classes.
      encoder_digest: a hash of the encoder whose features they divide.
    """

    clusters: int
    centres: Centres | Classes
    encoder_digest: str

    def save(self, path: str | os.PathLike) -> None:
        """Writes an npz file, which `Encoder.segment` and the setting `segment.centres_file` take."""
        with writing(path):
            centre_files.save(path, {self.clusters: self.centres}, encoder_digest=self.encoder_digest)


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What `Encoder.segment` returns.

    Attributes:
      labels: a uint8 array (z, y, x) for an array; for a volume, a lazy one of the same shape. Labels are 1 to
        `centres.clusters`, the largest cluster first, and 0 in padding.
      centres: to segment further volumes with.
      choice: how well each number of clusters of the setting `compare_clusters` is found again in other parts of the
        volume; None: not measured.
    """

    labels: "np.ndarray | LazyLabels"
    centres: ClusterCentres
    choice: Choice | None = None


class LazyLabels:
    """A label volume that is computed tile by tile as it is read; nothing is stored.

    Attributes:
      name: that of the image.
      shape: (z, y, x), that of the image; with `segment.grid` "model" at the voxel size of the training.
      dtype: uint8.
      voxel_size_nm: (z, y, x).
      origin_nm: centre (z, y, x) of voxel (0, 0, 0) in nm.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        image: VolumeLike,
        encoder: VolumeEncoder,
        scores: dict[int, LinearScores],
        inside: Box,
        segment: Any,
        encoded: EncodedTile | None,
        output: Grid,
        names: Sequence[str] = (),
    ) -> None:
        """Plans the tiles.

        Args:
          image: to label.
          encoder: bound to it.
          scores: of one clustering, by its number of labels.
          inside: the box that is not padding.
          segment: settings with the keys of `config.segment`.
          encoded: the tile that the fit has encoded, or None.
          output: the grid of the labels.
          names: of the labels 1, 2, ...; empty: "cluster 1" and so on.
        """
        self.name, self.shape, self.voxel_size_nm = image.name, output.shape, output.voxel_size_nm
        self.origin_nm = output.origin_nm
        self._image, self._encoder, self._scores, self._encoded = image, encoder, scores, encoded
        self._segment = segment
        ((size, only),) = scores.items()
        self._names = dict(enumerate(names or [f"cluster {i + 1}" for i in range(size)], 1))
        self._tiling: Tiling = encoder.coverage.label_tiles(
            image.shape, 1, only.maps, inside=inside, block=tuple(segment.block), onto=output.among(Grid.of(image))
        )
        self._tiles: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        size: Triple = self.voxel_size_nm
        return f"<labels of {self.name}, {'x'.join(map(str, self.shape))} voxels of {size} nm, computed on reading>"

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the first tile: reads along it compute each tile once."""
        return self._tiling[0].shape

    @one_family
    def read(self, slices: Box) -> np.ndarray:
        """Computes the labels of one box; the two tiles read last are kept, others are computed again.

        Args:
          slices: (z, y, x) slices of step 1, such as `np.s_[:, :, :]`.

        Returns:
          uint8, 0 in padding.

        Raises:
          IndexError: the box leaves the volume.
          his4mae_jax.Error: the image cannot be read.
        """
        bounds = box_bounds(slices, self.shape)
        out = np.full([stop - start for start, stop in bounds], UNLABELLED, np.uint8)
        for tile in self._tiling:
            shared = [(max(a, w.start), min(b, w.stop)) for (a, b), w in zip(bounds, tile.write, strict=True)]
            if all(start < stop for start, stop in shared):
                target = tuple(slice(s - a, e - a) for (s, e), (a, _) in zip(shared, bounds, strict=True))
                part = tuple(slice(s - w.start, e - w.start) for (s, e), w in zip(shared, tile.write, strict=True))
                out[target] = self._labels(tile)[part]
        return out

    @one_family
    def write(self, path: str | os.PathLike, log: Log | None = None) -> Volume:
        """Labels the whole volume into an OME-Zarr label volume, with coarser levels for viewers.

        Memory is that of a tile or two. The folder has its final name once it is whole.

        Args:
          path: of the folder to create, such as "labels.ome.zarr".
          log: called with each line of progress; None: they go to standard error.

        Returns:
          The written volume, open.

        Raises:
          his4mae_jax.Error: something is there, or the disk refuses a write.
        """
        folder, version, log = pathlib.Path(path), self._segment.ome_zarr_version, log or say
        if folder.exists():
            raise UserError(f"{folder}: exists already; write the labels elsewhere")
        part = folder.with_name(f"partial.{folder.name}")
        ((clusters, _),) = self._scores.items()
        array = ome_zarr.create(
            part, self.shape, np.uint8, self.voxel_size_nm, origin_nm=self.origin_nm, chunks=self._segment.block,
            fill_value=UNLABELLED, label_values=self._names, version=version, overwrite=True,
        )  # fmt: skip
        voxels = int(np.prod(self.shape))
        with writing(folder):
            with progress("segment", voxels, unit="voxels", log=log) as bar:
                for tile, labels, _ in self._encoder.label(
                    self._image, self._scores, self._tiling, encoded=self._encoded, bar=bar
                ):
                    array[tile.write].write(labels[clusters]).result()
            if self._segment.pyramid:
                add_pyramid(part, voxels, log)
            ome_zarr.replace(part, folder)
        return open_volume(folder, image=False)

    def _labels(self, tile: Tile) -> np.ndarray:
        """Labels of one tile, kept or computed."""
        with self._lock:
            if tile.number not in self._tiles:
                ((_, labels, _),) = self._encoder.label(self._image, self._scores, [tile], encoded=self._encoded)
                (self._tiles[tile.number],) = labels.values()
                while len(self._tiles) > KEPT_TILES:
                    self._tiles.popitem(last=False)
            return self._tiles[tile.number]
