"""Errors that are printed in one line."""

import errno

import jax.numpy as jnp
import pytest

from his4mae_jax.cli import process
from his4mae_jax.errors import friendly_memory_error


def test_a_device_without_memory_left_is_printed_in_one_line(monkeypatch, capsys):
    def run():
        jnp.zeros(10**14).block_until_ready()  # 400 TB, which JAX refuses as a GPU's memory would

    monkeypatch.setattr(process.preemption, "install", lambda: None)
    with pytest.raises(SystemExit) as ended:
        process.execute(lambda: process.Command(run, "runs/x"))
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith("error: the device's memory is too small (Out of memory")
    assert "config key train.microbatch" in printed and "segment.batch_fovs" in printed


def test_an_error_before_the_command_is_known_is_printed_in_one_line(monkeypatch, capsys):
    """A full disk, or a file without access rights, while the command line is read: no folder of a run is known."""

    def parse():
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere.py")

    monkeypatch.setattr(process.preemption, "install", lambda: None)
    with pytest.raises(SystemExit) as ended:
        process.execute(parse)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith("error: somewhere.py: no permission")


def test_other_errors_are_none_of_memory():
    assert friendly_memory_error(ValueError("shape")) is None
