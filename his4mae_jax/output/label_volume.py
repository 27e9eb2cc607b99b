"""The segment stage: checkpoint and volume in, centres and OME-Zarr label volumes out."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import time

import jax
import numpy as np

from his4mae_jax import files
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import Fit, encoder_digest, fit_centres, fit_mask, read_codes
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, size_text
from his4mae_jax.data.volumes.contrast import content_box
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.padding import padding_values
from his4mae_jax.errors import UserError
from his4mae_jax.inference.trained import volume_encoder
from his4mae_jax.output import outputs
from his4mae_jax.output.job import Job, clean_locks
from his4mae_jax.progress import progress
from his4mae_jax.training.run.checkpoints import Checkpoints

# Settings of `segment` that say what is made of the labels, not what the labels are.
OF_OUTPUTS = (
    "pyramid", "outputs", "instances", "min_instance_voxels", "instance_connectivity", "volume", "file_voxel_size_nm",
)  # fmt: skip


def label_path(workdir, clusters, headline):
    """`labels.ome.zarr` for the headline C, `labels_c<C>.ome.zarr` for the others."""
    name = "labels" if clusters == headline else f"labels_c{clusters}"
    return pathlib.Path(workdir) / f"{name}.ome.zarr"


def headline(config):
    """The number of labels of `labels.ome.zarr`: C, or for a supervised method its classes."""
    return config.supervised.classes if config.method in SUPERVISED else config.segment.clusters


def label_sizes(config):
    """All numbers of labels that are segmented with, ascending: the headline's and `evaluate.clusters`."""
    if config.method in SUPERVISED:
        return [headline(config)]
    return sorted({config.segment.clusters, *config.evaluate.clusters})


def need_checkpoint(workdir):
    """Raise `UserError` unless the workdir holds a trained run."""
    folder = pathlib.Path(workdir) / "checkpoints"
    if not folder.is_dir() or not any(p.name.isdigit() for p in folder.iterdir()):
        raise UserError(f"{folder}: no checkpoint to segment with; run --mode=train (or all) with this --workdir first")


def check_voxel_size(volume, trained_nm):
    """The model knows organelles at the voxel size, within slices, that it was trained at."""
    if abs(in_plane_nm(volume) / trained_nm - 1) > 0.01:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)}, but the model was trained at {trained_nm:g} nm; give the "
            "volume's true size with --config.segment.file_voxel_size_nm, or train with --config.data.voxel_size_nm"
        )


def check_size(encoder, volume, inside):
    """Slices across every axis used must hold a field of view, in the box that is not padding."""
    shape = tuple(s.stop - s.start for s in inside)
    bad = encoder.coverage.axis_too_small(shape)
    if bad:
        raise UserError(
            f"{volume.name}: {'x'.join(map(str, shape))} voxels (z, y, x) at {size_text(volume)}: slices across {bad} "
            f"are smaller than the field of view of {encoder.coverage.fov}; segment a larger volume or leave that axis "
            "out of segment.axes"
        )


def label_names(config, size, class_names):
    """Name of each label id: classes of a supervised method, else numbered clusters."""
    if config.method in SUPERVISED:
        return dict(enumerate(class_names))
    return {i: f"cluster {i}" for i in range(size)}


def _outputs(config, workdir, sizes):
    """Final path of each label volume by C, the headline's first, and of "probabilities" where they are asked for."""
    first = headline(config)
    paths = {size: label_path(workdir, size, first) for size in sorted(sizes, key=lambda size: size != first)}
    if config.segment.probabilities:
        paths["probabilities"] = pathlib.Path(workdir) / "probabilities.ome.zarr"
    return paths


def open_outputs(config, job, volume, paths, class_names):
    """The arrays of `_outputs` in the job's folder, by C; made where they are not there yet."""
    arrays, version = {}, config.segment.ome_zarr_version
    for size, path in paths.items():
        part = job.folder / path.name
        whole = job.folder / f"{path.name}.made"
        if not whole.exists():
            names = label_names(config, headline(config) if size == "probabilities" else size, class_names)
            what = {"label_values": names} if size != "probabilities" else {"channels": list(names.values())}
            shape = volume.shape if size != "probabilities" else (len(names), *volume.shape)
            ome_zarr.create(
                part, shape, np.uint8, volume.voxel_size_nm, chunks=config.segment.block,
                fill_value=IGNORE if size != "probabilities" else 0, overwrite=True, version=version, **what,
            )  # fmt: skip
            whole.touch()
        arrays[size] = ome_zarr.open_array(part / "0", version)
    return arrays


