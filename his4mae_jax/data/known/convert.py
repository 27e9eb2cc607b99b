"""Copy a volume to OME-Zarr on this machine, block by block; an interrupted copy is resumed."""

import json
import os
import pathlib
from typing import Any

import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.data.known.download import need_space
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes import blocks
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.progress import Log, progress

CHUNK = 64  # voxels a side
BLOCK = (64, 512, 512)  # voxels (z, y, x) copied at once, whole chunks
AHEAD = 4  # blocks read ahead


def to_ome_zarr(volume: VolumeLike, path: str | os.PathLike, log: Log, *, source: str | None = None) -> pathlib.Path:
    """Copies a volume to an OME-Zarr image at `path`, which appears only when it is complete.

    Blocks are written to `partial.<name>` in a fixed order; the number of blocks on disk is recorded beside it. A copy
    that was killed continues after the last recorded block if source, shape, voxel size and dtype are the same.

    Args:
      volume: anything with the interface of Volume.
      path: the folder to make; returned at once where it exists.
      log: prints a line when the copy starts or continues, and with progress.
      source: identifies the content of the volume, so that another volume does not continue its copy; None: its name.

    Returns:
      The path.

    Raises:
      UserError: the disk is too small or refuses, or the volume cannot be read.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"partial.{path.name}")
    record = part.with_name(f"{part.name}.json")
    if path.exists():
        record.unlink(missing_ok=True)
        return path
    identity = {
        "source": source or volume.name,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "voxel_size_nm": list(volume.voxel_size_nm),
        "block": list(BLOCK),
    }
    origin = origin_of(volume)
    if any(origin):
        identity["origin_nm"] = list(origin)
    boxes = list(blocks.boxes(volume.shape, BLOCK))
    with files.writing(path):
        done = _blocks_done(record, identity)
        array = _reopen(part) if done else None
        if array is None:
            done = 0
            path.parent.mkdir(parents=True, exist_ok=True)
            record.unlink(missing_ok=True)
        left = sum(blocks.voxels(box) for box in boxes[done:])
        need_space(path.parent, left * volume.dtype.itemsize, f"copying {volume.name}")
        if array is None:
            array = ome_zarr.create(
                part, volume.shape, volume.dtype, volume.voxel_size_nm, origin_nm=origin, chunks=(CHUNK,) * 3,
                overwrite=True,
            )  # fmt: skip
        copy = f"{volume.name} ({'x'.join(map(str, volume.shape))} voxels) to {path}"
        log(f"fetch: continuing {copy}, {100 * done // len(boxes)} % done" if done else f"fetch: copying {copy}")
        reads = blocks.in_order(volume.read, boxes[done:], workers=AHEAD, ahead=AHEAD - 1)
        with progress(f"fetch: copying {path.name}", len(boxes) - done, unit="blocks", log=log) as bar:
            for i, block in enumerate(reads, done):
                array[boxes[i]].write(block).result()
                files.write_json(record, {**identity, "done": i + 1})
                bar.advance()
        os.replace(part, path)
    record.unlink(missing_ok=True)
    return path


def _blocks_done(record: pathlib.Path, identity: dict[str, Any]) -> int:
    """Blocks on disk of a copy of the same volume; 0 without a usable record."""
    try:
        saved = json.loads(record.read_text("utf-8"))
        done = saved.pop("done")
    except (OSError, ValueError, KeyError, AttributeError):
        return 0
    return int(done) if saved == identity else 0


def _reopen(part: pathlib.Path) -> ts.TensorStore | None:
    """The array of an interrupted copy; None where it is damaged, so that the copy starts again."""
    try:
        return ts.open({"driver": "zarr", "kvstore": {"driver": "file", "path": str(part / "0")}}, open=True).result()
    except (ValueError, OSError):
        return None
