"""Everything that training changes, as one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.step.optimizer import make_optimizer
from his4mae_jax.training.step.settings import StepSettings


@flax.struct.dataclass
class TrainState:
    """State of a run after `step` optimiser steps.

    Attributes:
      step: int32 scalar.
      params: `{"encoder", ...}`, the student's side.
      teacher: exponential moving average of `params["encoder"]`.
      opt_state: the optimiser's moments.
      codes: the codebook's bookkeeping, empty without one. `usage_K`: how often each code was chosen since the epoch
        began; `count_K`, `sum_KxD`: running statistics of codes that are moved by running means, otherwise zeros.
    """

    step: jax.Array
    params: dict[str, Any]
    teacher: dict[str, Any]
    opt_state: optax.OptState
    codes: dict[str, jax.Array]


def create(settings: StepSettings) -> TrainState:
    """Returns the state before the first step; the teacher starts as a copy of the student."""
    params = METHODS[settings.method].init_params(jax.random.key(settings.seed), settings.models)
    codes = {}
    if "codebook" in params:
        K, D = params["codebook"]["codes"].shape
        codes = {"usage_K": jnp.zeros((K,)), "count_K": jnp.zeros((K,)), "sum_KxD": jnp.zeros((K, D))}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        teacher=jax.tree.map(jnp.copy, params["encoder"]),
        opt_state=make_optimizer(settings.optimizer).init(params),
        codes=codes,
    )


def state_like(config: ml_collections.ConfigDict) -> TrainState:
    """Returns the state of a run of this configuration as `jax.ShapeDtypeStruct`, to restore a checkpoint with."""
    return jax.eval_shape(lambda: create(StepSettings.from_config(config)))
