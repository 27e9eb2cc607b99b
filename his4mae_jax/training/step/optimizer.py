"""AdamW with warm-up and cosine decay (Table 2), the codebook in a group of its own."""

import jax
import optax

from his4mae_jax.config import total_steps

# alpha * dMSE of equation 3 is of the order 1e-8: Adam's usual eps would damp it away.
CODEBOOK_EPS = 1e-15


def schedule(peak, config):
    """Linear warm-up from 0 to `peak`, then a cosine to `train.min_lr` at the last step."""
    steps = total_steps(config)
    warmup = int(config.train.warmup * steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak, peak_value=peak, warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1), end_value=min(config.train.min_lr, peak),
    )  # fmt: skip


def group_of(path, leaf):
    """Which group a parameter belongs to: "codebook", "decay" or "no_decay".

    Weight decay acts on matrices (and kernels of convolutions) only: not on biases, norms (1D) nor on
    the cls and mask tokens.
    """
    names = [getattr(key, "key", str(key)) for key in path]
    if "codebook" in names:
        return "codebook"
    return "decay" if leaf.ndim >= 2 and names[-1] == "kernel" else "no_decay"


def make_optimizer(config):
    """The optax transformation for `{"encoder", "decoder", "codebook"}` params."""
    b1, b2 = config.train.betas
    rate = schedule(config.train.lr, config)
    if config.codebook.learning == "gradient":
        codebook = optax.adam(schedule(config.codebook.lr, config), b1=b1, b2=b2, eps=CODEBOOK_EPS)
    else:
        codebook = optax.set_to_zero()  # EMA updates move the codes instead
    groups = {
        "decay": optax.adamw(rate, b1=b1, b2=b2, weight_decay=config.train.weight_decay),
        "no_decay": optax.adam(rate, b1=b1, b2=b2),
        "codebook": codebook,
    }
    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(group_of, params))
