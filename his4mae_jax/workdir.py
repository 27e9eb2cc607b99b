"""The folders of a run: the training's files, and in `volumes/` one folder for each volume that is segmented.

Labels, centres, names, scores, figures and the report of a volume lie in its folder, so that segmenting another one
replaces none of them. The folder is named after the volume, and `volume.json` in it says which volume it is of.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.errors import UserError, mask
from his4mae_jax.files import parse_json, writing

VOLUMES, RECORD = "volumes", "volume.json"
_ENDINGS = re.compile(
    r"(\.ome)?\.(zarr|(zarr\.)?zip|ozx|tiff?|n5|h5|hdf5|mrc|rec|st|ali|npy|nii(\.gz)?|nrrd|nhdr)$", re.IGNORECASE
)
# Names that many volumes have, and levels of a pyramid: the folder they lie in says more.
_GENERAL = re.compile(r"(s?\d+|image|raw|em|data|volume|default)", re.IGNORECASE)


def short_name(spec: str | os.PathLike) -> str:
    """A name for the folder of a volume: that of its file, with the numbers of its crop, of letters, digits and `_`."""
    text, _, crop = re.sub(r"\?[^/\[]*", "", os.fspath(spec)).partition("[")
    text = re.sub(r"(\.h5|\.hdf5):/.*", r"\1", text.strip(), flags=re.IGNORECASE)  # a data set of such a file
    parts = [_ENDINGS.sub("", part) for part in re.split(r"[/\\]", text) if part.strip(". ")]
    while len(parts) > 1 and _GENERAL.fullmatch(parts[-1]):
        parts.pop()
    words = re.findall(r"[A-Za-z0-9]+", (parts[-1] if parts else "") + " " + crop)
    return "_".join(words) or "volume"


def volume_folder(workdir: PathLike, spec: PathLike, *, create: bool = False, **facts: Any) -> Place:
    """The folder of a volume in a workdir.

    Args:
      workdir: of the run.
      spec: path, URL or name of the volume, with its crop.
      create: whether to make it where it is not there; otherwise it is the folder that would be made.
      **facts: are kept in the record of a folder that is made.

    Raises:
      UserError: a folder of the user has its name, or its record is damaged.
    """
    spec = str(spec) if isinstance(spec, BucketPath) else spec
    name, identity = short_name(spec), mask(_identity(spec, workdir))  # signatures of URLs change
    other = f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"  # where another volume has that name already
    for folder in (place(workdir) / VOLUMES / part for part in (name, other)):
        if not folder.exists():
            if not create:
                return folder
            _make(folder, {"volume": os.fspath(spec), "identity": identity, **facts})
        if mask(read_record(folder)["identity"]) == identity:
            return folder
    raise UserError(f"{folder}: is of another volume; move it")


def _make(folder: Place, record: dict[str, Any]) -> None:
    """Makes a folder with its record, in one step: of several processes one succeeds, and the others find it whole."""
    if isinstance(folder, BucketPath):
        with contextlib.suppress(FileExistsError):  # another process was first
            (folder / RECORD).put(json.dumps(record, indent=2).encode(), "create")
        return
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix="partial.", dir=folder.parent))
        part.chmod(0o777 & ~_umask())
        (part / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        try:
            os.rename(part, folder)
        except OSError:
            shutil.rmtree(part)
            if not folder.exists():
                raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


MANIFEST = "manifest.json"  # of a checkpoint in a bucket: its files, written after them


def checkpoint_steps(workdir: PathLike) -> list[int]:
    """Steps of the checkpoints in a workdir, ascending, by the names of their folders: nothing is opened.

    In a bucket a checkpoint counts once its manifest is there.
    """
    folder = place(workdir) / "checkpoints"
    if isinstance(folder, BucketPath):
        return sorted(int(p.parent.name) for p in folder.glob(f"*/{MANIFEST}") if p.parent.name.isdigit())
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


_OWN = ("checkpoints", VOLUMES, "config.json", "train.jsonl", "probe.npz")


def lost_links(workdir: PathLike, *, segmentations: bool = True) -> Iterator[str]:
    """Looks for links that lead nowhere: to a disk that is not mounted, or a folder that was moved.

    Taken for missing files, they would have a training begin anew, or labels.

    Args:
      workdir: of a run.
      segmentations: whether what was written for volumes is looked at too.

    Yields:
      One line for each.
    """
    workdir = place(workdir)
    if isinstance(workdir, BucketPath):
        return
    paths = [workdir, *(workdir / name for name in _OWN)]
    if segmentations:
        paths += sorted([*(workdir / VOLUMES).glob("*"), *(workdir / VOLUMES).glob("*/*")])
    for path in paths:
        if path.is_symlink() and not path.exists():
            yield (
                f"{path}: a link to {os.readlink(path)}, which is not there; mount that disk or move the data back, or "
                "delete the link to do without them"
            )


def log_entry(line: bytes) -> dict[str, Any] | None:
    """An entry of train.jsonl from its line; None where that is none, as a killed run or a damaged disk leaves it."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def only_volume(workdir: PathLike) -> dict[str, Any] | None:
    """The record of the volume that was segmented in a workdir, if there is exactly one."""
    folders = sorted((place(workdir) / VOLUMES).glob(f"*/{RECORD}"))
    return read_record(folders[0].parent) if len(folders) == 1 else None


def read_record(folder: Place) -> dict[str, Any]:
    """The record of the folder of a volume.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = folder / RECORD
    try:
        record = parse_json(path.read_bytes())
        if isinstance(record, dict) and all(isinstance(record.get(key), str) for key in ("volume", "identity")):
            return record
    except FileNotFoundError:
        raise UserError(f"{folder}: in the way, and no folder of a segmented volume; move it") from None
    except (OSError, ValueError):
        pass
    raise UserError(f"{path}: damaged, or not written by this program; move {folder} elsewhere")


def _identity(spec: str | os.PathLike, workdir: PathLike) -> str:
    """A text that is the same for all ways to write one path, also after the workdir was moved with files in it."""
    text, workdir = os.fspath(spec), place(workdir)
    if isinstance(workdir, BucketPath) and text.startswith(f"{workdir}/"):
        return f"workdir:{text.removeprefix(f'{workdir}/')}"
    path, bracket, crop = text.partition("[")
    if "://" in text or not (path.startswith((".", "/", "~")) or os.path.exists(path.strip())):
        return text
    full = os.path.realpath(os.path.expanduser(path.strip()))
    home = "" if isinstance(workdir, BucketPath) else os.path.realpath(workdir)
    inside = os.path.commonpath([full, home]) == home if os.path.isabs(home) else False
    return ("workdir:" + os.path.relpath(full, home) if inside else full) + bracket + re.sub(r"\s", "", crop)
