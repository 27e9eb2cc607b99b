"""The benchmark of segmentation: its table and JSON at a tiny size; PyTorch gives the same labels."""

import importlib.util
import json
import sys

import pytest


def test_one_table_its_json_and_equal_labels(tiny, tmp_path, monkeypatch, capsys):
    import segment_throughput

    tiny.segment.block = (16, 16, 16)
    path = tmp_path / "segment.json"
    monkeypatch.setattr(segment_throughput, "get_default", lambda: tiny)
    options = "--shape 20,37,42 --stride 10 --batch-fovs 8 --tile 32 --rounds 1 --axes z zyx".split()
    monkeypatch.setattr(
        sys, "argv", ["segment", *options, "--peer", "none", "--folder", str(tmp_path), "--json", str(path)]
    )
    segment_throughput.main()
    rows = json.loads(path.read_text())["rows"]
    timed = [row for row in rows if "label_s" in row]
    peer = ["torch, none"] if importlib.util.find_spec("torch") else []
    assert [(r["axes"], r["who"]) for r in timed] == [
        *(("z", who) for who in ("ours, cold", "ours", *peer)), ("zyx", "ours, cold"), ("zyx", "ours"),
    ]  # fmt: skip
    assert all(row["label_s"] > 0 and row["fovs"] > 0 for row in timed)
    assert timed[0]["whole_s"] == pytest.approx(timed[0]["fit_s"] + timed[0]["label_s"])
    assert all(row["equal_labels"] > 0.99 for row in rows if "equal_labels" in row)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    assert [p.name for p in tmp_path.iterdir()] == ["segment.json"]
