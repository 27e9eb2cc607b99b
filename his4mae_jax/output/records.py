"""Which files of a workdir are ours: those that segment.json, outputs.json or a job's job.json name.

Nothing else is ever removed or replaced. A record names files before they get their final names, so that a process
killed in between leaves nothing that the next one would take for the user's own.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.clustering.centres_file import digest_of
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json, remove, write_json, writing

SEGMENTATION = "segment.json"
_SHAPE = {"clusters": list, "step": int, "volume": str, "seconds": (int, float), "fovs": int, "job": str, "what": dict}
CENTRES = "centres.npz"
CHECKSUMS = "checksums.json"  # of what each tile wrote, see `data.ome_zarr.checksums`
JOB_FOLDER = "segmentation-"  # before the id of a job, in a bucket
PROBABILITIES = "probabilities.ome.zarr"
# What a record of label volumes may name: a record that was tampered with must not have other files removed.
_LABELS = re.compile(r"labels(_c\d+)?\.ome\.zarr|probabilities\.ome\.zarr|centres\.npz|checksums\.json")


def label_file(clusters: int, headline: int) -> str:
    """File name of a label volume: `labels.ome.zarr` for the headline C, `labels_c<C>.ome.zarr` for the others."""
    return "labels.ome.zarr" if clusters == headline else f"labels_c{clusters}.ome.zarr"


def stored(path: Place, job: str) -> Place:
    """Where a volume of a segmentation lies: at its own path, in a bucket in a folder of its job.

    There a folder takes no other name once it is written: segment.json, put last, says which job's volumes are meant.

    Args:
      path: of the volume on a disk.
      job: id of the segmentation.
    """
    return path.parent / f"{JOB_FOLDER}{job}" / path.name if isinstance(path, BucketPath) else path


def volume(path: Place) -> Place:
    """Where a volume of the published segmentation lies; see `stored`."""
    return stored(path, segmentation(path.parent).get("job", "none")) if isinstance(path, BucketPath) else path


def read(path: Place) -> dict[str, Any]:
    """The content of a record; empty where there is none.

    Raises:
      UserError: the file is no record, or damaged.
    """
    try:
        record = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(_damaged(path)) from error
    if not isinstance(record, dict):
        raise UserError(_damaged(path))
    return record


def checked(path: Place, names: Any, allowed: re.Pattern) -> set[str]:
    """The names that a record lists.

    Raises:
      UserError: one is not a name that such a record may list.
    """
    if not isinstance(names, list):
        raise UserError(_damaged(path))
    for name in names:
        if not isinstance(name, str) or not allowed.fullmatch(name):
            raise UserError(f"{path}: lists {name!r}, which this program did not write; {_REMEDY}")
    return set(names)


_REMEDY = "move it elsewhere, with the files of earlier segmentations beside it"


def _damaged(path):
    return f"{path}: damaged, or not written by this program; {_REMEDY}"


def labels_named_by(path: Place, record: dict[str, Any]) -> set[str]:
    """File names of the label volumes, probabilities and centres that segment.json or job.json names.

    Records written before they listed their files say it by their numbers of clusters.

    Raises:
      UserError: the record lists something else.
    """
    if "files" in record:
        return checked(path, record["files"], _LABELS)
    values = record.get("what") if isinstance(record.get("what"), dict) else {}
    settings = values.get("settings") if isinstance(values.get("settings"), dict) else {}
    sizes = record.get("clusters") or values.get("clusters") or []
    if not isinstance(sizes, list):
        raise UserError(_damaged(path))
    first = settings.get("clusters") if len(sizes) > 1 else (sizes or [None])[0]
    names = [label_file(size, first) for size in sizes]
    names += [PROBABILITIES] if settings.get("probabilities") else []
    names += [label_file(0, 0)] if sizes and first is None else []
    return checked(path, [*names, CENTRES] if names else [], _LABELS)


def recorded_labels(workdir: Place) -> set[str]:
    """File names of the label volumes, probabilities and centres in the workdir that are ours.

    Raises:
      UserError: a record is damaged.
    """
    path = workdir / SEGMENTATION
    job = workdir / "segment.partial"
    record = read(job / "job.json")
    planned = labels_named_by(job / "job.json", record) if record and not isinstance(job, BucketPath) else set()
    # Earlier versions recorded nothing while they published: what was made in the job's folder has left it.
    moved = {name for name in planned if (job / f"{name}.made").exists() and not (job / name).exists()}
    moved |= {CENTRES} if moved and not (job / CENTRES).exists() else set()
    return labels_named_by(path, read(path)) | moved


def check_free(folder: Place, names: Iterable[str], ours: Iterable[str] = ()) -> None:
    """Checks that no file of the user has a name that is about to be written.

    Args:
      folder: to write into.
      names: to write.
      ours: those that a record names, which may be replaced.

    Raises:
      UserError: something is in the way.
    """
    for name in names:
        path = folder / name
        if name not in ours and (path.is_symlink() or path.exists()):
            raise UserError(
                f"{path}: in the way, and no record in {folder} says that this program wrote it, so it is not "
                "replaced; move it, or use another workdir"
            )


def partial_names(name: str) -> list[str]:
    """Names that a file or folder may have while `new` writes it."""
    return [f"partial.{name}", f"partial.{name}.draft"]


@contextlib.contextmanager
def new(*paths: Place) -> Iterator[tuple[pathlib.Path, ...]]:
    """Makes files or folders that are there whole or not at all.

    Those of a bucket are written to the local disk first ($TMPDIR), and then sent.

    Args:
      paths: final paths, in one folder, which is created where it is missing.

    Yields:
      The paths to write to; they take their final names, in this order, when the `with` block ends.

    Raises:
      UserError: something is at one of the paths, or the disk refuses a write.
    """
    folder, names = paths[0].parent, [path.name for path in paths]
    if isinstance(folder, BucketPath):
        check_free(folder, names)
        with transfer.scratch() as scratch:
            yield tuple(scratch / f"partial.{name}" for name in names)
            for name in names:
                transfer.publish(scratch / f"partial.{name}", folder / name)
        return
    parts = tuple(folder / f"partial.{name}" for name in names)
    with writing(paths[0]):
        check_free(folder, [*names, *(part for name in names for part in partial_names(name))])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield parts
        except BaseException:
            for name in names:
                for part in partial_names(name):
                    with contextlib.suppress(OSError):
                        remove(folder / part)
            raise
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)


def segmentation(workdir: PathLike) -> dict[str, Any]:
    """The content of segment.json; empty where there is no whole segmentation.

    Raises:
      UserError: it is damaged.
    """
    path = place(workdir) / SEGMENTATION
    record = read(path)
    if "publishing" in record or "clusters" not in record:
        return {}
    shaped = all(key not in record or isinstance(record[key], kind) for key, kind in _SHAPE.items())
    if not shaped or not all(isinstance(size, int) for size in record["clusters"]):
        raise UserError(_damaged(path))
    return record


def segmented(workdir: PathLike, clusters: Iterable[int]) -> dict[str, Any]:
    """The content of segment.json, of a whole segmentation with these numbers of clusters.

    Raises:
      UserError: there is no such segmentation.
    """
    path, facts = place(workdir) / SEGMENTATION, segmentation(workdir)
    if not facts:
        raise UserError(f"{path}: no segmentation to score; run the segment stage in this workdir first")
    if facts.get("what", {}).get("first_label") != 1:
        raise UserError(f"{path}: the labels count from 0, as earlier versions wrote them; segment again")
    missing = sorted(set(clusters) - set(facts["clusters"]))
    if missing:
        raise UserError(
            f"{path}: no labels for {', '.join(map(str, missing))} clusters; segment this volume again with this config"
        )
    return facts


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A record of the files that one step wrote from labels.

    Attributes:
      path: of the record, in the folder of the files.
      allowed: the file names that it may list.
    """

    path: Place
    allowed: re.Pattern

    def recorded(self) -> list[str]:
        """Names that the record lists.

        Raises:
          UserError: it is damaged.
        """
        if not self.path.exists():
            return []
        return sorted(checked(self.path, read(self.path).get("outputs"), self.allowed))

    def check_free(self, planned: Iterable[str]) -> None:
        """Checks that nothing of the user has the name of a file to be written.

        Raises:
          UserError: something is in the way, or the record is damaged.
        """
        check_free(self.path.parent, _with_partials(planned), _with_partials(self.recorded()))

    def begin(self, planned: list[str], dependencies: dict[str, Any] | None) -> None:
        """Removes what an earlier step wrote, unless it was the same as this one, and records what this one writes.

        Args:
          planned: names of all files to be written.
          dependencies: JSON of all that they depend on; None: they are written anew in any case.

        Raises:
          UserError: something of the user is in the way, or the record is damaged. Nothing was removed then.
        """
        recorded = self.recorded()
        if dependencies is not None and recorded and read(self.path).get("of") == dependencies:
            with writing(self.path.parent):
                for name in recorded:
                    for part in partial_names(name):
                        remove(self.path.parent / part)
            return
        self.check_free(planned)
        self.remove()
        if planned:
            with writing(self.path.parent):  # before any of the files: one that is cut short is known to be ours
                write_json(self.path, {"outputs": planned, "of": dependencies})

    def remove(self) -> None:
        """Removes the files, what a killed step left of them, and the record.

        Raises:
          UserError: the record is damaged.
        """
        recorded = self.recorded()
        with writing(self.path.parent):
            for name in _with_partials(recorded):
                remove(self.path.parent / name)
            self.path.unlink(missing_ok=True)


def _with_partials(names: Iterable[str]) -> list[str]:
    return [each for name in names for each in (name, *partial_names(name))]


def centres_digest(folder: PathLike, labels: int) -> str:
    """A hash of what so many labels stand for, from the folder's centres.npz; see `clustering.centres_file`."""
    return digest_of(place(folder) / CENTRES, labels)
