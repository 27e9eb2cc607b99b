"""Copy a volume to OME-Zarr on this machine, block by block; a copy that was cut short goes on."""

import json
import os
import pathlib
from typing import Any

import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.data.known.download import need_space
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes import blocks
from his4mae_jax.data.volumes.volume import VolumeLike

CHUNK = 64  # voxels a side
BLOCK = (64, 512, 512)  # voxels (z, y, x) copied at once, whole chunks
AHEAD = 4  # blocks read ahead


def to_ome_zarr(volume: VolumeLike, path: str | os.PathLike, log, *, source: str | None = None) -> pathlib.Path:
    """Copies a volume to an OME-Zarr image at `path`, which is there whole or not at all.

    Blocks are written to `partial.<name>` in a fixed order; how many are on disk is kept beside it. A copy that was
    killed goes on after the last of those, if it is of the same source, shape, voxel size and dtype.

    Args:
      volume: anything with the interface of Volume.
      path: the folder to make; returned at once where it exists.
      log: told the beginning, every tenth of the volume, and what it goes on from.
      source: what the volume is, to tell one copy from another; None: its name.

    Raises:
      UserError: the disk is too small or refuses, or the volume cannot be read.
    """
    path = pathlib.Path(path)
    part = path.with_name(f"partial.{path.name}")
    progress = part.with_name(f"{part.name}.json")
    if path.exists():
        progress.unlink(missing_ok=True)
        return path
    about = {
        "source": source or volume.name, "shape": list(volume.shape), "dtype": volume.dtype.name,
        "voxel_size_nm": list(volume.voxel_size_nm), "block": list(BLOCK),
    }  # fmt: skip
    boxes = list(blocks.boxes(volume.shape, BLOCK))
    with files.writing(path):
        done = _done(progress, about)
        array = _reopen(part) if done else None
        if array is None:
            done = 0
            path.parent.mkdir(parents=True, exist_ok=True)
            progress.unlink(missing_ok=True)
        left = sum(blocks.voxels(box) for box in boxes[done:])
        need_space(path.parent, left * volume.dtype.itemsize, f"copying {volume.name}")
        if array is None:
            array = ome_zarr.create(
                part, volume.shape, volume.dtype, volume.voxel_size_nm, chunks=(CHUNK,) * 3, overwrite=True
            )
        what = f"{volume.name} ({'x'.join(map(str, volume.shape))} voxels) to {path}"
        log(f"fetch: going on with {what}, {100 * done // len(boxes)} % done" if done else f"fetch: copying {what}")
        read = blocks.in_order(volume.read, boxes[done:], workers=AHEAD, ahead=AHEAD - 1)
        for i, block in enumerate(read, done + 1):
            array[boxes[i - 1]].write(block).result()
            files.write_json(progress, {**about, "done": i})
            if 10 * i // len(boxes) > 10 * (i - 1) // len(boxes) and i < len(boxes) and len(boxes) >= 10:
                log(f"fetch: {path.name}: {100 * i // len(boxes)} %")
        os.replace(part, path)
    progress.unlink(missing_ok=True)
    return path


def _done(progress: pathlib.Path, about: dict[str, Any]) -> int:
    """Blocks on disk of a copy of this very volume."""
    try:
        saved = json.loads(progress.read_text("utf-8"))
        done = saved.pop("done")
    except (OSError, ValueError, KeyError, AttributeError):
        return 0
    return int(done) if saved == about else 0


def _reopen(part: pathlib.Path) -> ts.TensorStore | None:
    """The array of a copy that was begun; None where it is damaged, so that it is begun anew."""
    try:
        return ts.open({"driver": "zarr", "kvstore": {"driver": "file", "path": str(part / "0")}}, open=True).result()
    except (ValueError, OSError):
        return None
