"""Copy a volume to OME-Zarr on this machine, block by block; a copy that was cut short goes on."""

import concurrent.futures
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.data.known.download import need_space
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import Box, VolumeLike

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
    boxes = list(_boxes(volume.shape))
    with files.writing(path):
        done = _done(progress, about)
        array = _reopen(part) if done else None
        if array is None:
            done = 0
            path.parent.mkdir(parents=True, exist_ok=True)
            progress.unlink(missing_ok=True)
        left = sum(_voxels(box) for box in boxes[done:])
        need_space(path.parent, left * volume.dtype.itemsize, f"copying {volume.name}")
        if array is None:
            array = ome_zarr.create(
                part, volume.shape, volume.dtype, volume.voxel_size_nm, chunks=(CHUNK,) * 3, overwrite=True
            )
        what = f"{volume.name} ({'x'.join(map(str, volume.shape))} voxels) to {path}"
        log(f"fetch: going on with {what}, {100 * done // len(boxes)} % done" if done else f"fetch: copying {what}")
        for i, (box, block) in enumerate(_read_ahead(volume, boxes[done:]), done + 1):
            array[box].write(block).result()
            files.write_json(progress, {**about, "done": i})
            if 10 * i // len(boxes) > 10 * (i - 1) // len(boxes) and i < len(boxes) and len(boxes) >= 10:
                log(f"fetch: {path.name}: {100 * i // len(boxes)} %")
        os.replace(part, path)
    progress.unlink(missing_ok=True)
    return path


def _boxes(shape) -> Iterator[Box]:
    starts = itertools.product(*(range(0, n, b) for n, b in zip(shape, BLOCK, strict=True)))
    for start in starts:
        yield tuple(slice(a, min(a + b, n)) for a, b, n in zip(start, BLOCK, shape, strict=True))


def _voxels(box: Box) -> int:
    z, y, x = (s.stop - s.start for s in box)
    return z * y * x


def _read_ahead(volume: VolumeLike, boxes: list[Box]):
    """Yields (box, its voxels) in order, a few of them read ahead."""
    with concurrent.futures.ThreadPoolExecutor(AHEAD) as pool:
        waiting = []
        try:
            for box in boxes:
                waiting.append((box, pool.submit(volume.read, box)))
                if len(waiting) >= AHEAD:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            while waiting:
                first, future = waiting.pop(0)
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


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
