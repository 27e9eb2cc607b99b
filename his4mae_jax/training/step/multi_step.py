"""Several optimiser steps in one call of the device, in the order and with the results of single ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.training.devices.distributed import compiled_together
from his4mae_jax.training.devices.mesh import batch_sharding, replicated, stacked_sharding
from his4mae_jax.training.step.step import init_codebook, train_step


def call_spans(start, total, per_call, *, every, stop):
    """`(first step, count)` of each call: at most `per_call` steps, ending at every multiple of `every` (there
    a checkpoint needs the state) and before step `stop` (there the codebook is placed).
    """
    step = start
    while step < total:
        end = min(step + per_call, total, (step // every + 1) * every)
        end = min(end, stop) if step < stop else end
        yield step, end - step
        step = end


def compile_calls(config, models, optimizer, mesh, *, per_call, resident=None, special=None):
    """`(advance, place)`, jitted over the mesh; both donate the state.

    advance(state, data, count, ready) -> (state, metrics): `count` steps, at most `per_call`, all metrics
    stacked `(per_call,)`, of which the first `count` count; `ready` says whether distillation has begun.
    place(state, data) -> state places the codebook by the batch of the state's step. `data` are a
    `ResidentSampler`'s arrays, or from the host the batch of the step (`per_call` 1), or `per_call` batches
    stacked (of which `count` count).

    With `special`, as by itself on accelerators, there is a program of its own for each `ready` and for calls of
    `per_call` steps: where a program must look whether to go on or which branch to take, a GPU's runtime asks the
    device and waits, once a step each. On CPUs nothing is won, and one program serves all.
    """
    special = not targets_cpu() if special is None else special
    everywhere = replicated(mesh)
    if resident is not None:
        batch_of, placed = (lambda data, i, step: resident.batch(data, step)), everywhere
    elif per_call == 1:
        batch_of, placed = (lambda data, i, step: data), batch_sharding(mesh)
    else:
        batch_of, placed = (lambda data, i, step: jax.tree.map(lambda x: x[i], data)), stacked_sharding(mesh)
    step = functools.partial(train_step, config=config, models=models, optimizer=optimizer, mesh=mesh)

    def single(state, data, count, one, whole):
        state, metrics = one(state, data, 0)
        return state, jax.tree.map(lambda x: x[None], metrics)

    def several(state, data, count, one, whole):
        # A loop of traced length: one compilation serves all counts, the shorter calls before checkpoints too.
        count = per_call if whole else count
        like = jax.eval_shape(one, state, data, 0)[1]
        empty = jax.tree.map(lambda x: jnp.zeros((per_call, *x.shape), x.dtype), like)

        def body(i, carry):
            state, rows = carry
            state, metrics = one(state, data, i)
            return state, jax.tree.map(lambda all, new: all.at[i].set(new), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, empty))

    def place(state, data):
        return init_codebook(state, batch_of(data, 0, state.step), config=config, models=models)

    @functools.cache
    def program(ready, whole):
        def one(state, data, i):
            return step(state, batch_of(data, i, state.step), ready=ready)

        call = functools.partial(single if per_call == 1 else several, one=one, whole=whole)
        shardings = dict(in_shardings=(everywhere, placed, everywhere), out_shardings=everywhere)
        return compiled_together(jax.jit(call, **shardings, donate_argnums=0), f"advance {ready} {whole}")

    def advance(state, data, count, ready):
        chosen = program(bool(ready), count == per_call) if special else program(None, False)
        return chosen(state, data, on_device(count))

    place = jax.jit(place, in_shardings=(everywhere, placed), out_shardings=everywhere, donate_argnums=0)
    # Put there once each: numbers given as they are would cross to the device in every call.
    on_device = functools.cache(lambda count: jax.device_put(np.int32(count), everywhere))
    return advance, compiled_together(place, "place")
