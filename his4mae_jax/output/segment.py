"""The segment stage: checkpoint and volume in, centres and OME-Zarr label volumes out."""

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import ml_collections
import numpy as np
import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import Fit, encoder_digest, fit_centres, fit_mask, read_codes
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.anisotropy import size_text
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.errors import UserError, mask
from his4mae_jax.inference.encoders.opening import checkpoints_of, open_encoder
from his4mae_jax.inference.kept_features import kept_features
from his4mae_jax.inference.tiling import Tiling
from his4mae_jax.output import outputs, records
from his4mae_jax.output.job import Claims, Job
from his4mae_jax.output.plan import (
    Task,
    bind_to,
    headline,
    label_names,
    labels_depend_on,
    need_encoder,
    same_labels,
    volume_paths,
)
from his4mae_jax.output.publish import check_free, damage, files_of, publish
from his4mae_jax.progress import progress, rate

Log = Callable[[str], object]


def segment(
    config: ml_collections.ConfigDict,
    test: Target,
    workdir: str | os.PathLike,
    log: Log,
    folder: str | os.PathLike | None = None,
) -> float:
    """Fits and saves the centres, writes the label volumes and the other outputs that the config requests.

    Nothing of an earlier segmentation is replaced before the new one is whole. What a killed process left is
    resumed, and processes that run the same command at the same time share the tiles.

    Args:
      config: the configuration.
      test: the volume to segment.
      workdir: folder of the run.
      log: prints one line.
      folder: to write into, an existing one; None: the workdir.

    Returns:
      Seconds that the segmentation took, those of stopped and of other processes included; 0 where another process
      published it.

    Raises:
      UserError: the volume does not fit the model, something is in the way in the workdir, or a disk refuses a write.
    """
    need_encoder(config, workdir)
    folder = pathlib.Path(folder or workdir)
    check_free(config, folder, test.class_names)
    with checkpoints_of(config, workdir) as checkpoints:
        task = _prepare(config, test, folder, checkpoints, log)
        values = labels_depend_on(config, task.encoder, task.volume, task.inside, task.mask, task.step, task.output)
        facts = records.segmentation(folder)
        if not _there(task, facts, values):
            facts = _run(task, values)
    if facts is None:
        return 0.0
    if task.probabilities and config.segment.pyramid:
        outputs.add_pyramid(task.probabilities, math.prod(task.output.shape) * headline(config), log)
    outputs.write_outputs(
        config, folder, test.output, list(task.labels.values()),
        label_names(config, headline(config), test.class_names), log, cell=test.output_labels,
        segmentation=facts["job"],
    )  # fmt: skip
    return facts["seconds"]


def _prepare(config, test, folder, checkpoints, log) -> Task:
    """Opens the encoder and measures the volume; raises UserError where they do not fit each other."""
    trained, volume = open_encoder(config, checkpoints), test.image
    encoder, inside = bind_to(trained, volume, config.segment, config.seed)
    labels, probabilities = volume_paths(config, folder)
    return Task(
        config, folder, volume, Grid.of(test.output), test.class_names, checkpoints, trained.step, encoder, inside,
        fit_mask(config, test.labels), labels, probabilities, log,
    )  # fmt: skip


