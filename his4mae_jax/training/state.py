"""Everything that training changes, as one pytree."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from his4mae_jax.pretext import his4mae


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` optimiser steps.

    params : `{"encoder", "decoder", "codebook"}`, the student's side.
    teacher : EMA of `params["encoder"]`.
    usage_K : how often each code was chosen since the epoch began.
    code_count_K, code_sum_KxD : running statistics of EMA code updates (zeros otherwise).
    """

    step: jax.Array
    params: dict
    teacher: dict
    opt_state: optax.OptState
    usage_K: jax.Array
    code_count_K: jax.Array
    code_sum_KxD: jax.Array


def create(config, models, optimizer):
    """The state before the first step; the teacher starts as a copy of the student."""
    params = his4mae.init_params(jax.random.key(config.seed), models)
    K, D = params["codebook"]["codes"].shape
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=jax.tree.map(jnp.copy, params["encoder"]),
        opt_state=optimizer.init(params),
        usage_K=jnp.zeros((K,), jnp.float32),
        code_count_K=jnp.zeros((K,), jnp.float32),
        code_sum_KxD=jnp.zeros((K, D), jnp.float32),
    )
