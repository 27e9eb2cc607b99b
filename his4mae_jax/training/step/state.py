"""Everything that training changes, as one pytree."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from his4mae_jax.pretext.methods import METHODS


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` optimiser steps.

    params : `{"encoder", ...}`, the student's side.
    teacher : EMA of `params["encoder"]`.
    codes : the codebook's bookkeeping, empty without one. usage_K: how often each code was
        chosen since the epoch began; count_K, sum_KxD: running statistics of EMA code updates
        (zeros otherwise).
    """

    step: jax.Array
    params: dict
    teacher: dict
    opt_state: optax.OptState
    codes: dict


def create(config, models, optimizer):
    """The state before the first step; the teacher starts as a copy of the student."""
    params = METHODS[config.method].init_params(jax.random.key(config.seed), models)
    codes = {}
    if "codebook" in params:
        K, D = params["codebook"]["codes"].shape
        codes = {"usage_K": jnp.zeros((K,)), "count_K": jnp.zeros((K,)), "sum_KxD": jnp.zeros((K, D))}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=jax.tree.map(jnp.copy, params["encoder"]),
        opt_state=optimizer.init(params),
        codes=codes,
    )
