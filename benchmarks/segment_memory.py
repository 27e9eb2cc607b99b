"""Peak memory of segmentation against the size of the volume: a small cube, and a volume as large as BetaSeg's high_c4.

    python benchmarks/segment_memory.py

Each volume is noise in a zarr of 64^3 chunks, segmented by a small untrained model in a separate process, whose
peak resident set is measured. Prints one table.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from reporting import add_json_option, machine, write_json

from his4mae_jax.data.ome_zarr import write as ome_zarr

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from his4mae_jax.config import get_default

def get_config():
    c = get_default()
    c.model.embed_dim, c.model.depth, c.model.decoder_dim, c.model.decoder_depth = 32, 2, 32, 1
    c.codebook.size, c.train.batch_size, c.train.steps, c.train.log_every = 8, 8, 1, 1
    c.data.train = ("{folder}/small.ome.zarr",)
    c.segment.stride, c.segment.tile, c.segment.batch_fovs, c.segment.pyramid = 80, 128, 64, False
    return c
"""


def write_noise(path: pathlib.Path, shape: tuple[int, int, int], seed: int = 0) -> None:
    """Write noise slab by slab: one block, shifted differently each time, so that no two slabs are alike."""
    # Drawn as bytes: this process's own peak memory is where the peaks of its children start.
    block = np.random.default_rng(seed).integers(60, 196, (64, *shape[1:]), np.uint8)
    out = ome_zarr.create(path, shape, np.uint8, 16.0)
    for z in range(0, shape[0], 64):
        out[z : min(z + 64, shape[0])].write(np.roll(block, z + 1, axis=2)[: shape[0] - z]).result()


def run(folder: pathlib.Path, *args: str) -> tuple[float, float]:
    """Run one command in a separate process; return its seconds and peak resident set (MB)."""
    command = [sys.executable, "-m", "his4mae_jax.main", f"--config={folder}/config.py", f"--workdir={folder}/run"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, *args], cwd=ROOT, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(errors.decode())
    return time.perf_counter() - began, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["256,256,256", "1021,545,1082"], help="z,y,x of each volume")
    parser.add_argument("--axes", default="z", help="segment.axes")
    parser.add_argument("--folder", help="folder for volumes and runs (default: a temporary one)")
    add_json_option(parser)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        (folder / "config.py").write_text(CONFIG.format(folder=folder))
        write_noise(folder / "small.ome.zarr", (96, 96, 96))
        run(folder, "--mode=train")
        print(f"{'voxels (z, y, x)':>18}  {'seconds':>8}  {'peak MB':>8}  ratio", flush=True)
        for text in args.shapes:
            shape = tuple(int(n) for n in text.split(","))
            path = folder / "volume.ome.zarr"
            write_noise(path, shape)
            seconds, peak = run(
                folder, "--mode=segment", f"--config.segment.volume={path}", f"--config.segment.axes={args.axes}"
            )
            shutil.rmtree(path)
            rows.append({"shape": shape, "seconds": seconds, "peak_rss_mb": peak})
            ratio = peak / rows[0]["peak_rss_mb"]
            print(f"{'x'.join(map(str, shape)):>18}  {seconds:8.1f}  {peak:8.0f}  {ratio:.3f}", flush=True)
    write_json(args.json, {**machine(), "rows": rows})


if __name__ == "__main__":
    main()
