"""The benchmark of resampled reads: both ways return the same voxels; its table and JSON at a tiny size."""

import json
import pathlib
import runpy
import sys

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "resampled_read.py"


def test_one_table_and_its_json(tmp_path, monkeypatch, capsys):
    benchmark = runpy.run_path(str(SCRIPT))
    path = tmp_path / "made" / "read.json"
    options = ("--shape", "12,20,30", "--rounds", "2", "--folder", str(tmp_path), "--json", str(path))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    benchmark["main"]()
    written = json.loads(path.read_text())
    assert [row["read"] for row in written["rows"]] == ["whole", "slice by slice"]
    assert all(row["decodes"] == [12, 12] and len(row["rounds"]) == 2 for row in written["rows"])
    assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["12", "1.00"]
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]  # the file is gone
