r"""Time and memory against the size of the volume and against the batch: linear, or better?

    python benchmarks/growth.py --json runs/growth.json --figure runs/growth.png

Volumes: cubes of smooth noise, each segmented by an untrained small model (--mode=segment: fit, labels, files) in a
process of its own, whose peak resident set is read at its end; time is that of the whole process. Batches: one
training step of the small model (--model=full: the paper's), median of some, and the memory that its program needs
by XLA's account. "power" is the exponent between a row and the one above: 1 is linear.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import matplotlib
import numpy as np
from encode_and_step import compiled
from segment_memory import run, write_noise

from his4mae_jax.config import get_default, get_small
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.optimizer import make_optimizer
from his4mae_jax.training.step.step import compile_steps

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CONFIG = """
from his4mae_jax.config import get_small

def get_config():
    c = get_small()
    c.train.batch_size, c.train.steps, c.train.log_every = 8, 1, 1
    c.data.train = ("{folder}/small.ome.zarr",)
    c.segment.axes, c.segment.tile, c.segment.pyramid = "{axes}", {tile}, False
    return c
"""


def volumes(sides, axes, tile, folder, told):
    """Rows of segmenting cubes."""
    (folder / "config.py").write_text(CONFIG.format(folder=folder, axes=axes, tile=tile))
    write_noise(folder / "small.ome.zarr", (64, 64, 64))
    run(folder, "--mode=train")
    rows = []
    for side in sides:
        path = folder / "volume.ome.zarr"
        write_noise(path, (side,) * 3)
        seconds, peak = run(folder, "--mode=segment", f"--config.segment.volume={path}")
        shutil.rmtree(path)
        rows.append({"size": side**3, "name": f"{side}^3 voxels", "seconds": seconds, "mb": peak})
        told(rows)
    return rows


def batches(sizes, config, calls, told):
    """Rows of training steps."""
    rows, mesh = [], meshes.make_mesh()
    for size in sizes:
        config.train.batch_size = size
        models, optimizer = METHODS[config.method].build(config), make_optimizer(config)
        create = functools.partial(states.create, config, models, optimizer)
        state = jax.jit(create, out_shardings=meshes.replicated(mesh))()
        batch = meshes.put_batch(mesh, noise_batch(config))
        step, _ = compiled(compile_steps(config, models, optimizer, mesh)[0], state, batch)
        memory, taken = step.memory_analysis(), []
        for _ in range(calls + 1):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            taken.append(time.perf_counter() - began)
        mb = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6
        rows.append({"size": size, "name": f"batch {size}", "seconds": statistics.median(taken[1:]), "mb": mb})
        told(rows)
    return rows


def power(rows, key):
    """Exponent of growth between the last two rows, None for the first."""
    if len(rows) < 2:
        return None
    (a, b), n = (rows[-2], rows[-1]), rows[-1]["size"] / rows[-2]["size"]
    return math.log(b[key] / a[key]) / math.log(n)


def tell(rows):
    """The last row, with its exponents, which are kept in it."""
    row = rows[-1]
    row["power_seconds"], row["power_mb"] = power(rows, "seconds"), power(rows, "mb")
    texts = [f"{'-':>6}" if p is None else f"{p:6.2f}" for p in (row["power_seconds"], row["power_mb"])]
    print(f"{row['name']:<16} {row['seconds']:>10.3f} {texts[0]} {row['mb']:>10.1f} {texts[1]}", flush=True)


def draw(path, found):
    """One row of panels a kind: time and memory against size, both axes logarithmic, with a line of slope 1."""
    fig, axes = plt.subplots(len(found), 2, figsize=(8, 3.2 * len(found)), squeeze=False, layout="constrained")
    for line, (kind, rows) in zip(axes, found.items(), strict=True):
        sizes = np.array([r["size"] for r in rows], float)
        for ax, key, label in ((line[0], "seconds", "time (s)"), (line[1], "mb", "memory (MB)")):
            values = np.array([r[key] for r in rows])
            ax.loglog(sizes, values, "o-")
            ax.loglog(sizes, values[-1] * sizes / sizes[-1], "--", color="0.6", label="linear")
            ax.set_xticks(sizes, [r["name"].split()[kind != "volumes"].replace("^3", "³") for r in rows])
            ax.set_xticks([], minor=True)
            ax.set(xlabel="voxels" if kind == "volumes" else "images a batch", ylabel=label)
            ax.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sides", nargs="*", type=int, default=[64, 128, 256, 512], help="voxels a side")
    parser.add_argument("--batches", nargs="*", type=int, default=[16, 32, 64, 128, 256])
    parser.add_argument("--model", choices=("small", "full"), default="small", help="of the training steps")
    parser.add_argument("--axes", default="z", help="segment.axes")
    parser.add_argument("--tile", type=int, default=256, help="segment.tile, which bounds memory")
    parser.add_argument("--calls", type=int, default=5, help="steps of which the median is told")
    parser.add_argument("--folder", help="where volumes and runs go (default: a temporary folder)")
    parser.add_argument("--figure", type=pathlib.Path, help="draw the growth there (PNG, PDF or SVG)")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers there as well")
    args = parser.parse_args()
    where = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    print(f"{where}, {os.cpu_count()} CPU cores, jax {jax.__version__}, load {load:.1f}")
    print(f"{'':<16} {'seconds':>10} {'power':>6} {'MB':>10} {'power':>6}")
    found = {}
    # Volumes first: a process's peak counts what the one that started it held, which is little before the steps.
    if args.sides:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found["volumes"] = volumes(args.sides, args.axes, args.tile, pathlib.Path(folder), tell)
    if args.batches:
        config = {"small": get_small, "full": get_default}[args.model]()
        found["batches"] = batches(args.batches, config, args.calls, tell)
    if args.figure and found:
        draw(args.figure, found)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in vars(args).items() if k not in ("json", "figure", "folder")}
        about = {"device": where, "cpu_cores": os.cpu_count(), "jax": jax.__version__, "load_before": load}
        args.json.write_text(json.dumps({**about, **settings, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
