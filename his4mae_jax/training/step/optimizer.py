"""AdamW with warm-up and cosine decay (Table 2), the codebook in a group of its own."""

from typing import Any

import jax
import optax

from his4mae_jax.training.step.settings import OptimizerSettings

# The gradient of alpha * L_tea (equation 3) is of the order 1e-8: Adam's usual eps would damp it away.
CODEBOOK_EPS = 1e-15


def schedule(peak: float, settings: OptimizerSettings) -> optax.Schedule:
    """Returns the learning rate by step: linear from 0 to `peak`, then a cosine to the minimum at the last step."""
    warmup = settings.warmup_steps
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(settings.total_steps, warmup + 1),
        end_value=min(settings.min_learning_rate, peak),
    )


def group_of(path: tuple[Any, ...], leaf: jax.Array) -> str:
    """Returns the group of a parameter: "codebook", "decay" or "no_decay".

    Weight decay acts on matrices and on kernels of convolutions: not on biases, norms, the cls and mask tokens.

    Args:
      path: keys of the parameter in the tree, as `jax.tree_util.tree_map_with_path` gives them.
      leaf: the parameter.
    """
    names = [getattr(key, "key", str(key)) for key in path]
    if "codebook" in names:
        return "codebook"
    return "decay" if leaf.ndim >= 2 and names[-1] == "kernel" else "no_decay"


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Returns the optimiser of the params `{"encoder", ...}`, with the groups of `group_of`."""
    b1, b2 = settings.betas
    rate = schedule(settings.learning_rate, settings)
    if settings.codebook_learning_rate is None:
        codebook = optax.set_to_zero()  # running means move the codes instead
    else:
        codebook_rate = schedule(settings.codebook_learning_rate, settings)
        # Adam divides by the size of the gradient, so that alpha does not change how far codes move; SGD does not.
        by_sgd = settings.codebook_optimizer == "sgd"
        codebook = optax.sgd(codebook_rate) if by_sgd else optax.adam(codebook_rate, b1=b1, b2=b2, eps=CODEBOOK_EPS)
    groups = {
        "decay": optax.adamw(rate, b1=b1, b2=b2, weight_decay=settings.weight_decay),
        "no_decay": optax.adam(rate, b1=b1, b2=b2),
        "codebook": codebook,
    }
    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(group_of, params))
