"""The training run: restore or start, step, log, save."""

import contextlib
import time

import jax
import numpy as np
from clu import parameter_overview

from his4mae_jax.config import total_steps
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, slice_axes
from his4mae_jax.data.volumes.contrast import content_box, estimate_contrast
from his4mae_jax.errors import UserError
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import distributed
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run import preemption
from his4mae_jax.training.run.checkpoints import Checkpoints, began_with, shared_config, write_config
from his4mae_jax.training.run.feed import Feed, make_plan
from his4mae_jax.training.run.log_window import Windows
from his4mae_jax.training.run.writers import make_writer
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.multi_step import call_spans, compile_calls
from his4mae_jax.training.step.optimizer import make_optimizer
from his4mae_jax.training.step.step import distillation_start


def prepare_volumes(config, volumes):
    """Contrast and content box of each volume, checked before anything is written."""
    percentiles = tuple(config.data.contrast_percentiles)
    contrasts = [
        estimate_contrast(v, percentiles=percentiles, invert=config.data.invert, seed=config.seed) for v in volumes
    ]
    return contrasts, [content_box(v) for v in volumes]


def check_backend(config):
    """Raise `UserError` where an accelerator is asked for and JAX has none."""
    if config.train.require_accelerator and jax.default_backend() == "cpu":
        raise UserError(
            "config key train.require_accelerator is True, but JAX runs on the CPU: install it for the accelerator "
            "(pip install 'his4mae_jax[cuda]' or '[tpu]') and check its driver, or set the key to False"
        )


def train(config, volumes, workdir, log, labels=None):
    """Train to `total_steps`, going on from the newest checkpoint. Returns seconds trained.

    `labels` are the volumes' ground truth, for supervised methods; fields of view then lie in
    the boxes around what is annotated.

    Every batch, mask and code update is a function of (seed, step), so a run that was
    killed and resumed ends in the state of one that never stopped. One that is told to stop saves
    where it is, together with the other processes of the run, and raises `Preempted`.
    """
    total = total_steps(config)
    check_backend(config)
    contrasts, boxes = prepare_volumes(config, volumes)
    if labels:
        boxes = [content_box(v) for v in labels]
    axes = [slice_axes(v, config.data.axes) for v in volumes]
    in_memory_gb = began_with(workdir, config)
    plan, mesh = make_plan(config, volumes, boxes, axes, labels, in_memory_gb=in_memory_gb), meshes.make_mesh()
    feed = Feed(config, plan, volumes, contrasts, mesh, labels)
    models = METHODS[config.method].build(config)
    if distributed.is_main():
        write_config(workdir, config, in_memory_gb=in_memory_gb)  # the first thing written: all input has been checked
    distributed.barrier("config")
    distributed.check_same({"the configuration": config.to_dict(), **shared_config(workdir)})
    optimizer = make_optimizer(config)
    checkpoints = Checkpoints(workdir, config, together=True)
    everywhere = meshes.replicated(mesh)
    create = jax.jit(lambda: states.create(config, models, optimizer), out_shardings=everywhere)
    saved = checkpoints.steps()
    distributed.check_same({f"the list of checkpoints in {checkpoints.path}": saved})
    seconds = 0.0
    if saved:
        state, saved_about = checkpoints.restore(saved[-1], jax.eval_shape(create), everywhere)
        seconds = saved_about["seconds"]
        log(f"train: going on from step {saved[-1]} of {total}")
    else:
        state = create()
        sizes = {k: parameter_overview.count_parameters(v) for k, v in state.params.items()}
        log("train: parameters " + ", ".join(f"{k} {n:,}" for k, n in sizes.items()))
    start = int(saved[-1]) if saved else 0
    if start >= total:
        checkpoints.close()
        log(f"train: all {total} steps are done")
        return seconds
    log(
        f"train: {total - start:,} steps of {config.train.batch_size} fields of view, {feed.per_call} a call, on "
        f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()}), mesh {dict(mesh.shape)}, "
        f"{config.model.dtype}; {feed.describe()}"
    )
    checkpoints.check_space(state)  # now, and not after the first hour
    advance, place_codes = compile_calls(
        config, models, optimizer, mesh, per_call=feed.per_call, resident=feed.resident
    )
    writer, windows = make_writer(workdir, start), Windows(start, total, config.train.log_every)
    began = last = logged_at = time.perf_counter()
    logged, waiting = start, None

    def write(step, scalars, at):
        nonlocal logged_at, logged
        scalars["images_per_s"] = (step - logged) * config.train.batch_size / max(at - logged_at, 1e-9)
        scalars["seconds"] = seconds + at - began
        logged_at, logged = at, step
        writer.write(step, scalars)
        left = (total - step) * (at - began) / max(step - start, 1)
        log(
            f"train: step {step:>{len(str(total))}}/{total}  "
            + "  ".join(f"{k} {v:.5f}" for k, v in scalars.items() if k.startswith("loss_"))
            + f"  {scalars['images_per_s']:.0f} images/s  {left / 60:.1f} min left"
        )

    def report():
        """Fetch the metrics of the call before, which are there or nearly so, and log what they complete."""
        nonlocal last, waiting
        if waiting is None:
            return
        (first, count, metrics), waiting = waiting, None
        metrics = {k: v[:count] for k, v in jax.device_get(metrics).items()}
        wrong = np.flatnonzero(~np.isfinite(metrics["loss"]))
        if len(wrong):
            raise UserError(
                f"train: the loss is not finite at step {first + wrong[0] + 1}; lower --config.train.lr and start anew"
            )
        now = time.perf_counter()
        for entry in windows.add(metrics, last, now):
            write(*entry)
        last = now

    def about():
        return {
            "config": config.to_dict(), "seconds": seconds + time.perf_counter() - began,
            "voxel_size_nm": in_plane_nm(volumes[0]),
        }  # fmt: skip

    stop, agreed = distillation_start(config), distributed.Agreement(mesh)
    spans = list(call_spans(start, total, feed.per_call, every=checkpoints.every, stop=stop))
    with preemption.noted() as told, contextlib.closing(writer):
        for (first, count), data in zip(spans, feed.calls(spans), strict=True):
            if first == stop and state.codes:
                state = place_codes(state, data)
            state, metrics = advance(state, data, count, first >= stop or not state.codes)
            jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
            report()  # of the call before: the device has work meanwhile
            waiting = first, count, metrics
            done = first + count
            stopped = agreed(told() is not None)
            if stopped or done % checkpoints.every == 0 or done == total:
                report()  # a state that is not finite is not saved
                checkpoints.save(done, state, about())
            if stopped:
                break
        jax.block_until_ready(state.step)
        checkpoints.close()
        if done < total:
            why = told() or "another process"
            raise preemption.Preempted(f"train: stopped by {why}; step {done} of {total} is saved", together=True)
    return seconds + time.perf_counter() - began
