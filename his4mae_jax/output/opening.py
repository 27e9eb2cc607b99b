"""Open what a segmentation works with, in the command's process or on a worker, and fit its centres."""

import dataclasses
import functools
import os
import threading
import time
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.lease import check_held
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import Fit, encoder_digest, fit_centres, fit_mask, read_codes
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target, target
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.errors import UserError, mask
from his4mae_jax.files import writing
from his4mae_jax.inference.encoders.opening import checkpoints_of, open_encoder
from his4mae_jax.inference.tiling import Encoded
from his4mae_jax.output import records
from his4mae_jax.output.engine.markers import Markers, Written, seen
from his4mae_jax.output.engine.tiles import TileWriter
from his4mae_jax.output.job import Job, job_id, volume_in
from his4mae_jax.output.plan import (
    Bound,
    Task,
    bind_to,
    differs,
    headline,
    label_names,
    labels_depend_on,
    same_labels,
    volume_paths,
)
from his4mae_jax.progress import Log, say
from his4mae_jax.training.devices.cpu_devices import share_cores
from his4mae_jax.training.devices.memory import return_freed_memory
from his4mae_jax.training.run.checkpoints import Checkpoints

_device = threading.Lock()  # held while a worker computes, for whichever job: one tile at a time has the device
_SHARE = "give all workers the workdir and the data at the same path, on one file system"


def open_task(
    config: ml_collections.ConfigDict,
    test: Target,
    folder: Place,
    checkpoints: Checkpoints | None,
    log: Log,
    step: int | None = None,
    bound: Bound | None = None,
) -> Task:
    """Opens the encoder and measures the volume.

    Args:
      config: of the run.
      test: the volume to segment.
      folder: of the labels to come.
      checkpoints: of `checkpoints_of`.
      log: prints one line.
      step: of the checkpoint; None: that of `segment.checkpoint`.
      bound: that encoder bound to that volume, where an earlier stage has opened them.

    Raises:
      UserError: they do not fit each other.
    """
    volume = test.image
    if bound is None:
        trained = open_encoder(config, checkpoints, step)
        bound = Bound(trained.step, *bind_to(trained, volume, config.segment, config.seed))
    labels, probabilities = volume_paths(config, folder)
    return Task(
        config, folder, volume, Grid.of(test.output), test.class_names, checkpoints, bound.step, bound.encoder,
        bound.inside, fit_mask(config, test.labels), labels, probabilities, log,
    )  # fmt: skip


def values_of(task: Task) -> dict[str, Any]:
    """All that the labels of a task depend on, as JSON."""
    return labels_depend_on(task.config, task.encoder, task.volume, task.inside, task.mask, task.step, task.output)


def fitted(task: Task, folder: Place) -> bool:
    """Whether a job's folder has centres; damaged ones are removed, and all tiles are to be done again."""
    path = folder / records.CENTRES
    try:
        if path.exists():
            centre_files.load(path)
            return True
    except UserError as error:
        task.log(f"segment: {error}; fitted anew")
        Markers(folder / "done").forget()
        records.remove(path)
    return False


def fitted_by_worker(folder: Place) -> None:
    """Waits until the centres that a worker has fitted are seen here.

    Raises:
      UserError: they never are.
    """
    if not seen((folder / records.CENTRES).exists):
        raise UserError(f"{folder}: a worker has fitted centres, and they are not here; {_SHARE}")


def fit(task: Task, folder: Place) -> Fit:
    """Saves the centres of `segment.centres_file`, or new ones, in a job's folder."""
    s, log, began, digest = task.config.segment, task.log, time.perf_counter(), encoder_digest(task.encoder.params)
    sizes = ", ".join(map(str, task.sizes))
    if s.centres_file:
        fit = Fit(centre_files.load_for(s.centres_file, task.sizes, digest))
        named = ", ".join(centre_files.class_names(s.centres_file))
        log(f"segment: {f'classes {named}' if named else f'centres of {sizes} clusters'} from {s.centres_file}")
    else:
        codes_KxD = read_codes(task.config, task.checkpoints, task.step)
        fit = fit_centres(
            task.config, task.encoder, task.volume, task.sizes, task.mask, codes_KxD, task.inside, log=task.log
        )
        log(
            f"segment: classes of method {task.config.method}, no clusters" if task.config.method in SUPERVISED
            else f"segment: centres of {sizes} clusters from {fit.voxels:,} voxels"
        )  # fmt: skip
    centre_files.save(
        folder / records.CENTRES, fit.centres, encoder=s.encoder_file or s.encoder, step=task.step,
        volume=mask(task.volume.name), seed=task.config.seed, voxels=fit.voxels,
        contrast=task.encoder.contrast.to_json(), encoder_digest=digest, seconds=time.perf_counter() - began,
        **({"choice": fit.choice.to_json()} if fit.choice else {}),
    )  # fmt: skip
    return fit


def fit_seconds(folder: Place) -> float:
    """Seconds that the fit of the centres in a job's folder took; 0 where they have left it already."""
    path = folder / records.CENTRES
    return centre_files.load(path)[1].get("seconds", 0.0) if path.exists() else 0.0


def make_volumes(task: Task, job: Job) -> None:
    """Creates the label volumes in a job's folder where they are not there yet."""
    version = task.config.segment.ome_zarr_version

    def make(path: Place, shape: tuple[int, ...], fill_value: int, **names: Any) -> None:
        job.array(path.name, version, lambda part: ome_zarr.create(
            part, shape, np.uint8, task.output.voxel_size_nm, origin_nm=task.output.origin_nm,
            chunks=task.config.segment.block, fill_value=fill_value, overwrite=True, version=version, **names,
        ))  # fmt: skip

    for size, path in task.labels.items():
        names = label_names(task.config, size, task.class_names)
        make(path, task.output.shape, UNLABELLED, label_values=names)
    if task.probabilities:
        channels = list(label_names(task.config, headline(task.config), task.class_names).values())
        make(task.probabilities, (len(channels), *task.output.shape), 0, channels=channels)


