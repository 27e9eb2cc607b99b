"""The sampler benchmark: all methods cut the crops of the plan; its table and JSON at a tiny size."""

import json
import pathlib
import runpy
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "sampler.py"


def test_one_table_and_its_json(tmp_path, monkeypatch, capsys):
    benchmark = runpy.run_path(str(SCRIPT))
    path = tmp_path / "made" / "sampler.json"
    options = ("--side", "100", "--batch", "4", "--batches", "1", "--rounds", "2", "--bricks", "2", "--json", str(path))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--folder", str(tmp_path)])
    benchmark["main"]()
    written = json.loads(path.read_text())
    names = [row["method"] for row in written["rows"]]
    assert names[0] == "in memory" and {"device", "zarr-python", "numpy.memmap", "streamed, pool, cold"} < set(names)
    assert all(row["crops_per_s"] > 0 and len(row["rounds"]) == 2 for row in written["rows"])
    assert {row["method"]: row["ratio"] for row in written["rows"]}["zarr-python"] == 1
    assert written["side"] == 100 and written["bricks"] == 2
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + 1 + len(names)
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]  # the volume is gone


def test_all_methods_cut_the_same_crops(tmp_path):
    benchmark = runpy.run_path(str(SCRIPT))
    paths = benchmark["write_volume"](tmp_path, 100, compress=True)
    makers = benchmark["methods"](*paths, 100, 4, 2, 1)
    crops = {name: np.asarray(make()(3)["crop"]) for name, (make, _) in makers.items()}
    pooled = crops.pop("streamed, pool, cold")
    np.testing.assert_array_equal(crops.pop("streamed, pool, warm"), pooled)
    first = crops.pop("in memory")
    assert len(crops) == 6 and first.shape == (4, 80, 80) and first.any()
    for name, found in crops.items():
        np.testing.assert_array_equal(found, first, err_msg=name)
