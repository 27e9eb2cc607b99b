r"""Speed of the training step (images/s) and of encoding (fields of view/s), whatever the device.

    python benchmarks/encode_and_step.py --json runs/speed.json

Models: "demo" is that of configs/demo.py, "full" the default configuration (encoder
192 x 14, decoder 128 x 7 x 8 heads). A training step is the whole of training.step: crops to
fields of view, masking, student, teacher, decoder, gradients, optimiser, EMA and codebook.
Encoding is the student on unmasked fields of view. Batches are random and already on the device,
so reading volumes is not measured. Compilation is timed separately.
"""

import argparse
import pathlib
import runpy
import statistics
import time

import jax
import numpy as np
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.config import get_default
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.settings import StepSettings

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODELS = {"demo": runpy.run_path(str(ROOT / "configs" / "demo.py"))["get_config"], "full": get_default}


def compiled(function, *args):
    """Compile a jitted function: `(compiled function, seconds of tracing and compilation)`."""
    began = time.perf_counter()
    return function.lower(*args).compile(), time.perf_counter() - began


def median_seconds(call, repeats, calls):
    """Return the median over `repeats` of the seconds per call, each measured over `calls` calls in a row."""
    jax.block_until_ready(call())  # the first run allocates
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - began) / calls)
    return statistics.median(seconds)


def measure(config, repeats, calls):
    """Return two rows, of the step and of encoding: dicts of what, rate_per_s, seconds, compile_seconds."""
    mesh, batch_size = meshes.make_mesh(), config.train.batch_size
    everywhere, split = meshes.replicated(mesh), meshes.batch_sharding(mesh)
    settings = StepSettings.from_config(config)
    state = jax.jit(lambda: states.create(settings), out_shardings=everywhere)()
    batch = meshes.put_batch(mesh, noise_batch(config))
    images_BxFxF = meshes.put_batch(mesh, np.random.default_rng(0).random(batch["crop"].shape, np.float32))

    encode = jax.jit(make_encode(settings.models), in_shardings=(everywhere, split), out_shardings=split)
    encode, encode_compile = compiled(encode, state.params["encoder"], images_BxFxF)
    encode_seconds = median_seconds(lambda: encode(state.params["encoder"], images_BxFxF), repeats, calls)

    step, step_compile = compiled(StepPrograms(settings, mesh).program(), state, batch, 1)

    def one_step():
        nonlocal state  # the step donates its state: each call continues from the last
        state, metrics = step(state, batch, 1)
        return state, metrics

    step_seconds = median_seconds(one_step, repeats, calls)
    rows = (("step", step_seconds, step_compile), ("encode", encode_seconds, encode_compile))
    return [dict(what=w, rate_per_s=batch_size / s, seconds=s, compile_seconds=c) for w, s, c in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=32, help="images, or fields of view, at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype")
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median is printed")
    parser.add_argument("--calls", type=int, default=3, help="calls in a row that make one measurement")
    add_json_option(parser)
    args = parser.parse_args()
    about = machine()
    print(f"{one_line(about)}, batch {args.batch}, {args.dtype}")
    print(f"{'model':<6} {'what':<7} {'per second':>11} {'ms a call':>10} {'compile s':>10}")
    rows = []
    for name in args.models:
        config = MODELS[name]()
        config.train.batch_size, config.model.dtype = args.batch, args.dtype
        for row in measure(config, args.repeats, args.calls):
            rows.append({"model": name, **row})
            numbers = row["rate_per_s"], 1e3 * row["seconds"], row["compile_seconds"]
            print("{:<6} {:<7} {:>11.1f} {:>10.1f} {:>10.1f}".format(name, row["what"], *numbers), flush=True)
    write_json(args.json, {**about, **options(args, "models"), "rows": rows})


if __name__ == "__main__":
    main()
