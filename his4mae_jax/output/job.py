"""The state of one segmentation on disk: a stopped one is resumed, and several processes share the work.

A job is a folder beside the labels to come:

    segment.partial/job.json     what it computes, and its files; a job of anything else is started anew
    segment.partial/centres.npz  its cluster centres, fitted once
    segment.partial/*.ome.zarr   its label volumes, tile by tile
    segment.partial/done/<n>     written after tile n; holds the seconds it took, and checksums of what it wrote
    segment.partial/claims/<n>   locked by the process that computes tile n

Locks are those of the operating system (flock): they end with the process that holds them, however it ends.
Tiles are written whole and come out the same whichever process computes them, so that on a file system without
locks work is done twice and nothing worse. A marker that cannot be read is a tile to do again; where centres or an
array are damaged all tiles are.
"""

import contextlib
import json
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import tensorstore as ts

from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.errors import UserError
from his4mae_jax.files import lock_file, parse_json, write_json
from his4mae_jax.output import records

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FOLDER = "segment.partial"
WAIT = 0.5  # seconds between looks at tiles that other processes compute
Claims = dict[int, IO]  # the open, locked file of each tile that this process computes


def job_files(files: Iterable[str]) -> list[str]:
    """Names of what a job with these files has in its folder, beside job.json."""
    return ["done", "claims", *files, *(f"{name}{ending}" for name in files for ending in (".made", ".partial"))]


def check_folder(workdir: pathlib.Path, files: Iterable[str]) -> None:
    """Checks that the user has nothing where a job with these files will write.

    Raises:
      UserError: something is in the way.
    """
    folder = workdir / FOLDER
    if (folder / "job.json").exists():
        return  # the folder of a job
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        records.check_free(workdir, [FOLDER])
    # A job that is killed while it begins, or ends, leaves these two empty.
    started = [name for name in ("done", "claims") if (folder / name).is_dir() and not any((folder / name).iterdir())]
    records.check_free(folder, job_files(files), started)


