"""Token lattices of a whole volume on disk: they are encoded once, and then labelled and sampled as often as wanted.

A folder `features.zarr` (zarr v3, float16, chunked) holds for each shift of the lattice the mean over axes before
smoothing. A digest says what they belong to: encoder, volume, grey levels, coverage. It is written under another name
and gets its own when it is whole; a process that was killed goes on with the tiles that are missing.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError, mask
from his4mae_jax.files import remove, write_json, writing
from his4mae_jax.inference.tiling import Tile, Tiling, needed_points
from his4mae_jax.inference.volume_encoder import VolumeEncoder, advance_to
from his4mae_jax.progress import Log, progress, say

NAME = "features.zarr"
PARTIAL = "features.partial.zarr"
_OURS, _DONE = "his4mae_jax_features", "tiles_done.txt"
CHUNK_BYTES = 2**22  # of a chunk at most


@dataclasses.dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Lattices on disk; takes the place of an `EncodedTile`, for all tiles of its volume.

    Attributes:
      volume: the volume object that they belong to.
      arrays: for each shift `(z, y, x, D)` float16.
    """

    volume: VolumeLike
    arrays: Sequence[ts.TensorStore]

    def holds(self, volume: VolumeLike, tile: Tile) -> bool:
        """Whether these are lattices of `volume`; those of every tile are there."""
        return self.volume is volume

    def of(self, tile: Tile) -> list[np.ndarray]:
        """Reads the lattices of a tile: for each shift `(z, y, x, D)` float32."""
        reads = [
            array[tuple(slice(plan.first, plan.first + plan.points) for plan in grid)].read()
            for array, grid in zip(self.arrays, tile.grids, strict=True)
        ]
        return [np.asarray(read.result(), np.float32) for read in reads]


def feature_bytes(encoder: VolumeEncoder, inside: Box) -> int:
    """Bytes on disk of the lattices of a volume whose content fills the box `inside`."""
    points = math.prod(s.stop - s.start for s in inside) / encoder.coverage.voxels_per_point
    return int(2 * points * encoder.coverage.dim * encoder.coverage.shifts)


def kept_features(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    inside: Box,
    folder: str | os.PathLike,
    encoder_digest: str,
    log: Log = say,
) -> KeptFeatures:
    """The lattices of a volume from `folder`/features.zarr; encodes what is not there yet.

    Those of another encoder, volume or coverage are replaced once the new ones are whole. Memory is that of one tile.

    Args:
      encoder: bound to the volume; by expand-stride.
      volume: to encode.
      inside: the box that is not padding.
      folder: the workdir.
      encoder_digest: `clustering.fit.encoder_digest` of the encoder.
      log: prints lines of progress.

    Raises:
      UserError: something that is not ours lies there, or the disk refuses a write.
    """
    final, part = pathlib.Path(folder) / NAME, pathlib.Path(folder) / PARTIAL
    facts = _facts(encoder, volume, inside, encoder_digest)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    with writing(final):
        if _digest(final) == digest:
            log(f"features: {final} is there, of this encoder, volume and coverage")
            return KeptFeatures(volume, _open(final, encoder.coverage.shifts))
        tiling = encoder.coverage.feature_tiles(volume.shape, inside=inside)
        if _digest(part) != digest:
            _begin(part, encoder, tiling, digest, facts)
        arrays = _open(part, encoder.coverage.shifts)
        _encode(encoder, volume, tiling, arrays, part / _DONE, log)
        if final.is_symlink():
            log(f"features: {final} was a link to {os.readlink(final)}, which stays as it is and is not used any more")
        remove(final)
        os.replace(part, final)
        (final / _DONE).unlink()
        log(f"features: {final}, for re-labelling without encoding")
        return KeptFeatures(volume, _open(final, encoder.coverage.shifts))


