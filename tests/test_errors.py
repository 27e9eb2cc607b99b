"""Errors that are printed in one line."""

import errno
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest

from his4mae_jax.cli import process
from his4mae_jax.errors import friendly_device_error, friendly_memory_error

ROOT = pathlib.Path(__file__).parents[1]


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


@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_a_device_that_jax_does_not_find_is_one_line(tmp_path, platform):
    """Whether JAX has a plugin for it or not."""
    command = [sys.executable, "-m", "his4mae_jax", "train", "--config=demo", f"--workdir={tmp_path / 'run'}"]
    environ = {**os.environ, "JAX_PLATFORMS": platform}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=ROOT)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr[-2000:]
    assert f"JAX_PLATFORMS={platform}" in lines[0] and "set JAX_PLATFORMS=cpu" in lines[0]
    assert not (tmp_path / "run").exists()


def test_other_errors_are_no_missing_devices():
    assert friendly_device_error(RuntimeError("shapes differ"), {"JAX_PLATFORMS": "cuda"}) is None
    assert friendly_device_error(AssertionError("odd"), {"JAX_PLATFORMS": "cuda"}) is None
    line = friendly_device_error(
        RuntimeError("Unable to initialize backend 'cuda': INTERNAL: no driver\n(set JAX_PLATFORMS)"), {}
    )
    assert line.startswith("JAX finds no such device (INTERNAL: no driver)")
