"""What the supervised baselines of Table 3 share: cross-entropy at the annotated pixels.

The paper trains them "from the fully annotated regions"; pixels labelled `IGNORE` count for
nothing. Tokens' logits are expanded to pixels exactly as segmentation expands them to voxels,
so that training sees what is scored.
"""

import dataclasses

import jax
import jax.numpy as jnp

from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError
from his4mae_jax.models.patches import expansion_weights, patchify
from his4mae_jax.models.segmenter import Segmenter, VanillaViT


@dataclasses.dataclass(frozen=True)
class Models:
    """The Flax module, a static description: `encoder` is the whole network, to class logits."""

    encoder: VanillaViT | Segmenter
    patch_size: int


def num_classes(config):
    """`supervised.classes`; raises `UserError` where the data has no classes to learn."""
    classes = config.supervised.classes
    if classes < 2:
        raise UserError(
            f"method {config.method} learns from ground truth, but this data set has no labels of two classes or more "
            f"(supervised.classes is {classes}): give label files and name their classes in data.class_names, "
            "or choose a method without labels"
        )
    return classes


def init_params(rng, models):
    """Parameters `{"encoder"}`: the whole network, encoder and head."""
    N = models.encoder.grid[0] * models.encoder.grid[1]
    return {"encoder": models.encoder.init(rng, jnp.zeros((1, N, models.patch_size**2)))["params"]}


def settings(config):
    """The keyword settings of `prepare` and `loss`: none."""
    del config
    return {}


def pixel_logits(logits_BxNxC, grid, patch):
    """Tokens' logits expanded linearly to pixels, `(B, H, W, C)`."""
    rows, cols = (expansion_weights(tokens, patch) for tokens in grid)
    logits_BxRxSxC = logits_BxNxC.reshape(len(logits_BxNxC), *grid, -1)
    return jnp.einsum("hr,brsc,ws->bhwc", rows, logits_BxRxSxC, cols, precision="highest")


def prepare(rng, batch, *, models):
    """`{"annotated": (B,)}`, annotated pixels a field of view, the mean of the batch in every entry.

    Means over the annotated pixels of parts of a batch would not add up to that of the batch. Nothing is random.
    """
    del rng, models
    labels_BxHxW = batch["labels"]
    mean = jnp.sum(labels_BxHxW != IGNORE) / len(labels_BxHxW)
    return {"annotated": jnp.broadcast_to(mean, len(labels_BxHxW))}


def cross_entropy(logits_BxHxWxC, labels_BxHxW, annotated):
    """Mean cross-entropy, and the share of right classes, over the batch's `annotated` pixels (so many).

    Labels are class ids 0 to C - 1, or `IGNORE` where not annotated. Both results are 0 where
    nothing is annotated; an id without a class makes the loss NaN rather than count for nothing.
    """
    C = logits_BxHxWxC.shape[-1]
    annotated_BxHxW, count = labels_BxHxW != IGNORE, jnp.where(annotated > 0, annotated, 1)
    # A product with zeros and ones, not a gather: see `models.masking.place_tokens`.
    chosen_BxHxWxC = jax.nn.one_hot(labels_BxHxW, C)
    cost_BxHxW = -jnp.sum(chosen_BxHxWxC * jax.nn.log_softmax(logits_BxHxWxC), axis=-1)
    cost_BxHxW = jnp.where(labels_BxHxW < C, cost_BxHxW, jnp.nan)
    right_BxHxW = annotated_BxHxW & (jnp.argmax(logits_BxHxWxC, axis=-1) == labels_BxHxW)
    return jnp.sum(jnp.where(annotated_BxHxW, cost_BxHxW, 0.0)) / count, jnp.sum(right_BxHxW) / count


def loss(params, teacher, batch, prepared, *, models, ready):
    """The cross-entropy of one batch `{"image": (B, H, W) float32 in [0, 1], "labels": (B, H, W) int32}`.

    Returns `(loss, (diagnostics, {}))`, diagnostics `loss_ce` and `accuracy`, the share of
    annotated pixels whose class is right. No teacher is needed.
    """
    del teacher, ready
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    logits_BxNxC = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP)
    logits_BxHxWxC = pixel_logits(logits_BxNxC, models.encoder.grid, models.patch_size)
    loss_ce, accuracy = cross_entropy(logits_BxHxWxC, batch["labels"], jnp.sum(prepared["annotated"]))
    return loss_ce, ({"loss": loss_ce, "loss_ce": loss_ce, "accuracy": accuracy}, {})
