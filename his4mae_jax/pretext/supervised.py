"""What the supervised baselines of Table 3 have in common: cross-entropy at the annotated pixels.

The paper trains them "from the fully annotated regions"; pixels labelled `IGNORE` do not count. The tokens' logits are
expanded to pixels exactly as segmentation expands them to voxels, so that training optimises what is scored.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError
from his4mae_jax.models.patches import expansion_weights, patchify
from his4mae_jax.models.segmenter import Segmenter, VanillaViT
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared


@dataclasses.dataclass(frozen=True)
class Models:
    """`encoder` is the whole network, to class logits."""

    encoder: VanillaViT | Segmenter
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Cross-entropy has no settings."""


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the empty settings."""
    return Settings()


def num_classes(config: ml_collections.ConfigDict) -> int:
    """Return `supervised.classes`.

    Raises:
      UserError: if the data has no classes to learn.
    """
    classes = config.supervised.classes
    if classes < 2:
        raise UserError(
            f"method {config.method} learns from ground truth, but this data set has no labels of two classes or more "
            f"(supervised.classes is {classes}): give label files and name their classes in data.class_names, "
            "or choose a method without labels"
        )
    return classes


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder"}`: the whole network, encoder and head."""
    N = models.encoder.grid[0] * models.encoder.grid[1]
    return {"encoder": models.encoder.init(rng, jnp.zeros((1, N, models.patch_size**2)))["params"]}


def pixel_logits(logits_BxNxC: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """Expand the tokens' logits linearly to pixels, `(B, H, W, C)` (paper section 3.3)."""
    rows, cols = (expansion_weights(tokens, patch) for tokens in grid)
    logits_BxRxSxC = logits_BxNxC.reshape(len(logits_BxNxC), *grid, -1)
    return jnp.einsum("hr,brsc,ws->bhwc", rows, logits_BxRxSxC, cols, precision="highest")


def prepare(rng: jax.Array, batch: Batch, *, models: Models, settings: Settings) -> Prepared:
    """Return `{"annotated": (B,)}`: the batch's mean number of annotated pixels per field of view, in every entry.

    Counted over the whole batch, because microbatches have unequal numbers of annotated pixels: their own means of the
    loss would not average to the batch's. Nothing is drawn.
    """
    labels_BxHxW = batch["labels"]
    mean = jnp.sum(labels_BxHxW != IGNORE) / len(labels_BxHxW)
    return {"annotated": jnp.broadcast_to(mean, len(labels_BxHxW))}


def cross_entropy(
    logits_BxHxWxC: jax.Array, labels_BxHxW: jax.Array, annotated: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy and the fraction of correct pixels, both over the annotated pixels.

    Args:
      logits_BxHxWxC: of C classes.
      labels_BxHxW: class ids 0 to C - 1, or `IGNORE` where not annotated.
      annotated: the number of annotated pixels that the sums are divided by.

    Returns:
      Two scalars, 0 if nothing is annotated. An id of C or above makes the loss NaN instead of being ignored.
    """
    C = logits_BxHxWxC.shape[-1]
    annotated_BxHxW, count = labels_BxHxW != IGNORE, jnp.where(annotated > 0, annotated, 1)
    # One-hot rows, not a gather: see `models.masking.place_tokens`.
    one_hot_BxHxWxC = jax.nn.one_hot(labels_BxHxW, C)
    cost_BxHxW = -jnp.sum(one_hot_BxHxWxC * jax.nn.log_softmax(logits_BxHxWxC), axis=-1)
    cost_BxHxW = jnp.where(labels_BxHxW < C, cost_BxHxW, jnp.nan)
    correct_BxHxW = annotated_BxHxW & (jnp.argmax(logits_BxHxWxC, axis=-1) == labels_BxHxW)
    return jnp.sum(jnp.where(annotated_BxHxW, cost_BxHxW, 0.0)) / count, jnp.sum(correct_BxHxW) / count


def loss(
    params: Params,
    teacher: Params,
    batch: Batch,
    prepared: Prepared,
    *,
    models: Models,
    settings: Settings,
    ready: jax.Array | bool,
) -> LossOutput:
    """Mean cross-entropy. Arguments and returns as in `interface.Method.loss`; neither a teacher nor codes.

    Logs "loss_ce" and "accuracy", the fraction of annotated pixels whose class is right.
    """
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    logits_BxNxC = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP)
    logits_BxHxWxC = pixel_logits(logits_BxNxC, models.encoder.grid, models.patch_size)
    loss_ce, accuracy = cross_entropy(logits_BxHxWxC, batch["labels"], jnp.sum(prepared["annotated"]))
    return loss_ce, ({"loss": loss_ce, "loss_ce": loss_ce, "accuracy": accuracy}, {})
