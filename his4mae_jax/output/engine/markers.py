"""A file for each tile that is done: what a stopped segmentation goes on from, whoever labelled the tile."""

import dataclasses
import shutil
import time
from collections.abc import Callable
from typing import Any

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import BucketPath, Place
from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json, remove, write_json

LATE = 90.0  # seconds after which a shared disk shows what another host wrote: NFS keeps lists of files for 60
LOOK = 0.5  # seconds between looks at it


def seen(condition: Callable[[], bool], late: float | None = None) -> bool:
    """Waits until something is seen on a shared disk that another host has written.

    Args:
      condition: whether it is.
      late: seconds to wait at most; None: `LATE`.

    Returns:
      False where it never was.
    """
    limit = time.monotonic() + (LATE if late is None else late)
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(LOOK)
    return True


@dataclasses.dataclass(frozen=True)
class Written:
    """A tile that is on disk.

    Attributes:
      number: of the tile.
      seconds: that it took.
      checks: what was written, `checksums.entry` by the name of the volume.
    """

    number: int
    seconds: float
    checks: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Markers:
    """The tiles of one job that are done; a marker that cannot be read is a tile to do again.

    Attributes:
      folder: of the markers, one file named after each tile.
    """

    folder: Place

    def read(self, number: int) -> Written | None:
        """What is recorded of a tile; None where it is not done, or its marker is damaged."""
        try:
            marker = parse_json((self.folder / str(number)).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(marker, dict) or not isinstance(marker.get("seconds"), (int, float)):
            return None
        checks = marker.get("checks", {})  # earlier versions wrote none
        whole = isinstance(checks, dict) and all(checksums.is_entry(entry) for entry in checks.values())
        return Written(number, marker["seconds"], checks) if whole else None

    def all(self) -> dict[int, Written]:
        """Every tile that is done, by its number."""
        numbers = sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())
        if isinstance(self.folder, BucketPath):
            found = dict(zip(numbers, transfer.each(self.read, numbers), strict=True))
        else:
            found = {number: self.read(number) for number in numbers}
        return {number: written for number, written in found.items() if written is not None}

    def missing(self, count: int) -> list[int]:
        """Numbers of the tiles, of `count`, that are not done."""
        done = self.all()
        return [number for number in range(count) if number not in done]

    def mark(self, written: Written) -> None:
        """Records that a tile is on disk.

        Raises:
          UserError: the folder is gone.
        """
        path = self.folder / str(written.number)
        if not isinstance(path, BucketPath) and path.is_dir():
            shutil.rmtree(path)
        try:
            write_json(path, {"seconds": written.seconds, "checks": written.checks})
        except FileNotFoundError as error:
            raise UserError(
                f"{self.folder.parent}: deleted or moved while tiles were written; segment again"
            ) from error

    def forget(self) -> None:
        """Makes every tile one to do again."""
        for path in self.folder.glob("*"):
            remove(path)

    def seconds(self) -> float:
        """Seconds that all processes have spent on the tiles that are done."""
        return sum(written.seconds for written in self.all().values())

    def wait_for_all(self, count: int) -> None:
        """Waits until the markers of all tiles are seen here, those that other hosts wrote too.

        Args:
          count: number of tiles, all of which are done.

        Raises:
          UserError: some never are.
        """
        if not seen(lambda: not self.missing(count)):
            missing = self.missing(count)
            raise UserError(
                f"{self.folder}: {len(missing)} of {count} tiles that others have labelled are not here (the first is "
                f"{missing[:1]}); give all of them this folder, on one file system"
            )
