r"""Segmentation by Dask workers: equal labels whatever becomes of them, the overhead of a tile, and weak scaling.

    python benchmarks/dask_workers.py --json runs/dask_workers.json
    python benchmarks/dask_workers.py --only weak --workers 1 2 4 8 16 --sleep 10 --tiles 16

A scheduler and workers are processes of this machine (`dask scheduler`, `dask worker`). Parts:

campaign: a volume is segmented by one process, by 1, 2 and 4 workers, and by 4 of which one is killed (SIGKILL) in
mid-tile while one more is added; label volumes are compared byte by byte, and tiles that were begun are counted.

overhead: seconds from tile to tile of one worker, less those of one process, with tiles that take next to nothing.

weak: --tiles tiles a worker, with an encoder that sleeps --sleep seconds a tile before it computes: a stand-in for an
accelerator, so that the cores of this machine do not bound it. The efficiency is the time of one worker over that of
N, from the first tile that is given out to the last that is done; each worker opens encoder and volume within it.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import distributed
import numpy as np
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.cli import stages
from his4mae_jax.config import get_default
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.output.engine import client
from his4mae_jax.output.engine.tiles import TileWriter

ROOT, SIDE = pathlib.Path(__file__).parents[1], 24  # voxels of the side of a tile
# What each worker loads first. It imports at once what its first task would, notes each tile that it begins, and waits.
PRELOAD = """
import os, pathlib, time

import jax

from his4mae_jax.inference.tile_computation import TileComputation
from his4mae_jax.output import opening

folder = pathlib.Path({folder!r})
label = TileComputation.quick = getattr(TileComputation, "quick", TileComputation.labels)

def labels(self, *args):
    (folder / "begun" / f"{{os.getpid()}}.{{time.time_ns()}}").touch()
    time.sleep(float((folder / "sleep").read_text()))
    return self.quick(*args)

TileComputation.labels = labels
jax.devices()
"""


class Cluster:
    """A scheduler and workers on this machine; `close` ends them."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.workers, self.sleep = folder, [], 0.0
        (folder / "begun").mkdir(parents=True)
        (folder / "preload.py").write_text(PRELOAD.format(folder=str(folder)))
        self._scheduler = self._start(
            "scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={folder}/scheduler"
        )
        while not (folder / "scheduler").exists() or not (folder / "scheduler").read_text().strip():
            time.sleep(0.05)
        self.address = json.loads((folder / "scheduler").read_text())["address"]

    def _start(self, *args: str) -> subprocess.Popen:
        env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
        with open(self.folder / f"{args[0]}.log", "a") as log:
            command = [sys.executable, "-m", "dask", *args, "--no-dashboard"]
            return subprocess.Popen(command, cwd=self.folder, env=env, stdout=log, stderr=log)

    def add(self, count: int = 1) -> None:
        """Start further workers."""
        for _ in range(count):
            self.workers.append(self._start(
                "worker", self.address, "--nthreads=2", "--no-nanny", "--memory-limit=0",
                f"--preload={self.folder}/preload.py",
            ))  # fmt: skip

    def wait(self) -> None:
        """Wait for all workers."""
        with distributed.Client(self.address, set_as_default=False) as connected:
            connected.wait_for_workers(len(self.workers), timeout=600)

    def pause(self, seconds: float) -> None:
        """Have the encoder of all workers sleep so long in each tile."""
        (self.folder / "sleep").write_text(str(seconds))

    def begun(self, worker: subprocess.Popen | None = None) -> int:
        """Tiles that were begun, by a worker or by all."""
        return sum(worker is None or int(p.name.split(".")[0]) == worker.pid for p in (self.folder / "begun").iterdir())

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


