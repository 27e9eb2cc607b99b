"""Give the files of a finished segmentation their final names, in place of those of an earlier one."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from his4mae_jax.bucket.lease import check_held
from his4mae_jax.bucket.path import BucketPath, PathLike, place
from his4mae_jax.clustering import centres
from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json
from his4mae_jax.output import outputs, records
from his4mae_jax.output.job import Job, check_folder, drop_others
from his4mae_jax.output.plan import headline, label_names, volume_paths
from his4mae_jax.progress import Log, say


def files_of(config: ml_collections.ConfigDict) -> list[str]:
    """Names of the files in the workdir that a segmentation with this config writes itself."""
    labels, probabilities = volume_paths(config, "")
    return [
        *(path.name for path in labels.values()),
        *([probabilities.name] if probabilities else []),
        records.CENTRES,
        records.CHECKSUMS,
    ]


def check_free(config: ml_collections.ConfigDict, workdir: PathLike, class_names: Sequence[str]) -> None:
    """Checks, before any work, that nothing of the user lies where the segment stage will write.

    Args:
      config: the configuration.
      workdir: folder of the run.
      class_names: of the data, by id.

    Raises:
      UserError: something is in the way, or a record that says what is ours is damaged.
    """
    workdir = place(workdir)
    if isinstance(workdir, BucketPath):
        _check_bucket(config, workdir)
    records.check_free(workdir, files_of(config), records.recorded_labels(workdir))
    check_folder(workdir, files_of(config))
    labels, _ = volume_paths(config, workdir)
    names = label_names(config, headline(config), class_names)
    outputs.check_free(config, workdir, list(labels.values()), names)


def _check_bucket(config: ml_collections.ConfigDict, workdir: BucketPath) -> None:
    """Raises `UserError` for what cannot be made in a bucket."""
    for key, wanted in (
        ("keep_features", config.segment.keep_features),
        ("outputs", "image" in config.segment.outputs),
    ):
        if wanted:
            value = "True" if key == "keep_features" else "with 'image', which has links to the labels"
            raise UserError(f"{workdir}: in a bucket, and config key segment.{key} is {value}: use a workdir on a disk")


def clean_locks(folder: PathLike) -> None:
    """Removes what a killed process left of a chunk that it was writing."""
    for path in place(folder).rglob("*.__lock"):
        with contextlib.suppress(OSError):
            os.unlink(path)


def publish(job: Job, files: Sequence[str], workdir: PathLike, facts: dict[str, Any]) -> None:
    """Gives the files of a job, all of them whole, their final names, and ends the job.

    Files of an earlier segmentation go, those that segment.json and outputs.json name and no others. Killed anywhere
    in between, there is no segmentation, but segment.json still names all files of both, and the same command, or
    another one, goes on from there.

    Args:
      job: with all tiles done.
      files: names of its files.
      workdir: folder of the run.
      facts: content of segment.json, to which the names of the files are added.

    Raises:
      UserError: something of the user is in the way.
    """
    workdir = place(workdir)
    before = records.recorded_labels(workdir)
    records.check_free(workdir, files, before)
    if records.CHECKSUMS in files and not job.publishing:
        job.write_checksums()
    record = workdir / records.SEGMENTATION
    write_json(record, {"publishing": job.id, "files": sorted({*before, *files})})
    outputs.remove_outputs(workdir)
    for name in sorted(before - set(files)):
        records.remove(workdir / name)
    if isinstance(workdir, BucketPath):
        for name in (records.CENTRES, records.CHECKSUMS):
            if (job.folder / name).exists():
                (workdir / name).write_bytes((job.folder / name).read_bytes())
        check_held(workdir)
        write_json(record, {**facts, "files": sorted(files)})
        job.finish()
        drop_others(workdir, job.id)
        return
    for name in files:
        part = job.folder / name
        if part.exists():
            clean_locks(part)
            if (workdir / name).is_symlink():
                target = os.readlink(workdir / name)
                say(f"segment: {workdir / name} was a link to {target}, which stays as it is and is not used any more")
            if part.is_dir():
                records.remove(workdir / name)
            os.replace(part, workdir / name)
    write_json(record, {**facts, "files": sorted(files)})
    job.finish()


def damage(folder: PathLike, log: Log) -> list[str]:
    """What of a segmentation is not as it was written: centres, and voxels of labels and of probabilities.

    All that was written is read. Labels of versions that kept no checksums are not looked at.

    Args:
      folder: of the labels.
      log: prints a line.

    Returns:
      One line for each damage; empty where all is whole.
    """
    folder = place(folder)
    try:
        centres.load(folder / records.CENTRES)
    except UserError as error:
        return [str(error), *outputs.voxel_damage(folder, log)]
    return outputs.voxel_damage(folder, log)
