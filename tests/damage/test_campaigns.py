"""Whole runs that are killed at random, or whose disk fills up: one line at most, and nothing is lost.

docs/reliability.md has the counts: python -m pytest -m slow tests/damage/test_campaigns.py -s
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
OUT = pathlib.Path("volumes/cell/labels.ome.zarr")
KILLS, POINTS, IN_A_ROW = {"all": 70, "compare": 30}, 20, 10  # after so many kills a run may end
CONFIG = """
from tiny_config import tiny_config

def get_config():
    c = tiny_config()
    c.train.steps, c.train.log_every, c.train.checkpoint_every, c.codebook.start = 60, 5, 10, 0.0
    c.data.train, c.data.test = ("{folder}/cell.tif",), "{folder}/cell.tif"
    c.data.test_labels, c.data.class_names = "{folder}/truth.tif", ("one", "other")
    c.data.file_voxel_size_nm = (8.0, 8.0, 8.0)
    c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "zyx", 0.05, 3
    c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 2
    c.evaluate.baselines, c.evaluate.clusters = ("intensity",), (2,)
    c.compare.rows = (("HiS4MAE", ()), ("MAESTER", ("method=maester", "model.cls_token=True")))
    c.compare.seeds = (0,)
    return c
"""


class Scene:
    """A volume with a config, and what undisturbed runs made of it."""

    def __init__(self, folder):
        self.folder, rng = folder, np.random.default_rng(0)
        tifffile.imwrite(folder / "cell.tif", rng.integers(0, 255, (32, 48, 44), dtype=np.uint8))
        tifffile.imwrite(folder / "truth.tif", rng.integers(0, 2, (32, 48, 44), dtype=np.uint8))
        (folder / "config.py").write_text(CONFIG.format(folder=folder))
        path = os.pathsep.join([str(ROOT / "tests" / "support"), *sys.path])
        self.environment = {
            **os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        }  # fmt: skip
        self.seconds, self.labels = {}, {}
        for mode in KILLS:
            self.finish(mode, folder / mode)
            began = time.monotonic()
            self.finish(mode, folder / f"{mode} again")  # programs are compiled: as long as those that are killed
            self.seconds[mode] = time.monotonic() - began
            self.labels[mode] = labels(folder / mode)
            assert self.labels[mode] and labels(folder / f"{mode} again") == self.labels[mode]

    def begin(self, mode, workdir):
        command = [
            sys.executable, "-m", "his4mae_jax", mode, f"--config={self.folder}/config.py", f"--workdir={workdir}",
        ]  # fmt: skip
        pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, text=True, start_new_session=True, **pipes)

    def finish(self, mode, workdir):
        process = self.begin(mode, workdir)
        said = process.communicate(timeout=600)[1]
        assert process.returncode == 0, said


def labels(workdir):
    """The bytes of all labels of a run, or of the runs of a comparison, by path."""
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for folder in sorted(workdir.glob(f"**/{OUT}")) for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize("mode", KILLS)
def test_kills_at_random_moments(scene, mode, tmp_path):
    rng, killed, ended, runs = random.Random(0), 0, 0, 0
    while killed < KILLS[mode]:
        workdir, kills = tmp_path / str(runs), 0
        while kills < min(IN_A_ROW, KILLS[mode] - killed):
            process = scene.begin(mode, workdir)
            try:
                said = process.communicate(timeout=rng.uniform(0.1, 1) * scene.seconds[mode])[1]
                assert process.returncode == 0, said
                ended += 1
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said = process.communicate()[1]
                kills += 1
            assert "Traceback" not in said, said
        scene.finish(mode, workdir)
        assert labels(workdir) == scene.labels[mode]
        killed, runs = killed + kills, runs + 1
        shutil.rmtree(workdir)
    print(f"{mode}: {killed} kills in {runs} runs, {ended} of which ended before the next: labels are equal")


@pytest.fixture
def disk(tmp_path):
    """A small disk, and a function that sets its size in bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs rights")

    def size(n):
        subprocess.run(["mount", "-o", f"remount,size={n}", str(place)], check=True)

    yield place, size
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up(scene, disk):
    place, size = disk
    whole = sum(4096 * -(-p.stat().st_size // 4096) for p in (scene.folder / "all").rglob("*") if p.is_file())
    lines = []
    for point in range(POINTS):
        size(int(whole * (point + 0.5) / POINTS))
        process = scene.begin("all", place / "run")
        said = process.communicate(timeout=600)[1]
        assert "Traceback" not in said, said
        if process.returncode:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and "space" in errors[0], said
            lines.append(errors[0].replace(str(place), "DISK"))
        size(4 * whole)
        scene.finish("all", place / "run")
        assert labels(place / "run") == scene.labels["all"]
        shutil.rmtree(place / "run")
    print(f"{len(lines)} of {POINTS} disks were full:", *sorted(set(lines)), sep="\n  ")
    assert len(lines) >= POINTS // 2
