r"""From the bytes of a volume to its labels, end to end, beside PyTorch.

    python benchmarks/segment_throughput.py --shape 160,160,160 --json runs/segment_throughput.json
    python benchmarks/segment_throughput.py --shape 1021,545,1082 --axes z zyx --dtype bfloat16 --batch-fovs 512

The volume is smooth noise in a zarr of 64^3 chunks; the encoder has the paper's size and random weights. "ours,
cold" is the first run in the process, compilation included: reading, contrast, the fit of the centres, labels, their
OME-Zarr. "ours" is the same again, with the fit and the labels timed separately. "torch" (slices across z; needs
PyTorch) reads the same zarr, labels with the same centres and writes the same kind of zarr. It has no fit, so compare
it with our labels alone; the two take turns. The fraction of voxels with equal labels is printed. Each has malloc set
as its user would: ours returns freed memory to the system, as the segment stage does; PyTorch, which that slows down by
half, keeps it, as glibc does by default.
"""

import argparse
import itertools
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # PyTorch needs the other half

import jax
import numpy as np
from reporting import add_json_option, machine, one_line, options, write_json
from segment_memory import write_noise

from his4mae_jax.clustering.centres import linear_scores
from his4mae_jax.clustering.fit import fit_centres
from his4mae_jax.config import get_default
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.expand_stride import token_weights
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices.cpu_devices import share_cores
from his4mae_jax.training.devices.memory import return_freed_memory, set_malloc

NM = 16.0
SLICES = 16  # that PyTorch labels at once
PEER_BATCH = 64  # fields of view that PyTorch encodes at once, unless --batch-fovs is given
PEER_MALLOC = {  # what glibc's defaults adapt to
    "M_ARENA_MAX": (-8, 8 * (os.cpu_count() or 1)),
    "M_MMAP_THRESHOLD": (-3, 32 << 20),
    "M_TRIM_THRESHOLD": (-1, 64 << 20),
}


def configured(args, axes):
    config = get_default()
    config.model.dtype, config.segment.axes = args.dtype, axes
    config.segment.stride, config.segment.batch_fovs, config.segment.tile = args.stride, args.batch_fovs, args.tile
    config.segment.clusters = args.clusters
    return config


def make_encoder(config, params):
    s, models = config.segment, METHODS[config.method].build(config)
    return VolumeEncoder(models, params, Contrast(0, 255), Coverage.from_settings(models, s, s.axes), s.batch_fovs)


def write_labels(folder, shape, pieces):
    """Write `(slices, labels)` as they come, each while the next is being computed."""
    out = ome_zarr.create(folder, shape, np.uint8, NM, chunks=get_default().segment.block, overwrite=True)
    behind = []
    for where, labels in pieces:
        for future in behind:
            future.result()
        behind = [out[where].write(labels)]
    for future in behind:
        future.result()


def ours(config, encoder, path, folder):
    """Fit, then label and write; return `(seconds of the fit, seconds of the labels, centres)`."""
    return_freed_memory()
    began = time.perf_counter()
    volume = open_volume(path)
    fit = fit_centres(config, encoder, volume, [config.segment.clusters], None)
    fitted = time.perf_counter()
    label_ours(config, encoder, path, folder, fit.centres)
    return fitted - began, time.perf_counter() - fitted, fit.centres


def label_ours(config, encoder, path, folder, centres):
    return_freed_memory()
    volume, C = open_volume(path), config.segment.clusters
    tiles = encoder.coverage.label_tiles(volume.shape, 1, C, block=tuple(config.segment.block))
    pieces = ((tile.write, labels[C]) for tile, labels, _ in encoder.label(volume, linear_scores(centres), tiles))
    write_labels(folder, volume.shape, pieces)


