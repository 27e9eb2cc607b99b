r"""Training step (images/s) and encoding (fields of view/s) beside PyTorch: the same work, in turn, in one process.

    python benchmarks/train_throughput.py --method maester --json runs/train_throughput.json
    python benchmarks/train_throughput.py --batch 256 --dtype bfloat16 --peer reduce-overhead --peak-tflops 989

A step is all that training does: crops cut on the device from a volume in its memory, masks, student, teacher,
decoder, codebook, gradients, optimiser and EMA. The peer (torch_peer.py; needs PyTorch) does the same. All are
compiled and run once, then take turns, round after round (A B A B). Prints medians and the ratio of ours to the
fastest peer. "FLOP" are those of the matmuls in the network (`flop_per_image`); with --peak-tflops also the fraction of
the chip's peak. --profile=FOLDER keeps a trace of one round of steps and prints where its time went.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # PyTorch needs the other half

import jax
import numpy as np
from reporting import add_json_option, load, machine, one_line, options, write_json

from his4mae_jax.config import SUPERVISED, get_default
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import make_geometry
from his4mae_jax.data.sampling.resident import ResidentSampler
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.inference.device_loops import split_batches
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.models.kernels.batches import fovs_at_once
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.devices.cpu_devices import share_cores
from his4mae_jax.training.run.batch_source import steps_per_dispatch
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import batch_like
from his4mae_jax.training.step.settings import StepSettings

PEERS = ("his4mae", "maester")  # methods that torch_peer.py has; others are measured alone
TOP = 20  # entries of the profile's table


class Array:
    """A NumPy array as a volume."""

    name, voxel_size_nm = "random bytes", (16.0, 16.0, 16.0)

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, slices):
        return self.array[slices]


def random_bytes(shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


class Ours:
    """This project: `steps(count)` and `encode(calls)` run and wait for the results."""

    def __init__(self, config, volume):
        mesh, settings = meshes.make_mesh(), StepSettings.from_config(config)
        everywhere, volume = meshes.replicated(mesh), Array(volume)
        box = tuple(slice(0, n) for n in volume.shape)
        geometry = make_geometry([volume], [box], "zyx", config.model.fov)
        plan = Plan(geometry, config.seed, config.train.batch_size, config.data.crop_min, config.model.fov)
        sampler = ResidentSampler(plan, [volume], [Contrast(0, 255)], mesh)
        self.create = lambda: states.create(settings)
        self.state = jax.jit(self.create, out_shardings=everywhere)()
        self.params = jax.device_get(self.state.params)
        self.per_dispatch = steps_per_dispatch(config, resident=True)
        self._programs = StepPrograms(settings, mesh, per_dispatch=self.per_dispatch, resident=sampler)
        self._data = sampler.arrays
        split = meshes.batch_sharding(mesh)
        encode, at_once = make_encode(settings.models), fovs_at_once(settings.models)

        def encode_all(params, images_BxFxF):  # as segmentation does
            return split_batches(mesh, lambda x: encode(params, x), images_BxFxF, at_once)

        self._encode = jax.jit(encode_all, in_shardings=(everywhere, split), out_shardings=split)
        images = np.random.default_rng(0).random((config.train.batch_size,) + (config.model.fov,) * 2, np.float32)
        self._images = meshes.put_batch(mesh, images)

    def steps(self, count):
        for _ in range(count // self.per_dispatch):
            self.state, metrics = self._programs.advance(self.state, self._data, self.per_dispatch, True)
        jax.block_until_ready((self.state, metrics))

    def encode(self, calls):
        for _ in range(calls):
            tokens = self._encode(self.state.params["encoder"], self._images)
        jax.block_until_ready(tokens)


class Theirs:
    """The peer, compiled with one of torch.compile's modes or not at all ("none")."""

    def __init__(self, config, volume, mode, params):
        import torch
        import torch_peer

        cpu = jax.default_backend() == "cpu"
        torch.set_num_threads(os.cpu_count())
        half = config.model.dtype == "bfloat16"
        self._step = torch_peer.Step(config, volume, "cpu" if cpu else "cuda", mode, half)
        self._step.load(params)
        self._images = self._step.cut()

    def steps(self, count):
        for _ in range(count):
            self._step.step()
        self._step.wait()

    def encode(self, calls):
        for _ in range(calls):
            self._step.encode(self._images)
        self._step.wait()


