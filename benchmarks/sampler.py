r"""Crops of 80x80 per second from a zarr volume: this project's samplers, and naive reads with other libraries.

    python benchmarks/sampler.py --side 512 --json runs/sampler.json

Writes a volume of side^3 random bytes in chunks of 64^3 (zarr v2, uncompressed unless --compress),
and a raw copy of it for numpy.memmap. All methods cut the same batches: those of `Plan.at`, with
a full crop of 80 pixels, and for the pool those of its own plan. Methods take turns, round after round
(A B C A B C), and the median over rounds is printed. "cold" opens the volume again in each round, so
that no chunk is decoded yet; the operating system's file cache is warm in all of them. "device"
cuts crops inside a jitted function; on a CPU it says little about an accelerator. Filling the pool
with its first bricks is not part of its "warm" rounds, but part of the cold ones.
"""

import argparse
import concurrent.futures
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.data.sampling.bricks import make_pool
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import PLANE_AXES, make_geometry
from his4mae_jax.data.sampling.resident import ResidentSampler
from his4mae_jax.data.sampling.streaming import HostSampler
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.training.devices.mesh import make_mesh

FOV, CHUNK = 80, 64
Batch = Callable[[int], dict[str, Any]]  # of a step
Makers = dict[str, tuple[Callable[[], Batch], bool]]
BASELINE = "zarr-python"  # ratios are relative to it


def write_volume(folder: pathlib.Path, side: int, compress: bool) -> tuple[pathlib.Path, pathlib.Path]:
    """Write a zarr volume and its raw copy, slab by slab; return their paths."""
    zarr_path, raw_path = folder / "volume.zarr", folder / "volume.raw"
    metadata = {"chunks": [CHUNK] * 3, "shape": [side] * 3, "dtype": "|u1"}
    metadata["compressor"] = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1} if compress else None
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(zarr_path)}, "metadata": metadata}
    store, rng = ts.open(spec, create=True).result(), np.random.default_rng(0)
    with open(raw_path, "wb") as raw:
        for z in range(0, side, CHUNK):
            slab = rng.integers(0, 256, (min(CHUNK, side - z), side, side), dtype=np.uint8)
            store[z : z + len(slab)].write(slab).result()
            raw.write(slab.tobytes())
    return zarr_path, raw_path


def plans(volume: VolumeLike, batch_size: int, slots: int, every: int) -> list[Plan]:
    """Return the plan without and with a pool of bricks."""
    geometry = make_geometry([volume], [tuple(slice(0, n) for n in volume.shape)], "zyx", FOV)
    pool = make_pool(geometry, [(CHUNK,) * 3], seed=0, slots=slots, every=every, brick=192)
    return [Plan(geometry, 0, batch_size, FOV, FOV, p) for p in (None, pool)]


class OneByOne:
    """Reads crops one by one from anything that is indexed like an array."""

    def __init__(self, plan: Plan, array: Any, threads: concurrent.futures.Executor | None = None):
        self._at, self._array, self._threads = jax.jit(plan.at), array, threads

    def batch(self, step: int) -> dict[str, np.ndarray]:
        chosen = jax.device_get(self._at(step))
        boxes = []
        for start, axis in zip(chosen["start"].tolist(), chosen["axis"], strict=True):
            boxes.append(tuple(slice(n, n + (FOV if d in PLANE_AXES[axis] else 1)) for d, n in enumerate(start)))
        each = self._threads.map if self._threads else map
        return {"crop": np.stack([np.asarray(crop).reshape(FOV, FOV) for crop in each(self._array.__getitem__, boxes)])}


def on_device(plan: Plan, volume: VolumeLike) -> Batch:
    """Return `batch(step)` of a `ResidentSampler`, jitted."""
    sampler = ResidentSampler(plan, [volume], [Contrast(0, 255)], make_mesh())
    cut = jax.jit(sampler.batch)
    return lambda step: jax.block_until_ready(cut(sampler.arrays, jax.numpy.int32(step)))


