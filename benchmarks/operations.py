r"""Processor time of the model's operations on a CPU, forward and with gradients, beside PyTorch's.

    python benchmarks/operations.py --json runs/operations.json

float32, at the sizes of 32 fields of view in the paper's model. Prints the processor time (user and system) of the
whole process, so that it does not matter how many cores do the work: the least of --rounds rounds of about --seconds
each, ours and PyTorch's in turn (A B A B). Without PyTorch only ours are measured.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from reporting import add_json_option, machine, one_line, write_json

from his4mae_jax.models.kernels.attention import attention
from his4mae_jax.models.kernels.gelu import gelu
from his4mae_jax.models.kernels.layer_norm import normalise

# Name, kind, shape of the input, heads.
OPERATIONS = (
    ("Linear 4096 x 192 -> 576", "linear", (4096, 192), 0),
    ("attention, 32 x 128 tokens, 1 head of 192", "attention", (32, 128, 576), 1),
    ("attention, 32 x 256 tokens, 1 head of 192", "attention", (32, 256, 576), 1),
    ("attention, 32 x 256 tokens, 8 heads of 16", "attention", (32, 256, 384), 8),
    ("attention, 32 x 257 tokens, 8 heads of 16", "attention", (32, 257, 384), 8),
    ("GELU 4096 x 384", "gelu", (4096, 384), 0),
    ("LayerNorm 4096 x 192", "norm", (4096, 192), 0),
)


def inputs(kind: str, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the operation's input and parameters, NumPy arrays."""
    rng, D = np.random.default_rng(0), shape[-1]
    more = {"linear": [(D, 3 * D), (3 * D,)], "norm": [(D,), (D,)]}.get(kind, [])
    return [rng.normal(size=s).astype(np.float32) for s in (shape, *more)]


def gradient(shape: tuple[int, ...]) -> np.ndarray:
    """Return a gradient of the operation's output, a NumPy array."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ours(kind: str, shape: tuple[int, ...], heads: int) -> dict[str, Callable[[], Any]]:
    """Return our implementation, `{"forward": run, "both": run}`."""
    function = {
        "linear": lambda x, w, b: x @ w + b,
        "attention": lambda x: attention(x, heads),
        "gelu": gelu,
        "norm": lambda x, scale, bias: normalise(x, scale, bias, 1e-6),
    }[kind]
    given = [jnp.asarray(x) for x in inputs(kind, shape)]
    out = jax.eval_shape(function, *given)
    grad = jnp.asarray(gradient(out.shape))
    forward = jax.jit(function)

    @jax.jit
    def both(grad, *given):
        value, pull = jax.vjp(function, *given)
        return value, pull(grad)

    return {
        "forward": lambda: jax.block_until_ready(forward(*given)),
        "both": lambda: jax.block_until_ready(both(grad, *given)),
    }


def theirs(kind: str, shape: tuple[int, ...], heads: int) -> dict[str, Callable[[], Any]]:
    """Return PyTorch's implementation, as `ours` does."""
    import torch
    from torch.nn import functional as F

    def attend(x):
        B, T, D = x.shape
        q, k, v = x.reshape(B, T, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D // 3)

    function = {
        "linear": lambda x, w, b: F.linear(x, w, b),
        "attention": attend,
        "gelu": F.gelu,
        "norm": lambda x, scale, bias: F.layer_norm(x, scale.shape, scale, bias, 1e-6),
    }[kind]
    given = inputs(kind, shape)
    if kind == "linear":  # PyTorch stores it transposed
        given[1] = np.ascontiguousarray(given[1].T)
    given = [torch.from_numpy(x).requires_grad_() for x in given]
    grad = None

    def forward():
        with torch.no_grad():
            return function(*given)

    def both():
        nonlocal grad
        out = function(*given)
        grad = torch.from_numpy(gradient(out.shape)) if grad is None else grad
        return torch.autograd.grad(out, given, grad)

    return {"forward": forward, "both": both}


def least_ms(runners: dict[Any, Callable[[], Any]], rounds: int, seconds: float) -> dict[Any, float]:
    """Measure `{name: ms of processor time per call}`, the least of `rounds` rounds in turn."""
    calls, least = {}, dict.fromkeys(runners, float("inf"))
    for name, run in runners.items():
        run()  # compiles
        began = time.perf_counter()
        run()
        calls[name] = max(1, int(seconds / (time.perf_counter() - began)))
    for _ in range(rounds):
        for name, run in runners.items():
            began = time.process_time()
            for _ in range(calls[name]):
                run()
            least[name] = min(least[name], 1e3 * (time.process_time() - began) / calls[name])
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round of one operation")
    add_json_option(parser)
    args = parser.parse_args()
    implementations, about = {"ours": ours}, machine()
    with contextlib.suppress(ImportError):
        import torch

        implementations["torch"], about["torch"] = theirs, torch.__version__
    print(one_line(about))
    print(
        f"{'ms of processor time, forward / forward and backward':<54}"
        + "".join(f"{name:>18}" for name in implementations)
    )
    rows = []
    for name, kind, shape, heads in OPERATIONS:
        runs = {}
        for who, make in implementations.items():
            runs |= {(who, part): run for part, run in make(kind, shape, heads).items()}
        least = least_ms(runs, args.rounds, args.seconds)
        rows.append({"operation": name, **{f"{who} {part}": ms for (who, part), ms in least.items()}})
        cells = (f"{least[who, 'forward']:.2f} / {least[who, 'both']:.2f}" for who in implementations)
        print(f"{name:<54}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    write_json(args.json, {**about, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