def _facts(encoder: VolumeEncoder, volume: VolumeLike, inside: Box, encoder_digest: str) -> dict[str, Any]:
    """What lattices depend on: not the tiles, nor the smoothing, which comes after them."""
    coverage = dataclasses.asdict(encoder.coverage)
    for key in ("tile", "smooth", "spacing", "texture"):
        del coverage[key]
    return {
        "encoder": encoder_digest, "volume": mask(volume.name), "shape": list(volume.shape),
        "dtype": np.dtype(volume.dtype).name, "voxel_size_nm": list(volume.voxel_size_nm),
        "origin_nm": list(origin_of(volume)), "contrast": encoder.contrast.to_json(), "coverage": coverage,
        "inside": [[s.start, s.stop] for s in inside],
    }  # fmt: skip


def _digest(path: pathlib.Path) -> str | None:
    """The digest of kept features; None where there is nothing."""
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return json.loads((path / "zarr.json").read_text("utf-8"))["attributes"][_OURS]["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        names = {child.name for child in path.iterdir()} if path.is_dir() else {"a file"}
        if path.name == PARTIAL and all(name.startswith("shift_") for name in names):
            return None  # stopped before it was begun in full
        raise UserError(f"{path}: in the way, and not features that this program kept; move it") from error


def _begin(part: pathlib.Path, encoder: VolumeEncoder, tiling: Tiling, digest: str, facts: dict[str, Any]) -> None:
    """An empty folder with its arrays, in place of what an earlier run left."""
    remove(part)
    part.mkdir(parents=True)
    dim, last = encoder.coverage.dim, tiling[len(tiling) - 1]
    side = max(int((CHUNK_BYTES / (2 * dim)) ** (1 / 3)), 1)
    for shift, grid in enumerate(last.grids):
        shape = [plan.first + plan.points for plan in grid]
        ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(part / f"shift_{shift}")}},
            create=True, dtype=ts.float16, shape=[*shape, dim],
            chunk_layout=ts.ChunkLayout(chunk_shape=[*(_even(n, side) for n in shape), dim]),
        ).result()  # fmt: skip
    attributes = {_OURS: {"digest": digest, "of": facts, "what": "token lattices, mean over axes, before smoothing"}}
    write_json(part / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def _even(length: int, most: int) -> int:
    """Side of chunks of about one length: those at the border take as much disk as the others."""
    return math.ceil(length / math.ceil(length / most))


def _open(path: pathlib.Path, shifts: int) -> list[ts.TensorStore]:
    try:
        return [
            ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / f"shift_{shift}")}}).result()
            for shift in range(shifts)
        ]
    except ValueError as error:
        raise UserError(f"{path}: damaged kept features; delete the folder, and they are encoded again") from error


def _encode(encoder, volume, tiling: Tiling, arrays, marks: pathlib.Path, log: Log) -> None:
    """Encodes and writes every tile that is not marked as done."""
    text = marks.read_text() if marks.exists() else ""
    done = {int(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip().isdigit()}
    missing = [n for n in range(len(tiling)) if n not in done]
    if done and missing:
        log(f"features: going on; {len(done)} of {len(tiling)} tiles are done")
    voxels = sum(math.prod(tiling[n].shape) for n in missing)
    with progress("features", voxels, unit="voxels", log=log) as bar:
        bar.note("compiling")
        for number in missing:
            tile = tiling[number]
            lattices = encoder.lattices(volume, tile, advance_to(bar, math.prod(tile.shape)))
            for array, by_axis, grid in zip(arrays, lattices, tile.grids, strict=True):
                needed = [needed_points(plan) for plan in grid]
                at = [slice(plan.first + s.start, plan.first + s.stop) for plan, s in zip(grid, needed, strict=True)]
                array[tuple(at)].write(np.mean(by_axis, axis=0)[tuple(needed)].astype(np.float16)).result()
            with open(marks, "a") as file:
                file.write(f"{number}\n")
                file.flush()
                os.fsync(file.fileno())
