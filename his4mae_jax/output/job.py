"""What is done of one segmentation, on disk: a stopped one goes on, and several processes share the work.

A job is a folder beside the labels to come:

    segment.partial/job.json     what it computes; a job of anything else is begun anew
    segment.partial/centres.npz  its cluster centres, fitted once
    segment.partial/*.ome.zarr   its label volumes, tile by tile
    segment.partial/done/<n>     written after tile n is; holds the seconds it took
    segment.partial/claims/<n>   locked by the process that computes tile n

Locks are those of the operating system (flock): they end with the process that holds them, however it ends.
Tiles are written whole and come out the same whoever computes them, so that on a file system without
locks work is done twice and nothing worse.
"""

import contextlib
import json
import os
import pathlib
import shutil
import time
import uuid

from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WAIT = 0.5  # seconds between looks at tiles that other processes compute


def _lock(path, *, shared=False, wait=True):
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


class Job:
    """One segmentation of one workdir; `what` (JSON) is all that its labels depend on.

    Attributes:
      folder: of the job.
      id: tells this job from all others.

    Raises:
      UserError: another process segments this workdir with other settings.
    """

    def __init__(self, workdir, what):
        self.folder = pathlib.Path(workdir) / "segment.partial"
        what = json.loads(json.dumps(what))
        path = pathlib.Path(workdir) / "segment.lock"
        self._held = _lock(path, wait=False)
        if self._held is not None:  # alone here
            if self._saved().get("what") != what:
                self._begin(what)
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(self._held, fcntl.LOCK_SH)
        else:
            self._held = _lock(path, shared=True)
        saved = self._saved()
        if saved.get("what") != what:
            self.close()
            raise UserError(
                f"{self.folder}: another process segments this workdir with other settings ({_differs(saved, what)}); "
                "wait for its end, or use another --workdir"
            )
        self.id = saved["id"]

    def _saved(self):
        try:
            saved = json.loads((self.folder / "job.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return saved if isinstance(saved, dict) else {}

    def _begin(self, what):
        if self.folder.exists():
            (self.folder / "job.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder)
        for name in ("done", "claims"):
            (self.folder / name).mkdir(parents=True)
        write_json(self.folder / "job.json", {"what": what, "id": uuid.uuid4().hex})

    @contextlib.contextmanager
    def alone(self):
        """No other process of this job is inside at the same time."""
        with contextlib.closing(_lock(self.folder.parent / "segment.mutex")):
            yield

    @property
    def published(self):
        """Whether its labels have been given their final names, by whichever process."""
        return self._saved().get("id") != self.id

    def done(self, number):
        return (self.folder / "done" / str(number)).exists()

    def missing(self, count):
        """Numbers of the tiles that are not done, of `count`; none when another process has published them."""
        if self.published:
            return []
        there = {int(p.name) for p in (self.folder / "done").glob("*") if p.name.isdigit()}
        return [n for n in range(count) if n not in there]

    def claim(self, count, claims, share=0.0):
        """Yields the tiles that are not done and that no other process has; `claims` gets their locks by number.

        Goes through all of them once, from the one at `share` (0 to 1) of them on: what others have then may be
        there for the taking a while later. Processes that begin apart meet late, also where there are no locks.
        """
        missing = self.missing(count)
        begin = int(share * len(missing))
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

    def mark(self, number, claims, seconds):
        """Tile `number` is on disk."""
        write_json(self.folder / "done" / str(number), {"seconds": seconds})
        claims.pop(number).close()

    def seconds(self):
        """Those of all processes for the tiles that are done."""
        return sum(json.loads(p.read_text())["seconds"] for p in (self.folder / "done").glob("*") if p.name.isdigit())

    def pause(self):
        """Waits a little for tiles that other processes compute."""
        time.sleep(WAIT)

    def finish(self):
        """Remove the folder: its labels are published."""
        (self.folder / "job.json").unlink()  # first: a folder without it is no job
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self):
        self._held.close()


def _differs(saved, what):
    """The first setting that two jobs do not share."""
    before = saved.get("what") or {}
    if isinstance(what.get("settings"), dict):
        before, what = {**before, **before.get("settings", {})}, {**what, **what["settings"]}
        before.pop("settings", None), what.pop("settings")
    key = next((k for k in {**before, **what} if before.get(k) != what.get(k)), None)
    return f"{key}: {before.get(key)!r} there, {what.get(key)!r} here" if key else "its job is over"


def clean_locks(folder):
    """Remove what a killed process left of a chunk that it was writing."""
    for path in pathlib.Path(folder).rglob("*.__lock"):
        with contextlib.suppress(OSError):
            os.unlink(path)
