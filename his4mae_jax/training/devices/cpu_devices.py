"""A CPU's cores as several devices.

One CPU device spreads each operation over the cores by itself, and leaves them idle in between: two cores encode 1.5
times as fast as one that way. As two devices, each of which takes half of the images, they are twice as fast as one
(docs/performance.md).
"""

import os

import jax

from his4mae_jax.models.kernels.batches import largest_divisor
from his4mae_jax.training.step.flop import flop_per_image

MOST = 8
# Of a step: about 0.1 s on a core. Smaller ones gain nothing, as what devices tell each other costs 10 ms.
WORTH_FLOP = 2e10


def is_large(config):
    """Whether a step is worth a part of its own for each core, and parts that fit the cache."""
    return config.train.batch_size * flop_per_image(config)["step"] >= WORTH_FLOP


def cpu_devices(config, cores):
    """Devices to make of `cores`: a divisor of the batch, so that each takes as many images."""
    if not is_large(config):
        return 1
    return largest_divisor(config.train.batch_size, min(cores, MOST))


def share_cores(config):
    """Have JAX take the CPU for several devices, before it starts; the number is returned.

    Left as it is, and None returned, where somebody chose a number (JAX_NUM_CPU_DEVICES, or XLA_FLAGS), where several
    processes share the run, and where JAX has started.
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