def sides_of(tiles: int) -> tuple[int, int, int]:
    """Tiles along each axis of a volume of `tiles`, a power of 2, at least 8."""
    doublings = tiles.bit_length() - 1
    return tuple(2 ** ((doublings + more) // 3) for more in (0, 1, 2))


def config_for(folder: pathlib.Path, tiles: int, scheduler: str = ""):
    """A tiny model, and a volume of noise of so many tiles, which is written where it is missing."""
    path = folder / f"{tiles}.zarr"
    if not path.exists():
        shape = tuple(SIDE * n for n in sides_of(tiles))
        noise = np.random.default_rng(0).integers(60, 196, shape, np.uint8)
        ome_zarr.create(path, shape, np.uint8, 8.0, chunks=(SIDE,) * 3).write(noise).result()
    c = get_default()
    c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 20, 5, 8, 1
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 8, 1, 2
    c.codebook.size, c.codebook.start, c.data.crop_min = 6, 0.0, 10
    c.train.batch_size, c.train.steps, c.train.log_every = 4, 1, 1
    c.data.train, c.data.test = (str(folder / "8.zarr"),), str(path)
    c.segment.stride, c.segment.axes, c.segment.clusters, c.segment.pyramid = 10, "zyx", 3, False
    c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = SIDE, (SIDE,) * 3, 16, 1
    c.report.after_stages = False
    if scheduler:
        c.segment.engine, c.segment.scheduler = "dask", scheduler
    return c


@contextlib.contextmanager
def arrivals(owner, name: str, method: str | None = None):
    """The times at which `owner.name`, a generator, began (first) and gave its results, while the block runs."""
    times, real = [], getattr(owner, name)

    def timed(self, *args, **keywords):
        if method is not None and args[0] != method:
            yield from real(self, *args, **keywords)
            return
        times.append(time.perf_counter())
        for result in real(self, *args, **keywords):
            times.append(time.perf_counter())
            yield result

    setattr(owner, name, timed)
    try:
        yield times
    finally:
        setattr(owner, name, real)


def segment(folder: pathlib.Path, name: str, tiles: int, scheduler: str = "") -> tuple[pathlib.Path, list[float]]:
    """Segment a volume anew: the folder of its labels, and when tiles were begun and done."""
    workdir = folder / "runs" / name
    workdir.mkdir(parents=True)
    for part in ("config.json", "checkpoints"):
        os.symlink(folder / "trained" / part, workdir / part)
    what = (client.Cluster, "results", "label") if scheduler else (TileWriter, "write")
    with arrivals(*what) as times:
        stages.run(config_for(folder, tiles, scheduler), workdir, "segment")
    return workdir / "volumes" / str(tiles), times


def labels(folder: pathlib.Path) -> dict[str, bytes]:
    """The bytes of a label volume, by path."""
    path = folder / "labels.ome.zarr"
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def campaign(folder: pathlib.Path, tiles: int, sleep: float) -> list[dict]:
    """Segment with workers that come and go; a row for each way."""
    expected, rows = labels(segment(folder, "local", tiles)[0]), []
    for name, count in (("1", 1), ("2", 2), ("4", 4), ("4, one killed, one late", 4)):
        cluster = Cluster(folder / f"cluster {name}")
        try:
            cluster.pause(sleep)
            cluster.add(count)
            cluster.wait()

            def kill(cluster=cluster):
                while cluster.begun(cluster.workers[0]) < 3:
                    time.sleep(0.01)
                time.sleep(sleep / 2)
                cluster.workers[0].send_signal(signal.SIGKILL)
                cluster.add()

            acting = threading.Thread(target=kill, daemon=True)
            if "killed" in name:
                acting.start()
            written, times = segment(folder, name, tiles, cluster.address)
            late = cluster.begun(cluster.workers[count]) if "killed" in name else None
            rows.append({
                "workers": name, "tiles": tiles, "seconds": times[-1] - times[0], "begun": cluster.begun(),
                "by the late one": late, "equal": labels(written) == expected,
            })  # fmt: skip
            print(rows[-1], flush=True)
        finally:
            cluster.close()
    return rows


def overhead(folder: pathlib.Path, tiles: int) -> dict:
    """Seconds from tile to tile, of one process and of one worker."""
    local = segment(folder, "quick", tiles)[1]
    cluster = Cluster(folder / "cluster quick")
    try:
        cluster.pause(0)
        cluster.add()
        cluster.wait()
        dask = segment(folder, "quick by dask", tiles, cluster.address)[1]
    finally:
        cluster.close()
    each = [(times[-1] - times[tiles // 4]) / (tiles - tiles // 4) for times in (local, dask)]
    row = {
        "tiles": tiles,
        "local_ms": 1e3 * each[0],
        "dask_ms": 1e3 * each[1],
        "overhead_ms": 1e3 * (each[1] - each[0]),
    }
    print(row, flush=True)
    return row


def weak(folder: pathlib.Path, workers: list[int], tiles: int, sleep: float) -> list[dict]:
    """Segment with so many workers, and as many tiles for each; a row for each number."""
    rows, cluster = [], Cluster(folder / "cluster weak")
    try:
        cluster.pause(sleep)
        for before, count in itertools.pairwise([0, *workers]):
            cluster.add(count - before)
            cluster.wait()
            _, times = segment(folder, f"weak {count}", count * tiles, cluster.address)
            seconds = times[-1] - times[0]
            rows.append({"workers": count, "tiles": count * tiles, "seconds": seconds})
            rows[-1] |= {"efficiency": rows[0]["seconds"] / seconds, "of_sleep": tiles * sleep / seconds}
            print(rows[-1], flush=True)
    finally:
        cluster.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["campaign", "overhead", "weak"], help="parts to run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of the weak scaling, rising")
    parser.add_argument("--tiles", type=int, default=16, help="of each of them, a power of 2, at least 8")
    parser.add_argument("--sleep", type=float, default=10.0, help="seconds that the encoder sleeps in each tile")
    parser.add_argument("--campaign-sleep", type=float, default=1.0, help="the same, in the campaign")
    add_json_option(parser)
    args = parser.parse_args()
    about = {**machine(), "distributed": distributed.__version__}
    print(one_line(about), flush=True)
    numbers = {"machine": about, "options": options(args)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        stages.run(config_for(folder, 8), folder / "trained", "train")
        if "campaign" in args.only:
            numbers["campaign"] = campaign(folder, 64, args.campaign_sleep)
        if "overhead" in args.only:
            numbers["overhead"] = overhead(folder, 64)
        if "weak" in args.only:
            numbers["weak"] = weak(folder, args.workers, args.tiles, args.sleep)
    write_json(args.json, numbers)


if __name__ == "__main__":
    main()
