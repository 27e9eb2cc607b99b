"""What tells, without reading a volume, that its files have changed."""

import hashlib
import os

from his4mae_jax.data.formats.path import parse

ENTRIES = 2000  # files and folders looked at, at most: a volume can have millions of chunks


def file_state(name: str) -> str | None:
    """A digest of names, sizes and times of the files of a volume; another one where they were written to.

    Of a folder of many chunks the first are looked at, in the order of their names. A chunk that is replaced by
    another file changes the time of its folder, too.

    Args:
      name: of the volume, as it was opened.

    Returns:
      The digest; None where there are no local files.
    """
    path, found = parse(name).place, hashlib.sha256()
    if not os.path.exists(path):
        return None
    _add(found, path)
    left = ENTRIES
    for folder, folders, files in os.walk(path):
        folders.sort()
        for entry in [*sorted(files), *folders][:left]:
            _add(found, os.path.join(folder, entry))
        left -= len(files) + len(folders)
        if left <= 0:
            break
    return found.hexdigest()


def _add(found, path: str) -> None:
    try:
        seen = os.stat(path)
    except OSError:
        return
    found.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
