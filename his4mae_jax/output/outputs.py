"""What is written beside the label volumes: pyramids, other formats, instances; asked for by `config.segment`.

`outputs.json` names the files written for the present labels. They go before new labels take their place, so that
nothing of an earlier segmentation stands beside a later one.
"""

import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import tqdm

from his4mae_jax import files
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output import cellsketch, precomputed
from his4mae_jax.output.instances import Instances, count_rows, file_names, label_class
from his4mae_jax.output.names import slugs
from his4mae_jax.output.pyramid import build_pyramid
from his4mae_jax.output.tiff_stack import write_tiff

MANIFEST = "outputs.json"
CELLSKETCH = "cellsketch"  # folder
# What a manifest may name: a changed one must not have other files removed.
_OURS = re.compile(r"labels(_c\d+)?\.(tif|precomputed)|cellsketch|instances_[a-z0-9]+\.(ome\.zarr|csv|precomputed)")


def write_outputs(
    config,
    workdir: str | os.PathLike,
    image: VolumeLike,
    labels_paths: str | os.PathLike | Sequence[str | os.PathLike],
    names: Sequence[str] | dict[int, str],
    log: Callable[[str], object],
    *,
    cell: VolumeLike | None = None,
    segmentation: str | None = None,
) -> list[pathlib.Path]:
    """Writes what `config.segment` asks for, in place of what an earlier call wrote.

    | key | writes, in the workdir |
    |---|---|
    | `pyramid` | coarser levels in every label volume, and in those of instances |
    | `instances` | `instances_<name>.ome.zarr` and `.csv` for each label named, of the first label volume |
    | `outputs`: "tiff" | `labels.tif`, `labels_c<C>.tif` |
    | `outputs`: "precomputed" | `labels.precomputed`, ..., and `instances_<name>.precomputed` |
    | `outputs`: "cellsketch" | `cellsketch/`, of the first label volume |

    Args:
      config: the configuration.
      workdir: folder of the run.
      image: what was segmented.
      labels_paths: the label volumes (OME-Zarr folders written whole), that of the headline first.
      names: of the headline's labels, by id; the others have theirs in their metadata.
      log: takes lines for the user.
      cell: labels that are IGNORE outside the cell, where there are any.
      segmentation: what tells these labels from all others. A call for the same labels with the same settings that
        was stopped is then gone on with: what it wrote whole is kept. None: all is written anew.

    Returns:
      The paths written.

    Raises:
      UserError: something stands in the way, cannot be read or cannot be written.
    """
    s, workdir = config.segment, pathlib.Path(workdir)
    paths = [labels_paths] if isinstance(labels_paths, (str, os.PathLike)) else labels_paths
    paths = [pathlib.Path(p) for p in paths]
    names = {int(i): str(n) for i, n in (names.items() if isinstance(names, dict) else enumerate(names))}
    classes = instance_classes(s.instances, names)
    planned = plan(s.outputs, paths, classes)
    _begin(workdir, planned, _about(config, image, paths, names, cell, segmentation))
    voxels = math.prod(image.shape)

    def todo(path, *more):
        """Whether a file is still to be written; what stands under its final name is whole."""
        there = all(os.path.lexists(p) for p in (path, *more))
        log(f"outputs: {path}" + (", there already" if there else ""))
        return not there

    if s.pyramid:
        for path in paths:
            with _bar(path, voxels / 7) as bar:
                log(f"outputs: {path}: {build_pyramid(path, progress=bar.update)} levels")
    found = {}
    for label, name in classes.items():
        volume, table = (workdir / n for n in file_names(slugs(classes)[label]))
        if todo(volume, table):
            with _bar(volume, 3 * voxels) as bar:
                found[label] = label_class(
                    paths[0], label, volume, table, min_voxels=s.min_instance_voxels, block=s.block,
                    connectivity=s.instance_connectivity, version=s.ome_zarr_version, pyramid=s.pyramid,
                    progress=bar.update,
                )  # fmt: skip
        else:
            found[label] = Instances(volume, table, count_rows(table))
        log(f"outputs: {found[label].count:,} instances of {name}, in {table}")
    for path in paths if "tiff" in s.outputs else ():
        if todo(file := workdir / f"{_stem(path)}.tif"):
            with _bar(file, voxels) as bar:
                write_tiff(open_volume(path, image=False), file, progress=bar.update)
    shown = {path: names if path == paths[0] else _names_inside(path) for path in paths}
    shown |= {instances.volume: None for instances in found.values()}
    for path, its_names in shown.items() if "precomputed" in s.outputs else ():
        if todo(folder := workdir / f"{_stem(path)}.precomputed"):
            with _bar(folder, voxels * 8 / 7) as bar:
                precomputed.write_precomputed(path, folder, names=its_names, progress=bar.update)
    if "cellsketch" in s.outputs and todo(folder := workdir / CELLSKETCH):
        labels = open_volume(paths[0], image=False)
        with _bar(folder, voxels * (1 + len(names) + len(found) + (cell is not None))) as bar:
            cellsketch.write_cellsketch(
                folder, prefix(image), image, labels, names, found, cell=cell, progress=bar.update
            )  # fmt: skip
    return [workdir / name for name in planned]


