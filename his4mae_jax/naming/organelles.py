"""Write label volumes by name from those by cluster: organelles, masks, instances, and the formats of other programs.

names.json names the files written. They are replaced when names or labels change; nothing else is.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax import files
from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import BucketPath, Place
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.checksums import whole_or_removed
from his4mae_jax.data.ome_zarr.fill import fill
from his4mae_jax.data.ome_zarr.group import list_labels, listed_labels
from his4mae_jax.data.ome_zarr.pyramid import build_pyramid
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.naming.clusters_file import FILE, Clusters, Organelle
from his4mae_jax.output import records
from his4mae_jax.output.cellsketch import write_cellsketch
from his4mae_jax.output.instances import Instances, count_rows, label_instances
from his4mae_jax.output.neuroglancer import write_precomputed
from his4mae_jax.output.outputs import IMAGE, prefix
from his4mae_jax.output.tiff_stack import write_tiff
from his4mae_jax.progress import Log, progress

RECORD = "names.json"
LABELS = "labels.ome.zarr"
ORGANELLES = "organelles.ome.zarr"
CELLSKETCH = "organelles_cellsketch"  # folder
# What the record may name: one that was tampered with must not have other files removed.
_OURS = re.compile(
    r"organelles\.(ome\.zarr|tif|precomputed)|organelles_cellsketch"
    r"|organelles_[a-z0-9]+(_instances)?\.(ome\.zarr|csv|precomputed)"
)
# Settings of `segment` that the files depend on, beside the names.
_SETTINGS = ("outputs", "min_instance_voxels", "instance_connectivity", "ome_zarr_version", "pyramid", "block")


@dataclasses.dataclass(frozen=True)
class _Task:
    """What is written: `parts` are file names of the organelles, `instances` those whose instances are wanted."""

    config: ml_collections.ConfigDict
    folder: Place
    organelles: Mapping[int, Organelle]
    instances: tuple[int, ...]
    log: Log

    @property
    def names(self) -> dict[int, str]:
        return {i: organelle.name for i, organelle in self.organelles.items()}

    @property
    def parts(self) -> dict[int, str]:
        return files.slugs(self.names)

    def planned(self) -> list[str]:
        """Names of all files."""
        outputs, written = self.config.segment.outputs, [ORGANELLES]
        written += [f"organelles_{part}.ome.zarr" for part in self.parts.values() if self.config.name.masks]
        stems = [f"organelles_{self.parts[i]}_instances" for i in self.instances]
        written += [f"{stem}{ending}" for stem in stems for ending in (".ome.zarr", ".csv")]
        written += ["organelles.tif"] if "tiff" in outputs else []
        written += [f"{stem}.precomputed" for stem in ("organelles", *stems) if "precomputed" in outputs]
        return written + ([CELLSKETCH] if "cellsketch" in outputs else [])

    def missing(self, *paths: Place) -> bool:
        """Whether an output is still to be written; what has its final name was whole, and may be damaged since."""
        there = all(transfer.is_whole(path) for path in paths)
        there = there and whole_or_removed(paths[0], lambda line: self.log(f"name: {line}"))
        self.log(f"name: {paths[0]}" + (", there already" if there else ""))
        return not there


def manifest(folder: Place) -> records.Manifest:
    """The record of what `write_organelles` wrote in a folder."""
    return records.Manifest(folder / RECORD, _OURS)


def write_organelles(
    config: ml_collections.ConfigDict,
    folder: Place,
    clusters: Clusters,
    segmentation: str,
    log: Log,
    open_target: Callable[[], Target] | None = None,
) -> list[Place]:
    """Writes the label volumes by name, in place of those of earlier names.

    | key | writes, in the folder of the labels |
    |---|---|
    | always | `organelles.ome.zarr`, with coarser levels if `segment.pyramid` |
    | `name.masks` | `organelles_<name>.ome.zarr`, 1 inside and 0 outside, for each name |
    | `segment.instances` | `organelles_<name>_instances.ome.zarr` and `.csv` for the names that it selects |
    | `segment.outputs` | `organelles.tif`, `organelles.precomputed` (and of instances), `organelles_cellsketch/` |

    Args:
      config: the configuration.
      folder: of the labels.
      clusters: content of clusters.yaml, checked against the labels.
      segmentation: identifies the labels: what a call for the same labels, names and settings wrote is kept.
      log: prints one line.
      open_target: opens the volume that was segmented, and the cell's mask where there is one; needed for CellSketch.

    Returns:
      The paths of all files.

    Raises:
      UserError: every cluster is ignored, or something is in the way, cannot be read or cannot be written.
    """
    organelles = clusters.organelles()
    if not organelles:
        raise UserError(f"{folder / FILE}: every cluster is ignored; name at least one")
    task = _Task(config, folder, organelles, instance_ids(config.segment.instances, organelles, folder), log)
    labels = open_volume(records.volume(folder / LABELS), image=False)
    target = _target(open_target, labels) if "cellsketch" in config.segment.outputs else None
    planned = task.planned()
    manifest(folder).begin(planned, _dependencies(task, segmentation))
    path = folder / ORGANELLES
    if task.missing(path):
        table = np.full(256, UNLABELLED, np.uint8)
        for i, organelle in organelles.items():
            table[list(organelle.clusters)] = i
        _write(task, labels, path, table, task.names, {i: o.colour for i, o in organelles.items()})
    if config.name.masks:
        for i, part in task.parts.items():
            if task.missing(mask := folder / f"organelles_{part}.ome.zarr"):
                table = np.zeros(256, np.uint8)
                table[list(organelles[i].clusters)] = 1
                _write(task, labels, mask, table, {1: organelles[i].name}, {1: organelles[i].colour})
    _write_formats(task, _write_instances(task), labels.shape, target)
    if (
        not isinstance(folder, BucketPath) and (image := folder / IMAGE).exists()
    ):  # organelles are what a viewer is to show first
        others = [name for name in listed_labels(image) if name != "organelles"]
        list_labels(image, ["organelles", *others], config.segment.ome_zarr_version)
    return [folder / name for name in planned]


def instance_ids(wanted: tuple[int | str, ...], organelles: Mapping[int, Organelle], folder: Place) -> tuple[int, ...]:
    """Ids of the organelles that `segment.instances` selects: by name, as "all", or by the id of one of their clusters.

    A name, or the id of a cluster, that is ignored selects nothing.

    Raises:
      UserError: there is no such name.
    """
    selected = set()
    for item in wanted:
        matching = {i for i, o in organelles.items() if item in ("all", o.name) or item in o.clusters}
        default = re.fullmatch(r"cluster (\d+)", str(item))
        if not matching and default:  # a cluster that has a name by now
            matching = {i for i, o in organelles.items() if int(default[1]) in o.clusters}
        if not matching and isinstance(item, str) and not default:
            known = ", ".join(o.name for o in organelles.values())
            raise UserError(
                f"config key segment.instances: no cluster has the name {item!r} in {folder / FILE}; "
                f"choose of {known}, or 'all'"
            )
        selected |= matching
    return tuple(sorted(selected))


def _target(open_target: Callable[[], Target] | None, labels: VolumeLike) -> Target:
    if open_target is None:
        raise UserError("config key segment.outputs: cellsketch needs the image; give the config of the segmentation")
    target = open_target()
    shape, own = tuple(target.output.shape), tuple(labels.shape)
    if shape != own:
        raise UserError(
            f"{labels.name}: {own} voxels, but {target.output.name} has {shape} (z, y, x); give "
            "the config with which the labels were segmented"
        )
    return target


def _dependencies(task: _Task, segmentation: str) -> dict[str, Any]:
    """All that the files depend on, as JSON."""
    values = {
        "segmentation": segmentation, "organelles": [dataclasses.astuple(o) for o in task.organelles.values()],
        "instances": task.instances, "masks": task.config.name.masks,
        **{key: task.config.segment[key] for key in _SETTINGS},
    }  # fmt: skip
    return json.loads(json.dumps(values))


def _write(
    task: _Task,
    labels: VolumeLike,
    path: Place,
    table: np.ndarray,
    names: dict[int, str],
    colours: dict[int, str],
) -> None:
    """Writes a label volume whose ids are those of `table` (256, uint8) at the clusters' ids."""
    s = task.config.segment
    with progress(path.name, math.prod(labels.shape) * 8 / 7, unit="voxels", log=task.log) as bar:
        with records.new(path) as (part,):
            out = ome_zarr.create(
                part, labels.shape, np.uint8, labels.voxel_size_nm, origin_nm=origin_of(labels), chunks=s.block,
                label_values=names, colours=colours, fill_value=UNLABELLED, version=s.ome_zarr_version,
            )  # fmt: skip

            fill(out, lambda box: table[labels.read(box)], part / "0", progress=bar.advance)
            if s.pyramid:
                build_pyramid(part, progress=bar.advance)


