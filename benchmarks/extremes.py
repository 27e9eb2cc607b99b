r"""Small and large: seconds, peak memory and open files of commands on volumes of unusual sizes.

    python benchmarks/extremes.py --json runs/extremes.json

| case | what |
|---|---|
| volumes | 200 volumes to train on, OME-Zarr and TIFF in turn |
| section | one section of 4096 x 4096 |
| sheets | 2 sections of 20,000 x 20,000, of whose chunks 1 % are stored |
| clusters | a cube that is segmented with 200 clusters |
| terabyte | 10,240 voxels a side (1.07 TB), of whose chunks 0.1 % are stored, in one corner |
| scattered | the same, with the chunks anywhere |

Each command is `his4mae` in a process of its own, with two steps of training of a small model, and with at most
--files open files, as a shell's `ulimit -n` has it. Takes 2 GB of disk for a terabyte.
"""

import argparse
import dataclasses
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tifffile
from reporting import add_json_option, load, machine, one_line, options, write_json
from scipy.ndimage import gaussian_filter

from his4mae_jax.data.ome_zarr import write as ome_zarr

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from his4mae_jax.config import get_default

def get_config():
    c = get_default()
    c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 64, 16, 32, 1
    c.model.decoder_dim, c.model.decoder_depth, c.codebook.size = 32, 1, 8
    c.data.crop_min, c.train.batch_size, c.train.steps, c.train.log_every = 40, 8, 2, 1
    c.segment.stride, c.segment.batch_fovs, c.segment.axes = 64, 64, "z"
    {more}
    return c
"""
BOTH = "--config.evaluate.baselines=('intensity', 'filters')"
CHUNK = 128  # voxels a side of a chunk of the terabyte


@dataclasses.dataclass
class Run:
    """Commands in one workdir, and what they took.

    Attributes:
      folder: of the config and the workdir.
      case: its name.
      files: open files that a process may have.
      seconds: after which a command is stopped.
      rows: of the table.
    """

    folder: pathlib.Path
    case: str
    files: int
    seconds: float
    rows: list[dict] = dataclasses.field(default_factory=list)

    def config(self, *lines: str) -> None:
        """Write the config of the commands, with further lines of settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.py").write_text(CONFIG.format(more="\n    ".join(lines)))

    def __call__(self, command: str, *args: str, what: str = "") -> None:
        """Run a subcommand and print its row: seconds, peak resident set, most open files, and how it ended."""
        command_line = ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(self.files), sys.executable, "-m", "his4mae_jax"]
        settings = [] if command == "check" else [f"--config={self.folder}/config.py"]
        command_line += [command, *settings, f"--workdir={self.folder}/run", *args]
        began = time.perf_counter()
        with open(self.folder / "errors.txt", "w+") as errors:
            process = subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
            opened, stopped = watch(process, began + self.seconds)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            lines = errors.read().splitlines()
        ended = "stopped" if stopped else "done" if not process.returncode else lines[-1] if lines else "failed"
        row = {
            "case": self.case, "command": what or command, "seconds": time.perf_counter() - began,
            "mb": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, "open_files": opened,
            "lines": len(lines), "load": load(), "ended": ended,
        }  # fmt: skip
        self.rows.append(row)
        print_row(row)


def watch(process: subprocess.Popen, deadline: float) -> tuple[int, bool]:
    """Count the open files of a process until it ends; return the most, and whether it was stopped at the deadline."""
    most, folder = 0, pathlib.Path(f"/proc/{process.pid}/fd")
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        try:
            most = max(most, len(os.listdir(folder)))
        except OSError:  # no such folder here, or the process has just ended
            pass
        if time.perf_counter() > deadline:
            process.kill()
            return most, True
        time.sleep(0.05)
    return most, False