def publish(job, paths, workdir, facts, log):
    """Give what is whole its final names, in place of an earlier segmentation.

    Killed anywhere in between, the labels count as not there, and the same command goes on here: old facts never
    meet new files.
    """
    workdir = pathlib.Path(workdir)
    outputs.remove_outputs(workdir)
    (workdir / "segment.json").unlink(missing_ok=True)
    for path in paths.values():
        part = job.folder / path.name
        if part.exists():
            clean_locks(part)
            ome_zarr.replace(part, path)
    for path in workdir.glob("labels_c*.ome.zarr"):  # of numbers of clusters that are not asked for any more
        if path not in paths.values():
            shutil.rmtree(path)
    if "probabilities" not in paths:
        shutil.rmtree(workdir / "probabilities.ome.zarr", ignore_errors=True)
    if (job.folder / "centres.npz").exists():
        os.replace(job.folder / "centres.npz", workdir / "centres.npz")
    files.write_json(workdir / "segment.json", facts)
    job.finish()
    log(f"segment: labels in {next(iter(paths.values()))} after {facts['seconds']:.1f} s")


def what_is_segmented(config, encoder, volume, inside, mask, step, sizes):
    """All that the labels depend on, as JSON."""
    settings = {k: v for k, v in config.segment.to_dict().items() if k not in OF_OUTPUTS}
    if settings["centres_file"]:
        settings["centres_file"] = hashlib.sha256(pathlib.Path(settings["centres_file"]).read_bytes()).hexdigest()
    what = {
        "step": step, "volume": str(volume.name), "shape": volume.shape, "dtype": volume.dtype.name,
        "voxel_size_nm": volume.voxel_size_nm, "contrast": encoder.contrast.to_json(),
        "inside": [[s.start, s.stop] for s in inside], "padding": encoder.padding, "clusters": sizes,
        "mask": None if mask is None else str(mask.name), "seed": config.seed, "slices": encoder.coverage.axes,
        "settings": settings,
    }  # fmt: skip
    return json.loads(json.dumps(what))