def _write_instances(task: _Task) -> dict[int, Instances]:
    """Writes the instances that are wanted; returns them by organelle."""
    s, written, source = task.config.segment, {}, task.folder / ORGANELLES
    for i in task.instances:
        stem = f"organelles_{task.parts[i]}_instances"
        volume, table = task.folder / f"{stem}.ome.zarr", task.folder / f"{stem}.csv"
        if task.missing(volume, table):
            for half in (volume, table):  # a call that was killed between the two
                records.remove(half)
            voxels = 3 * math.prod(open_volume(source, image=False).shape)
            with progress(volume.name, voxels, unit="voxels", log=task.log) as bar:
                written[i] = label_instances(
                    source, i, volume, table, min_voxels=s.min_instance_voxels, block=s.block,
                    connectivity=s.instance_connectivity, version=s.ome_zarr_version, pyramid=s.pyramid,
                    progress=bar.advance,
                )  # fmt: skip
        else:
            written[i] = Instances(volume, table, count_rows(table))
        task.log(f"name: {written[i].count:,} instances of {task.names[i]}, in {table}")
    return written


def _write_formats(
    task: _Task, instances: Mapping[int, Instances], shape: tuple[int, ...], target: Target | None
) -> None:
    """Writes the formats of other programs."""
    source, folder, voxels = task.folder / ORGANELLES, task.folder, math.prod(shape)
    outputs = task.config.segment.outputs
    if "tiff" in outputs and task.missing(file := folder / "organelles.tif"):
        with progress(file.name, voxels, unit="voxels", log=task.log) as bar:
            write_tiff(open_volume(source, image=False), file, progress=bar.advance)
    if "precomputed" in outputs:
        for path, names in {source: task.names, **{each.volume: None for each in instances.values()}}.items():
            written = folder / path.name.replace(".ome.zarr", ".precomputed")
            if task.missing(written):
                with progress(written.name, voxels * 8 / 7, unit="voxels", log=task.log) as bar:
                    write_precomputed(path, written, names=names, progress=bar.advance)
    if target is not None and task.missing(cellsketch := folder / CELLSKETCH):
        volumes = 1 + len(task.names) + len(instances) + (target.output_labels is not None)
        with progress(cellsketch.name, voxels * volumes, unit="voxels", log=task.log) as bar:
            labels = open_volume(source, image=False)
            write_cellsketch(
                cellsketch, prefix(target.output), target.output, labels, task.names, instances,
                cell=target.output_labels, progress=bar.advance,
            )  # fmt: skip
