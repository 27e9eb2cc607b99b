"""Folders sent to a bucket and fetched from one. A folder that was sent is whole once its mark is there, put last."""

import concurrent.futures
import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from his4mae_jax.bucket.path import BucketPath, Place

MARK = ".whole"  # an object in a folder, written after all others
THREADS = 16
Item, Result = TypeVar("Item"), TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Calls a function for each item, on several threads: most of a request is waiting."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
    """A local folder for what has to be a file on a disk before it is sent; $TMPDIR says on which."""
    with tempfile.TemporaryDirectory(prefix="his4mae-") as folder:
        yield pathlib.Path(folder)


def send(folder: pathlib.Path, to: BucketPath) -> list[str]:
    """Puts the files of a local folder into one of a bucket, without a mark; returns their relative paths."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    each(lambda name: (to / name).put(folder / name), names)
    return names


def publish(part: pathlib.Path, to: BucketPath) -> None:
    """Puts a local file, or a folder with all in it and its mark last, in place of what was there."""
    remove(to)
    if part.is_dir():
        send(part, to)
        (to / MARK).touch()
    else:
        to.put(part)


def fetch(source: BucketPath, names: Iterable[str], folder: pathlib.Path) -> None:
    """Copies objects of a folder to a local one.

    Raises:
      FileNotFoundError: one is missing.
    """

    def copy(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (source / name).download(target)

    each(copy, names)


def part_of(target: Place) -> Place:
    """Where to write what takes its name once it is whole; in a bucket, where nothing is renamed, that is its place."""
    return target if isinstance(target, BucketPath) else target.with_name(f"partial.{target.name}")


def finish(part: Place, target: Place) -> None:
    """Gives a folder that was written to `part_of` its name; in a bucket, its mark."""
    if isinstance(target, BucketPath):
        (target / MARK).touch()
    else:
        os.replace(part, target)


def is_whole(path: Place) -> bool:
    """Whether a file or folder is there, and in a bucket whole; on a disk its final name says so."""
    if isinstance(path, BucketPath):
        return path.is_file() or (path / MARK).is_file()
    return os.path.lexists(path)


def remove(path: BucketPath) -> None:
    """Removes an object, or a folder with all in it, its mark first; does nothing where there is none."""
    (path / MARK).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    each(lambda key: (path / key).unlink(missing_ok=True), path.keys())
