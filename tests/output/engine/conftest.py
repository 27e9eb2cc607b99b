"""A small trained run with the labels of one process, and a Dask cluster of real processes on loopback."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.ndimage
from tiny_config import tiny_config

from his4mae_jax.cli import stages
from his4mae_jax.data.ome_zarr import write as ome_zarr

ROOT = pathlib.Path(__file__).parents[3]
SHAPES = {"cell": (40, 72, 70), "other": (24, 40, 44)}
# What workers are started with: it notes each tile that is begun, and holds it up, so that a test can act meanwhile. A
# tile that `deadly` names ends its worker.
SLOW = """
import os, pathlib, signal, time

from his4mae_jax.output import opening

write = getattr(opening.TileWriter, "quick", opening.TileWriter.write)  # a worker loads this twice
opening.TileWriter.quick = write

def slow(self, numbers, bar=None):
    for number in numbers:
        path = pathlib.Path({folder!r}) / f"{{number}}.{{os.getpid()}}.{{time.time_ns()}}"
        path.touch()
        deadly = path.parent.parent / "deadly"
        if deadly.exists() and int(deadly.read_text()) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float((path.parent.parent / "seconds").read_text()))
    yield from self.quick([number], bar)

opening.TileWriter.write = slow
"""


# A version without a single module. The finder of an editable installation would find those of this one.
NOTHING = """
import sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.startswith("his4mae_jax."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder)
"""


def textured(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.uint8(np.clip(127 + 300 * scipy.ndimage.gaussian_filter(noise, 1.5), 1, 255))


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Run:
    """A trained workdir, `local` segmented by one process, and copies of it that are not segmented."""

    def __init__(self, folder):
        self.folder, self._copies = folder, 0
        for i, (name, shape) in enumerate(SHAPES.items()):
            array = ome_zarr.create(folder / f"{name}.zarr", shape, np.uint8, 8.0, chunks=(16, 16, 16))
            array.write(textured(shape, i)).result()
        stages.run(self.config(), folder / "trained", "train")
        shutil.copytree(folder / "trained", folder / "local")

    def config(self, **segment):
        c = tiny_config()
        c.train.steps, c.train.log_every, c.codebook.start = 2, 1, 0.0
        c.data.train, c.data.test = (str(self.folder / "cell.zarr"),), str(self.folder / "cell.zarr")
        c.data.file_voxel_size_nm = (8.0, 8.0, 8.0)
        c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "zyx", 0.02, 3
        c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 1
        c.evaluate.clusters, c.report.after_stages = (2,), False
        c.segment.update(segment)
        return c

    def local(self, **segment):
        """The workdir, with labels of one process by these settings."""
        stages.run(self.config(**segment), self.folder / "local", "segment")
        return self.folder / "local"

    def copy(self):
        self._copies += 1
        return pathlib.Path(shutil.copytree(self.folder / "trained", self.folder / f"copy{self._copies}"))

    def labels(self, workdir, name="cell"):
        """The bytes of all label volumes, and of the probabilities where there are some."""
        folder = workdir / "volumes" / name
        assert not (folder / "segment.partial").exists()
        return {path.name: tree(path) for path in folder.glob("*.ome.zarr")}


class Dask:
    """A scheduler, and workers as they are started."""

    def __init__(self, folder, package=ROOT):
        self.folder, self.workers, self.begun = folder, [], folder / "begun"
        self.begun.mkdir()
        self.slow_down(0.3)
        (folder / "slow.py").write_text(SLOW.format(folder=str(self.begun)))
        self.file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file,
            package=package,
        )  # fmt: skip
        limit = time.monotonic() + 60
        while not self.file.exists() or not self.file.read_text().strip():
            assert time.monotonic() < limit and self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]

    def _start(self, *args, package=ROOT):
        with open(self.folder / f"{args[0]}{len(self.workers)}.log", "w") as log:
            env = {**os.environ, "PYTHONPATH": str(package)}
            command = [sys.executable, "-m", "dask", *map(str, args)]
            return subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log)

    def add(self, package=ROOT, threads=1):
        """Starts a worker: one process, without a nanny that would start it again."""
        self.workers.append(self._start(
            "worker", self.address, "--nthreads", threads, "--no-nanny", "--no-dashboard",
            *(("--preload", self.folder / "slow.py") if package == ROOT else ()), package=package,
        ))  # fmt: skip
        return self.workers[-1]

    def wait(self):
        """Waits until the worker that was started last is there."""
        log, limit = self.folder / f"worker{len(self.workers) - 1}.log", time.monotonic() + 60
        while "Registered to" not in log.read_text():
            assert time.monotonic() < limit
            time.sleep(0.05)

    def slow_down(self, seconds):
        """Workers wait so long in each tile."""
        (self.folder / "seconds").write_text(str(seconds))

    def tiles(self, worker=None):
        """Numbers of the tiles that were begun, in this order, by a worker or by any."""
        names = [path.name.split(".") for path in self.begun.iterdir()]
        names = sorted((name for name in names if worker is None or int(name[1]) == worker.pid), key=lambda n: n[2])
        return [int(number) for number, _, _ in names]

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def dask(tmp_path):
    """A scheduler, without workers at first."""
    cluster = Dask(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def old(tmp_path):
    """A cluster whose scheduler has another version of the package, and the folder of that version."""
    package = tmp_path / "old"
    (package / "his4mae_jax").mkdir(parents=True)
    (package / "his4mae_jax" / "__init__.py").write_text(NOTHING)
    cluster = Dask(tmp_path, package)
    yield cluster, package
    cluster.close()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A cluster of two workers that do not wait."""
    cluster = Dask(tmp_path_factory.mktemp("dask"))
    cluster.slow_down(0)
    cluster.add(threads=2), cluster.add(threads=2)
    yield cluster
    cluster.close()
