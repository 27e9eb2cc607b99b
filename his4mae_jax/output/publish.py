"""Give the files of a finished segmentation their final names, in place of those of an earlier one."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from his4mae_jax.files import write_json
from his4mae_jax.output import outputs, records
from his4mae_jax.output.job import Job, check_folder, clean_locks
from his4mae_jax.output.plan import headline, label_names, volume_paths


def files_of(config: ml_collections.ConfigDict) -> list[str]:
    """Names of the files in the workdir that a segmentation with this config writes itself."""
    labels, probabilities = volume_paths(config, "")
    return [*(path.name for path in labels.values()), *([probabilities.name] if probabilities else []), records.CENTRES]


def check_free(config: ml_collections.ConfigDict, workdir: str | os.PathLike, class_names: Sequence[str]) -> None:
    """Checks, before any work, that nothing of the user lies where the segment stage will write.

    Args:
      config: the configuration.
      workdir: folder of the run.
      class_names: of the data, by id.

    Raises:
      UserError: something is in the way, or a record that says what is ours is damaged.
    """
    workdir = pathlib.Path(workdir)
    records.check_free(workdir, files_of(config), records.recorded_labels(workdir))
    check_folder(workdir, files_of(config))
    labels, _ = volume_paths(config, workdir)
    names = label_names(config, headline(config), class_names)
    outputs.check_free(config, workdir, list(labels.values()), names)


def publish(job: Job, files: Sequence[str], workdir: str | os.PathLike, facts: dict[str, Any]) -> None:
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
    workdir = pathlib.Path(workdir)
    before = records.recorded_labels(workdir)
    records.check_free(workdir, files, before)
    record = workdir / records.SEGMENTATION
    write_json(record, {"publishing": job.id, "files": sorted({*before, *files})})
    outputs.remove_outputs(workdir)
    for name in sorted(before - set(files)):
        records.remove(workdir / name)
    for name in files:
        part = job.folder / name
        if part.exists():
            clean_locks(part)
            if part.is_dir():
                records.remove(workdir / name)
            os.replace(part, workdir / name)
    write_json(record, {**facts, "files": sorted(files)})
    job.finish()