def _there(task: Task, facts: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether the labels are there, of the same inputs and whole; damage is told."""
    if not same_labels(facts.get("what"), values) or not all(path.exists() for path in task.paths):
        return False
    found = damage(task.folder, task.log)
    for line in found:
        task.log(f"segment: {line}")
    task.log(
        "segment: the labels are damaged, and made anew" if found
        else f"segment: {task.paths[0]} is there, of this checkpoint, volume and settings"
    )  # fmt: skip
    return not found


def _run(task: Task, values: dict[str, Any]) -> dict[str, Any] | None:
    """Carries one `Job` through; returns the content of segment.json, or None where another process published it."""
    s, volume, encoder, log = task.config.segment, task.volume, task.encoder, task.log
    fovs = encoder.coverage.count_fovs(tuple(i.stop - i.start for i in task.inside))
    spacing = f"at stride {s.stride} across" if s.inference == "expand" else "at every pixel across"
    log(
        f"segment: {volume.name}, {'x'.join(map(str, volume.shape))} voxels at {size_text(volume)}, "
        f"{fovs:,} fields of view {spacing} {encoder.coverage.axes}; "
        + (f"the frozen encoder {s.encoder_file}" if s.encoder_file else f"{s.encoder} of step {task.step}")
    )
    if task.output != Grid.of(volume):
        shape = "x".join(map(str, task.output.shape))
        log(f"segment: labels on the grid of the image, {shape} voxels at {size_text(task.output)}")
    names = files_of(task.config)
    with files.writing(task.folder), contextlib.closing(Job(task.folder, values, names)) as job:
        with job.alone():
            if job.published:
                return None
            publishing = job.publishing
            fit = _fit(task, job)
            scores = centre_files.linear_scores(fit.centres)
            maps = sum(c.maps for c in scores.values())
            written = len(task.labels) + (headline(task.config) if task.probabilities else 0)
            tiling = encoder.coverage.label_tiles(
                volume.shape, written, maps, inside=task.inside, block=tuple(s.block), onto=task.onto
            )
            arrays = {} if publishing else _open_volumes(task, job)
            missing = [] if publishing else job.missing(len(tiling))
            if s.keep_features:
                digest = encoder_digest(encoder.params)
                kept = kept_features(encoder, volume, task.inside, task.folder, digest, log)
                fit = dataclasses.replace(fit, encoded=kept)
        need = encoder.memory_bytes(volume, written, maps, task.onto)
        log(
            f"segment: {len(tiling)} tiles, at most about {need / 2**30:.1f} GiB of arrays at once (set by "
            "segment.tile and segment.batch_fovs)"
        )
        if missing:
            _write_tiles(task, job, fit, tiling, arrays)
        with job.alone():
            if job.published:
                log("segment: another process has published the labels")
                return None
            facts = {
                "seconds": job.seconds() + _fit_seconds(job), "fovs": fovs, "step": task.step,
                "clusters": task.sizes, "volume": mask(volume.name), "job": job.id, "what": values,
            }  # fmt: skip
            if s.encoder_file:
                facts["encoder_file"] = os.path.abspath(s.encoder_file)
            publish(job, names, task.folder, facts)
            speed = rate(fovs / max(facts["seconds"], 1e-9), "fields of view")
            log(f"segment: labels in {task.paths[0]} after {facts['seconds']:.1f} s, {speed} with the fit of centres")
            return facts


def _fit(task: Task, job: Job) -> Fit:
    """The centres that the job has already, or those of `segment.centres_file`, or new ones; saved with the job."""
    path, s, log = job.folder / records.CENTRES, task.config.segment, task.log
    if path.exists():
        try:
            fit = Fit(centre_files.load(path)[0])
            log("segment: going on; centres are there")
            return fit
        except UserError as error:
            log(f"segment: {error}; fitted anew")
            job.forget()
            records.remove(path)
    began, digest = time.perf_counter(), encoder_digest(task.encoder.params)
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
        path, fit.centres, encoder=s.encoder_file or s.encoder, step=task.step, volume=mask(task.volume.name),
        seed=task.config.seed, voxels=fit.voxels, contrast=task.encoder.contrast.to_json(), encoder_digest=digest,
        seconds=time.perf_counter() - began, **({"choice": fit.choice.to_json()} if fit.choice else {}),
    )  # fmt: skip
    return fit


def _fit_seconds(job: Job) -> float:
    path = job.folder / records.CENTRES
    return centre_files.load(path)[1].get("seconds", 0.0) if path.exists() else 0.0


def _open_volumes(task: Task, job: Job) -> dict[pathlib.Path, ts.TensorStore]:
    """The arrays of all volumes in the job's folder, by their final paths; created where they are not there yet."""
    arrays, version = {}, task.config.segment.ome_zarr_version

    def open_volume(path, shape, fill_value, **names):
        arrays[path] = job.array(path.name, version, lambda part: ome_zarr.create(
            part, shape, np.uint8, task.output.voxel_size_nm, origin_nm=task.output.origin_nm,
            chunks=task.config.segment.block, fill_value=fill_value, overwrite=True, version=version, **names,
        ))  # fmt: skip

    for size, path in task.labels.items():
        names = label_names(task.config, size, task.class_names)
        open_volume(path, task.output.shape, UNLABELLED, label_values=names)
    if task.probabilities:
        channels = list(label_names(task.config, headline(task.config), task.class_names).values())
        open_volume(task.probabilities, (len(channels), *task.output.shape), 0, channels=channels)
    return arrays


def _write_tiles(task: Task, job: Job, fit: Fit, tiling: Tiling, arrays: dict[pathlib.Path, ts.TensorStore]) -> None:
    """Labels, and writes, every tile that no other process takes; returns when all are done."""
    clusterings = centre_files.linear_scores(fit.centres)
    claims: Claims = {}
    # The tile whose chunks are written while the next is computed.
    in_flight: list[tuple[int, list[Future], dict[str, list]]] = []
    began = time.perf_counter()

    def finish_writes():
        nonlocal began
        for number, writes, checks in in_flight:
            for write in writes:
                write.result()
            now = time.perf_counter()
            job.mark(number, claims, now - began, checks)
            began = now
        in_flight.clear()

    missing = job.missing(len(tiling))
    if 0 < len(missing) < len(tiling):
        task.log(f"segment: going on; {len(tiling) - len(missing)} of {len(tiling)} tiles are done")
    voxels = sum(math.prod(tiling[n].shape) for n in missing)
    probabilities_of = headline(task.config) if task.probabilities else None
    with contextlib.ExitStack() as held, progress("segment", voxels, unit="voxels", log=task.log) as bar:
        held.callback(lambda: [lock.close() for lock in claims.values()])  # of tiles that an error leaves undone
        while job.missing(len(tiling)):
            start = jax.process_index() / jax.process_count()
            tiles = (tiling[n] for n in job.claim(len(tiling), claims, start))
            for tile, labels, probabilities in task.encoder.label(
                task.volume, clusterings, tiles, probabilities_of=probabilities_of, encoded=fit.encoded, bar=bar
            ):
                finish_writes()
                blocks = {task.labels[size]: block for size, block in labels.items()}
                if probabilities is not None:
                    blocks[task.probabilities] = probabilities
                writes = [arrays[path][(..., *tile.write)].write(block) for path, block in blocks.items()]
                checks = {path.name: checksums.entry(tile.write, block) for path, block in blocks.items()}
                in_flight.append((tile.number, writes, checks))
            if not in_flight:
                job.pause()  # other processes compute the rest
            finish_writes()
