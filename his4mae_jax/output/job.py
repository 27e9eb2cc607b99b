"""The state of one segmentation on disk, from which a stopped one is resumed.

A job is a folder beside the labels to come:

    segment.partial/job.json     what it computes, and its files; a job of anything else is started anew
    segment.partial/centres.npz  its cluster centres, fitted once
    segment.partial/*.ome.zarr   its label volumes, tile by tile
    segment.partial/done/<n>     written after tile n; holds the seconds it took, and checksums of what it wrote

In a bucket the label volumes are in segmentation-<id>/ from the start, as no folder there can take another name.

One run at a time segments into a folder, and its first process says who labels which tile. Tiles are written whole and
come out the same whoever labels them. A marker that cannot be read is a tile to do again; where
centres or an array are damaged all tiles are.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorstore as ts

from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json
from his4mae_jax.output import records
from his4mae_jax.output.engine.markers import Markers

FOLDER = "segment.partial"
_FOLDERS = ("done", "claims")  # claims: of earlier versions


def job_files(files: Iterable[str]) -> list[str]:
    """Names of what a job with these files has in its folder, beside job.json."""
    return [*_FOLDERS, *files, *(f"{name}{ending}" for name in files for ending in (".made", ".partial"))]


def check_folder(workdir: Place, files: Iterable[str]) -> None:
    """Checks that the user has nothing where a job with these files will write.

    Raises:
      UserError: something is in the way.
    """
    folder = workdir / FOLDER
    if folder.is_symlink():  # from another disk nothing could take its name in one step
        raise UserError(f"{folder}: a link; move what it leads to here, or delete the link to begin anew")
    if (folder / "job.json").exists():
        return  # the folder of a job
    if folder.exists() and not folder.is_dir():
        records.check_free(workdir, [FOLDER])
    # A job that is killed while it begins, or ends, leaves these two empty.
    started = [name for name in _FOLDERS if (folder / name).is_dir() and not any((folder / name).iterdir())]
    records.check_free(folder, job_files(files), started)


def job_id(folder: Place) -> str | None:
    """The id of the job in a folder; None where there is none."""
    found = records.read(folder / "job.json").get("id")
    return found if isinstance(found, str) else None


def volume_in(folder: Place, name: str) -> Place:
    """Where a volume of the job in a folder is written."""
    return records.stored(folder.parent / name, job_id(folder)) if isinstance(folder, BucketPath) else folder / name


def clear_published(workdir: Place, job: str) -> None:
    """Removes what a process that was killed at its very end has left of the job whose labels are published.

    Args:
      workdir: folder of the labels.
      job: id in their segment.json.
    """
    with contextlib.suppress(UserError):  # a damaged record is told when something is segmented
        saved = records.read(workdir / FOLDER / "job.json")
        if saved and saved.get("id") in (None, job):
            _clear(workdir / FOLDER)
        if isinstance(workdir, BucketPath) and saved.get("id") in (None, job):
            drop_others(workdir, job)


def drop_others(workdir: BucketPath, job: str) -> None:
    """Removes the volumes of all jobs of a folder but the one whose labels are published."""
    for folder in workdir.glob(f"{records.JOB_FOLDER}*"):
        if folder.name != f"{records.JOB_FOLDER}{job}":
            records.remove(folder)


def _clear(folder: Place) -> None:
    """Removes the files of the job that is in a folder; job.json, which names them, goes last."""
    path = folder / "job.json"
    saved = records.read(path)
    if not saved:
        return
    names = sorted(records.labels_named_by(path, saved))
    if isinstance(folder, BucketPath) and saved.get("id"):
        published = records.read(folder.parent / records.SEGMENTATION)
        if saved["id"] not in (published.get("job"), published.get("publishing")):
            records.remove(folder.parent / f"{records.JOB_FOLDER}{saved['id']}")
    for name in job_files(names):
        records.remove(folder / name)
    path.unlink()
    with contextlib.suppress(OSError):  # files of the user stay, and the folder with them
        folder.rmdir()


class Job:
    """One segmentation, in the process that began it and that alone may segment into this folder (`segment.lock`).

    Attributes:
      folder: of the job.
      id: differs between all jobs.
      tiles: those that are done.

    Args:
      workdir: folder of the labels to come.
      inputs: JSON values of all that the labels depend on.
      files: names of the files that the job makes.
      image_state: `file_state` of the image: tiles of another one are done again.

    Raises:
      UserError: something of the user is in the way, or the record of a job is damaged.
    """

    def __init__(
        self, workdir: PathLike, inputs: dict[str, Any], files: Sequence[str], image_state: str | None = None
    ) -> None:
        self.folder = place(workdir) / FOLDER
        self.tiles = Markers(self.folder / "done")
        inputs = json.loads(json.dumps(inputs))
        saved = self._saved()
        self.id = str(saved.get("id"))
        changed = saved.get("image_state", image_state) != image_state
        if saved.get("what") != inputs or (changed and not self.publishing):
            self._begin(inputs, files, image_state)
        self.tiles.folder.mkdir(exist_ok=True)
        found = job_id(self.folder)
        if found is None:
            raise UserError(f"{self.folder / 'job.json'}: damaged; delete {self.folder} and segment again")
        self.id = found

    def _saved(self) -> dict[str, Any]:
        return records.read(self.folder / "job.json")

    def _begin(self, inputs: dict[str, Any], files: Sequence[str], image_state: str | None) -> None:
        _clear(self.folder)
        check_folder(self.folder.parent, files)
        self.tiles.folder.mkdir(parents=True, exist_ok=True)
        record = {"what": inputs, "files": sorted(files), "id": uuid.uuid4().hex, "image_state": image_state}
        write_json(self.folder / "job.json", record)

    @property
    def publishing(self) -> bool:
        """Whether a process was killed while it gave the files of this job, all of them whole, their final names."""
        return records.read(self.folder.parent / records.SEGMENTATION).get("publishing") == self.id

    def array(self, name: str, version: str, create: Callable[[Place], object]) -> ts.TensorStore:
        """The array of a volume of this job; one that is damaged is made anew, and all tiles are to be done again.

        Args:
          name: of the volume.
          version: of OME-Zarr.
          create: makes the volume at a path.
        """
        part, whole = volume_in(self.folder, name), self.folder / f"{name}.made"
        if whole.exists():
            with contextlib.suppress(UserError):
                ome_zarr.read_group(part)
                return ome_zarr.open_array(part / "0", version)
            self.tiles.forget()
        create(part)
        whole.touch()
        return ome_zarr.open_array(part / "0", version)

    def write_checksums(self) -> None:
        """Writes what all tiles wrote, by volume, as the file of the job that is published with them."""
        written: dict[str, list] = {}
        for tile in self.tiles.all().values():
            for name, entry in tile.checks.items():
                written.setdefault(name, []).append(entry)
        part, path = self.folder / f"{records.CHECKSUMS}.partial", self.folder / records.CHECKSUMS
        if isinstance(path, BucketPath):
            path.write_text(json.dumps(written))
            return
        part.write_text(json.dumps(written), encoding="utf-8")  # a name that `_clear` knows, should this be killed
        os.replace(part, path)

    def finish(self) -> None:
        """Removes the job: its labels are published."""
        path = self.folder / "job.json"
        # First: without an id it is over for workers that still have a tile of it.
        write_json(path, {"files": sorted(records.labels_named_by(path, self._saved()))})
        _clear(self.folder)
