r"""Seconds of `his4mae probe --segment` on kept features: re-training and re-labelling, without encoding.

    python benchmarks/relabel.py --side 512 --json runs/relabel.json

Writes a cube of noise, trains the small model for two steps, and keeps random features of the right size in place of
encoded ones: the time does not depend on their values. Then the command runs as a user runs it, round after round: the
classifier of 300 points is fitted anew, and the whole cube is labelled anew; with the page of the run and without.
Prints seconds from its start to its end, processor time (which other work on the machine disturbs less), the largest
memory of the process, and the bytes of the features.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
from reporting import add_json_option, machine, one_line, options, write_json

import his4mae_jax
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.config import get_small
from his4mae_jax.data import datasets
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.inference.kept_features import NAME, kept_features
from his4mae_jax.inference.trained import load
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output.plan import bind_to
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.workdir import volume_folder

# What the commands run in: a process that also says how much memory it took.
RUN = """
import resource, sys
from his4mae_jax.cli.command import main
main()
used = resource.getrusage(resource.RUSAGE_SELF)
print("used", used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def prepare(folder: pathlib.Path, side: int) -> None:
    """A cube of noise, and a workdir with a checkpoint and random features."""
    rng, image = np.random.default_rng(0), folder / "cube.ome.zarr"
    cube = ome_zarr.create(image, (side,) * 3, np.uint8, 10.0, chunks=(64, 64, 64))
    for z in range(0, side, 64):
        block = rng.integers(1, 256, (min(64, side - z), side, side), np.uint8)
        cube[z : z + len(block)].write(block).result()
    config = get_small()
    config.train.steps, config.train.log_every, config.train.batch_size = 2, 2, 8
    config.train.samples_per_epoch = 16
    his4mae_jax.train(image, config, workdir=folder / "run", log=lambda line: None)
    keep_random(folder / "run", image, rng)


def place(folder: pathlib.Path, side: int, points: int, seed: int) -> str:
    """Writes a table of random points; returns its path."""
    at = np.random.default_rng(seed).integers(0, side, (points, 3))
    rows = [f"{z},{y},{x},{'rest' if n % 3 else 'mitochondria'}" for n, (z, y, x) in enumerate(at.tolist())]
    (folder / "points.csv").write_text("\n".join(["z,y,x,class", *rows]) + "\n")
    return str(folder / "points.csv")


def keep_random(workdir: pathlib.Path, image: pathlib.Path, rng: np.random.Generator) -> None:
    """Keeps random features of a volume, with the digest of its encoder."""
    config = his4mae_jax.Encoder.load(workdir).config
    volume = datasets.target(config, workdir, need_labels=False).image
    checkpoints = Checkpoints(workdir, config)
    trained = load(checkpoints, checkpoints.steps()[-1], config.segment.encoder)
    checkpoints.close()
    encoder, inside = bind_to(trained, volume, config.segment, config.seed)
    folder = volume_folder(workdir, config.data.test, create=True)

    def random(self, volume, tile, done):
        done(1.0)
        return [
            [rng.normal(size=(*(plan.points for plan in grid), self.coverage.dim)).astype(np.float32)]
            for grid in tile.grids
        ]

    with mock.patch.object(VolumeEncoder, "lattices", random):
        kept_features(encoder, volume, inside, folder, encoder_digest(encoder.params), lambda line: None)


def timed(folder: pathlib.Path, *more: str) -> tuple[float, float, int]:
    """Runs the command; returns its seconds, those of the processor, and its largest memory in bytes."""
    workdir = folder / "run"
    arguments = ["probe", "--segment", f"--config=saved:{workdir / 'config.json'}", f"--workdir={workdir}"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, "--config.segment.keep_features=True", *more],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    if "is there, of this checkpoint" in done.stderr:
        raise SystemExit("segment: nothing was labelled anew")
    memory, processor = re.search(r"^used (\d+) (\S+)", done.stderr, re.MULTILINE).groups()
    return seconds, float(processor), 1024 * int(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of the cube, in voxels")
    parser.add_argument("--points", type=int, default=300, help="labelled")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is printed")
    parser.add_argument("--hidden", type=int, default=0, help="units of the classifier's hidden layer")
    parser.add_argument("--folder", help="folder for the files, which are removed again")
    add_json_option(parser)
    args = parser.parse_args()
    about, rows = machine(), {"with the page": [], "without": []}
    print(one_line(about), flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = pathlib.Path(name)
        prepare(folder, args.side)
        size = sum(path.stat().st_size for path in (folder / "run").rglob(f"{NAME}/**/*") if path.is_file())
        for number in range(args.rounds + 1):
            for place_of_page, (row, each) in enumerate(rows.items()):
                # Others each time: another classifier.
                points = place(folder, args.side, args.points, 2 * number + place_of_page)
                page = f"--config.report.after_stages={row == 'with the page'}"
                each.append(timed(folder, f"--labels={points}", f"--hidden={args.hidden}", page))
    rows = {row: each[1:] for row, each in rows.items()}  # the first time the page of the run samples features
    print(f"{args.side}^3 voxels, {args.points} points, hidden {args.hidden}; features {size / 1e6:,.0f} MB")
    print(
        "| page of the run | s | lowest | highest | CPU time (s) | peak memory (GB) |\n|---|---:|---:|---:|---:|---:|"
    )
    for row, each in rows.items():
        s, processor, memory = zip(*each, strict=True)
        print(f"| {row} | {statistics.median(s):.1f} | {min(s):.1f} | {max(s):.1f} | ", end="")
        print(f"{statistics.median(processor):.1f} | {max(memory) / 1e9:.2f} |")
    write_json(args.json, {**about, **options(args, "folder"), "rows": rows, "feature_bytes": size})


if __name__ == "__main__":
    main()
