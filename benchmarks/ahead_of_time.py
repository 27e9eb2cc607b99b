r"""Compiles the training step and the encoder for accelerators that are not attached, and analyses the programs.

    pip install "jax[cuda13]"        # for h100 and h200; "jax[tpu]" for TPUs. No accelerator is needed
    python benchmarks/ahead_of_time.py --targets h100 h200 h200:1x1x8 --json runs/ahead_of_time.json
    python benchmarks/ahead_of_time.py --targets v5e:2x4 v5p:2x2x2

Shows that the programs compile, and prints for one device: temporary memory; collectives; on GPUs the kernels and the
bytes that they move; and a lower bound for the time of a step, from its bytes at the full memory bandwidth and its FLOP
(`flop_per_image`) at the chip's dense bfloat16 rate, both as the makers state them. Nothing is run: these are bounds,
not measurements, and matmuls are not autotuned as they would be on the device. A GPU's topology is slices x hosts x
devices per host ("h200:1x8x8": 8 hosts of 8), a TPU's that of its slice. --batch is per device. --text keeps the
programs' text.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import re
import sys
import unittest.mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"  # nothing to tune on

import jax
import jax.numpy as jnp
from encode_and_step import MODELS
from jax.experimental import topologies
from program import collectives, kernels
from reporting import add_json_option, write_json

from his4mae_jax.inference.encode import make_encode
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import batch_like
from his4mae_jax.training.step.settings import StepSettings

# TFLOP/s (dense bfloat16) and TB/s of one chip.
PEAKS = {"h100": (989, 3.35), "h200": (989, 4.8), "v5e": (197, 0.82), "v5p": (459, 2.77), "v6e": (918, 1.64)}
HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {memory} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }} runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""
GPUS = {
    "h100": HOPPER.format(bandwidth=3352320000000, memory=84929347584, name="NVIDIA H100 80GB HBM3"),
    "h200": HOPPER.format(bandwidth=4800000000000, memory=150754820096, name="NVIDIA H200"),
}
CUDNN = 91200  # of the HOPPER description
TOP = 12  # groups of kernels that are printed


def devices_of(target):
    """Return the compile-only devices of a target such as "h200", "h200:1x1x8" or "v5e:2x4"."""
    chip, _, shape = target.partition(":")
    if chip not in PEAKS:
        raise SystemExit(f"--targets {target}: choose among {', '.join(PEAKS)}, with a topology as in h200:1x1x8")
    try:
        if chip in GPUS:
            topology = topologies.get_topology_desc(
                platform="cuda", target_config=GPUS[chip], topology=shape or "1x1x1"
            )
        else:
            topology = topologies.get_topology_desc(platform="tpu", topology_name=target)
    except (NotImplementedError, RuntimeError) as e:
        extra = "cuda13" if chip in GPUS else "tpu"
        raise SystemExit(f'--targets {target}: {e}; pip install "jax[{extra}]" brings its compiler') from e
    return topology.devices


@contextlib.contextmanager
def as_hopper():
    """Lower attention to cuDNN as on Hopper: JAX would query the attached device for what it supports."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    answers = {
        "check_cudnn_version": CUDNN,
        "check_compute_capability": True,
        "is_cuda_compute_capability_equal": False,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(unittest.mock.patch.object(cudnn, name, lambda *_, answer=answer: answer))
        yield


def programs(config, devices):
    """Compile `{"step": ..., "encode": ...}` for a mesh of the devices."""
    mesh = jax.sharding.Mesh(devices, ("data",))
    settings = StepSettings.from_config(config)
    state = jax.eval_shape(lambda: states.create(settings))
    batch = batch_like(config)
    images = jax.ShapeDtypeStruct(batch["crop"].shape, jnp.float32)
    split = meshes.batch_sharding(mesh)
    encode = jax.jit(make_encode(settings.models), in_shardings=(meshes.replicated(mesh), split), out_shardings=split)
    with tracing_for(devices[0]), as_hopper():
        count = jax.ShapeDtypeStruct((), jnp.int32)
        step = StepPrograms(settings, mesh).program(ready=True).lower(state, batch, count)
        encode = encode.lower(state.params["encoder"], images)
        return {"step": step.compile(), "encode": encode.compile()}


