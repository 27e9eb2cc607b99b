"""The training step, `(state, batch) -> (state, metrics)`: a pure function, the same on any number of devices."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from his4mae_jax.data.sampling.fields_of_view import render
from his4mae_jax.models import codebook
from his4mae_jax.models.patches import patchify
from his4mae_jax.training.step.gradients import gradients
from his4mae_jax.training.step.optimizer import make_optimizer
from his4mae_jax.training.step.settings import StepSettings
from his4mae_jax.training.step.state import TrainState

# Each use of randomness folds its own number into the key of (seed, step), so that no two draw the same.
MASKS, ISOLATED, INIT_CODES = 0, 1, 2


def step_key(seed: int, step: jax.Array | int, purpose: int) -> jax.Array:
    """Returns the key of one purpose at one step: a resumed run draws what it would have drawn."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose)


def teacher_momentum(settings: StepSettings, step: jax.Array) -> jax.Array:
    """Returns the momentum of the teacher's EMA, which goes along a cosine from first to last step (as in BYOL).

    Of a teacher that moves once in `teacher_every` steps, it is 1 in all others.
    """
    start, end = settings.teacher_momentum
    progress = jnp.clip(step / settings.optimizer.total_steps, 0.0, 1.0)
    momentum = end - (end - start) * (jnp.cos(jnp.pi * progress) + 1.0) / 2.0
    return jnp.where((step + 1) % settings.teacher_every == 0, momentum, 1.0)


def update_codes(
    settings: StepSettings,
    state: TrainState,
    codes_KxD: jax.Array,
    batch_codes: dict[str, jax.Array],
    ready: jax.Array | bool,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """Does the codebook's bookkeeping after a step: usage, running means, isolated codes (equation 6).

    Args:
      settings: of the step.
      state: before the step.
      codes_KxD: the codes, as the optimiser has moved them.
      batch_codes: `index`, the code chosen for each token, and `z_tea`, the teacher's tokens.
      ready: whether distillation has begun; before that nothing is counted or moved.

    Returns:
      `(codes_KxD, codes, metrics)`: the new codes, the new `TrainState.codes`, and `perplexity`, `dead_fraction` and
      `epoch_end`.
    """
    book, old, index_T = settings.codebook, state.codes, batch_codes["index"].reshape(-1)
    K, D = codes_KxD.shape
    usage_K = old["usage_K"] + jnp.where(ready, codebook.count_usage(index_T, K), 0.0)
    count_K, sum_KxD = old["count_K"], old["sum_KxD"]
    if book.ema_decay is not None:
        z_TxD = batch_codes["z_tea"].reshape(-1, D)
        moved = codebook.ema_update(codes_KxD, count_K, sum_KxD, index_T, z_TxD, book.ema_decay)
        codes_KxD, count_K, sum_KxD = jax.tree.map(
            lambda new, old: jnp.where(ready, new, old), moved, (codes_KxD, count_K, sum_KxD)
        )
    perplexity, dead = codebook.usage_statistics(usage_K, book.isolated_below)
    is_end = (state.step + 1) % book.steps_per_epoch == 0
    # Before the codes are placed, nothing was counted in the epoch.
    metrics = {"perplexity": perplexity, "dead_fraction": dead, "epoch_end": is_end & ready}
    if book.update_isolated:
        key = step_key(settings.seed, state.step, ISOLATED)
        moved_KxD = codebook.update_isolated(key, codes_KxD, usage_K, book.gamma, book.isolated_below)
        now_K = codebook.isolated_codes(usage_K, book.isolated_below) & is_end & (usage_K.sum() > 0)
        codes_KxD = jnp.where(now_K[:, None], moved_KxD, codes_KxD)
        if book.ema_decay is not None:
            # Running means go with their code, as one token each: with the old ones the next step would move it back.
            count_K = jnp.where(now_K, 1.0, count_K)
            sum_KxD = jnp.where(now_K[:, None], moved_KxD, sum_KxD)
    usage_K = jnp.where(is_end, 0.0, usage_K)
    return codes_KxD, {"usage_K": usage_K, "count_K": count_K, "sum_KxD": sum_KxD}, metrics


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    settings: StepSettings,
    mesh: Mesh,
    ready: bool | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Takes one optimiser step on the loss (equations 2 to 5), moves the teacher (EMA) and the codes (equation 6).

    Args:
      state: before the step.
      batch: raw crops, see `data.sampling.fields_of_view.render`, split over the devices.
      settings: of the step.
      mesh: the devices.
      ready: whether distillation has begun. None finds out on the device; a bool compiles for that case alone.

    Returns:
      `(state, metrics)`: the state after the step, and scalars: the diagnostics of the method's loss (`loss`,
      `loss_recon`, ...), those of `update_codes` with a codebook, and `grad_norm`.
    """
    step = state.step
    ready = step >= settings.codebook.start_step if ready is None else ready
    views, key = render(batch, settings.fov), step_key(settings.seed, step, MASKS)
    grads, (metrics, batch_codes) = gradients(settings, mesh, state.params, state.teacher, views, key, ready)
    updates, opt_state = make_optimizer(settings.optimizer).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    momentum = teacher_momentum(settings, step)
    teacher = jax.tree.map(lambda t, s: momentum * t + (1.0 - momentum) * s, state.teacher, params["encoder"])
    codes = state.codes
    if "codebook" in params:
        params["codebook"]["codes"], codes, more = update_codes(
            settings, state, params["codebook"]["codes"], batch_codes, ready
        )
        metrics |= more
    metrics["grad_norm"] = optax.tree.norm({k: v for k, v in grads.items() if k != "codebook"})
    new = state.replace(step=step + 1, params=params, teacher=teacher, opt_state=opt_state, codes=codes)
    return new, metrics


def init_codebook(state: TrainState, batch: dict[str, jax.Array], *, settings: StepSettings) -> TrainState:
    """Places the codes among the teacher's tokens of one raw batch, by k-means or as samples of them."""
    models = settings.models
    patches_BxNxP = patchify(render(batch, settings.fov)["image"], models.patch_size)
    z_TxD = models.encoder.apply({"params": state.teacher}, patches_BxNxP).reshape(-1, models.codebook.dim)
    key = step_key(settings.seed, state.step, INIT_CODES)
    codes_KxD = codebook.init_codes(key, z_TxD, models.codebook.num_codes, settings.codebook.init_iterations)
    params = {**state.params, "codebook": {"codes": codes_KxD}}
    # The running sums start as one token for each code, so that their first updates are gentle.
    codes = {**state.codes, "count_K": jnp.ones_like(state.codes["count_K"]), "sum_KxD": codes_KxD}
    return state.replace(params=params, codes=codes)
