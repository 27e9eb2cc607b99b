"""The segment stage: checkpoint and volume in, centres and OME-Zarr label volumes out."""

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from his4mae_jax import files
from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.formats.state import file_state
from his4mae_jax.data.volumes.anisotropy import size_text
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.errors import UserError, mask
from his4mae_jax.inference.encoders.opening import checkpoints_of
from his4mae_jax.inference.kept_features import KeptFeatures, kept_features
from his4mae_jax.inference.tiling import Tiling
from his4mae_jax.output import opening, outputs, records
from his4mae_jax.output.engine.markers import Markers
from his4mae_jax.output.engine.tiles import TileWriter
from his4mae_jax.output.job import FOLDER, Job, clear_published
from his4mae_jax.output.plan import Bound, Task, filled_share, headline, label_names, need_encoder, same_labels
from his4mae_jax.output.publish import check_free, damage, files_of, publish
from his4mae_jax.progress import progress, rate
from his4mae_jax.training.devices import distributed
from his4mae_jax.training.run.run_lock import RunLock

Log = Callable[[str], object]
LOCK = "segment.lock"


def segment(
    config: ml_collections.ConfigDict,
    test: Target,
    workdir: PathLike,
    log: Log,
    folder: PathLike | None = None,
    bound: Bound | None = None,
) -> float:
    """Fits and saves the centres, writes the label volumes and the other outputs that the config requests.

    Nothing of an earlier segmentation is replaced before the new one is whole. What a killed process left is
    resumed. Tiles are labelled in this process, by all processes of the run, each its share, or by the workers of a
    Dask cluster (`segment.engine`).

    Args:
      config: the configuration.
      test: the volume to segment.
      workdir: folder of the run.
      log: prints one line.
      folder: to write into, an existing one; None: the workdir.
      bound: the encoder bound to that volume, where an earlier stage has opened them.

    Returns:
      Seconds that the segmentation took, those of stopped and of other processes included; 0 in all processes of a
      run but the first, which publishes the labels.

    Raises:
      UserError: the volume does not fit the model, something is in the way in the workdir, another run segments this
        volume, a disk refuses a write, or there are no workers to be had.
    """
    need_encoder(config, workdir)
    folder = place(folder or workdir)
    with RunLock(folder, LOCK, "segments this volume") as lock:
        lock.take()
        return _segment(config, test, workdir, log, folder, bound)


def _segment(config, test, workdir, log, folder, bound) -> float:
    """As `segment`, in a folder that no other run segments into."""
    if distributed.is_main():
        check_free(config, folder, test.class_names)
    with checkpoints_of(config, workdir) as checkpoints, _workers(config, log) as workers:
        task = opening.open_task(config, test, folder, checkpoints, log, bound=bound)
        values = opening.values_of(task)
        distributed.check_same({f"what is segmented into {folder}": values})
        if not distributed.is_main():
            _write_share(task, folder / FOLDER)
            return 0.0
        facts = records.segmentation(folder)
        if _there(task, facts, values):
            clear_published(folder, facts["job"])
            _write_share(task, folder / FOLDER)
        else:
            facts = _run(task, values, workers, workdir)
    if task.probabilities and config.segment.pyramid:
        outputs.add_pyramid(
            records.stored(task.probabilities, facts["job"]), math.prod(task.output.shape) * headline(config), log
        )
    outputs.write_outputs(
        config, folder, test.output, [records.stored(path, facts["job"]) for path in task.labels.values()],
        label_names(config, headline(config), test.class_names), log, cell=test.output_labels,
        segmentation=facts["job"],
    )  # fmt: skip
    return facts["seconds"]


@contextlib.contextmanager
def _workers(config: ml_collections.ConfigDict, log: Log) -> Iterator[Any]:
    """The Dask cluster that `segment.scheduler` names; None where tiles are labelled without."""
    if config.segment.engine == "local":
        yield None
        return
    try:
        client = importlib.import_module("his4mae_jax.output.engine.client")
    except ImportError as error:
        raise UserError(
            f"config key segment.engine is 'dask', which needs the package distributed ({error}): "
            "pip install his4mae_jax[dask]"
        ) from error
    with client.connected(config.segment.scheduler, log) as cluster:
        yield cluster


