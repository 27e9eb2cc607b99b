"""The benchmark of unusual sizes: what it writes, how it watches a command, and its table."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.volume import open_volume


@pytest.fixture
def extremes():
    import extremes

    return extremes


def test_a_process_is_watched_to_its_end_or_to_the_deadline(extremes):
    code = "import time; files = [open('/dev/null') for _ in range(20)]; time.sleep({})"
    process = subprocess.Popen([sys.executable, "-c", code.format(0.5)])
    most, stopped = extremes.watch(process, time.perf_counter() + 60)
    assert process.wait() == 0 and not stopped and (most >= 23 or sys.platform != "linux")
    process = subprocess.Popen([sys.executable, "-c", code.format(600)])
    assert extremes.watch(process, time.perf_counter() + 0.2)[1]
    assert process.wait() != 0


def test_a_command_that_fails_is_a_row_with_its_error(extremes, tmp_path, capsys):
    run = extremes.Run(tmp_path / "run", "section", 64, 60.0)
    run.config("c.data.train = ('absent.tif',)")
    run("train")
    (row,) = run.rows
    assert "absent.tif" in row["ended"] and row["seconds"] > 0 and row["mb"] > 1 and row["case"] == "section"
    assert "absent.tif" in capsys.readouterr().out


@pytest.mark.parametrize("scattered", [False, True])
def test_a_thousandth_of_the_terabyte_is_stored(extremes, tmp_path, monkeypatch, scattered):
    monkeypatch.setattr(extremes, "CHUNK", 8)
    run = extremes.Run(tmp_path, "terabyte", 64, 60.0)
    ran = []
    monkeypatch.setattr(extremes.Run, "__call__", lambda self, *args, what="": ran.append(what or args[0]))
    extremes.terabyte(run, side=20, scattered=scattered)
    stored = stored_of(open_volume(tmp_path / "image.ome.zarr"))
    assert stored.shape == (160,) * 3 and stored.filled.sum() == 8
    assert stored.filled[:2, :2, :2].all() != scattered
    labels = stored_of(open_volume(tmp_path / "labels.ome.zarr", image=False))
    np.testing.assert_array_equal(labels.filled, stored.filled)
    assert ran == ["inspect", "train", "segment, a crop", "segment, the whole", "evaluate", "check"]


def test_the_cases_print_one_table(extremes, tmp_path, monkeypatch, capsys):
    def case(run):
        run.rows.append({"case": run.case, "command": "train", "seconds": 1.0, "files": run.files})

    monkeypatch.setattr(extremes, "CASES", {"section": case, "sheets": case})
    written = tmp_path / "made" / "extremes.json"
    monkeypatch.setattr(sys, "argv", ["extremes.py", "--files", "99", "--json", str(written)])
    extremes.main()
    found = json.loads(written.read_text())
    assert [row["case"] for row in found["rows"]] == ["section", "sheets"] and found["rows"][0]["files"] == 99
    assert "seconds" in capsys.readouterr().out


def test_noise_has_no_voxel_of_padding(extremes):
    assert extremes.texture((4, 40, 40)).min() > 0 and extremes.texture((1, 40, 40)).dtype == np.uint8
