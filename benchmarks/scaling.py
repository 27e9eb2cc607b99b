r"""What devices communicate in a training step, and what that costs on links of a given speed.

    python benchmarks/scaling.py --model full --devices 8
    python benchmarks/scaling.py --model full --step-ms 16.4 --chips 8@450 64@50 512@50

The step is compiled for that many (CPU) devices and not run. The collectives are read from the compiled program, with
the bytes of their results; they are the same for any number of devices above one. Then, for each chips@bandwidth (GB/s
that a chip sends over its slowest link), the time of a ring all-reduce is computed: 2 (n - 1) / n of the bytes at that
bandwidth, plus --latency-us for each of 2 log2(n) hops. The efficiency is the step's own time (--step-ms, measured on
one chip) over the sum of both; no overlap is assumed. "weak": each chip keeps the batch that --step-ms was measured
with; "strong": that batch is split over the chips.
"""

import argparse
import math

import jax
from encode_and_step import MODELS
from program import collectives
from reporting import add_json_option, machine, write_json

from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import batch_like
from his4mae_jax.training.step.settings import StepSettings


def compiled_step(config):
    """Compile one training step on all devices: `(text of the program, bytes of the parameters)`."""
    settings = StepSettings.from_config(config)
    state = jax.eval_shape(lambda: states.create(settings))
    step = StepPrograms(settings, meshes.make_mesh()).program()
    # Skip the passes that make fast machine code: they are most of the work, and nothing is run.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    text = step.lower(state, batch_like(config), 1).compile(compiler_options=quick).as_text()
    return text, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))


def seconds_of_ring(size, chips, gbytes_per_s, latency_us):
    """Return the seconds of a ring all-reduce of `size` bytes over `chips`."""
    if chips == 1:
        return 0.0
    return 2 * (chips - 1) / chips * size / (gbytes_per_s * 1e9) + 2 * math.log2(chips) * latency_us * 1e-6


def efficiencies(size, step_ms, chips, gbytes_per_s, latency_us):
    """Return a row of the table: communication in ms, and the efficiencies of weak and strong scaling."""
    communication_ms = 1e3 * seconds_of_ring(size, chips, gbytes_per_s, latency_us)
    split_ms = step_ms / chips
    return {
        "chips": chips,
        "gbytes_per_s": gbytes_per_s,
        "communication_ms": communication_ms,
        "weak": step_ms / (step_ms + communication_ms),
        "strong": split_ms / (split_ms + communication_ms),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--step-ms", type=float, help="measured time of one step on one chip")
    parser.add_argument("--chips", nargs="*", default=[], metavar="N@GB/s")
    parser.add_argument("--latency-us", type=float, default=10.0)
    add_json_option(parser)
    args = parser.parse_args()
    if args.chips and not args.step_ms:
        parser.error("--chips needs --step-ms")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", args.devices)
    text, parameter_bytes = compiled_step(MODELS[args.model]())
    found = collectives(text)
    print(f"{args.model} on {args.devices} devices; parameters {parameter_bytes / 1e6:.2f} MB")
    for kind, (count, size) in found.items():
        print(f"{kind:<20}{count:>5} of {size / 1e6:9.3f} MB per step in total")
    size = sum(size for _, size in found.values())
    rows = []
    for item in args.chips:
        chips, speed = item.split("@")
        rows.append(efficiencies(size, args.step_ms, int(chips), float(speed), args.latency_us))
        line = (
            "{chips:>5} chips, {gbytes_per_s:g} GB/s: {communication_ms:.3f} ms, weak {weak:.3f}, strong {strong:.3f}"
        )
        print(line.format(**rows[-1]))
    numbers = {"model": args.model, "devices": args.devices, "parameter_bytes": parameter_bytes}
    numbers |= {"collectives": found, "bytes": size, "rows": rows}
    write_json(args.json, {**machine(), **numbers})


if __name__ == "__main__":
    main()
