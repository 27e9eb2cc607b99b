"""Instances of a class: its connected components, as a volume of ids and a table."""

import csv
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.pyramid import build_pyramid
from his4mae_jax.data.stores.placement import moved, origin_of
from his4mae_jax.data.stores.units import Triple, triple
from his4mae_jax.data.volumes.blocks import boxes, in_order, voxels
from his4mae_jax.data.volumes.volume import Box, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output import components, records

COLUMNS = (
    "id", "voxels", "volume_um3", "z_voxel", "y_voxel", "x_voxel", "z_nm", "y_nm", "x_nm",
    "z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop",
    "z_start_nm", "y_start_nm", "x_start_nm", "z_stop_nm", "y_stop_nm", "x_stop_nm",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Instances:
    """What `label_instances` wrote: the OME-Zarr volume, the table, and the number of instances."""

    volume: pathlib.Path
    table: pathlib.Path
    count: int


def file_names(part: str) -> tuple[str, str]:
    """Names of the volume and of the table of the class that `slugs` calls `part`."""
    return f"instances_{part}.ome.zarr", f"instances_{part}.csv"


def label_instances(
    labels: VolumeLike | PathLike,
    label: int,
    volume: PathLike,
    table: PathLike,
    *,
    min_voxels: int = 100,
    block: Sequence[int] = (64, 128, 128),
    connectivity: int = 6,
    voxel_size_nm: float | Sequence[float] | None = None,
    version: str = "0.4",
    pyramid: bool = True,
    workers: int = 4,
    progress: Callable[[int], object] | None = None,
) -> Instances:
    """Writes the instances of one label: a volume of ids and a table.

    Voxels of an instance share faces by default: organelles that touch mostly do so at few voxels, and with
    26 neighbours a single pair that meets at a corner would join two of them.

    The volume holds ids 1, 2, ... in the order of their first voxel (z, then y, then x), 0 elsewhere; they do not
    depend on the blocks. The table has, for each instance: voxels, volume (µm³), centroid in voxels and in nm (where
    the image lies: the centre of the volume's first voxel is at `origin_of(labels)`), and its bounding box in voxels
    (stop is one past the last) and in nm (the outer faces of its first and last voxels).

    Args:
      labels: label volume, or the path of one.
      label: id of the class to take.
      volume: new OME-Zarr folder, in the same folder as the table.
      table: new CSV file.
      min_voxels: smaller components are left out.
      block: (z, y, x) voxels that each thread processes at a time, and the chunks of the volume.
      connectivity: 6, 18 or 26 neighbours.
      voxel_size_nm: one number or (z, y, x); None takes that of `labels`.
      version: of OME-Zarr.
      pyramid: True adds coarser levels.
      workers: number of threads.
      progress: called with numbers of voxels; they add up to three times the volume's.

    Returns:
      The paths and the number of instances.

    Raises:
      UserError: labels cannot be read, the output cannot be written, or something is there already.
    """
    if not hasattr(labels, "read"):
        labels = open_volume(labels, image=False)
    size = triple(labels.voxel_size_nm if voxel_size_nm is None else voxel_size_nm, labels.name)
    # The table takes its name last: a volume is never beside the table of another one.
    origin = origin_of(labels)
    with records.new(place(volume), place(table)) as (part_volume, part_table):
        rows = _write_volume(
            labels, label, part_volume, size, origin, min_voxels, block, connectivity, version, workers, progress
        )  # fmt: skip
        if pyramid:
            build_pyramid(part_volume, workers=workers)
        _write_table(part_table, rows, size, origin)
    return Instances(place(volume), place(table), len(rows))


def count_rows(table: Place) -> int:
    """Number of instances in a table that `label_instances` wrote."""
    with table.open(encoding="utf-8") as file:
        return sum(1 for _ in file) - 1


def _write_volume(
    labels: VolumeLike,
    label: int,
    path: pathlib.Path,
    size: Sequence[float],
    origin: Triple,
    min_voxels: int,
    block: Sequence[int],
    connectivity: int,
    version: str,
    workers: int,
    progress: Callable[[int], object] | None,
) -> np.ndarray:
    """Writes the volume of one class; returns the table of its instances, `components.ROW` each."""
    grid = components.Grid(tuple(labels.shape), tuple(min(b, n) for b, n in zip(block, labels.shape, strict=True)))
    advance = progress or (lambda voxels: None)
    draft = path.with_name(f"{path.name}.draft")  # ids of each block's own numbering
    ids = ome_zarr.create(draft, labels.shape, np.uint32, size, chunks=grid.block)

    def find(box: Box) -> np.ndarray:
        mask = labels.read(box) == label
        block_ids, rows = components.label_block(mask, box, labels.shape, connectivity, min_voxels)
        ids[box].write(block_ids).result()
        advance(mask.size)
        return rows

    tables = list(in_order(find, boxes(grid.shape, grid.block), workers))
    offsets = components.first_rows([len(rows) for rows in tables])

    def neighbours(box: Box) -> np.ndarray:
        pairs = components.touching(ids, grid, box, offsets, connectivity)
        advance(voxels(box))
        return pairs

    pairs = list(in_order(neighbours, boxes(grid.shape, grid.block), workers))
    number, rows = components.merge(np.concatenate(tables), np.concatenate(pairs), min_voxels)
    del tables, pairs
    if len(rows) > np.iinfo(np.uint32).max:
        raise UserError(f"config key segment.min_instance_voxels: {len(rows):,} instances are too many; raise it")
    out = ome_zarr.create(
        path, labels.shape, np.uint32, size, origin_nm=origin, chunks=grid.block, label_values={}, version=version
    )

    def renumber(box: Box) -> list:
        block_ids = ids[box].read().result()
        block = components.renumbered(block_ids, offsets[grid.number(box)], number)
        out[box].write(block).result()
        advance(block.size)
        return checksums.entry(box, np.asarray(block, np.uint32))

    checksums.keep(path / "0", in_order(renumber, boxes(grid.shape, grid.block), workers))
    shutil.rmtree(draft)
    return rows


def _write_table(path: pathlib.Path, rows: np.ndarray, size: Sequence[float], origin: Triple) -> None:
    """Writes one line for each row of `components.ROW`; `size` and `origin` (z, y, x) are those of the grid, in nm."""
    centre_Nx3 = rows["sum"] / np.maximum(rows["voxels"], 1)[:, None]
    volume = float(np.prod(size)) / 1e9
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, (row, centre_3) in enumerate(zip(rows, centre_Nx3, strict=True), 1):
            numbers = [row["voxels"] * volume, *centre_3, *moved(origin, size, centre_3)]
            box = [*row["low"].tolist(), *row["high"].tolist()]
            faces = [*moved(origin, size, row["low"] - 0.5), *moved(origin, size, row["high"] - 0.5)]
            writer.writerow([i, row["voxels"], *(f"{n:.9g}" for n in numbers), *box, *(f"{n:.12g}" for n in faces)])
        file.flush()
        os.fsync(file.fileno())
