"""Check ground truth against its image and its class names, before hours of training are spent on it."""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.blocks import in_order
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike, chunks_of
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, progress, say

SAMPLE_VOXELS = 1 << 27  # a volume of up to 512^3 voxels is read whole
BLOCK = (64, 128, 128)  # voxels (z, y, x) read at once, or the chunks next to that size
BLOCK_VOXELS = 1 << 20  # where chunks are whole slices, a block is of fewer slices
_WORKERS = 4
_MANY = 1000  # unnamed ids that are counted one by one: instance labels may hold millions


@dataclasses.dataclass(frozen=True)
class LabelRow:
    """One label id of a volume.

    Attributes:
      id: the label id; 255 (`IGNORE`) is never scored.
      name: its class name; None for an id that `data.class_names` does not name.
      voxels: how many voxels have it, among those read.
      fraction: `voxels` / all voxels read.
      mean_grey: mean of the image's stored grey values under it; None without a voxel.
    """

    id: int
    name: str | None
    voxels: int
    fraction: float
    mean_grey: float | None


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """What `check_labels` reports of one label volume.

    Attributes:
      name: the label volume's path or name.
      rows: every named id (also one without a voxel), then the unnamed ids that occur, then 255 where it occurs.
      read_fraction: fraction of the volume that was read; 1.0 unless the volume is large.
      missing: class names without any voxel among those read.
      errors: one-line strings; training or scoring with these labels would fail.
      warnings: one-line strings; the labels can be used, and are probably not what was meant.
    """

    name: str
    rows: tuple[LabelRow, ...]
    read_fraction: float
    missing: tuple[str, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Errors, then warnings."""
        return [*self.errors, *self.warnings]

    def summary(self) -> str:
        """One line: each id with its name, its fraction of the voxels read and the mean grey value under it."""
        parts = []
        for row in self.rows:
            grey = "" if row.mean_grey is None else f" (mean grey {row.mean_grey:.4g})"
            parts.append(f"{row.id} {row.name or 'without a name'} {percent(row.fraction)}{grey}")
        sampled = f"in a sample of {percent(self.read_fraction)} of the volume, " if self.read_fraction < 1 else ""
        return f"labels {self.name}: {sampled}{', '.join(parts)}"


def check_names(class_names: Sequence[str]) -> None:
    """Raises `UserError` unless class names differ from one another and from "mean", the column of averages."""
    if len({*class_names, "mean"}) != len(class_names) + 1:
        raise UserError(
            f"data.class_names is {list(class_names)}: names must differ from one another and "
            'from "mean", which is the column of averages.'
        )


def check_labels(
    image: VolumeLike, labels: VolumeLike, class_names: Sequence[str], *, key: str = "data.test_labels", log: Log = say
) -> LabelReport:
    """Compares a label volume with the image it belongs to and with the names of its ids.

    Both volumes are read block by block, so that memory is that of a few blocks. Of more than `SAMPLE_VOXELS` voxels a
    stratified random sample of blocks is read, always the same one for the same shape.

    Args:
      image: grey values (z, y, x).
      labels: integer ids on the grid of the image; 255 (`IGNORE`) is not scored.
      class_names: names of the ids 0, 1, ...
      key: the config key that the labels came from, for messages.
      log: prints a line; called only with progress, after 5 s.

    Returns:
      The `LabelReport`. Nothing is raised for labels that are wrong: see its `errors`.
    """
    if tuple(image.shape) != tuple(labels.shape):
        text = (
            f"{labels.name}: labels of {tuple(labels.shape)} voxels (z, y, x) do not fit the image {image.name} of "
            f"{tuple(image.shape)}; give labels of the same volume"
        )
        return LabelReport(labels.name, (), 0.0, (), (text,), ())
    tally = _Tally(len(class_names))
    blocks, n_blocks = _sample(labels)

    def read(box: Box) -> tuple[np.ndarray, np.ndarray]:
        return labels.read(box), image.read(box)

    with progress("checking labels", n_blocks, unit="blocks", log=log) as bar:
        for ids, grey in in_order(read, blocks, _WORKERS):
            tally.add(ids, grey)
            bar.advance()
    rows = tally.rows(class_names)
    read_fraction = tally.voxels / math.prod(labels.shape)
    missing = tuple(row.name for row in rows if row.name and row.id != IGNORE and not row.voxels)
    errors, warnings = _judge(labels.name, rows, class_names, read_fraction, tally.more, key)
    return LabelReport(labels.name, rows, read_fraction, missing, errors, warnings)


def check_run_labels(config: ConfigDict, workdir: str | os.PathLike, log: Log) -> None:
    """Checks the ground truth that a run will use, before its training; prints one line for each label volume.

    Ids without a name are an error, names without a voxel a warning. Volumes that cannot be opened are left to the
    stage that needs them: training does not need the test volume.

    Args:
      config: the ConfigDict of a run.
      workdir: its folder.
      log: prints a line.

    Raises:
      UserError: a label volume holds ids without a name, or class names are not distinct.
    """
    class_names = datasets.class_names(config)
    volumes = datasets.labelled_volumes(config, workdir)
    while True:
        try:
            key, image, labels = next(volumes)
        except (StopIteration, UserError):
            return
        check_names(class_names)
        report = check_labels(image, labels, class_names, key=key, log=log)
        if report.errors:
            raise UserError(report.errors[0])
        for line in (report.summary(), *report.warnings):
            log(line)


def percent(fraction: float) -> str:
    """A fraction as a percentage of two digits at least: "94 %", "5.2 %", "0.031 %"."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.0995 or not fraction else f"{100 * fraction:.2g} %"


class _Tally:
    """Voxels and summed grey values by label id."""

    def __init__(self, n_named: int) -> None:
        self._n_named = n_named
        self._counts: dict[int, int] = {}
        self._greys: dict[int, float] = {}
        self.voxels = 0
        self.more = False  # whether unnamed ids were left out, beyond `_MANY`

    def add(self, ids: np.ndarray, grey: np.ndarray) -> None:
        values, inverse, counts = _unique(ids.reshape(-1))
        greys = np.bincount(inverse, grey.reshape(-1), len(values))
        self.voxels += ids.size
        for value, count, total in zip(values.tolist(), counts.tolist(), greys.tolist(), strict=True):
            if value not in self._counts and not self._known(value) and len(self._counts) > _MANY + self._n_named:
                self.more = True
                continue
            self._counts[value] = self._counts.get(value, 0) + count
            self._greys[value] = self._greys.get(value, 0.0) + total

    def _known(self, value: int) -> bool:
        return 0 <= value < self._n_named or value == IGNORE

    def rows(self, class_names: Sequence[str]) -> tuple[LabelRow, ...]:
        unnamed = sorted(value for value in self._counts if not self._known(value))
        last = [IGNORE] if IGNORE in self._counts else []
        names = {**dict(enumerate(class_names)), IGNORE: "not scored"}
        return tuple(
            LabelRow(
                value,
                names.get(value),
                count := self._counts.get(value, 0),
                count / max(self.voxels, 1),
                self._greys[value] / count if count else None,
            )
            for value in [*range(self._n_named), *unnamed, *last]
        )


def _unique(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct ids, for each voxel the index of its id among them, and the count of each."""
    if ids.dtype.kind == "b" or ids.dtype.itemsize == 1 and ids.dtype.kind == "u":  # no need to sort
        counts = np.bincount(ids, minlength=256)
        values = np.flatnonzero(counts)
        position = np.zeros(len(counts), np.intp)
        position[values] = np.arange(len(values))
        return values, position[ids.view(np.uint8)], counts[values]
    return np.unique(ids, return_inverse=True, return_counts=True)


def _sample(labels: VolumeLike) -> tuple[Iterator[Box], int]:
    """Blocks of whole chunks to read, and how many: all of a volume, or a stratified sample of a large one."""
    shape, chunks = labels.shape, chunks_of(labels)
    side = [min(n, max(c, b // c * c)) for n, c, b in zip(shape, chunks, BLOCK, strict=True)]
    plane = side[1] * side[2]
    side[0] = min(side[0], max(1, BLOCK_VOXELS // plane // chunks[0] * chunks[0]))
    grid = [math.ceil(n / s) for n, s in zip(shape, side, strict=True)]
    n_all = math.prod(grid)
    n_read = min(n_all, max(1, SAMPLE_VOXELS // math.prod(side)))
    if math.prod(shape) <= SAMPLE_VOXELS:
        n_read = n_all
    # One block at random out of each of `n_read` runs of equal length.
    jitter = np.random.default_rng(0).random(n_read) if n_read < n_all else np.zeros(n_read)
    chosen = np.minimum(((np.arange(n_read) + jitter) * (n_all / n_read)).astype(np.int64), n_all - 1)

    def boxes() -> Iterator[Box]:
        for index in np.unique(chosen):
            corner = [int(i) * s for i, s in zip(np.unravel_index(index, grid), side, strict=True)]
            yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(corner, side, shape, strict=True))

    return boxes(), len(np.unique(chosen))


def _judge(
    name: str,
    rows: Sequence[LabelRow],
    class_names: Sequence[str],
    read_fraction: float,
    more: bool,
    key: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors and warnings, one line each."""
    errors, warnings = [], []
    unnamed = [row.id for row in rows if row.name is None]
    if unnamed:
        listed = ", ".join(map(str, unnamed[:10])) + (", …" if len(unnamed) > 10 or more else "")
        last = len(class_names) - 1
        named = f"ids 0 to {last}" if last > 0 else "id 0 alone" if last == 0 else "none"
        errors.append(
            f"{name}: holds label id{'s' if len(unnamed) > 1 else ''} {listed} without a name, but data.class_names "
            f"names {len(class_names)} classes ({named}; {IGNORE} = not scored). Give every id a name in "
            f"data.class_names, relabel the others to {IGNORE}, or set data.binary_labels=True where every id above 0 "
            f"marks the same class (config key {key})"
        )
    where = "" if read_fraction == 1 else f" in the {percent(read_fraction)} of the volume that were read"
    if not unnamed:
        voxels = {row.id: row.voxels for row in rows}
        counts = [voxels[i] for i in range(len(class_names))]
        error, warning = absent_classes(name, class_names, counts, voxels.get(IGNORE, 0), where)
        errors += [error] if error else []
        warnings += [warning] if warning else []
    return tuple(errors), tuple(warnings)


def absent_classes(
    name: str, class_names: Sequence[str], counts: Sequence[int], ignored: int, where: str = ""
) -> tuple[str | None, str | None]:
    """Says which classes have no voxel.

    Args:
      name: of the label volume.
      class_names: names of the ids 0, 1, ...
      counts: voxels of each.
      ignored: voxels of `IGNORE`.
      where: what was read, if not all of the volume.

    Returns:
      (error, warning), one line each or None. It is an error where the one class beside the background was stored as
      255: its scores would be those of the background alone.
    """
    missing = [i for i, count in enumerate(counts) if not count]
    if len(missing) == len(counts):
        line = f"warning: {name}: no voxel is annotated{where}: all that was read is {IGNORE} (not scored)"
        return None, line
    if len(counts) == 2 and missing == [1] and ignored:
        return (
            f"{name}: holds the ids 0 and {IGNORE} alone{where}, and {IGNORE} is not scored, so {class_names[1]} has "
            f"no voxel. If {IGNORE} marks {class_names[1]}, set data.binary_labels=True"
        ), None
    if not missing:
        return None, None
    ids = ", ".join(f"{i} ({class_names[i]})" for i in missing)
    return None, (
        f"warning: {name}: no voxel is labelled {ids}{where}: check the order of data.class_names, which are those of "
        "ids 0, 1, ..."
    )
