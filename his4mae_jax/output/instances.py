"""Instances of a class: connected components across block borders, in a volume of ids and a table."""

import csv
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import numpy as np

from his4mae_jax import files
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.stores.units import triple
from his4mae_jax.data.volumes.blocks import boxes, in_order
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output import components
from his4mae_jax.output.names import slugs
from his4mae_jax.output.pyramid import build_pyramid

COLUMNS = (
    "id", "voxels", "volume_um3", "z_voxel", "y_voxel", "x_voxel", "z_nm", "y_nm", "x_nm",
    "z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Instances:
    """What `label_instances` wrote of one class: the OME-Zarr volume, the table, and how many there are."""

    volume: pathlib.Path
    table: pathlib.Path
    count: int


def file_names(part: str) -> tuple[str, str]:
    """Names of the volume and of the table of the class that `names.slugs` calls `part`."""
    return f"instances_{part}.ome.zarr", f"instances_{part}.csv"


def label_instances(
    labels: VolumeLike | str | os.PathLike,
    classes: dict[int, str],
    out_folder: str | os.PathLike,
    *,
    min_voxels: int = 100,
    block: Sequence[int] = (64, 128, 128),
    connectivity: int = 6,
    voxel_size_nm: float | Sequence[float] | None = None,
    version: str = "0.4",
    pyramid: bool = True,
    workers: int = 4,
    progress: Callable[[int], object] | None = None,
) -> dict[int, Instances]:
    """Writes `instances_<name>.ome.zarr` and `instances_<name>.csv` for each class.

    Voxels of an instance share faces by default: organelles that touch mostly do so at few voxels, and with
    26 neighbours a single pair that meets at a corner would join two of them.

    The volume holds ids 1, 2, ... in the order of their first voxel (z, then y, then x), 0 elsewhere, whatever the
    blocks. The table has, for each: voxels, volume (µm³), centroid in voxels and in nm (the centre of the
    volume's first voxel is 0), and the box it lies in (voxels; stop is one past the last).

    Args:
      labels: label volume, or the path of one.
      classes: name of each label id to take.
      out_folder: where both go, in place of what was there under these names.
      min_voxels: smaller components are left out.
      block: (z, y, x) voxels held at once by each thread, and chunks of the volume.
      connectivity: 6, 18 or 26 neighbours.
      voxel_size_nm: one number or (z, y, x); None takes that of `labels`.
      version: of OME-Zarr.
      pyramid: True adds coarser levels.
      workers: threads.
      progress: called with numbers of voxels; they add up to three times the volume's for each class.

    Returns:
      What was written, by label id.

    Raises:
      UserError: labels cannot be read, or the output cannot be written.
    """
    folder = pathlib.Path(out_folder)
    files = {label: [folder / name for name in file_names(part)] for label, part in slugs(classes).items()}
    for volume, _ in files.values():
        ome_zarr.check_replaceable(volume)
    return {
        label: label_class(
            labels, label, volume, table, min_voxels=min_voxels, block=block, connectivity=connectivity,
            voxel_size_nm=voxel_size_nm, version=version, pyramid=pyramid, workers=workers, progress=progress,
        )
        for label, (volume, table) in files.items()
    }  # fmt: skip


def label_class(
    labels: VolumeLike | str | os.PathLike,
    label: int,
    volume: pathlib.Path,
    table: pathlib.Path,
    *,
    min_voxels: int,
    block: Sequence[int],
    connectivity: int = 6,
    voxel_size_nm: float | Sequence[float] | None = None,
    version: str = "0.4",
    pyramid: bool = True,
    workers: int = 4,
    progress: Callable[[int], object] | None = None,
) -> Instances:
    """Writes the instances of one label to the paths `volume` and `table`; see `label_instances`."""
    if not hasattr(labels, "read"):
        labels = open_volume(labels, image=False)
    size = triple(labels.voxel_size_nm if voxel_size_nm is None else voxel_size_nm, labels.name)
    part_volume, part_table = (path.with_name(f"partial.{path.name}") for path in (volume, table))
    with files.writing(volume):
        ome_zarr.check_replaceable(volume)
        rows = _label_class(
            labels, label, part_volume, size, min_voxels, block, connectivity, version, workers, progress
        )  # fmt: skip
        if pyramid:
            build_pyramid(part_volume, workers=workers)
        _write_table(part_table, rows, size)
        table.unlink(missing_ok=True)  # never the table of one volume beside another
        ome_zarr.replace(part_volume, volume)
        os.replace(part_table, table)
    return Instances(volume, table, len(rows))


def count_rows(table: pathlib.Path) -> int:
    """Instances in a table that `label_class` wrote."""
    with open(table, encoding="utf-8") as file:
        return sum(1 for _ in file) - 1


def _label_class(labels, label, path, size, min_voxels, block, connectivity, version, workers, progress):
    """Writes the volume of one class; the table of its instances, `components.ROW` each."""
    grid = components.Grid(tuple(labels.shape), tuple(min(b, n) for b, n in zip(block, labels.shape, strict=True)))
    done = progress or (lambda voxels: None)
    draft = path.with_name(f"{path.name}.draft")
    ids = ome_zarr.create(draft, labels.shape, np.uint32, size, chunks=grid.block, overwrite=True)

    def find(box):
        mask = labels.read(box) == label
        block_ids, rows = components.label_block(mask, box, labels.shape, connectivity, min_voxels)
        ids[box].write(block_ids).result()
        done(mask.size)
        return rows

    tables = list(in_order(find, boxes(grid.shape, grid.block), workers))
    offsets = components.first_rows([len(rows) for rows in tables])

    def neighbours(box):
        pairs = components.touching(ids, grid, box, offsets, connectivity)
        done(_voxels(box))
        return pairs

    pairs = list(in_order(neighbours, boxes(grid.shape, grid.block), workers))
    number, rows = components.merge(np.concatenate(tables), np.concatenate(pairs), min_voxels)
    del tables, pairs
    if len(rows) > np.iinfo(np.uint32).max:
        raise UserError(f"config key segment.min_instance_voxels: {len(rows):,} instances are too many; raise it")
    out = ome_zarr.create(
        path, labels.shape, np.uint32, size, chunks=grid.block, label_values={}, version=version, overwrite=True
    )

    def renumber(box):
        block_ids = ids[box].read().result()
        out[box].write(components.numbered(block_ids, offsets[grid.number(box)], number)).result()
        done(block_ids.size)

    for _ in in_order(renumber, boxes(grid.shape, grid.block), workers):
        pass
    shutil.rmtree(draft)
    return rows


def _voxels(box):
    return int(np.prod([b.stop - b.start for b in box]))


def _write_table(path, rows, size):
    centre_Nx3 = rows["sum"] / np.maximum(rows["voxels"], 1)[:, None]
    volume = float(np.prod(size)) / 1e9
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, (row, centre_3) in enumerate(zip(rows, centre_Nx3, strict=True), 1):
            numbers = [row["voxels"] * volume, *centre_3, *(c * s for c, s in zip(centre_3, size, strict=True))]
            writer.writerow(
                [i, row["voxels"], *(f"{n:.9g}" for n in numbers), *row["low"].tolist(), *row["high"].tolist()]
            )
        file.flush()
        os.fsync(file.fileno())
