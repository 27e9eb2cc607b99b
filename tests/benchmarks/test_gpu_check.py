"""The check of a device against the CPU: every quantity is compared, and one that is off fails the check."""

import json
import sys

import numpy as np
import pytest


@pytest.fixture
def run(monkeypatch, tiny, tmp_path):
    """Function that runs the check with a tiny model; returns its exit status and the rows of its JSON."""
    import gpu_check

    monkeypatch.setattr(gpu_check, "get_default", lambda: tiny.copy_and_resolve_references())
    path = tmp_path / "made" / "check.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--json", str(path)])

    def check():
        with pytest.raises(SystemExit) as exit:
            gpu_check.main()
        return exit.value.code, json.loads(path.read_text())["rows"]

    return gpu_check, check


def test_a_device_that_computes_the_same_passes(run):
    status, rows = run[1]()
    assert status == 0 and {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    compared = {"loss", "loss_recon", "loss_tea", "loss_stu", "gradient of the encoder", "tokens"}
    assert compared < {row["what"] for row in rows}
    assert all(row["difference"] == 0 for row in rows if row["dtype"] == "float32")  # the CPU against itself


def test_a_device_that_computes_something_else_fails(run, monkeypatch):
    gpu_check, check = run
    values = iter([1.0, 1.2, 1.0])  # reference, float32, bfloat16
    monkeypatch.setattr(gpu_check, "computed", lambda dtype, device: {"loss": np.float32(next(values))})
    status, rows = check()
    assert status == 1 and [row["within"] for row in rows] == [False, True]
