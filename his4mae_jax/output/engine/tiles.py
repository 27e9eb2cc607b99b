"""Tiles labelled and written, whichever process does it."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorstore as ts

from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.volume import Box, View, VolumeLike
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.tiling import Encoded, Tiling
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output.engine.markers import Written
from his4mae_jax.progress import Progress


def _always() -> None:
    """Tiles of the process that began the job may always be written."""


@dataclasses.dataclass(frozen=True)
class _ReadAhead(View):
    """`source`, of which `box` has been read."""

    box: Box
    array: np.ndarray

    @property
    def stored(self) -> Stored | None:
        return stored_of(self.source)

    def read(self, slices: Box) -> np.ndarray:
        return self.array if slices == self.box else self.source.read(slices)


@dataclasses.dataclass(frozen=True, eq=False)
class TileWriter:
    """What tiles are labelled with, and the arrays that they are written to: whole chunks, which no two tiles share.

    Attributes:
      encoder: bound to the volume.
      volume: to label.
      tiling: its tiles.
      clusterings: by number of labels.
      labels: name of the label volume of each clustering.
      probabilities: (clustering, name of the volume) where probabilities are wanted, else None.
      arrays: of all these volumes, by name.
      encoded: lattices that are there already.
      check: called before anything of a tile is written; raises where it may not be.
      device: held while a tile is computed.
    """

    encoder: VolumeEncoder
    volume: VolumeLike
    tiling: Tiling
    clusterings: Mapping[int, LinearScores]
    labels: Mapping[int, str]
    probabilities: tuple[int, str] | None
    arrays: Mapping[str, ts.TensorStore]
    encoded: Encoded | None = None
    check: Callable[[], object] = _always
    device: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    @property
    def maps(self) -> int:
        """Values at each lattice point, of all clusterings."""
        return sum(c.maps for c in self.clusterings.values())

    def read_ahead(self, number: int) -> Self:
        """The same, with the voxels of a tile read already, for whoever has to wait for the device."""
        if self.encoded is not None or self._empty(number):
            return self
        box = self.tiling[number].read
        return dataclasses.replace(self, volume=_ReadAhead(self.volume, box, self.volume.read(box)))

    def write(self, numbers: Sequence[int], bar: Progress | None = None) -> Iterator[Written]:
        """Labels tiles; the chunks of one are written while the next is computed.

        Tiles of which no voxel is stored in the volume come first: nothing is read of them, nor written.

        Args:
          numbers: of the tiles.
          bar: advanced by the voxels that are labelled.

        Yields:
          Each tile once it is on disk, those with voxels in this order.
        """
        with_voxels = []
        for number in numbers:
            if not self._empty(number):
                with_voxels.append(number)
                continue
            if bar is not None:
                bar.advance(math.prod(self.tiling[number].shape))
            self.check()
            yield Written(number, 0.0, {})
        yield from self._write(with_voxels, bar)

    def _empty(self, number: int) -> bool:
        """Whether a tile is known to have no label, which is what was never written."""
        return self.tiling[number].all_padding(self.volume, self.encoder.padding)

    def _write(self, numbers: Sequence[int], bar: Progress | None) -> Iterator[Written]:
        of, posterior = self.probabilities or (None, "")
        writing: tuple[int, list[Any], dict[str, list[Any]]] | None = None
        began = 0.0

        def finished() -> Written:
            nonlocal began
            number, writes, checks = writing
            for write in writes:
                write.result()
            now = time.perf_counter()
            seconds, began = now - began, now
            return Written(number, seconds, checks)

        labelled = self.encoder.label(
            self.volume, self.clusterings, (self.tiling[n] for n in numbers), probabilities_of=of,
            encoded=self.encoded, bar=bar,
        )  # fmt: skip
        with contextlib.closing(labelled):
            for _ in numbers:
                with self.device:
                    began = began or time.perf_counter()
                    tile, labels, probabilities = next(labelled)
                if writing is not None:
                    yield finished()
                blocks = {self.labels[size]: block for size, block in labels.items()}
                blocks |= {} if probabilities is None else {posterior: probabilities}
                self.check()
                writes = [self.arrays[name][(..., *tile.write)].write(block) for name, block in blocks.items()]
                checks = {name: checksums.entry(tile.write, block) for name, block in blocks.items()}
                writing = tile.number, writes, checks
        if writing is not None:
            yield finished()
