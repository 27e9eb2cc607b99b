r"""How time and memory grow with the size of the volume and with the batch.

    python benchmarks/growth.py --json runs/growth.json --figure runs/growth.png

Volumes: cubes of smooth noise, each segmented by an untrained small model (--mode=segment: fit, labels, files) in a
separate process, whose time and peak resident set are measured. Batches: the median time of a training step of the
small model (--model=full: the paper's), and the memory of its program according to XLA. "power" is the exponent of
growth from the row above: 1 is linear.
"""

import argparse
import functools
import math
import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import matplotlib
import numpy as np
from encode_and_step import compiled
from reporting import add_json_option, machine, one_line, options, write_json
from segment_memory import run, write_noise

from his4mae_jax.config import get_default, get_small
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.settings import StepSettings

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


def volumes(sides, axes, tile, folder, report):
    """Segment cubes; `report` is called with all rows after each."""
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
        report(rows)
    return rows


def batches(sizes, config, calls, report):
    """Run training steps; `report` is called with all rows after each batch size."""
    rows, mesh = [], meshes.make_mesh()
    for size in sizes:
        config.train.batch_size = size
        settings = StepSettings.from_config(config)
        create = functools.partial(states.create, settings)
        state = jax.jit(create, out_shardings=meshes.replicated(mesh))()
        batch = meshes.put_batch(mesh, noise_batch(config))
        step, _ = compiled(StepPrograms(settings, mesh).program(), state, batch, 1)
        memory, taken = step.memory_analysis(), []
        for _ in range(calls + 1):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch, 1))
            taken.append(time.perf_counter() - began)
        mb = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e6
        rows.append({"size": size, "name": f"batch {size}", "seconds": statistics.median(taken[1:]), "mb": mb})
        report(rows)
    return rows


def power(rows, key):
    """Return the exponent of growth between the last two rows, None for the first."""
    if len(rows) < 2:
        return None
    (a, b), n = (rows[-2], rows[-1]), rows[-1]["size"] / rows[-2]["size"]
    return math.log(b[key] / a[key]) / math.log(n)


def print_last(rows):
    """Print the last row with its exponents, which are added to it."""
    row = rows[-1]
    row["power_seconds"], row["power_mb"] = power(rows, "seconds"), power(rows, "mb")
    texts = [f"{'-':>6}" if p is None else f"{p:6.2f}" for p in (row["power_seconds"], row["power_mb"])]
    print(f"{row['name']:<16} {row['seconds']:>10.3f} {texts[0]} {row['mb']:>10.1f} {texts[1]}", flush=True)


def draw(path, found):
    """Draw one row of panels per kind: time and memory against size, log-log, with a line of slope 1."""
    fig, axes = plt.subplots(len(found), 2, figsize=(8, 3.2 * len(found)), squeeze=False, layout="constrained")
    for line, (kind, rows) in zip(axes, found.items(), strict=True):
        sizes = np.array([r["size"] for r in rows], float)
        for ax, key, label in ((line[0], "seconds", "time (s)"), (line[1], "mb", "memory (MB)")):
            values = np.array([r[key] for r in rows])
            ax.loglog(sizes, values, "o-")
            ax.loglog(sizes, values[-1] * sizes / sizes[-1], "--", color="0.6", label="linear")
            ax.set_xticks(sizes, [r["name"].split()[kind != "volumes"].replace("^3", "³") for r in rows])
            ax.set_xticks([], minor=True)
            ax.set(xlabel="voxels" if kind == "volumes" else "images per batch", ylabel=label)
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
    parser.add_argument("--calls", type=int, default=5, help="steps, of which the median is printed")
    parser.add_argument("--folder", help="folder for volumes and runs (default: a temporary one)")
    parser.add_argument("--figure", type=pathlib.Path, help="draw the growth to this file (PNG, PDF or SVG)")
    add_json_option(parser)
    args = parser.parse_args()
    about = machine()
    print(one_line(about))
    print(f"{'':<16} {'seconds':>10} {'power':>6} {'MB':>10} {'power':>6}")
    found = {}
    # Volumes first: a child's peak memory starts from its parent's, which is still small before the steps.
    if args.sides:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found["volumes"] = volumes(args.sides, args.axes, args.tile, pathlib.Path(folder), print_last)
    if args.batches:
        config = {"small": get_small, "full": get_default}[args.model]()
        found["batches"] = batches(args.batches, config, args.calls, print_last)
    if args.figure and found:
        draw(args.figure, found)
    write_json(args.json, {**about, **options(args, "figure", "folder"), **found})


if __name__ == "__main__":
    main()