def make_theirs(config, params, centres, mode):
    """Return PyTorch's `label(path, folder)`."""
    import torch
    import torch_peer

    torch.set_num_threads(os.cpu_count())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    step = torch_peer.Step(config, np.zeros((80,) * 3, np.uint8), device, mode, config.model.dtype == "bfloat16")
    step.load({**params, "decoder": params["decoder"]})
    s = config.segment
    edge = token_weights(config.model.fov // config.model.patch_size, s.edge_weight)
    linear = centres[s.clusters].linear()
    labeller = torch_peer.Labeller(
        step, linear.weights_CxD, linear.offset_C, edge, s.stride, s.batch_fovs or PEER_BATCH
    )

    def label(path, folder):
        set_malloc(PEER_MALLOC)
        volume = open_volume(path)
        spans = [slice(z, min(z + SLICES, volume.shape[0])) for z in range(0, volume.shape[0], SLICES)]
        whole = tuple(slice(0, n) for n in volume.shape[1:])

        def read(span):
            return volume.read_async((span, *whole))

        def pieces():
            ahead = itertools.chain(map(read, spans), [None])
            now = next(ahead)
            for span in spans:
                raw, now = now.result(), next(ahead)
                yield (span, *whole), labeller.label(raw)

        write_labels(folder, volume.shape, pieces())

    return label


def seconds(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def labels_of(folder):
    return ome_zarr.open_array(pathlib.Path(folder) / "0", "0.4").read().result()


def measure(args, axes, path, folder, shape, report):
    """Return the rows of one choice of axes; `report` is called with each."""
    config = configured(args, axes)
    models = METHODS[config.method].build(config)
    params = jax.jit(lambda: METHODS[config.method].init_params(jax.random.key(0), models))()
    encoder = make_encoder(config, params["encoder"])
    fovs, voxels = encoder.coverage.count_fovs(shape), math.prod(shape)
    rows = []

    def row(who, fit, label):
        whole = label if fit is None else fit + label
        rows.append({"axes": axes, "who": who, "fit_s": fit, "label_s": label, "whole_s": whole, "fovs": fovs,
                     "voxels_per_s": voxels / label, "fovs_per_s": fovs / label,
                     "tflops": fovs / label * flop_per_image(config)["encode"] / 1e12})  # fmt: skip
        report(rows[-1])

    cold_fit, cold_label, centres = ours(config, encoder, path, folder / "ours")
    row("ours, cold", cold_fit, cold_label)
    names = {"ours": lambda: label_ours(config, encoder, path, folder / "ours", centres)}
    for mode in args.peer if axes == "z" else ():
        label = make_theirs(config, jax.device_get(params), centres, mode)
        label(path, folder / "theirs")  # compiles
        names[f"torch, {mode}"] = lambda label=label: label(path, folder / "theirs")
        equal = float(np.mean(labels_of(folder / "ours") == labels_of(folder / "theirs")))
        print(f"  equal labels of torch, {mode}: {equal:.5f}", flush=True)
        rows.append({"axes": axes, "who": f"torch, {mode}", "equal_labels": equal})
    taken = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, run in names.items():
            taken[name].append(seconds(run))
    fit = statistics.median(ours(config, encoder, path, folder / "ours")[0] for _ in range(min(args.rounds, 2)))
    for name, times in taken.items():
        row(name, fit if name == "ours" else None, statistics.median(times))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="128,160,160", help="z,y,x of the volume")
    parser.add_argument("--axes", nargs="+", default=["z"], help="one or more values of segment.axes")
    parser.add_argument("--stride", type=int, default=40)
    parser.add_argument("--clusters", type=int, default=4)
    parser.add_argument(
        "--batch-fovs", type=int, default=0, help="fields of view encoded at once (0: each its own default)"
    )
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer", nargs="*", default=["none"], help="modes of torch.compile for PyTorch, or 'none'")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is printed")
    parser.add_argument("--folder", help="folder for volume and labels (default: a temporary one)")
    add_json_option(parser)
    args = parser.parse_args()
    share_cores(configured(args, args.axes[0]))
    shape = tuple(int(n) for n in args.shape.split(","))
    try:
        import torch  # noqa: F401
    except ImportError:
        print("PyTorch is not installed: only this project is measured", file=sys.stderr)
        args.peer = []
    about = machine()
    print(f"{one_line(about)}, {args.shape} voxels, {args.dtype}")
    columns = ("fit s", 8), ("labels s", 9), ("whole s", 8), ("FOV", 9), ("FOV/s", 9), ("Mvoxel/s", 9)
    print(f"{'axes':<5} {'who':<22} " + " ".join(f"{name:>{width}}" for name, width in columns), flush=True)

    def report(row):
        fit = f"{row['fit_s']:8.2f}" if row["fit_s"] is not None else f"{'-':>8}"
        print(
            f"{row['axes']:<5} {row['who']:<22} {fit} {row['label_s']:>9.2f} {row['whole_s']:>8.2f} {row['fovs']:>9} "
            f"{row['fovs_per_s']:>9.1f} {row['voxels_per_s'] / 1e6:>9.2f}", flush=True
        )  # fmt: skip

    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        write_noise(folder / "volume.ome.zarr", shape)
        for axes in args.axes:
            rows += measure(args, axes, folder / "volume.ome.zarr", folder, shape, report)
    write_json(args.json, {**about, **options(args, "folder"), "rows": rows})


if __name__ == "__main__":
    main()
