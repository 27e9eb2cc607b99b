"""The device that programs are traced for. Kernels choose their implementation by its platform."""

import contextlib
from collections.abc import Iterator

import jax

_overrides: list[jax.Device] = []


def target_device() -> jax.Device:
    """Return the device that traced programs will run on: this process's first, unless `tracing_for` names another."""
    return _overrides[-1] if _overrides else jax.devices()[0]


def targets_cpu() -> bool:
    """Whether traced programs will run on a CPU."""
    return target_device().platform == "cpu"


@contextlib.contextmanager
def tracing_for(device: jax.Device) -> Iterator[None]:
    """Trace for `device`, which need not be attached (ahead-of-time compilation).

    JAX caches traces: a function that was traced before with the same argument types keeps its old implementation.
    """
    _overrides.append(device)
    try:
        yield
    finally:
        _overrides.pop()