def groups(program):
    """Sum up kernels that are alike in all blocks: `[(bytes, kernels, kind, op)]`, the most bytes first."""
    totals = collections.defaultdict(lambda: [0, 0])
    for kernel in program:
        op = re.sub(r"block\d+/", "block/", re.sub(r"^jit\(\w+\)/", "", kernel.op))
        entry = totals[kernel.kind, op]
        entry[0], entry[1] = entry[0] + kernel.bytes, entry[1] + 1
    return sorted(((*entry, *key) for key, entry in totals.items()), reverse=True)


def analyse(target, what, compiled, flop, batch, microbatch):
    """Print and return a row about one program; `flop` and `batch` are per device.

    With a microbatch the step is a loop, whose kernels occur in the text only once: then they are not counted.
    """
    chip = target.partition(":")[0]
    tflops, tbytes = PEAKS[chip]
    text, memory = compiled.as_text(), compiled.memory_analysis()
    row = {"target": target, "what": what, "temporary_gbytes": memory.temp_size_in_bytes / 1e9}
    row |= {"ms_of_flop": flop / tflops / 1e9, "collectives": collectives(text)}
    # A TPU's program overlaps its copies to on-chip memory with computation, which this count does not model.
    if chip in GPUS and not microbatch:
        program = kernels(text)
        moved = sum(k.bytes for k in program)
        row |= {"kernels": len(program), "gbytes": moved / 1e9, "ms_of_bytes": moved / tbytes / 1e9}
        row["groups"] = groups(program)[:TOP]
    if not microbatch:
        row["most_per_s"] = 1e3 * batch / max(row.get("ms_of_bytes", 0.0), row["ms_of_flop"])
    cells = (("kernels", 7, ","), ("gbytes", 8, ".2f"), ("temporary_gbytes", 8, ".2f"), ("ms_of_bytes", 9, ".2f"),
             ("ms_of_flop", 8, ".2f"), ("most_per_s", 11, ",.0f"))  # fmt: skip
    texts = [f"{row[key]:>{width}{form}}" if key in row else f"{'-':>{width}}" for key, width, form in cells]
    print(f"{target:<12} {what:<7} {' '.join(texts)}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["h100", "h200"])
    parser.add_argument("--model", choices=MODELS, default="full")
    parser.add_argument("--method", choices=sorted(METHODS), default="his4mae")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=256, help="per device")
    parser.add_argument("--microbatch", type=int, default=0, help="train.microbatch; kernels are then not counted")
    parser.add_argument("--text", type=pathlib.Path, help="folder for the text of the programs")
    add_json_option(parser)
    args = parser.parse_args()
    targets = {target: devices_of(target) for target in args.targets}
    print(f"jax {jax.__version__}, {args.model} model, {args.method}, {args.dtype}, batch {args.batch} per device")
    columns = ("kernels", 7), ("GB", 8), ("temp GB", 8), ("ms bytes", 9), ("ms FLOP", 8), ("at most /s", 11)
    print(f"{'target':<12} {'program':<7} " + " ".join(f"{name:>{width}}" for name, width in columns))
    rows = []
    for target, devices in targets.items():
        config = MODELS[args.model]()
        config.method, config.model.dtype = args.method, args.dtype
        config.train.batch_size, config.train.microbatch = args.batch * len(devices), args.microbatch
        config.train.steps, config.codebook.start = 10**6, 0.0
        flop = flop_per_image(config)
        for what, compiled in programs(config, devices).items():
            rows.append(analyse(target, what, compiled, flop[what] * args.batch, args.batch, args.microbatch))
            if args.text:
                args.text.mkdir(parents=True, exist_ok=True)
                (args.text / f"{target.replace(':', '_')}_{what}.txt").write_text(compiled.as_text())
    for row in rows:
        print(f"\n{row['target']}, {row['what']}: bytes by kind of kernel, and collectives")
        for moved, count, kind, op in row.get("groups", ()):
            print(f"{moved / 1e9:8.2f} GB {count:>5} x {kind:<28.28} {op[-80:]}")
        for kind, (count, moved) in row["collectives"].items():
            print(f"{moved / 1e9:8.3f} GB {count:>5} x {kind}")
    about = {"jax": jax.__version__, "model": args.model, "method": args.method, "dtype": args.dtype}
    write_json(args.json, {**about, "batch": args.batch, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
