"""The device that layers are traced for: some choose their way by it."""

import contextlib

import jax

_told = []


def target():
    """The device that programs are traced for: the first of this process's, but within `traced_for`."""
    return _told[-1] if _told else jax.devices()[0]


@contextlib.contextmanager
def traced_for(device):
    """Have layers traced within chosen as for `device`, which need not be there (compilation ahead of time).

    JAX keeps what it traced of a function: give it one that it has not seen.
    """
    _told.append(device)
    try:
        yield
    finally:
        _told.pop()