def texture(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Smooth noise, uint8, of which no voxel is 0."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape).astype(np.float32), 3, mode="wrap")
    return np.uint8(np.clip(127 + 40 * noise / noise.std(), 1, 254))


def write_blocks(path: pathlib.Path, shape: Sequence[int], block: np.ndarray, corners: Iterable[Sequence[int]]) -> None:
    """Write one block, shifted differently each time, at these corners, as a chunk each, and nothing else."""
    out, writes = ome_zarr.create(path, shape, np.uint8, 8.0, chunks=block.shape), []
    for number, corner in enumerate(corners):
        box = tuple(slice(c, min(c + n, s)) for c, n, s in zip(corner, block.shape, shape, strict=True))
        content = np.roll(block, 7 * number, axis=number % 2 + 1)
        writes.append(out[box].write(content[tuple(slice(s.stop - s.start) for s in box)]))
        if len(writes) > 16:
            writes.pop(0).result()
    for write in writes:
        write.result()


def volumes(run: Run, number: int = 200, side: int = 96) -> None:
    """Many volumes to train on."""
    run.folder.mkdir(parents=True, exist_ok=True)
    block, paths = texture((32, side, side)), []
    for i in range(number):
        paths.append(str(run.folder / (f"v{i}.ome.zarr" if i % 2 else f"v{i}.tif")))
        content = np.roll(block, i, axis=2)
        if i % 2:
            ome_zarr.create(paths[-1], block.shape, np.uint8, 8.0).write(content).result()
        else:
            pixel = {"resolution": (1 / 0.008,) * 2, "metadata": {"axes": "ZYX", "spacing": 0.008, "unit": "um"}}
            tifffile.imwrite(paths[-1], content, imagej=True, **pixel)
    for fewer in (number // 10, number):
        run.config(f"c.data.train = {tuple(paths[:fewer])!r}")
        run("train", f"--workdir={run.folder}/run_{fewer}", what=f"train, {fewer} volumes")
    run("inspect", what=f"inspect, {number} volumes")


def section(run: Run, side: int = 4096) -> None:
    """One section."""
    image = texture((1, side, side))
    labels = np.uint8(image > 127)
    for name, array, size in (("image", image, (40.0, 8.0, 8.0)), ("labels", labels, (40.0, 8.0, 8.0))):
        path = run.folder / f"{name}.ome.zarr"
        ome_zarr.create(path, array.shape, np.uint8, size, chunks=(1, 512, 512)).write(array).result()
    run.config(*_scored(run.folder))
    for command in ("inspect", "train", "segment", "evaluate"):
        run(command)
    run("evaluate", BOTH, what="evaluate, with filters")


def sheets(run: Run, side: int = 20_000) -> None:
    """Two large sections of which little is stored."""
    tile = 500
    rng, along = np.random.default_rng(0), range(0, side, tile)
    corners = [(0, y, x) for y in along for x in along if rng.random() < 0.01]
    block = texture((2, tile, tile))
    write_blocks(run.folder / "image.ome.zarr", (2, side, side), block, corners)
    write_blocks(run.folder / "labels.ome.zarr", (2, side, side), np.uint8(block > 127) + 1, corners)
    run.config(*_scored(run.folder, "nothing"))
    for command in ("inspect", "train", "segment", "evaluate"):
        run(command)
    run("evaluate", BOTH, what="evaluate, with filters")


def clusters(run: Run, side: int = 192, number: int = 200) -> None:
    """Many clusters."""
    path = run.folder / "image.ome.zarr"
    ome_zarr.create(path, (side,) * 3, np.uint8, 8.0).write(texture((side,) * 3)).result()
    run.config(f"c.data.train = c.segment.volume = ({str(path)!r},)", "c.model.patch_size = 8")
    run("train")
    run("segment", "--config.segment.clusters=4", what="segment, 4 clusters")
    run("segment", f"--config.segment.clusters={number}", what=f"segment, {number} clusters")
    run("evaluate", f"--config.segment.clusters={number}")
    run("name", f"--config.segment.clusters={number}")


def terabyte(run: Run, side: int = 80, scattered: bool = False) -> None:
    """A volume of which a thousandth is stored: `side` chunks a side."""
    number = max(round(side**3 / 1000), 1)
    if scattered:
        at = np.random.default_rng(0).choice(side**3, number, replace=False)
        corners = np.stack(np.unravel_index(at, (side,) * 3), axis=1) * CHUNK
    else:
        corners = np.argwhere(np.ones((round(number ** (1 / 3)),) * 3)) * CHUNK
    path, shape, block = run.folder / "image.ome.zarr", (side * CHUNK,) * 3, texture((CHUNK,) * 3)
    write_blocks(path, shape, block, corners.tolist())
    write_blocks(run.folder / "labels.ome.zarr", shape, np.uint8(block > 127) + 1, corners.tolist())
    run.config(*_scored(run.folder, "nothing"), "c.segment.tile = 256")
    run("inspect")
    run("train")
    crop = ", ".join(f"{c}:{c + 2 * CHUNK}" for c in corners[0].tolist())
    run("segment", f"--config.segment.volume=('{path}[{crop}]',)", what="segment, a crop")
    run("segment", what="segment, the whole")
    run("evaluate")
    run("check")


def scattered(run: Run, side: int = 80) -> None:
    """The same with the chunks anywhere."""
    terabyte(run, side, scattered=True)


def _scored(folder: pathlib.Path, *names: str) -> list[str]:
    """Settings of a volume to train on, to segment and to score, with two classes beside those of these names."""
    image, labels = (str(folder / f"{name}.ome.zarr") for name in ("image", "labels"))
    classes = (*names, "dark", "bright")
    return [
        f"c.data.train, c.data.test, c.data.test_labels = ({image!r},), {image!r}, {labels!r}",
        f"c.data.class_names, c.segment.clusters, c.evaluate.baselines = {classes!r}, 4, ('intensity',)",
    ]


CASES: dict[str, Callable[[Run], None]] = {
    "volumes": volumes, "section": section, "sheets": sheets, "clusters": clusters, "terabyte": terabyte,
    "scattered": scattered,
}  # fmt: skip


def print_row(row: dict) -> None:
    """Print one row of the table."""
    print(
        f"{row['case']:<10} {row['command']:<24} {row['seconds']:>8.1f} {row['mb']:>8.0f} {row['open_files']:>6} "
        f"{row['lines']:>6}  {row['ended']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--files", type=int, default=256, help="open files that a process may have (ulimit -n)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which a command is stopped")
    parser.add_argument("--folder", help="folder for volumes and runs (default: a temporary one)")
    add_json_option(parser)
    args = parser.parse_args()
    about, rows = machine(), []
    print(one_line(about))
    print(f"{'case':<10} {'command':<24} {'seconds':>8} {'MB':>8} {'files':>6} {'lines':>6}  ended", flush=True)
    for case in args.cases:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            run = Run(pathlib.Path(folder), case, args.files, args.seconds, rows)
            CASES[case](run)
        write_json(args.json, {**about, **options(args, "folder"), "rows": rows})


if __name__ == "__main__":
    main()
