"""Everything that training changes, as one pytree."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax

from his4mae_jax.errors import UserError
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


def finite(state: TrainState) -> dict[str, jax.Array]:
    """Whether all numbers of the parts of a state are finite: one boolean each, to be fetched together."""
    parts = {
        "parameters": state.params, "parameters of the teacher": state.teacher,
        "moments of the optimiser": state.opt_state, "statistics of the codebook": state.codes,
    }  # fmt: skip
    return {
        name: jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(part)] or [jnp.array(True)]).all()
        for name, part in parts.items()
    }


def check_finite(step: int, parts: Mapping[str, bool]) -> None:
    """Checks a state that is about to be saved: the loss of a step is that of the parameters before it.

    Args:
      step: of the state.
      parts: what `finite` returned, on the host.

    Raises:
      UserError: a part is not finite.
    """
    wrong = [name for name, is_finite in parts.items() if not is_finite]
    if wrong:
        raise UserError(
            f"train: {', '.join(wrong)} are not finite after step {step}, which is not saved; lower config key "
            "train.lr, check train.weight_decay, and start again in another workdir"
        )


def state_like(config: ml_collections.ConfigDict) -> TrainState:
    """Returns the state of a run of this configuration as `jax.ShapeDtypeStruct`, to restore a checkpoint with."""
    return jax.eval_shape(lambda: create(StepSettings.from_config(config)))
