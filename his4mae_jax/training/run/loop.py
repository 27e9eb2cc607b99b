"""The training run: restore or start, step, log, save."""

import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from his4mae_jax.config import total_steps
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, slice_axes
from his4mae_jax.data.volumes.contrast import content_box, estimate_contrast
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, duration, of_many, progress
from his4mae_jax.training.devices import distributed
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.devices.distributed import Request
from his4mae_jax.training.run import preemption
from his4mae_jax.training.run.batch_source import BatchSource, in_accelerator_gb, make_plan
from his4mae_jax.training.run.checkpoints import (
    Checkpoints,
    initial_in_memory_gb,
    read_config,
    shared_config,
    write_config,
)
from his4mae_jax.training.run.metrics import MetricWindows, MetricWriter, make_writer
from his4mae_jax.training.run.run_lock import RunLock
from his4mae_jax.training.run.save_clock import SaveClock
from his4mae_jax.training.run.terminal import TerminalLog
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms, dispatch_spans
from his4mae_jax.training.step.optimizer import schedule
from his4mae_jax.training.step.settings import StepSettings


def train(
    config: ml_collections.ConfigDict,
    volumes: Sequence[VolumeLike],
    workdir: str | pathlib.Path,
    log: Log,
    labels: Sequence[VolumeLike] | None = None,
) -> float:
    """Trains to `total_steps`, from the newest checkpoint of the workdir if there is one.

    Every batch, mask and code update is a function of (seed, step), so a run that was killed and resumed ends in the
    state of one that never stopped.

    Args:
      config: the whole configuration.
      volumes: to train on.
      workdir: of the run.
      log: prints a line.
      labels: the volumes' ground truth, for supervised methods; fields of view then lie in the boxes around what is
        annotated.

    Returns:
      Seconds trained, those before a resume included.

    Raises:
      UserError: the input cannot be used, another run trains in the workdir, or what is trained is not finite.
      Preempted: this process or another one of the run received a signal; what was trained is saved.
    """
    check_backend(config)
    with RunLock(workdir) as lock:
        mesh = meshes.make_mesh()
        in_memory_gb = initial_in_memory_gb(workdir, config)
        if read_config(workdir) is None:
            in_memory_gb = max(in_memory_gb, in_accelerator_gb(config, volumes, labels))
        source = open_batch_source(config, volumes, mesh, log, labels, in_memory_gb)
        settings = StepSettings.from_config(config)
        lock.take()
        if distributed.is_main():
            write_config(workdir, config, in_memory_gb=in_memory_gb)  # the first record: all input has been checked
        distributed.barrier("config")
        distributed.check_same({"the configuration": config.to_dict(), **shared_config(workdir)})
        trainer = Trainer(config, settings, source, mesh, workdir, log)
        return trainer.train(about={"config": config.to_dict(), "voxel_size_nm": in_plane_nm(volumes[0])})


def check_backend(config: ml_collections.ConfigDict) -> None:
    """Checks that there is an accelerator, where the configuration demands one.

    Raises:
      UserError: there is none.
    """
    if config.train.require_accelerator and jax.default_backend() == "cpu":
        raise UserError(
            "config key train.require_accelerator is True, but JAX runs on the CPU: install it for the accelerator "
            "(pip install 'his4mae_jax[cuda]' or '[tpu]') and check its driver, or set the key to False"
        )


def open_batch_source(
    config: ml_collections.ConfigDict,
    volumes: Sequence[VolumeLike],
    mesh: Mesh,
    log: Log,
    labels: Sequence[VolumeLike] | None = None,
    in_memory_gb: float | None = None,
) -> BatchSource:
    """Finds contrast, content and axes of the volumes, and opens the source of their batches.

    Arguments and errors are those of `train` and `make_plan`; nothing is written.
    """
    with progress("train: reading the volumes", log=log):
        percentiles = tuple(config.data.contrast_percentiles)
        with of_many(log):
            contrasts = [
                estimate_contrast(v, percentiles=percentiles, invert=config.data.invert, seed=config.seed)
                for v in volumes
            ]
        boxes = [content_box(v) for v in (labels or volumes)]
        axes = [slice_axes(v, config.data.axes) for v in volumes]
        plan = make_plan(config, volumes, boxes, axes, labels, in_memory_gb=in_memory_gb)
        return BatchSource(config, plan, volumes, contrasts, mesh, labels)


