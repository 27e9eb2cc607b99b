"""A CPU's cores as several devices.

One CPU device spreads each operation over the cores by itself, and leaves them idle in between. Where each core is a
device that takes its part of the batch, two cores encode twice as fast as one, in place of 1.5 times
(docs/performance.md).
"""

import os

import jax
import ml_collections

from his4mae_jax.models.kernels.batches import largest_divisor
from his4mae_jax.pretext.flop import flop_per_image

MAX_DEVICES = 8
# FLOP of a step that takes about 0.1 s on a core. Smaller ones gain nothing: communication takes 10 ms.
LARGE_FLOP = 2e10


def is_large(step_flop: float) -> bool:
    """Returns whether a step of so many FLOP pays for being divided, over cores or into microbatches."""
    return step_flop >= LARGE_FLOP


def cpu_devices(config: ml_collections.ConfigDict, cores: int) -> int:
    """Returns how many devices to make of `cores`: a divisor of the batch, so that each takes as many images."""
    if not is_large(config.train.batch_size * flop_per_image(config)["step"]):
        return 1
    return largest_divisor(config.train.batch_size, min(cores, MAX_DEVICES))


def share_cores(config: ml_collections.ConfigDict) -> int | None:
    """Makes JAX see the CPU as several devices; to be called before JAX is used.

    Nothing is changed where the number was chosen (JAX_NUM_CPU_DEVICES, or XLA_FLAGS), where several processes share
    the run, or where JAX has started.

    Returns:
      The number of devices; None where nothing was changed.
    """
    chosen = jax.config.jax_num_cpu_devices >= 0 or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or os.environ.get("JAX_NUM_PROCESSES"):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = cpu_devices(config, cores)
    try:
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:  # JAX has started
        return None
    return number
