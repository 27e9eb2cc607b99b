"""Errors that are told in one line."""

import jax.numpy as jnp
import pytest

from his4mae_jax import main
from his4mae_jax.errors import friendly_memory_error


def test_a_device_without_memory_left_is_told_in_one_line(monkeypatch, capsys):
    def run(argv):
        jnp.zeros(10**14).block_until_ready()  # 400 TB, which JAX refuses as a GPU's memory would

    monkeypatch.setattr(main, "_parse", lambda argv: None)
    monkeypatch.setattr(main, "main", run)
    monkeypatch.setattr(main.flags, "FLAGS", type("Flags", (), {"workdir": "runs/x"}))
    monkeypatch.setattr(main.preemption, "install", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main.cli()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith("error: the device's memory is too small (Out of memory")
    assert "--config.train.microbatch" in told and "--config.segment.batch_fovs" in told


def test_other_errors_are_none_of_memory():
    assert friendly_memory_error(ValueError("shape")) is None
