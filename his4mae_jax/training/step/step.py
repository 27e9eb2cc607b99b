"""The jitted training step, `(state, batch) -> (state, metrics)`, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import optax

from his4mae_jax.config import steps_per_epoch, total_steps
from his4mae_jax.data.sampling.fields_of_view import render
from his4mae_jax.models import codebook
from his4mae_jax.models.patches import patchify
from his4mae_jax.training.devices.mesh import batch_sharding, replicated
from his4mae_jax.training.step.gradients import gradients
from his4mae_jax.training.step.optimizer import schedule

# What each use of randomness folds into the key of (seed, step), so that no two share one.
MASKS, ISOLATED, INIT_CODES = 0, 1, 2


def step_key(config, step, purpose):
    """The key of one purpose at one step: a resumed run draws what it would have drawn."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), step), purpose)


def distillation_start(config):
    """The step before which the codebook is placed and distillation begins (`codebook.start`)."""
    return max(1, int(config.codebook.start * total_steps(config)))


def teacher_momentum(config, step):
    """Cosine from `teacher.momentum` to `teacher.momentum_end` over the run (as in BYOL)."""
    start, end = config.teacher.momentum, config.teacher.momentum_end
    progress = jnp.clip(step / total_steps(config), 0.0, 1.0)
    return end - (end - start) * (jnp.cos(jnp.pi * progress) + 1.0) / 2.0


def _update_codes(config, state, params, found, ready):
    """The codebook's bookkeeping after a step: usage, EMA codes, isolated codes (equation 6).

    Returns `(codes_KxD, state.codes, metrics)`; `found` is what the loss says of its codes.
    """
    index_T, old = found["index"].reshape(-1), state.codes
    codes_KxD = params["codebook"]["codes"]
    K, D = codes_KxD.shape
    usage_K = old["usage_K"] + jnp.where(ready, codebook.count_usage(index_T, K), 0.0)
    count_K, sum_KxD = old["count_K"], old["sum_KxD"]
    if config.codebook.learning == "ema":
        moved = codebook.ema_update(
            codes_KxD, count_K, sum_KxD, index_T, found["z_tea"].reshape(-1, D), config.codebook.ema_decay
        )
        codes_KxD, count_K, sum_KxD = jax.tree.map(
            lambda new, old: jnp.where(ready, new, old), moved, (codes_KxD, count_K, sum_KxD)
        )
    perplexity, dead = codebook.usage_statistics(usage_K, config.codebook.isolated_below)
    is_end = (state.step + 1) % steps_per_epoch(config) == 0
    # Before the codebook is placed there is no usage to tell of.
    metrics = {"perplexity": perplexity, "dead_fraction": dead, "epoch_end": is_end & ready}
    if config.codebook.update_isolated:
        key = step_key(config, state.step, ISOLATED)
        moved = codebook.update_isolated(key, codes_KxD, usage_K, config.codebook.gamma, config.codebook.isolated_below)
        codes_KxD = jnp.where(is_end & (usage_K.sum() > 0), moved, codes_KxD)
    usage_K = jnp.where(is_end, 0.0, usage_K)
    return codes_KxD, {"usage_K": usage_K, "count_K": count_K, "sum_KxD": sum_KxD}, metrics


def train_step(state, batch, *, config, models, optimizer, mesh, ready=None):
    """One optimiser step (equation 5), the teacher's EMA and the codebook's bookkeeping; `mesh` shares the batch out.

    `ready`, whether distillation has begun, is found on the device; who knows it gives it, and the program is for that
    case alone.
    """
    step = state.step
    ready = step >= distillation_start(config) if ready is None else ready
    grads, (metrics, found) = gradients(
        config, models, mesh, state.params, state.teacher, render(batch, config.model.fov),
        step_key(config, step, MASKS), ready,
    )  # fmt: skip
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    momentum = teacher_momentum(config, step)
    teacher = jax.tree.map(lambda t, s: momentum * t + (1.0 - momentum) * s, state.teacher, params["encoder"])
    codes = state.codes
    if "codebook" in params:
        params["codebook"]["codes"], codes, more = _update_codes(config, state, params, found, ready)
        metrics |= more
    metrics["grad_norm"] = optax.tree.norm({k: v for k, v in grads.items() if k != "codebook"})
    metrics["lr"] = schedule(config.train.lr, config)(step)
    new = state.replace(step=step + 1, params=params, teacher=teacher, opt_state=opt_state, codes=codes)
    return new, metrics


def init_codebook(state, batch, *, config, models):
    """Place the codes among the teacher's tokens of one batch."""
    patches = patchify(render(batch, config.model.fov)["image"], models.patch_size)
    z_TxD = models.encoder.apply({"params": state.teacher}, patches).reshape(-1, models.codebook.dim)
    iterations = config.codebook.init_iterations if config.codebook.init == "kmeans" else 0
    key = step_key(config, state.step, INIT_CODES)
    codes_KxD = codebook.init_codes(key, z_TxD, models.codebook.num_codes, iterations)
    params = {**state.params, "codebook": {"codes": codes_KxD}}
    # The running sums start as one token a code, so that the first EMA updates are gentle.
    codes = {**state.codes, "count_K": jnp.ones_like(state.codes["count_K"]), "sum_KxD": codes_KxD}
    return state.replace(params=params, codes=codes)


def compile_steps(config, models, optimizer, mesh, *, ready=None):
    """`(train_step, init_codebook)` jitted over the mesh; both donate the state. `ready` as in `train_step`."""
    everywhere, split = replicated(mesh), batch_sharding(mesh)
    step = functools.partial(train_step, config=config, models=models, optimizer=optimizer, mesh=mesh, ready=ready)
    place = functools.partial(init_codebook, config=config, models=models)
    return (
        jax.jit(step, in_shardings=(everywhere, split), out_shardings=everywhere, donate_argnums=0),
        jax.jit(place, in_shardings=(everywhere, split), out_shardings=everywhere, donate_argnums=0),
    )