def open_writer(task: Task, folder: Place, encoded: Encoded | None = None) -> TileWriter:
    """What the tiles of a job are labelled with and written to, from the centres and volumes in its folder.

    Args:
      task: of the job.
      folder: of the job.
      encoded: lattices that are there already.
    """
    scores = centre_files.linear_scores(centre_files.load(folder / records.CENTRES)[0])
    version, most = task.config.segment.ome_zarr_version, headline(task.config)
    tiling = task.encoder.coverage.label_tiles(
        task.volume.shape, task.bytes_written, sum(c.maps for c in scores.values()), inside=task.inside,
        block=tuple(task.config.segment.block), onto=task.onto,
    )  # fmt: skip
    return TileWriter(
        task.encoder, task.volume, tiling, scores, {size: path.name for size, path in task.labels.items()},
        (most, task.probabilities.name) if task.probabilities else None,
        {path.name: ome_zarr.open_array(volume_in(folder, path.name) / "0", version) for path in task.paths},
        encoded, **({"check": functools.partial(check_held, folder)} if isinstance(folder, BucketPath) else {}),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recipe:
    """From what a worker opens a job.

    Attributes:
      settings: all, as a dict.
      place: the working directory of the command, from which relative paths are meant.
      workdir: of the run, as the command was given it.
      job_folder: of the job, absolute.
      job: its id.
      step: of the checkpoint.
      values: `values_of` the task.
    """

    settings: dict[str, Any]
    place: str
    workdir: str
    job_folder: str
    job: str
    step: int
    values: dict[str, Any]

    @classmethod
    def of(cls, task: Task, job: Job, workdir: PathLike) -> "Recipe":
        """The recipe of a job that this process has begun."""
        return cls(
            task.config.to_dict(), os.getcwd(), str(workdir), str(job.folder.absolute()), job.id, task.step,
            values_of(task),
        )  # fmt: skip


class JobOnWorker:
    """A job as a worker has it open: encoder, volume and, from the first tile on, centres and label volumes.

    One tile at a time is computed, whatever the number of threads: a process has one device. With two threads the next
    is read, and the last written, meanwhile.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Opens it.

        Raises:
          UserError: something that the command sees is not here, or is something else.
        """
        self._recipe, self._folder, self._ended = recipe, place(recipe.job_folder), False
        self._markers, self._writer = Markers(self._folder / "done"), None
        if not seen(lambda: job_id(self._folder) == recipe.job):
            raise UserError(f"{self._folder}: not what the command sees there; {_SHARE}")
        config = ml_collections.ConfigDict(recipe.settings)
        if not config.segment.encoder_file:  # onnxruntime shares out the cores by itself
            share_cores(config)
        return_freed_memory()
        with _device:
            self._task = self._open(config)
            values = values_of(self._task)
        if not same_labels(values, recipe.values):
            raise UserError(
                f"{self._task.volume.name}: not what the command sees there ({differs(values, recipe.values)}); give "
                "all workers the same data at the same path"
            )

    def _open(self, config: ml_collections.ConfigDict) -> Task:
        self._go_home()
        test = target(config, self._recipe.workdir, need_labels=False)
        with checkpoints_of(config, self._recipe.workdir) as checkpoints:
            return open_task(config, test, self._folder.parent, checkpoints, say, self._recipe.step)

    def _go_home(self) -> None:
        """Goes to where relative paths are meant from; another job may have left the worker elsewhere."""
        try:
            os.chdir(self._recipe.place)
        except OSError as error:
            raise UserError(
                f"{self._recipe.place}: where the command was started, and not there for a worker ({error.strerror}); "
                "start it in a folder that all workers have"
            ) from error

    def fit(self, what: str) -> None:
        """Fits the centres. A tile that was encoded whole for that is labelled at once, as in one process."""
        with _device, writing(self._folder):
            self._go_home()
            with checkpoints_of(self._task.config, self._recipe.workdir) as checkpoints:
                task = dataclasses.replace(self._task, checkpoints=checkpoints)
                encoded = None if fitted(task, self._folder) else fit(task, self._folder).encoded
        if encoded is not None:
            self._writer = dataclasses.replace(self._opened(), encoded=encoded)
            for tile in self._writer.tiling:
                if encoded.holds(self._task.volume, tile):
                    self.label(tile.number)

    def label(self, number: int) -> Written:
        """Labels a tile, writes it, and marks it as done; one that is marked already is left alone."""
        if (there := self._markers.read(number)) is not None:
            return there
        with writing(self._folder):
            (written,) = self._opened().read_ahead(number).write([number])
            self._markers.mark(written)
        return written

    def end(self) -> None:
        """Nothing more is written."""
        self._ended = True

    def _opened(self) -> TileWriter:
        if self._writer is None:
            with _device:
                self._go_home()
                writer = open_writer(self._task, self._folder)
            self._writer = dataclasses.replace(writer, check=self._check, device=_device)
        return self._writer

    def _check(self) -> None:
        """Raises where the command is gone: another one may have begun something else in this folder."""
        if self._ended or job_id(self._folder) != self._recipe.job:
            raise UserError(f"{self._folder}: the command that began this segmentation has ended")
