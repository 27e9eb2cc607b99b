r"""What devices tell each other in a training step, and what that costs on links of a given speed.

    python benchmarks/scaling.py --model full --devices 8
    python benchmarks/scaling.py --model full --step-ms 16.4 --chips 8@450 64@50 512@50

The step is compiled for so many (CPU) devices and not run: the collectives are those in the compiled program, with
the bytes of their results. They are the same for any number of devices above one. Then, for chips@bandwidth (GB/s that
a chip sends over its slowest link), the time of a ring that reduces them, twice (n - 1) / n of the bytes, plus
--latency-us for each of 2 log2(n) hops, and the efficiency: the step's own time (--step-ms, measured on one chip) over
both. Nothing is taken to overlap. "weak": each chip keeps the batch that --step-ms was measured with; "strong":
they share it.
"""

import argparse
import json
import math
import os
import pathlib

import jax
from encode_and_step import MODELS
from program import collectives

from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.noise_batch import batch_like
from his4mae_jax.training.step.optimizer import make_optimizer
from his4mae_jax.training.step.step import compile_steps


def compiled_step(config):
    """`(program text of one training step on all devices, bytes of the parameters)`."""
    models, optimizer = METHODS[config.method].build(config), make_optimizer(config)
    state = jax.eval_shape(lambda: states.create(config, models, optimizer))
    step, _ = compile_steps(config, models, optimizer, meshes.make_mesh())
    # Machine code is not wanted, and most of the work.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    text = step.lower(state, batch_like(config)).compile(compiler_options=quick).as_text()
    return text, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))


def seconds_of_ring(size, chips, gbytes_per_s, latency_us):
    """Of a reduction of `size` bytes over `chips`."""
    if chips == 1:
        return 0.0
    return 2 * (chips - 1) / chips * size / (gbytes_per_s * 1e9) + 2 * math.log2(chips) * latency_us * 1e-6


def efficiencies(size, step_ms, chips, gbytes_per_s, latency_us):
    """A row of the table."""
    talk = 1e3 * seconds_of_ring(size, chips, gbytes_per_s, latency_us)
    share = step_ms / chips
    return {
        "chips": chips, "gbytes_per_s": gbytes_per_s, "talk_ms": talk,
        "weak": step_ms / (step_ms + talk), "strong": share / (share + talk),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--step-ms", type=float, help="of one step on one chip, measured")
    parser.add_argument("--chips", nargs="*", default=[], metavar="N@GB/s")
    parser.add_argument("--latency-us", type=float, default=10.0)
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.chips and not options.step_ms:
        parser.error("--chips needs --step-ms")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    text, of_params = compiled_step(MODELS[options.model]())
    found = collectives(text)
    print(f"{options.model} on {options.devices} devices; parameters {of_params / 1e6:.2f} MB")
    for kind, (count, size) in found.items():
        print(f"{kind:<20}{count:>5} of {size / 1e6:9.3f} MB a step together")
    size = sum(size for _, size in found.values())
    rows = []
    for item in options.chips:
        chips, speed = item.split("@")
        rows.append(efficiencies(size, options.step_ms, int(chips), float(speed), options.latency_us))
        line = "{chips:>5} chips, {gbytes_per_s:g} GB/s: {talk_ms:.3f} ms, weak {weak:.3f}, strong {strong:.3f}"
        print(line.format(**rows[-1]))
    if options.json:
        path = pathlib.Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = {"model": options.model, "devices": options.devices, "parameter_bytes": of_params}
        written |= {"collectives": found, "bytes": size, "rows": rows, "cpus": os.cpu_count(), "jax": jax.__version__}
        path.write_text(json.dumps(written, indent=2))


if __name__ == "__main__":
    main()