def centres_of(config, checkpoints, encoder, volume, inside, mask, sizes, job, log):
    """The `Fit` of a job: that it has, or that of `segment.centres_file`, or a new one, which it then has."""
    path, s = job.folder / "centres.npz", config.segment
    if path.exists():
        log("segment: going on; centres are there")
        return Fit(centre_files.load(path)[0])
    began, digest = time.perf_counter(), encoder_digest(encoder.params)
    if s.centres_file:
        fit = Fit(centre_files.load_for(s.centres_file, sizes, digest))
        log(f"segment: centres of {', '.join(map(str, sizes))} clusters from {s.centres_file}")
    else:
        step = job_step(checkpoints)
        codes_KxD = read_codes(config, checkpoints, step)
        fit = fit_centres(config, encoder, volume, sizes, s.fraction, mask, codes_KxD, inside, log)
        log(
            f"segment: classes of method {config.method}, no clusters" if config.method in SUPERVISED
            else f"segment: centres of {', '.join(map(str, sizes))} clusters from {fit.voxels:,} voxels"
        )  # fmt: skip
    centre_files.save(
        path, fit.centres, encoder=s.encoder, step=job_step(checkpoints), volume=str(volume.name), seed=config.seed,
        voxels=fit.voxels, contrast=encoder.contrast.to_json(), encoder_digest=digest,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
    return fit


def job_step(checkpoints):
    """The step that is segmented with: the newest."""
    return checkpoints.steps()[-1]


def write_tiles(config, job, encoder, volume, fit, tiling, arrays, log):
    """Label, and write, every tile that no other process does; returns when all are done."""
    clusterings = centre_files.linear_scores(fit.centres)
    of = headline(config) if config.segment.probabilities else None
    claims, behind, began = {}, [], time.perf_counter()

    def written():
        """The tile whose chunks were being written meanwhile is done when they are."""
        nonlocal began
        for number, futures in behind:
            for future in futures:
                future.result()
            now = time.perf_counter()
            job.mark(number, claims, now - began)
            began = now
        behind.clear()

    missing = job.missing(len(tiling))
    if 0 < len(missing) < len(tiling):
        log(f"segment: going on; {len(tiling) - len(missing)} of {len(tiling)} tiles are done")
    voxels = sum(math.prod(tiling[n].shape) for n in missing)
    with progress("segment", voxels, unit="voxels", log=log) as bar:
        how = {"probabilities_of": of, "encoded": fit.encoded, "bar": bar}
        while job.missing(len(tiling)):
            share = jax.process_index() / jax.process_count()
            tiles = (tiling[n] for n in job.claim(len(tiling), claims, share))
            for tile, labels, shares in encoder.label(volume, clusterings, tiles, **how):
                written()
                futures = [arrays[size][tile.write].write(found) for size, found in labels.items()]
                if shares is not None:
                    futures.append(arrays["probabilities"][(slice(None), *tile.write)].write(shares))
                behind.append((tile.number, futures))
            if not behind:
                job.pause()  # for others
            written()


def segment(config, test, workdir, log):
    """Fit and save the centres, write the label volumes and what else is asked for. Returns seconds taken.

    Nothing of an earlier segmentation is replaced before the new one is whole. What a killed process left is gone
    on with, and processes that run the same command at the same time share the tiles.
    """
    need_checkpoint(workdir)
    checkpoints = Checkpoints(workdir, config)
    step = job_step(checkpoints)
    volume, s = test.image, config.segment
    check_voxel_size(volume, checkpoints.about(step)["voxel_size_nm"])
    encoder = volume_encoder(config, checkpoints, step, volume)
    inside = content_box(volume)
    check_size(encoder, volume, inside)
    encoder = dataclasses.replace(encoder, padding=padding_values(volume, inside))
    sizes, mask = label_sizes(config), fit_mask(config, test.labels)
    paths = _outputs(config, workdir, sizes)
    what = what_is_segmented(config, encoder, volume, inside, mask, step, sizes)
    done = _facts(workdir)
    if done.get("what") == what and all(p.exists() for p in paths.values()):
        log(f"segment: {next(iter(paths.values()))} is there, of this checkpoint, volume and settings")
    else:
        done = _segment(config, checkpoints, encoder, test, inside, mask, paths, what, workdir, log)
    checkpoints.close()
    if done is not None:
        names = label_names(config, headline(config), test.class_names)
        labels = [path for size, path in paths.items() if size in sizes]
        if s.probabilities and s.pyramid:
            outputs.build_pyramid(paths["probabilities"])
        outputs.write_outputs(
            config, workdir, volume, labels, names, log, cell=test.labels, segmentation=done["job"]
        )  # fmt: skip
        return done["seconds"]
    return 0.0


def _segment(config, checkpoints, encoder, test, inside, mask, paths, what, workdir, log):
    """One `Job` from start to end; the facts of segment.json, or None where another process published it."""
    s, volume, sizes = config.segment, test.image, what["clusters"]
    shape = tuple(i.stop - i.start for i in inside)
    fovs = encoder.coverage.count_fovs(shape)
    how = f"at stride {s.stride} across" if s.inference == "expand" else "at every pixel across"
    log(
        f"segment: {volume.name}, {'x'.join(map(str, volume.shape))} voxels at {size_text(volume)}, "
        f"{fovs:,} fields of view {how} {encoder.coverage.axes}; {s.encoder} of step {what['step']}"
    )
    with files.writing(workdir), contextlib.closing(Job(workdir, what)) as job:
        with job.alone():
            if job.published:
                return None
            fit = centres_of(config, checkpoints, encoder, volume, inside, mask, sizes, job, log)
            maps = sum(len(c.centres_CxM) for c in fit.centres.values())
            written = len(sizes) + (headline(config) if s.probabilities else 0)
            tiling = encoder.coverage.label_tiles(volume.shape, written, maps, inside=inside, block=tuple(s.block))
            missing = job.missing(len(tiling))
            arrays = open_outputs(config, job, volume, paths, test.class_names) if missing else {}
        need = encoder.memory_bytes(volume, written, maps)
        log(
            f"segment: {len(tiling)} tiles, at most about {need / 2**30:.1f} GiB of arrays at once (set by "
            "segment.tile and segment.batch_fovs)"
        )
        if missing:
            write_tiles(config, job, encoder, volume, fit, tiling, arrays, log)
        with job.alone():
            if job.published:
                log("segment: another process has published the labels")
                return None
            facts = {
                "seconds": job.seconds() + _fit_seconds(job), "fovs": fovs, "step": what["step"],
                "clusters": sizes, "volume": str(volume.name), "job": job.id, "what": what,
            }  # fmt: skip
            publish(job, paths, workdir, facts, log)
            return facts


def _fit_seconds(job):
    path = job.folder / "centres.npz"
    return centre_files.load(path)[1].get("seconds", 0.0) if path.exists() else 0.0


def _facts(workdir):
    """The content of segment.json; empty where there is no whole segmentation."""
    try:
        return json.loads((pathlib.Path(workdir) / "segment.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def segmented(workdir, clusters):
    """The facts of `segment.json`; `UserError` when there is no whole segmentation."""
    path, facts = pathlib.Path(workdir) / "segment.json", _facts(workdir)
    if not facts:
        raise UserError(f"{path}: no segmentation to score; run --mode=segment with this --workdir first")
    missing = sorted(set(clusters) - set(facts["clusters"]))
    if missing:
        raise UserError(
            f"{path}: no labels for {', '.join(map(str, missing))} clusters; run --mode=segment with this config again"
        )
    return facts
