"""What a run will take: seconds, memory and disk, from counts and a short measurement on this machine.

One training step and one batch of the encoder are compiled and timed, with the model as configured and noise for
images. Their times scale with the counts (steps, fields of view); XLA says what memory they take.
"""

import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from his4mae_jax.config import total_steps
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.data.volumes.padding import padding_values
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.inference.encoders.opening import frozen
from his4mae_jax.inference.kept_features import feature_bytes
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output import plan
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run.batch_source import host_rows, on_device
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.gradients import microbatch
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.settings import StepSettings

SECONDS = 2.0  # of each measurement, about; at least one run
IMAGES = 32  # of a measured step, about, where a batch is taken in parts: time grows with their number
_NEWEST = 3  # checkpoints kept besides train.keep_checkpoints


def training(config: ml_collections.ConfigDict, volumes: list[VolumeLike]) -> dict:
    """Seconds, memory and disk of training.

    Returns a dict of `steps`, `seconds_per_step`, `seconds`, `images_per_s`, `memory_bytes` (of a device, which on a
    CPU is the host) and `checkpoint_bytes` (all that are kept).

    Memory is the state, what XLA needs for a step, and the volumes where they lie in that memory (`data.sampler`,
    `data.in_memory_gb`).
    """
    steps, devices = total_steps(config), jax.device_count()
    host_rows(config.train.batch_size)  # raises what training would of a batch that the devices cannot share
    step, create, batch = measured_step(config)
    state = create()
    state_bytes, images = _tree_bytes(state), len(batch["crop"])
    batch = meshes.put_batch(meshes.make_mesh(), batch)
    compiled = step.lower(state, batch, 1).compile()

    def advance():
        nonlocal state  # the step donates its state: the next one starts from what it returns
        state, metrics = compiled(state, batch, 1)
        return metrics

    seconds, memory = _measure(compiled, advance)
    scale = config.train.batch_size / images
    if jax.default_backend() == "cpu":
        memory *= devices  # which all live in the host's memory
    volume_bytes = sum(n_bytes(v) for v in volumes)
    in_host = jax.default_backend() == "cpu" and volume_bytes <= config.data.in_memory_gb * 2**30
    resident = volume_bytes if on_device(config, volumes) or in_host else 0
    return {
        "steps": steps,
        "seconds_per_step": seconds * scale,
        "seconds": steps * seconds * scale,
        "images_per_s": images / seconds,
        "memory_bytes": int(memory + resident),  # more parts take no more
        "checkpoint_bytes": (_NEWEST + config.train.keep_checkpoints) * state_bytes,
    }


def measured_step(config: ml_collections.ConfigDict) -> tuple[Callable, Callable, dict[str, np.ndarray]]:
    """Training's own compiled step, over all devices, of a batch that is quick to measure.

    A device's part of the batch is cut down to whole microbatches of about `IMAGES` fields of view: what a step takes
    grows with their number.

    Returns:
      `(step, create, batch)`: the jitted step `(state, batch, 1) -> (state, metrics)`, the jitted function that makes
      the state it starts from, and the raw batch that it takes, of noise.
    """
    devices = jax.device_count()
    per_device = config.train.batch_size // devices
    at_once = microbatch(StepSettings.from_config(config), devices)
    smaller = config.copy_and_resolve_references()
    smaller.train.batch_size = devices * min(per_device, at_once * math.ceil(IMAGES / at_once))
    smaller.train.microbatch = at_once
    settings, mesh = StepSettings.from_config(smaller), meshes.make_mesh()
    step = StepPrograms(settings, mesh).program(ready=True)
    create = jax.jit(lambda: states.create(settings), out_shardings=meshes.replicated(mesh))
    return step, create, noise_batch(smaller)


def segmentation(
    config: ml_collections.ConfigDict,
    volume: VolumeLike,
    box: Box,
    axes: str,
    bytes_per_s: float,
    output: VolumeLike | None = None,
) -> dict:
    """Seconds, memory and disk of segmenting one volume.

    Args:
      box: where the volume's content is; padding is not encoded.
      axes: across which slices are taken.
      bytes_per_s: at which the volume was read.
      output: has the grid that labels are written on; None: that of the volume.

    Returns a dict of `fovs`, `fovs_per_s`, `encode_seconds`, `read_seconds`, `seconds` (the larger of the two),
    `memory_bytes` (`VolumeEncoder.memory_bytes`) and `label_bytes` (of all label volumes and
    probabilities before compression, which often leaves a twentieth of labels) and `feature_bytes` (of kept features).
    """
    s, method, batch = config.segment, METHODS[config.method], 0
    if s.encoder_file:
        trained = frozen(config)
        models, params, batch = trained.models, trained.params, trained.batch
    else:
        models = method.build(config)
        params = jax.jit(lambda: method.init_params(jax.random.key(0), models)["encoder"])()
    coverage = Coverage.from_settings(models, s, axes)
    padding = padding_values(volume, box)
    encoder = VolumeEncoder(models, params, Contrast(0, 1), coverage, s.batch_fovs or batch, padding)
    images = encoder.batch

    noise = jnp.zeros((images, coverage.fov, coverage.fov), jnp.float32)
    encode = jax.jit(make_encode(models)).lower(params, noise).compile()
    seconds, _ = _measure(encode, lambda: encode(params, noise))
    sizes, grid = plan.label_sizes(config), Grid.of(volume if output is None else output)
    written = len(sizes) + (plan.headline(config) if s.probabilities else 0)
    share, sides = plan.filled_share(encoder, volume, box), [b.stop - b.start for b in box]
    fovs, content = share * coverage.count_fovs(tuple(sides)), share * math.prod(sides) / math.prod(volume.shape)
    encode_s, read_s = fovs * seconds / images, content * n_bytes(volume) / bytes_per_s
    return {
        "fovs": int(fovs),
        "fovs_per_s": images / seconds,
        "encode_seconds": encode_s,
        "read_seconds": read_s,
        "seconds": max(encode_s, read_s),
        "memory_bytes": int(encoder.memory_bytes(volume, written, sum(sizes), grid.among(Grid.of(volume)))),
        "feature_bytes": feature_bytes(encoder, box) if s.keep_features else 0,
        "label_bytes": round(content * written * math.prod(grid.shape)),
    }


def n_bytes(volume: VolumeLike) -> int:
    """Bytes of a volume when read whole."""
    return math.prod(volume.shape) * volume.dtype.itemsize


def _measure(compiled, call: Callable) -> tuple[float, float]:
    """(median seconds of `call`, which runs the program, bytes that the compiled program takes on a device)."""
    jax.block_until_ready(call())
    times = []
    while not times or (sum(times) < SECONDS and len(times) < 20):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    memory = compiled.memory_analysis()  # None where a backend has no such analysis
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    used = sum(getattr(memory, part, 0) for part in parts) if memory else 0
    # A donated argument is also an output: counted once.
    used -= getattr(memory, "alias_size_in_bytes", 0)
    return float(np.median(times)), float(used)


def _tree_bytes(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))
