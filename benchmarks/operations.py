r"""Processor time of the model's operations on a CPU, forward and with gradients, beside PyTorch's.

    python benchmarks/operations.py --json runs/operations.json

float32, at the sizes of 32 fields of view in the paper's model. Processor time (user and system) of the whole process,
the least of --rounds rounds of about --seconds each, ours and PyTorch's in turn (A B A B): which cores do the work, and
how many, does not matter. Without PyTorch ours are told alone.
"""

import argparse
import contextlib
import json
import os
import pathlib
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

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


def inputs(kind, shape):
    """The operation's input and parameters, NumPy."""
    rng, D = np.random.default_rng(0), shape[-1]
    more = {"linear": [(D, 3 * D), (3 * D,)], "norm": [(D,), (D,)]}.get(kind, [])
    return [rng.normal(size=s).astype(np.float32) for s in (shape, *more)]


def gradient(shape):
    """That of the operation's output, NumPy."""
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def ours(kind, shape, heads):
    """`{"forward": run, "both": run}`."""
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


def theirs(kind, shape, heads):
    """The same in PyTorch."""
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
    if kind == "linear":  # PyTorch holds it transposed
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


def least_ms(runners, rounds, seconds):
    """`{name: ms of processor time a call}`, the least of `rounds` rounds in turn."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round of one operation")
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers there as well")
    args = parser.parse_args()
    who, about = {"ours": ours}, {"jax": jax.__version__, "cpu_cores": os.cpu_count()}
    with contextlib.suppress(ImportError):
        import torch

        who["torch"], about["torch"] = theirs, torch.__version__
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{'ms of processor time, forward / forward and backward':<54}" + "".join(f"{name:>18}" for name in who))
    rows = []
    for name, kind, shape, heads in OPERATIONS:
        runs = {(w, what): run for w, make in who.items() for what, run in make(kind, shape, heads).items()}
        found = least_ms(runs, args.rounds, args.seconds)
        rows.append({"operation": name, **{f"{w} {what}": ms for (w, what), ms in found.items()}})
        cells = (f"{found[w, 'forward']:.2f} / {found[w, 'both']:.2f}" for w in who)
        print(f"{name:<54}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**about, "rounds": args.rounds, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
