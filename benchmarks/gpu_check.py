"""Compares losses, gradients and tokens of this device with those of a CPU, in float32 and bfloat16.

    python benchmarks/gpu_check.py

The paper's model on eight random fields of view, with the same parameters and masks on both. float32 matmuls run in
full precision here, with a tolerance of 1e-4; that of bfloat16 is 5 %. Prints one row per quantity, and which attention
was chosen; exits with 1 if a quantity is off.
"""

import argparse
import sys

import jax
import numpy as np
from reporting import add_json_option, machine, write_json

from his4mae_jax.config import get_default
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.models.kernels.attention import implementation
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.pretext.methods import METHODS

IMAGES = 8
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def computed(dtype: str, device: jax.Device) -> dict[str, np.ndarray]:
    """Compute `{name: array}` in one dtype on one device."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_json_option(parser)
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    device, reference, rows = jax.devices()[0], jax.local_devices(backend="cpu")[0], []
    print(f"{device.device_kind}, jax {jax.__version__}")
    want = computed("float32", reference)
    for dtype, tolerance in TOLERANCE.items():
        chosen = {f"{d} features per head": implementation(np.dtype(dtype), d) for d in (192, 16)}
        print(f"{dtype}: attention " + ", ".join(f"{k}: {v}" for k, v in chosen.items()))
        for name, value in computed(dtype, device).items():
            # Relative to the largest value: single gradients may be almost zero.
            off = float(np.abs(value - want[name]).max() / np.abs(want[name]).max())
            rows.append({"dtype": dtype, "what": name, "difference": off, "within": off <= tolerance})
            print(f"{dtype:<9} {name:<24} {off:10.2e} {'' if off <= tolerance else 'OFF'}", flush=True)
    write_json(args.json, {**machine(), "rows": rows})
    sys.exit(0 if all(row["within"] for row in rows) else 1)


if __name__ == "__main__":
    main()
