"""Batch sizes that keep the activations of one layer in a CPU's cache."""

import math
from typing import Protocol

from his4mae_jax.models.kernels.backend import targets_cpu

CPU_BATCH_BYTES = 3 * 2**18  # of a batch's widest activations in float32: one core's part of the cache
MAX_FOVS = 256  # fields of view per batch; accelerators always take this many


class Network(Protocol):
    """What the batch size depends on; every encoder in `models` has it."""

    grid: tuple[int, int]

    def widest_features(self, patch_size: int) -> int:
        """Return the most features that any layer computes per token."""


class Models(Protocol):
    """`Models` of any method in `pretext`."""

    encoder: Network
    patch_size: int


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit` (at least 1)."""
    return max(n for n in range(1, min(limit, number) + 1) if number % n == 0)


def fovs_at_once(models: Models) -> int:
    """Return the number of fields of view per batch at which a device encodes fastest, 1 to `MAX_FOVS`."""
    if not targets_cpu():
        return MAX_FOVS
    values = math.prod(models.encoder.grid) * models.encoder.widest_features(models.patch_size)
    return min(max(CPU_BATCH_BYTES // (4 * values), 1), MAX_FOVS)