def methods(
    zarr_path: pathlib.Path, raw_path: pathlib.Path, side: int, batch_size: int, slots: int, every: int
) -> Makers:
    """Return `{name: (make, cold)}`; make() opens the volume and returns `batch(step)`."""
    opened = lambda: open_volume(zarr_path, 10.0)  # noqa: E731
    anywhere, pooled = plans(opened(), batch_size, slots, every)
    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def host(plan, in_memory):
        limit = 2**62 if in_memory else 0
        return HostSampler(plan, [opened()], [Contrast(0, 255)], workers=4, in_memory_bytes=limit).batch

    def zarr_python(threads=None):
        import zarr

        return OneByOne(anywhere, zarr.open_array(zarr_path, mode="r"), threads).batch

    memmap = lambda: OneByOne(anywhere, np.memmap(raw_path, np.uint8, "r", shape=(side,) * 3)).batch  # noqa: E731
    return {
        "in memory": (lambda: host(anywhere, True), False),
        "streamed, warm": (lambda: host(anywhere, False), False),
        "streamed, cold": (lambda: host(anywhere, False), True),
        "streamed, pool, warm": (lambda: host(pooled, False), False),
        "streamed, pool, cold": (lambda: host(pooled, False), True),
        "device": (lambda: on_device(anywhere, opened()), False),
        BASELINE: (zarr_python, False),
        "zarr-python, threads": (lambda: zarr_python(threads), False),
        "numpy.memmap": (memmap, False),
    }


def measure(
    makers: Makers, batches: int, rounds: int, batch_size: int, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Measure `{name: crops/s of each round}`; methods take turns."""
    kept = {name: make() for name, (make, cold) in makers.items() if not cold}
    for batch in kept.values():  # compiles, and fills the caches
        for step in range(batches):
            batch(step)
    rates, step = {name: [] for name in makers}, batches
    for i in range(rounds):
        for name, (make, cold) in makers.items():
            # A cold method is made before the clock starts, so that compilation is not measured.
            batch = make() if cold else kept[name]
            began = time.perf_counter()
            for n in range(step, step + batches):
                batch(n)
            rates[name].append(batches * batch_size / (time.perf_counter() - began))
        step += batches
        report(f"round {i + 1} of {rounds}")
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=512, help="voxels a side of the volume")
    parser.add_argument("--batch", type=int, default=256, help="crops of one batch")
    parser.add_argument("--batches", type=int, default=8, help="batches that make one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements, of which the median is printed")
    parser.add_argument("--bricks", type=int, default=64, help="bricks of the pool")
    parser.add_argument("--steps-per-brick", type=int, default=4)
    parser.add_argument("--compress", action="store_true", help="blosc lz4 in place of no compression")
    parser.add_argument("--only", nargs="+", help="some of the methods")
    parser.add_argument("--folder", help="folder for the volume, which is removed again")
    add_json_option(parser)
    args = parser.parse_args()
    about = machine()
    print(f"{one_line(about)}, {args.side}^3 uint8, chunks of {CHUNK}^3, batch {args.batch}")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = write_volume(pathlib.Path(folder), args.side, args.compress)
        makers = methods(*paths, args.side, args.batch, args.bricks, args.steps_per_brick)
        makers = {name: makers[name] for name in args.only or makers}
        rates = measure(makers, args.batches, args.rounds, args.batch, lambda text: print(text, flush=True))
    medians = {name: statistics.median(r) for name, r in rates.items()}
    base = medians.get(BASELINE)
    print(f"{'method':<22} {'crops/s':>10} {'lowest':>10} {'highest':>10} {'x ' + BASELINE:>14}")
    for name, r in rates.items():
        ratio = f"{medians[name] / base:>14.1f}" if base else f"{'-':>14}"
        print(f"{name:<22} {medians[name]:>10.0f} {min(r):>10.0f} {max(r):>10.0f} {ratio}")
    rows = [
        {"method": name, "crops_per_s": medians[name], "rounds": r, "ratio": base and medians[name] / base}
        for name, r in rates.items()
    ]
    write_json(args.json, {**about, **options(args, "folder", "only"), "rows": rows})


if __name__ == "__main__":
    main()
