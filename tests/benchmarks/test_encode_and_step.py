"""The benchmark of steps and encoding: its table and JSON at a tiny size."""

import json
import pathlib
import runpy
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "encode_and_step.py"


def test_one_table_and_its_json(tiny, tmp_path, monkeypatch, capsys):
    benchmark = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(benchmark["MODELS"], "demo", lambda: tiny)
    path = tmp_path / "made" / "speed.json"
    options = ("--models", "demo", "--batch", "4", "--repeats", "2", "--calls", "1", "--json", str(path))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    benchmark["main"]()
    written = json.loads(path.read_text())
    assert [(row["model"], row["what"]) for row in written["rows"]] == [("demo", "step"), ("demo", "encode")]
    assert all(row["rate_per_s"] > 0 and row["compile_seconds"] > 0 for row in written["rows"])
    assert written["batch"] == 4 and written["dtype"] == "float32"
    table = capsys.readouterr().out.splitlines()
    assert "batch 4" in table[0] and len(table) == 4