def xla_counts(config, ours):
    """Return XLA's own count of FLOP and bytes per step and image; without a count where it has none."""
    B, mesh = config.train.batch_size, meshes.make_mesh()
    config = config.copy_and_resolve_references()
    config.train.microbatch = B  # XLA counts the body of a loop once
    step = StepPrograms(StepSettings.from_config(config), mesh).program(ready=True)
    compiled = step.lower(jax.eval_shape(ours.create), batch_like(config), 1).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    per_image = {name: cost[key] / B for name, key in (("flop", "flops"), ("bytes", "bytes accessed")) if key in cost}
    return {**per_image, "temporary_bytes": memory.temp_size_in_bytes if memory else None}


def take_turns(runners, work, rounds, per_run):
    """Measure `{name: batches/s of each round}` of `work` ("steps" or "encode")."""
    rates = {name: [] for name in runners}
    for name, runner in runners.items():  # compiles, allocates
        began = time.perf_counter()
        getattr(runner, work)(per_run)
        print(f"  {name}: first {work} after {time.perf_counter() - began:.1f} s", flush=True)
    for _ in range(rounds):
        for name, runner in runners.items():
            began = time.perf_counter()
            getattr(runner, work)(per_run)
            rates[name].append(per_run / (time.perf_counter() - began))
    return rates


def print_rows(rows, flop, peak):
    """Print the rows of one kind of work; add their ratio to the fastest peer and their fraction of the peak."""
    peers = [r["median"] for r in rows if r["who"] != "ours"]
    for row in rows:
        row["ratio"] = row["median"] / max(peers) if peers else None
        row["tflops"] = row["median"] * flop / 1e12
        row["fraction_of_peak"] = row["tflops"] / peak if peak else None
        ratio = f"{row['ratio']:9.2f}" if peers else f"{'-':>9}"
        fraction = f"{row['fraction_of_peak']:8.1%}" if peak else f"{'-':>8}"
        print(
            f"{row['method']:<8} {row['what']:<7} {row['who']:<22} {row['median']:>10.1f} {row['lowest']:>10.1f} "
            f"{row['highest']:>10.1f} {ratio} {row['tflops']:>8.3f} {fraction}", flush=True
        )  # fmt: skip


def profile(folder, run):
    """Trace `run()`; print and return what took longest, `[(name, ms, calls)]`."""
    with jax.profiler.trace(folder):
        run()
    path = max(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda p: p.stat().st_mtime)
    totals = {}
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    chosen = [p for p in planes if p.name.startswith("/device:GPU") or p.name.startswith("/device:TPU")]
    for plane in chosen or [p for p in planes if p.name.startswith("/host:CPU")]:
        for line in plane.lines:
            # A CPU's lines are threads. On an accelerator kernels are in streams; other lines repeat them.
            if chosen and "Stream" not in line.name and "XLA Ops" not in line.name:
                continue
            for event in line.events:
                entry = totals.setdefault(event.name.split("(")[0][:70], [0.0, 0])
                entry[0], entry[1] = entry[0] + event.duration_ns / 1e6, entry[1] + 1
    top = sorted(((name, *entry) for name, entry in totals.items()), key=lambda e: -e[1])[:TOP]
    whole = sum(ms for ms, _ in totals.values())
    print(f"{'where a round of steps spends its time':<70} {'ms':>9} {'calls':>6} {'part':>6}")
    for name, ms, calls in top:
        print(f"{name:<70} {ms:>9.2f} {calls:>6} {ms / whole:>6.1%}", flush=True)
    return top


