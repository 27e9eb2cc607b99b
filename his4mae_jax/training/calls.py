"""Several optimiser steps in one call of the device, in the order and with the results of single ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from his4mae_jax.training.distributed import compiled_together
from his4mae_jax.training.mesh import batch_sharding, replicated, stacked_sharding
from his4mae_jax.training.step import init_codebook, train_step


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


def compile_calls(config, models, optimizer, mesh, *, per_call, resident=None):
    """`(advance, place)`, jitted over the mesh; both donate the state.

    advance(state, data, count) -> (state, metrics): `count` steps, at most `per_call`, all metrics
    stacked `(per_call,)`, of which the first `count` count. place(state, data) -> state places the
    codebook by the batch of the state's step. `data` are a `ResidentSampler`'s arrays, or from the
    host the batch of the step (`per_call` 1), or `per_call` batches stacked (of which `count` count).
    """
    everywhere = replicated(mesh)
    if resident is not None:
        batch_of, placed = (lambda data, i, step: resident.batch(data, step)), everywhere
    elif per_call == 1:
        batch_of, placed = (lambda data, i, step: data), batch_sharding(mesh)
    else:
        batch_of, placed = (lambda data, i, step: jax.tree.map(lambda x: x[i], data)), stacked_sharding(mesh)
    step = functools.partial(train_step, config=config, models=models, optimizer=optimizer)

    def one(state, data, i):
        return step(state, batch_of(data, i, state.step))

    def single(state, data, count):
        state, metrics = one(state, data, 0)
        return state, jax.tree.map(lambda x: x[None], metrics)

    def several(state, data, count):
        # A loop of traced length: one compilation serves all counts, the shorter calls before checkpoints too.
        like = jax.eval_shape(one, state, data, 0)[1]
        empty = jax.tree.map(lambda x: jnp.zeros((per_call, *x.shape), x.dtype), like)

        def body(i, carry):
            state, rows = carry
            state, metrics = one(state, data, i)
            return state, jax.tree.map(lambda all, new: all.at[i].set(new), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, empty))

    def place(state, data):
        return init_codebook(state, batch_of(data, 0, state.step), config=config, models=models)

    advance = jax.jit(
        single if per_call == 1 else several,
        in_shardings=(everywhere, placed, everywhere), out_shardings=everywhere, donate_argnums=0,
    )  # fmt: skip
    advance = compiled_together(advance, "advance")
    place = jax.jit(place, in_shardings=(everywhere, placed), out_shardings=everywhere, donate_argnums=0)
    # Put there once each: numbers given as they are would cross to the device in every call.
    on_device = functools.cache(lambda count: jax.device_put(np.int32(count), everywhere))
    return (
        lambda state, data, count: advance(state, data, on_device(count)),
        compiled_together(place, "place"),
    )
