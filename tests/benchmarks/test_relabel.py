"""The benchmark of re-labelling: both commands run on kept features; its table and JSON at a tiny size."""

import json
import pathlib
import runpy
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "relabel.py"


@pytest.mark.slow  # four commands in processes of their own
def test_its_table_and_json(tmp_path, monkeypatch, capsys):
    path = tmp_path / "out.json"
    options = ("--side", "64", "--points", "30", "--rounds", "1", "--folder", str(tmp_path), "--json", str(path))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT))["main"]()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["page of the run", "with the page", "without"]
    written = json.loads(path.read_text())
    assert written["feature_bytes"] > 2 * 64 * 10**3 and all(len(each) == 1 for each in written["rows"].values())
    assert list(tmp_path.iterdir()) == [path]  # the files are gone