def configured(method, args):
    """Return the paper's settings, MAESTER with its cls token, distillation from the first step on."""
    config = get_default()
    config.method, config.model.cls_token = method, method == "maester"
    config.model.dtype, config.train.batch_size = args.dtype, args.batch
    config.train.microbatch = args.microbatch
    config.train.steps, config.codebook.start, config.train.steps_per_call = 10**6, 0.0, args.per_call
    return config


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", nargs="+", choices=sorted(METHODS.keys() - SUPERVISED), default=["his4mae"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer", nargs="*", default=["none", "default"], help="modes of torch.compile, or 'none'")
    parser.add_argument("--what", nargs="+", choices=("step", "encode"), default=["step", "encode"])
    parser.add_argument("--rounds", type=int, default=5, help="measurements, of which the median is printed")
    parser.add_argument("--calls", type=int, default=2, help="calls in a row that make one measurement")
    parser.add_argument("--per-call", type=int, default=0, help="our steps in one call (0: as training takes them)")
    parser.add_argument("--microbatch", type=int, default=0, help="our train.microbatch (0: as training chooses it)")
    parser.add_argument("--side", type=int, default=256, help="voxels a side of the volume")
    parser.add_argument("--peak-tflops", type=float, help="of the device, at this dtype")
    parser.add_argument("--count", action="store_true", help="compile once more for XLA's own count of FLOP and bytes")
    parser.add_argument("--profile", help="folder of a trace of one round of our steps")
    add_json_option(parser)
    return parser.parse_args()


def measured(method, args, volume):
    """Measure one method: `(rows, {FLOP, XLA's counts, profile})`."""
    config, rows = configured(method, args), []
    flop, runners = flop_per_image(config), {"ours": Ours(config, volume)}
    for mode in args.peer if method in PEERS else ():
        runners[f"torch, {mode}"] = Theirs(config, volume, mode, runners["ours"].params)
    found = {"flop_per_image": flop}
    print(f"{method}: {flop['step'] / 1e9:.2f} GFLOP a step and image, {flop['encode'] / 1e9:.2f} to encode; "
          f"{runners['ours'].per_dispatch} of our steps in a dispatch")  # fmt: skip
    if args.count:
        found["xla"] = xla_counts(config, runners["ours"])
        print("XLA counts " + ", ".join(f"{k} {v:.4g}" for k, v in found["xla"].items() if v is not None))
    for what in args.what:
        calls = args.calls * (runners["ours"].per_dispatch if what == "step" else 1)
        rates = take_turns(runners, "steps" if what == "step" else "encode", args.rounds, calls)
        some = []
        for who, rounds in rates.items():
            rounds = [r * args.batch for r in rounds]
            low, middle, high = min(rounds), statistics.median(rounds), max(rounds)
            some.append(dict(method=method, what=what, who=who, median=middle, lowest=low, highest=high))
        columns = ("images/s", 10), ("lowest", 10), ("highest", 10), ("x peer", 9), ("TFLOP/s", 8), ("of peak", 8)
        print(f"{'method':<8} {'what':<7} {'who':<22} " + " ".join(f"{name:>{width}}" for name, width in columns))
        print_rows(some, flop[what], args.peak_tflops)
        rows += some
    if args.profile:
        steps = args.calls * runners["ours"].per_dispatch
        found["profile"] = profile(f"{args.profile}/{method}", lambda: runners["ours"].steps(steps))
    return rows, found


def main():
    args = parse()
    share_cores(configured(args.method[0], args))
    about = machine()
    with contextlib.suppress(ImportError):
        import torch

        about["torch"] = torch.__version__
    if "torch" not in about and args.peer:
        print("PyTorch is not installed: only this project is measured", file=sys.stderr)
        args.peer = []
    print(one_line(about), flush=True)
    volume, rows, found = random_bytes((args.side,) * 3), [], {}
    for method in args.method:
        some, found[method] = measured(method, args, volume)
        rows += some
    about["load_after"] = load()
    write_json(args.json, {**about, **options(args, "profile"), **found, "rows": rows})


if __name__ == "__main__":
    main()
