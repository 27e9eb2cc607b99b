"""Checkpoints in a bucket: orbax writes and reads them on the local disk, whole folders are sent and fetched.

orbax 0.12 knows no S3, and gives a checkpoint its name by renaming a folder, which no bucket has. So a checkpoint is
sent file by file, and then its manifest, which lists the files: without one there is no checkpoint. A copy of the
folder on a disk is one of orbax.
"""

import concurrent.futures
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.lease import check_held
from his4mae_jax.bucket.path import BucketPath
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json, write_json
from his4mae_jax.workdir import MANIFEST, checkpoint_steps


class Mirror:
    """The checkpoints of a workdir in a bucket, and a local folder ($TMPDIR) for those that orbax writes or reads.

    Attributes:
      folder: in the bucket.
      local: the local folder.
    """

    def __init__(self, folder: BucketPath, keep: Callable[[list[int]], set[int]]) -> None:
        """Args:
        folder: of the checkpoints, in the bucket.
        keep: which of all steps are kept.
        """
        self.folder, self._keep = folder, keep
        self.local = pathlib.Path(tempfile.mkdtemp(prefix="his4mae-checkpoints-"))
        self._clean = weakref.finalize(self, shutil.rmtree, self.local, ignore_errors=True)
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._sending: concurrent.futures.Future | None = None

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, ascending."""
        return checkpoint_steps(self.folder.parent)

    def send(self, step: int, written: Callable[[], object]) -> None:
        """Starts to send a checkpoint, and then removes those that are not kept.

        Args:
          step: its step, the name of its folder.
          written: waits until orbax has written it.
        """
        self.wait()
        self._sending = self._pool.submit(self._send, step, written)

    def _send(self, step: int, written: Callable[[], object]) -> None:
        written()
        check_held(self.folder)
        source, target = self.local / str(step), self.folder / str(step)
        transfer.remove(target)  # what a killed run left
        sizes = {name: (source / name).stat().st_size for name in transfer.send(source, target)}
        check_held(self.folder)
        write_json(target / MANIFEST, {"files": sizes})
        steps = self.steps()
        kept = self._keep(steps)
        for folder in self.folder.iterdir():
            if folder.name.isdigit() and int(folder.name) not in kept:  # also what killed runs left
                (folder / MANIFEST).unlink(missing_ok=True)
                transfer.remove(folder)

    def wait(self) -> None:
        """Waits until what is being sent is there, and raises the error that it had."""
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.result()

    def fetch(self, step: int, items: Iterable[str]) -> None:
        """Copies items of a checkpoint to the local folder, where they are not there.

        Raises:
          FileNotFoundError, ValueError: a file is missing, or cut.
          UserError: the manifest is damaged.
        """
        source, target = self.folder / str(step), self.local / str(step)
        try:
            sizes = parse_json((source / MANIFEST).read_bytes())["files"]
            wanted = [n for n in sizes if "/" not in n or n.partition("/")[0] in items]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{source / MANIFEST}: damaged; delete {source} to go on from the one before it") from error
        missing = [n for n in wanted if not (target / n).exists()]
        need, free = sum(sizes[n] for n in missing), shutil.disk_usage(self.local).free
        if need > free:
            raise UserError(
                f"{self.local}: no space left on the device: a checkpoint takes {need / 1e6:.1f} MB on the way, and "
                f"{free / 1e6:.1f} MB are free; set TMPDIR to a larger disk"
            )
        transfer.fetch(source, missing, target)
        cut = [n for n in missing if (target / n).stat().st_size != sizes[n]]
        if cut:
            raise ValueError(f"{cut[0]} is not as long as it was")

    def close(self) -> None:
        """Waits as `wait` does, and removes the local folder."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            self._clean()
