"""Does this device compute what a CPU computes? Losses, gradients and tokens, float32 and bfloat16.

    python benchmarks/gpu_check.py

The paper's model on eight random fields of view, the same parameters and masks on both. Matrix products of
float32 are made in full precision here, so that they can be held to 1e-4; bfloat16 to 5 %. Prints one row a
quantity, with the attention that was chosen; exits with 1 where one is off.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

from his4mae_jax.config import get_default
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.models.kernels.attention import implementation
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.pretext.methods import METHODS

IMAGES = 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def computed(dtype, device):
    """`{name: array}` of one dtype on one device."""
    config = get_default()
    config.model.dtype = dtype
    method = METHODS[config.method]
    models = method.build(config)
    with jax.default_device(device), tracing_for(device):
        params = method.init_params(jax.random.key(0), models)
        images = np.random.default_rng(0).random((IMAGES, config.model.fov, config.model.fov), np.float32)

        static, batch = {"models": models, "settings": method.settings(config)}, {"image": images}
        prepared = method.prepare(jax.random.key(1), batch, **static)

        def loss(params):
            return method.loss(params, params["encoder"], batch, prepared, ready=True, **static)

        grads, (losses, _) = jax.jit(jax.grad(loss, has_aux=True))(params)
        tokens = jax.jit(make_encode(models))(params["encoder"], images)
        both = {"gradient of the " + part: grads[part] for part in ("encoder", "decoder")}
        flat = {k: np.concatenate([np.ravel(x) for x in jax.tree.leaves(v)]) for k, v in both.items()}
        return {**{k: np.asarray(v) for k, v in losses.items()}, **flat, "tokens": np.asarray(tokens, np.float32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers there as well")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    device, reference, rows = jax.devices()[0], jax.local_devices(backend="cpu")[0], []
    print(f"{device.device_kind}, jax {jax.__version__}")
    want = computed("float32", reference)
    for dtype, tolerance in TOLERANCE.items():
        chosen = {f"{d} features a head": implementation(np.dtype(dtype), d) for d in (192, 16)}
        print(f"{dtype}: attention " + ", ".join(f"{k}: {v}" for k, v in chosen.items()))
        for name, value in computed(dtype, device).items():
            # Relative to the largest value: single gradients may be next to nothing.
            off = float(np.abs(value - want[name]).max() / np.abs(want[name]).max())
            rows.append({"dtype": dtype, "what": name, "difference": off, "fine": off <= tolerance})
            print(f"{dtype:<9} {name:<24} {off:10.2e} {'' if off <= tolerance else 'OFF'}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"device": device.device_kind, "rows": rows}, indent=2) + "\n")
    sys.exit(0 if all(row["fine"] for row in rows) else 1)


if __name__ == "__main__":
    main()