class Trainer:
    """One training run, from its newest checkpoint to its end."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        settings: StepSettings,
        source: BatchSource,
        mesh: Mesh,
        workdir: str | pathlib.Path,
        log: Log,
    ):
        """Opens the checkpoints.

        Args:
          config: the whole configuration.
          settings: those of the step, from the same configuration.
          source: of the batches.
          mesh: the devices.
          workdir: of the run.
          log: prints a line.
        """
        self._config, self._settings, self._source = config, settings, source
        self._mesh, self._workdir, self._log = mesh, workdir, log
        self._total = total_steps(config)
        self._checkpoints = Checkpoints(workdir, config, together=True)
        self._finite = jax.jit(states.finite, out_shardings=meshes.replicated(mesh))
        self._programs = StepPrograms(settings, mesh, per_dispatch=source.per_dispatch, resident=source.resident)

    def train(self, about: dict[str, Any]) -> float:
        """Trains to the end; `about` is saved with each checkpoint. Returns and raises what `train` does."""
        state, start, seconds_before = self._restore_or_create()
        if start >= self._total:
            self._checkpoints.close()
            self._log(f"train: all {self._total} steps are done")
            return seconds_before
        self._describe(start)
        self._checkpoints.check_space(state)  # now, and not after the first hour
        with (
            preemption.deferred() as signal_name,
            contextlib.closing(make_writer(self._workdir, start)) as writer,
            TerminalLog(start, self._total, self._settings.batch_size, self._log) as terminal,
        ):
            optimizer = self._settings.optimizer
            rate = jax.jit(schedule(optimizer.learning_rate, optimizer))
            windows = MetricWindows(start, self._total, self._config.train.log_every, rate)
            report = _Report(start, self._settings.batch_size, seconds_before, windows, writer, terminal)
            done = self._take_steps(state, start, report, signal_name, about)
            self._checkpoints.close()
            if done < self._total:
                reason = signal_name() or "another process"
                raise preemption.Preempted(
                    f"train: stopped by {reason}; step {done} of {self._total} is saved", together=True
                )
        seconds = report.seconds()
        self._log(f"train: {self._total:,} steps are done, in {duration(seconds)}; {report.summary}")
        return seconds

    def _restore_or_create(self) -> tuple[states.TrainState, int, float]:
        """`(state, its step, seconds trained before)`."""
        everywhere = meshes.replicated(self._mesh)
        create = jax.jit(lambda: states.create(self._settings), out_shardings=everywhere)
        saved = self._checkpoints.steps()
        distributed.check_same({f"the list of checkpoints in {self._checkpoints.path}": saved})
        if saved:
            state, about = self._checkpoints.restore(saved[-1], jax.eval_shape(create), everywhere)
            self._log(f"train: going on from step {saved[-1]} of {self._total}")
            return state, int(saved[-1]), about["seconds"]
        state = create()
        sizes = {k: parameter_overview.count_parameters(v) for k, v in state.params.items()}
        self._log("train: parameters " + ", ".join(f"{k} {n:,}" for k, n in sizes.items()))
        return state, 0, 0.0

    def _describe(self, start: int) -> None:
        self._log(
            f"train: {self._total - start:,} steps of {self._settings.batch_size} fields of view, "
            f"{self._source.per_dispatch} in a dispatch, on {jax.device_count()} x {jax.devices()[0].device_kind} "
            f"({jax.default_backend()}), mesh {dict(self._mesh.shape)}, {self._config.model.dtype}; "
            f"{self._source.describe()}"
        )

    def _take_steps(self, state, start, report, signal_name, about) -> int:
        """Trains until the end or a signal, and returns the step reached, which is being saved."""
        agree, placing = distributed.Agreement(self._mesh), self._settings.codebook.start_step
        clock = SaveClock(self._config.train.checkpoint_minutes)
        spans = dispatch_spans(
            start, self._total, self._source.per_dispatch, every=self._checkpoints.every, stop=placing
        )
        with contextlib.closing(self._source.dispatches(spans)) as dispatches:
            for first, count, data in dispatches:
                ready = first >= placing or not self._settings.waits
                if self._programs.compiles(count, ready):
                    report.terminal.compiling()
                if first == placing and state.codes:
                    state = self._programs.place_codebook(state, data)
                state, metrics = self._programs.advance(state, data, count, ready)
                report.terminal.started()
                jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
                report.fetch()  # the dispatch before: the device works on this one meanwhile
                report.pending = first, count, metrics
                done = first + count
                agreed = agree(Request.STOP if signal_name() is not None else clock.request())
                due = done % self._checkpoints.every == 0 or done == self._total
                if due or agreed == Request.STOP or clock.grants(agreed):
                    report.fetch()  # a state that is not finite is not saved: neither its loss, nor what the step made
                    states.check_finite(done, jax.device_get(self._finite(state)))
                    report.flush()
                    self._checkpoints.save(done, state, {**about, "seconds": report.seconds()})
                    clock.saved()
                if agreed == Request.STOP:
                    break
        jax.block_until_ready(state.step)
        return done


class _Report:
    """Fetches metrics one dispatch late, and passes them to the files and the terminal.

    Attributes:
      pending: `(first step, count, metrics on the device)` of the newest dispatch, or None.
      terminal: shows progress by time.
      summary: losses and rate of the last report, as text.
    """

    def __init__(
        self,
        start: int,
        batch_size: int,
        seconds_before: float,
        windows: MetricWindows,
        writer: MetricWriter,
        terminal: TerminalLog,
    ):
        self.pending: tuple[int, int, Any] | None = None
        self.terminal, self.summary = terminal, ""
        self._windows, self._writer = windows, writer
        self._batch_size, self._seconds_before, self._logged_step = batch_size, seconds_before, start
        self._began = self._fetched_at = self._logged_at = time.perf_counter()

    def seconds(self) -> float:
        """Seconds trained until now, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._began

    def fetch(self) -> None:
        """Fetches the pending metrics, which are on the host or nearly so, and writes the windows that they close.

        Raises:
          UserError: a loss is not finite.
        """
        if self.pending is None:
            return
        (first, count, metrics), self.pending = self.pending, None
        metrics = {k: v[:count] for k, v in jax.device_get(metrics).items()}
        wrong = np.flatnonzero(~np.isfinite(metrics["loss"]))
        if len(wrong):
            raise UserError(
                f"train: the loss is not finite at step {first + wrong[0] + 1}; lower config key train.lr and start "
                "again in another workdir"
            )
        now = time.perf_counter()
        for step, scalars, at in self._windows.add(metrics, self._fetched_at, now):
            self._write(step, scalars, at)
        self._fetched_at = now
        self.terminal.add(first + count, metrics)
        self.summary = self.terminal.describe()

    def flush(self) -> None:
        """Has readers see all that was written."""
        self._writer.flush()

    def _write(self, step: int, scalars: dict[str, float], at: float) -> None:
        images = (step - self._logged_step) * self._batch_size
        scalars["images_per_s"] = images / max(at - self._logged_at, 1e-9)
        scalars["seconds"] = self._seconds_before + at - self._began
        self._logged_at, self._logged_step = at, step
        self._writer.write(step, scalars)
