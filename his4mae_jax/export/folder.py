"""The folder of an export: nothing in it is replaced or removed that its own record, export.json, does not name."""

import json
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from his4mae_jax.errors import UserError
from his4mae_jax.files import write_bytes, write_json, writing

RECORD = "export.json"
# What a record may name: one that was edited must not have other files removed.
_NAMES = re.compile(
    r"(encoder|segmenter)\.(onnx|jax)|README\.md|bioimageio\.yaml|test_[a-z_]+\.npy|sample_[a-z_]+\.tif"
)
_REMEDY = "move the folder elsewhere and export again"


def check_free(folder: pathlib.Path, names: Collection[str] = ()) -> set[str]:
    """Checks that an export can be written.

    Args:
      folder: to write to; it need not exist.
      names: of the files to write; where they are not known yet, the record alone is checked.

    Returns:
      The names of an earlier export's files.

    Raises:
      UserError: a file of the user's is in the way, or the record is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is in the way of the folder of the export; move it")
    recorded = _recorded(folder / RECORD)
    for name in sorted(set(names) - recorded):
        path = folder / name
        if path.is_symlink() or path.exists():
            raise UserError(f"{path}: in the way, and no {RECORD} beside it names it, so it is not replaced; move it")
    return recorded


def _recorded(record: pathlib.Path) -> set[str]:
    try:
        names = json.loads(record.read_text("utf-8"))["files"]
        good = isinstance(names, list) and all(isinstance(n, str) and _NAMES.fullmatch(n) for n in names)
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise UserError(f"{record}: damaged, or not written by this program; {_REMEDY}")
    return set(names)


def write(folder: pathlib.Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes the files of an export in place of those of an earlier one, each of them whole or not at all.

    Args:
      folder: to write to.
      files: content by name.
      facts: content of export.json, to which the names of the files are added.

    Returns:
      The paths written, export.json last.

    Raises:
      UserError: see `check_free`, or a disk refuses a write.
    """
    before = check_free(folder, files)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Before any of the files: those of an export that is cut short are known to be ours.
        write_json(folder / RECORD, {"unfinished": True, "files": sorted({*before, *files})})
        for name, content in files.items():
            write_bytes(folder / name, content)
        for name in before - set(files):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / RECORD, {**facts, "files": sorted(files)})
    return [folder / name for name in (*files, RECORD)]