def _there(task: Task, facts: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether the labels are there, of the same inputs and whole; damage is told."""
    paths = [records.volume(path) for path in task.paths]
    if not same_labels(facts.get("what"), values) or not all(path.exists() for path in paths):
        return False
    found = damage(task.folder, task.log)
    for line in found:
        task.log(f"segment: {line}")
    task.log(
        "segment: the labels are damaged, and made anew" if found
        else f"segment: {paths[0]} is there, of this checkpoint, volume and settings"
    )  # fmt: skip
    return not found


def _run(task: Task, values: dict[str, Any], workers: Any, workdir: PathLike) -> dict[str, Any]:
    """Carries one `Job` through; returns the content of segment.json."""
    s, volume, encoder, log = task.config.segment, task.volume, task.encoder, task.log
    share = filled_share(encoder, volume, task.inside)
    fovs = round(share * encoder.coverage.count_fovs(tuple(i.stop - i.start for i in task.inside)))
    spacing = f"at stride {s.stride} across" if s.inference == "expand" else "at every pixel across"
    log(
        f"segment: {volume.name}, {'x'.join(map(str, volume.shape))} voxels at {size_text(volume)}, "
        f"{fovs:,} fields of view {spacing} {encoder.coverage.axes}"
        f"{'' if share == 1 else f' where something is stored, which is about {100 * share:.2g} % of its content'}; "
        + (f"the frozen encoder {s.encoder_file}" if s.encoder_file else f"{s.encoder} of step {task.step}")
    )
    if task.output != Grid.of(volume):
        shape = "x".join(map(str, task.output.shape))
        log(f"segment: labels on the grid of the image, {shape} voxels at {size_text(task.output)}")
    names = files_of(task.config)
    with files.writing(task.folder):
        state = file_state(volume.name)
        job = Job(task.folder, values, names, state)
        if job.publishing:
            _write_share(task, job.folder)
        else:
            _label(task, job, workers, workdir)
            if file_state(volume.name) != state:
                raise UserError(
                    f"{volume.name}: its files changed while it was segmented, so that labels would be of two images; "
                    "segment again when nothing writes to them"
                )
        facts = {
            "seconds": job.tiles.seconds() + opening.fit_seconds(job.folder), "fovs": fovs, "step": task.step,
            "clusters": task.sizes, "volume": mask(volume.name), "job": job.id, "what": values,
        }  # fmt: skip
        if s.encoder_file:
            facts["encoder_file"] = os.path.abspath(s.encoder_file)
        publish(job, names, task.folder, facts)
        speed = rate(fovs / max(facts["seconds"], 1e-9), "fields of view")
        path = records.stored(task.paths[0], job.id)
        log(f"segment: labels in {path} after {facts['seconds']:.1f} s, {speed} with the fit of centres")
        return facts


def _label(task: Task, job: Job, workers: Any, workdir: PathLike) -> None:
    """Fits centres that are not there, and labels all tiles that are not done."""
    s, log, encoded = task.config.segment, task.log, None
    opening.make_volumes(task, job)
    if workers is not None:
        workers.begin(job.id, opening.JobOnWorker, opening.Recipe.of(task, job, workdir))
    if opening.fitted(task, job.folder):
        log("segment: going on; centres are there")
    elif workers is not None and not s.centres_file and task.config.method not in SUPERVISED:
        with progress("fit, by a worker", log=log):
            list(workers.results("fit", ["centres"]))
            opening.fitted_by_worker(job.folder)
        log(f"segment: centres of {', '.join(map(str, task.sizes))} clusters, fitted by a worker")
    else:
        encoded = opening.fit(task, job.folder).encoded
    writer = opening.open_writer(task, job.folder, _kept(task) or encoded)
    need = task.encoder.memory_bytes(task.volume, task.bytes_written, writer.maps, task.onto)
    log(
        f"segment: {len(writer.tiling)} tiles, at most about {need / 2**30:.1f} GiB of arrays at once (set by "
        "segment.tile and segment.batch_fovs)"
    )
    missing = job.tiles.missing(len(writer.tiling))
    if 0 < len(missing) < len(writer.tiling):
        log(f"segment: going on; {len(writer.tiling) - len(missing)} of {len(writer.tiling)} tiles are done")
    if workers is None:
        _write_share(task, job.folder, writer, missing)
    else:
        _write_by(workers, task, writer.tiling, missing)
    job.tiles.wait_for_all(len(writer.tiling))


def _write_share(task: Task, folder: Place, writer: TileWriter | None = None, missing: Sequence[int] = ()) -> None:
    """Labels what this process has of the tiles of a job, by its index, and waits for the others.

    Args:
      task: of the job.
      folder: of the job.
      writer: of the first process, where it has work; the others open theirs.
      missing: the tiles to label, as the first process knows them; empty: none.
    """
    count = int(distributed.of_first(np.int32(len(writer.tiling) if missing else 0)))
    if count:
        marks = np.zeros(count, np.uint8)
        marks[list(missing)] = 1
        mine = np.flatnonzero(distributed.of_first(marks))[jax.process_index() :: jax.process_count()]
        writer = writer or opening.open_writer(task, folder, _kept(task))
        voxels, markers = sum(math.prod(writer.tiling[n].shape) for n in mine), Markers(folder / "done")
        with progress("segment", voxels, unit="voxels", log=task.log) as bar:
            for written in writer.write(mine.tolist(), bar):
                markers.mark(written)
    distributed.barrier("tiles")


def _write_by(workers: Any, task: Task, tiling: Tiling, missing: Sequence[int]) -> None:
    """Has the workers of a Dask cluster label tiles."""
    voxels = sum(math.prod(tiling[n].shape) for n in missing)
    with progress("segment", voxels, unit="voxels", log=task.log) as bar:

        def note() -> None:
            count = workers.count()
            bar.note(f"{count} worker{'s' * (count != 1)}")

        for written in workers.results("label", missing, tick=note):
            bar.advance(math.prod(tiling[written.number].shape))


def _kept(task: Task) -> KeptFeatures | None:
    """The lattices that are kept of the volume, encoded where they are not there; None where none are to be."""
    if not task.config.segment.keep_features:
        return None
    digest = encoder_digest(task.encoder.params)
    return kept_features(task.encoder, task.volume, task.inside, task.folder, digest, task.log)