def _begin(workdir: pathlib.Path, planned: Sequence[str], about: dict[str, Any] | None) -> None:
    """Removes what an earlier call wrote, unless it was the same as this one; says what this one writes."""
    manifest = workdir / MANIFEST
    try:
        if about is not None and json.loads(manifest.read_text("utf-8"))["of"] == about:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or a damaged one, which the next line tells of
    remove_outputs(workdir)
    for name in planned:
        if os.path.lexists(workdir / name):
            raise UserError(f"{workdir / name}: was not written by this run, so it is not replaced; move it elsewhere")
    if planned:
        with files.writing(workdir):  # before any of them: one that is cut short is known to be ours
            files.write_json(manifest, {"outputs": planned, "of": about})


def _about(config, image, paths, names, cell, segmentation):
    """All that outputs depend on, as JSON; None where the segmentation is not named."""
    if segmentation is None:
        return None
    keys = (
        "outputs",
        "instances",
        "min_instance_voxels",
        "instance_connectivity",
        "ome_zarr_version",
        "pyramid",
        "block",
    )
    settings = {key: config.segment[key] for key in keys}
    about = {
        "segmentation": segmentation, "image": str(image.name), "labels": [p.name for p in paths],
        "names": list(names.items()), "cell": str(cell.name) if cell is not None else None, **settings,
    }  # fmt: skip
    return json.loads(json.dumps(about))


def remove_outputs(workdir: str | os.PathLike) -> None:
    """Removes what `write_outputs` wrote, and what a call that was stopped left behind.

    Label volumes stay. To be called before they are replaced.
    """
    workdir = pathlib.Path(workdir)
    manifest = workdir / MANIFEST
    try:
        written = json.loads(manifest.read_text("utf-8"))["outputs"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest}: damaged; remove it, and outputs of earlier segmentations beside it, yourself"
        ) from error
    with files.writing(workdir):
        for name in written:
            if not isinstance(name, str) or not _OURS.fullmatch(name):
                raise UserError(f"{manifest}: names {name!r}, which is no output; remove the file and outputs yourself")
            for path in (workdir / name, workdir / f"partial.{name}", workdir / f"partial.{name}.draft"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        manifest.unlink()


def plan(outputs: Sequence[str], paths: Sequence[pathlib.Path], classes: dict[int, str]) -> list[str]:
    """Names, in the workdir, of the files and folders that are written for these label volumes and classes."""
    written = []
    for part in slugs(classes).values():
        written += [*file_names(part), *([f"instances_{part}.precomputed"] if "precomputed" in outputs else [])]
    for path in paths:
        written += [f"{_stem(path)}.tif"] if "tiff" in outputs else []
        written += [f"{_stem(path)}.precomputed"] if "precomputed" in outputs else []
    return written + ([CELLSKETCH] if "cellsketch" in outputs else [])


def instance_classes(wanted: Sequence[int | str], names: dict[int, str]) -> dict[int, str]:
    """Name by id of the labels that `segment.instances` (ids, names, or "all") asks for.

    Raises:
      UserError: there is no such label.
    """
    found = {}
    for item in wanted:
        which = [i for i, name in names.items() if item in ("all", i, name)]
        if not which:
            known = ", ".join(f"{i} ({n})" for i, n in names.items())
            raise UserError(f"config key segment.instances: there is no label {item!r}; choose of {known}, or 'all'")
        found |= {i: names[i] for i in which}
    return dict(sorted(found.items()))


def prefix(image: VolumeLike) -> str:
    """What CellSketch's files begin with: the volume's name without folder, crop and ending."""
    name = re.sub(r"\s*\[[^\]]*\]$|\?[^/]*$", "", str(image.name)).rstrip("/\\")
    name = re.split(r"[/\\]", name)[-1]
    name = re.sub(r"(\.ome)?\.(zarr|tiff?|n5|h5|hdf5|mrc)$", "", name, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "cell"


def _bar(path: pathlib.Path, voxels: float) -> tqdm.tqdm:
    return tqdm.tqdm(total=int(voxels), unit="voxel", unit_scale=True, desc=path.name, mininterval=1.0)


def _stem(path):
    return pathlib.Path(path).name.removesuffix(".ome.zarr")


def _names_inside(path):
    """Names of labels in a label volume's metadata."""
    label = ome_zarr.read_group(path)[1].get("image-label", {})
    return {p["label-value"]: p["name"] for p in label.get("properties", ())}
