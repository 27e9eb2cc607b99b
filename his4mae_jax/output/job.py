"""The state of one segmentation on disk: a stopped one is resumed, and several processes share the work.

A job is a folder beside the labels to come:

    segment.partial/job.json     what it computes, and its files; a job of anything else is started anew
    segment.partial/centres.npz  its cluster centres, fitted once
    segment.partial/*.ome.zarr   its label volumes, tile by tile
    segment.partial/done/<n>     written after tile n; holds the seconds it took
    segment.partial/claims/<n>   locked by the process that computes tile n

Locks are those of the operating system (flock): they end with the process that holds them, however it ends.
Tiles are written whole and come out the same whichever process computes them, so that on a file system without
locks work is done twice and nothing worse.
"""

import contextlib
import json
import os
import pathlib
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json
from his4mae_jax.output import records

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FOLDER = "segment.partial"
WAIT = 0.5  # seconds between looks at tiles that other processes compute
Claims = dict[int, IO]  # the open, locked file of each tile that this process computes


def _lock(path: pathlib.Path, *, shared: bool = False, wait: bool = True) -> IO | None:
    """An open file that holds a lock, or None where another process has it and `wait` is False."""
    file = open(path, "a")  # noqa: SIM115
    if fcntl is not None:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass  # a file system without locks
    return file


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
        self._workdir_lock = _lock(path, wait=False)
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
            self._workdir_lock = _lock(path, shared=True)
        saved = self._saved()
        if saved.get("what") != inputs:
            self.close()
            raise UserError(
                f"{self.folder}: another process segments this workdir with other settings "
                f"({_differs(saved, inputs)}); wait for its end, or use another workdir"
            )
        self.id = saved["id"]

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
        with contextlib.closing(_lock(self.folder.parent / "segment.mutex")):
            yield

    @property
    def published(self) -> bool:
        """Whether the labels have been given their final names, by whichever process."""
        return self._saved().get("id") != self.id

    def done(self, number: int) -> bool:
        """Whether a tile is on disk."""
        return (self.folder / "done" / str(number)).exists()

    def missing(self, count: int) -> list[int]:
        """Numbers of the tiles, of `count`, that are not done; none when another process has published them."""
        if self.published:
            return []
        finished = {int(p.name) for p in (self.folder / "done").glob("*") if p.name.isdigit()}
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
                lock = _lock(self.folder / "claims" / str(number), wait=False)
            except FileNotFoundError:  # published meanwhile
                return
            if lock is None:
                continue
            if self.done(number):
                lock.close()
                continue
            claims[number] = lock
            yield number

    def mark(self, number: int, claims: Claims, seconds: float) -> None:
        """Records that a tile is on disk, and releases it."""
        write_json(self.folder / "done" / str(number), {"seconds": seconds})
        claims.pop(number).close()

    def seconds(self) -> float:
        """Seconds that all processes have spent on the tiles that are done."""
        return sum(json.loads(p.read_text())["seconds"] for p in (self.folder / "done").glob("*") if p.name.isdigit())

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


def clean_locks(folder: str | os.PathLike) -> None:
    """Removes what a killed process left of a chunk that it was writing."""
    for path in pathlib.Path(folder).rglob("*.__lock"):
        with contextlib.suppress(OSError):
            os.unlink(path)
