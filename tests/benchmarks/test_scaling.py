"""Devices communicate the gradients of a step, once; the arithmetic of the table."""

import json
import pathlib
import runpy
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "scaling.py"


def test_a_step_reduces_its_gradients_and_little_else(tmp_path):
    path = tmp_path / "made" / "scaling.json"
    options = ["--devices", "2", "--step-ms", "10", "--chips", "1@50", "8@50", "--json", path]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads(path.read_text())
    assert set(written["collectives"]) == {"all-reduce"}
    # Besides the gradients: usage of the codes, and the losses.
    assert written["parameter_bytes"] <= written["bytes"] <= 1.01 * written["parameter_bytes"] + 1000
    alone, eight = written["rows"]
    assert alone["weak"] == alone["strong"] == 1.0
    communication = 2 * 7 / 8 * written["bytes"] / 50e9 * 1e3 + 2 * 3 * 10e-3  # ms
    assert eight["weak"] == pytest.approx(10 / (10 + communication)) and eight["strong"] == pytest.approx(
        1.25 / (1.25 + communication)
    )
    assert len(done.stdout.splitlines()) == 4


def test_collectives_are_read_from_the_text_of_a_program():
    text = """
      %all-reduce.1 = f32[8,4]{1,0} all-reduce(f32[8,4]{1,0} %x), channel_id=1
      %g = (f32[2]{0}, bf16[3,5]{1,0}) all-reduce-start(f32[2]{0} %x, bf16[3,5]{1,0} %y), channel_id=2
      %d = (f32[2]{0}, bf16[3,5]{1,0}) all-reduce-done(%g)
      %a = s32[] all-gather(s32[] %n), dimensions={0}
      %add = f32[100]{0} add(f32[100]{0} %all-reduce.1, f32[100]{0} %b)
    """
    found = runpy.run_path(str(SCRIPT))["collectives"](text)
    assert found == {"all-reduce": [2, 8 * 4 * 4 + 2 * 4 + 15 * 2], "all-gather": [1, 4]}
