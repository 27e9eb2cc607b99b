"""One training, and one segmentation of a volume, in a folder at a time; and no training in a workdir that is gone."""

import contextlib
import os
import socket
from types import TracebackType
from typing import IO

from his4mae_jax.bucket.lease import HeldError, Lease, check_held
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.errors import UserError
from his4mae_jax.files import lock_file, writing
from his4mae_jax.progress import say
from his4mae_jax.training.devices import distributed

FILE = "train.lock"


class RunLock:
    """The lock of a folder: of the processes of one run the first holds it, and the kernel releases it at its end.

    In a bucket it is a `Lease`, which ends within a minute of its holder.
    """

    def __init__(self, workdir: PathLike, file: str = FILE, doing: str = "trains in this workdir"):
        """Takes the lock where the folder is there already, before anything is read.

        Args:
          workdir: the folder.
          file: name of the file in it that is locked.
          doing: what its holder does, for the message to others.

        Raises:
          UserError: another run trains in this workdir.
        """
        self._folder, self._file = place(workdir), None
        self._name, self._doing = file, doing
        if self._folder.is_dir():
            self.take()

    def take(self) -> None:
        """Takes the lock, in a workdir that is made where it is missing; does nothing where it is taken already.

        Raises:
          UserError: another run trains in this workdir.
        """
        if self._file is not None or not distributed.is_main():
            return
        if isinstance(self._folder, BucketPath):
            try:
                self._file = Lease(self._folder / self._name, say)
            except HeldError as error:
                raise self._refused(str(error)) from error
            return
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / self._name
            self._file = lock_file(path, wait=False)
            if self._file is None:
                raise self._refused(_holder(path))
            _note(self._file, f"process {os.getpid()} on {socket.gethostname()}")

    def _refused(self, holder: str) -> UserError:
        return UserError(
            f"{self._folder}: another process {self._doing} ({holder}); wait for its end, stop it, or use another "
            "workdir"
        )

    def __enter__(self) -> "RunLock":
        """Returns the lock, which may not be taken yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases the lock."""
        if isinstance(self._file, Lease):
            self._file.release()
        elif self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()


def _note(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _holder(path: Place) -> str:
    return path.read_text("utf-8", errors="replace")[:100] or "unknown"


def check_there(workdir: PathLike) -> None:
    """Checks that the workdir of a run is where it was: files that are open can be written to when it is not.

    Raises:
      UserError: it was deleted or moved, or the lock in a bucket was lost.
    """
    folder = place(workdir)
    if isinstance(folder, BucketPath):
        check_held(folder)
    elif not folder.is_dir():
        raise UserError(f"{workdir}: deleted or moved while the training ran; what it had saved went with it")