class Job:
    """One segmentation of one workdir.

    Attributes:
      folder: of the job.
      id: differs between all jobs.

    Args:
      workdir: folder of the run.
      inputs: JSON values of all that the labels depend on.
      files: names of the files that the job makes.

    Raises:
      UserError: another process segments this workdir with other settings, or something of the user is in the way.
    """

    def __init__(self, workdir: str | os.PathLike, inputs: dict[str, Any], files: Sequence[str]) -> None:
        workdir = pathlib.Path(workdir)
        self.folder = workdir / FOLDER
        inputs = json.loads(json.dumps(inputs))
        path = workdir / "segment.lock"
        self._workdir_lock = lock_file(path, wait=False)
        if self._workdir_lock is not None:  # no other process segments here
            try:
                if self._saved().get("what") != inputs:
                    self._begin(inputs, files)
            except BaseException:
                self.close()
                raise
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._workdir_lock, fcntl.LOCK_SH)
        else:
            self._workdir_lock = lock_file(path, shared=True)
        saved = self._saved()
        if saved.get("what") != inputs:
            self.close()
            raise UserError(
                f"{self.folder}: another process segments this workdir with other settings "
                f"({_differs(saved, inputs)}); wait for its end, or use another workdir"
            )
        if not isinstance(saved.get("id"), str):
            self.close()
            raise UserError(f"{self.folder / 'job.json'}: damaged; delete {self.folder} and segment again")
        self.id = saved["id"]
        for name in ("done", "claims"):
            (self.folder / name).mkdir(exist_ok=True)

    def _saved(self) -> dict[str, Any]:
        return records.read(self.folder / "job.json")

    def _begin(self, inputs: dict[str, Any], files: Sequence[str]) -> None:
        self._clear()
        check_folder(self.folder.parent, files)
        for name in ("done", "claims"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "job.json", {"what": inputs, "files": sorted(files), "id": uuid.uuid4().hex})

    def _clear(self) -> None:
        """Removes the files of the job that is there; job.json, which names them, goes last."""
        path = self.folder / "job.json"
        saved = self._saved()
        if not saved:
            return
        for name in job_files(sorted(records.labels_named_by(path, saved))):
            records.remove(self.folder / name)
        path.unlink()
        with contextlib.suppress(OSError):  # files of the user stay, and the folder with them
            self.folder.rmdir()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes of this job out while the `with` block runs."""
        with contextlib.closing(lock_file(self.folder.parent / "segment.mutex")):
            yield

    @property
    def published(self) -> bool:
        """Whether the labels have been given their final names, by whichever process."""
        return self._saved().get("id") != self.id

    @property
    def publishing(self) -> bool:
        """Whether a process was killed while it gave the files of this job, all of them whole, their final names."""
        return records.read(self.folder.parent / records.SEGMENTATION).get("publishing") == self.id

    def array(self, name: str, version: str, create: Callable[[pathlib.Path], object]) -> ts.TensorStore:
        """The array of a volume of this job; one that is damaged is made anew, and all tiles are to be done again.

        Args:
          name: of the volume.
          version: of OME-Zarr.
          create: makes the volume at a path.
        """
        part, whole = self.folder / name, self.folder / f"{name}.made"
        if whole.exists():
            with contextlib.suppress(UserError):
                ome_zarr.read_group(part)
                return ome_zarr.open_array(part / "0", version)
            self.forget()
        create(part)
        whole.touch()
        return ome_zarr.open_array(part / "0", version)

    def forget(self) -> None:
        """Makes every tile one to do again."""
        for path in (self.folder / "done").glob("*"):
            records.remove(path)

    def _marker(self, path: pathlib.Path) -> dict[str, Any] | None:
        """What is recorded of a tile; None where it is not done, or its marker is damaged."""
        try:
            marker = parse_json(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(marker, dict) or not isinstance(marker.get("seconds"), (int, float)):
            return None
        checks = marker.setdefault("checks", {})  # earlier versions wrote none
        whole = isinstance(checks, dict) and all(checksums.is_entry(entry) for entry in checks.values())
        return marker if whole else None

    def _markers(self) -> dict[int, dict[str, Any]]:
        paths = [p for p in (self.folder / "done").glob("*") if p.name.isdigit()]
        markers = {int(path.name): self._marker(path) for path in paths}
        return {number: markers[number] for number in sorted(markers) if markers[number] is not None}

    def done(self, number: int) -> bool:
        """Whether a tile is on disk."""
        return self._marker(self.folder / "done" / str(number)) is not None

    def missing(self, count: int) -> list[int]:
        """Numbers of the tiles, of `count`, that are not done; none when another process has published them."""
        if self.published:
            return []
        finished = self._markers()
        return [n for n in range(count) if n not in finished]

    def claim(self, count: int, claims: Claims, start: float = 0.0) -> Iterator[int]:
        """Yields the tiles that are not done and that no other process computes.

        Goes through all of them once; a tile that another process computes may become free a while later.

        Args:
          count: number of tiles.
          claims: gets the lock of each tile.
          start: where to begin, as a fraction (0 to 1) of the missing tiles: processes that begin apart meet late,
            also where there are no locks.
        """
        missing = self.missing(count)
        begin = int(start * len(missing))
        for number in missing[begin:] + missing[:begin]:
            if self.done(number):
                continue
            try:
                lock = lock_file(self.folder / "claims" / str(number), wait=False)
            except FileNotFoundError:  # published meanwhile
                return
            if lock is None:
                continue
            if self.done(number):
                lock.close()
                continue
            claims[number] = lock
            yield number

    def mark(self, number: int, claims: Claims, seconds: float, checks: Mapping[str, list[Any]] | None = None) -> None:
        """Records that a tile is on disk, and releases it.

        Args:
          number: of the tile.
          claims: as `claim` filled it.
          seconds: that it took.
          checks: what it wrote, `checksums.entry` by the name of the volume.
        """
        path = self.folder / "done" / str(number)
        if path.is_dir():
            records.remove(path)
        try:
            write_json(path, {"seconds": seconds, "checks": checks or {}})
        except FileNotFoundError as error:
            if not records.segmentation(self.folder.parent):  # else another process has published the labels
                raise UserError(f"{self.folder}: deleted or moved while tiles were written; segment again") from error
        claims.pop(number).close()

    def seconds(self) -> float:
        """Seconds that all processes have spent on the tiles that are done."""
        return sum(marker["seconds"] for marker in self._markers().values())

    def write_checksums(self) -> None:
        """Writes what all tiles wrote, by volume, as the file of the job that is published with them."""
        written: dict[str, list] = {}
        for marker in self._markers().values():
            for name, entry in marker["checks"].items():
                written.setdefault(name, []).append(entry)
        part = self.folder / f"{records.CHECKSUMS}.partial"  # a name that `_clear` knows, should this be killed
        part.write_text(json.dumps(written), encoding="utf-8")
        os.replace(part, self.folder / records.CHECKSUMS)

    def pause(self) -> None:
        """Waits a little for tiles that other processes compute."""
        time.sleep(WAIT)

    def finish(self) -> None:
        """Removes the job: its labels are published."""
        path = self.folder / "job.json"
        # First: without an id it is over for every process that shares it.
        write_json(path, {"files": sorted(records.labels_named_by(path, self._saved()))})
        self._clear()

    def close(self) -> None:
        """Releases the workdir."""
        self._workdir_lock.close()


def _differs(saved: dict[str, Any], inputs: dict[str, Any]) -> str:
    """The first setting in which two jobs differ."""
    before = saved.get("what") or {}
    if isinstance(inputs.get("settings"), dict):
        before, inputs = {**before, **before.get("settings", {})}, {**inputs, **inputs["settings"]}
        before.pop("settings", None), inputs.pop("settings")
    key = next((k for k in {**before, **inputs} if before.get(k) != inputs.get(k)), None)
    return f"{key}: {before.get(key)!r} there, {inputs.get(key)!r} here" if key else "its job is over"
