"""The benchmark of Dask workers: its volumes, and its parts with real processes."""

import json
import math
import sys

import pytest


@pytest.fixture
def dask_workers():
    import dask_workers

    return dask_workers


def test_a_volume_has_so_many_tiles(dask_workers):
    for tiles in (8, 16, 32, 64, 256):
        sides = dask_workers.sides_of(tiles)
        assert math.prod(sides) == tiles and sides[0] <= sides[1] <= sides[2] <= 2 * sides[0]


@pytest.mark.slow
def test_workers_come_and_go_and_the_labels_are_those_of_one_process(dask_workers, tmp_path, monkeypatch):
    written = tmp_path / "workers.json"
    words = ["--workers", "1", "2", "--tiles", "8", "--sleep", "2", "--campaign-sleep", "0.3", "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["dask_workers.py", *words])
    dask_workers.main()
    numbers = json.loads(written.read_text())
    assert [row["workers"] for row in numbers["campaign"]] == ["1", "2", "4", "4, one killed, one late"]
    assert all(row["equal"] for row in numbers["campaign"]) and numbers["campaign"][-1]["by the late one"] > 0
    assert [row["begun"] for row in numbers["campaign"][:3]] == [64] * 3 and numbers["campaign"][3]["begun"] <= 66
    assert numbers["overhead"]["overhead_ms"] < 200 and numbers["weak"][1]["efficiency"] > 0.5
