"""What is written beside the label volumes: pyramids, other formats, instances, as `config.segment` requests.

`outputs.json` names the files written for the present labels. They are removed before new labels take the place of
these, so that nothing of an earlier segmentation stays beside a later one.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.group import copy_image, list_labels
from his4mae_jax.data.ome_zarr.pyramid import build_pyramid
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError, mask
from his4mae_jax.files import slugs
from his4mae_jax.output import records
from his4mae_jax.output.cellsketch import write_cellsketch
from his4mae_jax.output.instances import Instances, count_rows, file_names, label_instances
from his4mae_jax.output.neuroglancer import write_precomputed
from his4mae_jax.output.tiff_stack import write_tiff
from his4mae_jax.progress import Log, progress

MANIFEST = "outputs.json"
CELLSKETCH = "cellsketch"  # folder
IMAGE = "image.ome.zarr"
# What a manifest may name: one that was tampered with must not have other files removed.
_OURS = re.compile(
    r"labels(_c\d+)?\.(tif|precomputed)|cellsketch|image\.ome\.zarr|instances_[a-z0-9]+\.(ome\.zarr|csv|precomputed)"
)
# Settings of `segment` that the outputs depend on, beside the labels.
_SETTINGS = (
    "outputs", "instances", "min_instance_voxels", "instance_connectivity", "ome_zarr_version", "pyramid", "block",
)  # fmt: skip


def write_outputs(
    config: ml_collections.ConfigDict,
    workdir: PathLike,
    image: VolumeLike,
    labels_paths: Sequence[PathLike],
    names: Mapping[int, str],
    log: Callable[[str], object],
    *,
    cell: VolumeLike | None = None,
    segmentation: str | None = None,
) -> list[Place]:
    """Writes what `config.segment` requests, in place of what an earlier call wrote.

    | key | writes, in the workdir |
    |---|---|
    | `pyramid` | coarser levels in every label volume, and in those of instances |
    | `instances` | `instances_<name>.ome.zarr` and `.csv` for each of these labels, of the first label volume |
    | `outputs`: "image" | `image.ome.zarr`: the image, with the label volumes as the labels of its group |
    | `outputs`: "tiff" | `labels.tif`, `labels_c<C>.tif` |
    | `outputs`: "precomputed" | `labels.precomputed`, ..., and `instances_<name>.precomputed` |
    | `outputs`: "cellsketch" | `cellsketch/`, of the first label volume |

    Args:
      config: the configuration.
      workdir: folder of the run.
      image: what was segmented, (z, y, x).
      labels_paths: the label volumes (OME-Zarr folders written whole), the headline's first.
      names: of the headline's labels, by id; the other label volumes have theirs in their metadata.
      log: prints one line.
      cell: label volume that is IGNORE outside the cell, where there is one.
      segmentation: identifies these labels. A stopped call for the same labels with the same settings is resumed: what
        it finished is kept. None: everything is written anew.

    Returns:
      The paths written.

    Raises:
      UserError: something is in the way, cannot be read or cannot be written.
    """
    s, workdir, paths = config.segment, place(workdir), [place(p) for p in labels_paths]
    classes = instance_classes(s.instances, names)
    planned = plan(s.outputs, paths, classes)
    _manifest(workdir).begin(planned, _dependencies(config, image, paths, names, cell, segmentation))
    voxels = math.prod(image.shape)

    def missing(path: Place, *more: Place) -> bool:
        """Whether an output is still to be written; what has its final name was whole, and may be damaged since."""
        there = all(transfer.is_whole(p) for p in (path, *more))
        there = there and checksums.whole_or_removed(path, lambda line: log(f"outputs: {line}"))
        log(f"outputs: {path}" + (", there already" if there else ""))
        return not there

    if s.pyramid:
        for path in paths:
            add_pyramid(path, voxels, log)
    instances: dict[int, Instances] = {}
    for label, name in classes.items():
        volume, table = (workdir / file for file in file_names(slugs(classes)[label]))
        if missing(volume, table):
            for half in (volume, table):  # a call that was killed between the two
                records.remove(half)
            with progress(volume.name, 3 * voxels, unit="voxels", log=log) as bar:
                instances[label] = label_instances(
                    paths[0], label, volume, table, min_voxels=s.min_instance_voxels, block=s.block,
                    connectivity=s.instance_connectivity, version=s.ome_zarr_version, pyramid=s.pyramid,
                    progress=bar.advance,
                )  # fmt: skip
        else:
            instances[label] = Instances(volume, table, count_rows(table))
        log(f"outputs: {instances[label].count:,} instances of {name}, in {table}")
    if "image" in s.outputs:
        if missing(folder := workdir / IMAGE):
            _write_image(image, folder, s, log)
        list_labels(folder, [_stem(path) for path in paths], s.ome_zarr_version)
    if "tiff" in s.outputs:
        for path in paths:
            if missing(file := workdir / f"{_stem(path)}.tif"):
                with progress(file.name, voxels, unit="voxels", log=log) as bar:
                    write_tiff(open_volume(path, image=False), file, progress=bar.advance)
    if "precomputed" in s.outputs:
        names_by_path = {path: names if path == paths[0] else stored_names(path) for path in paths}
        names_by_path |= {written.volume: None for written in instances.values()}
        for path, its_names in names_by_path.items():
            if missing(folder := workdir / f"{_stem(path)}.precomputed"):
                with progress(folder.name, voxels * 8 / 7, unit="voxels", log=log) as bar:
                    write_precomputed(path, folder, names=its_names, progress=bar.advance)
    if "cellsketch" in s.outputs and missing(folder := workdir / CELLSKETCH):
        labels = open_volume(paths[0], image=False)
        volumes = 1 + len(names) + len(instances) + (cell is not None)
        with progress(folder.name, voxels * volumes, unit="voxels", log=log) as bar:
            write_cellsketch(folder, prefix(image), image, labels, names, instances, cell=cell, progress=bar.advance)
    return [workdir / name for name in planned]


def _write_image(image, folder, s, log):
    """Copies the image, with coarser levels."""
    with progress(folder.name, math.prod(image.shape) * 8 / 7, unit="voxels", log=log) as bar:
        with records.new(folder) as (part,):
            copy_image(image, part, chunks=s.block, version=s.ome_zarr_version, progress=bar.advance)
            if s.pyramid:
                build_pyramid(part, progress=bar.advance)


def add_pyramid(path: Place, voxels: int, log: Callable[[str], object]) -> None:
    """Adds coarser levels to a volume of so many voxels, and says how many there are."""
    with progress(f"{path.name}: coarser levels", voxels / 7, unit="voxels", log=log) as bar:
        levels = build_pyramid(path, progress=bar.advance, log=lambda line: log(f"outputs: {line}"))
    log(f"outputs: {path}: {levels} levels")


def check_free(
    config: ml_collections.ConfigDict,
    workdir: Place,
    labels_paths: Sequence[Place],
    names: Mapping[int, str],
) -> None:
    """Checks that nothing of the user lies where `write_outputs` will write.

    Raises:
      UserError: something is in the way, the manifest is damaged, or `segment.instances` names no label.
    """
    planned = plan(config.segment.outputs, labels_paths, instance_classes(config.segment.instances, names))
    _manifest(workdir).check_free(planned)


def _manifest(workdir: Place) -> records.Manifest:
    return records.Manifest(workdir / MANIFEST, _OURS)


def _dependencies(config, image, paths, names, cell, segmentation) -> dict[str, Any] | None:
    """All that the outputs depend on, as JSON; None where the labels are not identified."""
    if segmentation is None:
        return None
    values = {
        "segmentation": segmentation, "image": mask(image.name), "labels": [p.name for p in paths],
        "names": list(names.items()), "cell": mask(cell.name) if cell is not None else None,
        **{key: config.segment[key] for key in _SETTINGS},
    }  # fmt: skip
    return json.loads(json.dumps(values))


def remove_outputs(workdir: PathLike) -> None:
    """Removes what `write_outputs` wrote, and what a killed call left behind.

    Label volumes stay. To be called before they are replaced.

    Raises:
      UserError: the manifest is damaged.
    """
    _manifest(place(workdir)).remove()


def plan(outputs: Sequence[str], paths: Sequence[Place], classes: Mapping[int, str]) -> list[str]:
    """File names in the workdir of all outputs for these label volumes and classes of instances."""
    written = []
    for part in slugs(classes).values():
        written += [*file_names(part), *([f"instances_{part}.precomputed"] if "precomputed" in outputs else [])]
    for path in paths:
        written += [f"{_stem(path)}.tif"] if "tiff" in outputs else []
        written += [f"{_stem(path)}.precomputed"] if "precomputed" in outputs else []
    written += [IMAGE] if "image" in outputs else []
    return written + ([CELLSKETCH] if "cellsketch" in outputs else [])


def instance_classes(wanted: Sequence[int | str], names: Mapping[int, str]) -> dict[int, str]:
    """Names, by id, of the labels that `segment.instances` (ids, names, or "all") selects.

    Raises:
      UserError: there is no such label.
    """
    selected = {}
    for item in wanted:
        matching = {i: name for i, name in names.items() if item in ("all", i, name)}
        if not matching:
            known = ", ".join(f"{i} ({n})" for i, n in names.items())
            raise UserError(f"config key segment.instances: there is no label {item!r}; choose of {known}, or 'all'")
        selected |= matching
    return dict(sorted(selected.items()))


def prefix(image: VolumeLike) -> str:
    """Prefix of CellSketch's files: the volume's name without folder, crop and ending."""
    name = re.sub(r"\s*\[[^\]]*\]$|\?[^/]*$", "", str(image.name)).rstrip("/\\")
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r"(\.ome)?\.(zarr|tiff?|n5|h5|hdf5|mrc)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "cell"


def _stem(path: Place) -> str:
    return path.name.removesuffix(".ome.zarr")


def stored_names(path: PathLike) -> dict[int, str]:
    """Names of labels, by id, in a label volume's metadata."""
    label = ome_zarr.read_group(path)[1].get("image-label", {})
    return {p["label-value"]: p["name"] for p in label.get("properties", ()) if p.get("name")}


def voxel_damage(folder: Place, log: Log, only: str | None = None) -> list[str]:
    """What of the voxels of a segmentation is not as it was written, see `publish.damage`.

    Args:
      folder: of the labels.
      log: prints a line.
      only: name of the volume to look at; None: all.
    """
    if records.CHECKSUMS not in records.read(folder / records.SEGMENTATION).get("files", ()):
        return []
    try:
        written = records.read(folder / records.CHECKSUMS)
    except UserError as error:
        return [str(error)]
    if not written:
        return [f"{folder / records.CHECKSUMS}: missing"]
    found = []
    for name, entries in written.items() if only is None else [(only, written.get(only))]:
        if not isinstance(entries, list) or not all(checksums.is_entry(entry) for entry in entries):
            found.append(f"{folder / records.CHECKSUMS}: damaged")
            continue
        voxels = sum(math.prod(stop - start for start, stop in box) for box, _ in entries)
        with progress(f"check {name}", voxels, unit="voxels", log=log) as bar:
            found += checksums.damaged(records.volume(folder / name), entries, bar.advance)
    return found
