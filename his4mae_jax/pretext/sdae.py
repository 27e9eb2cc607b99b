"""SdAE (Chen et al., ECCV 2022): predict a teacher's features of the hidden tokens, no pixels.

The student encodes the visible patches, and a decoder predicts features of the hidden ones. The EMA teacher encodes
only what the student does not see, split at random into folds that do not see each other (multi-fold masking), so that
it gets about as many tokens at a time as the student.

Loss = align_weight * L_align, L_align = mean over hidden tokens of 1 - cos(standardised teacher token, predicted
token), with the cosine over features. SdAE's release also standardises and takes 1 - cosine, but over axis 1 of its
arrays. If its teacher sees the whole image this axis holds the features; if it sees hidden tokens only, it holds the
tokens of a view, and each feature is compared by itself. We always compare features, token by token, as equation 4
does and as targets that are standardised token by token suggest.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester
from his4mae_jax.pretext.his4mae import student_loss
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared


@dataclasses.dataclass(frozen=True)
class Models:
    """Encoder of visible patches, decoder to features."""

    encoder: Encoder
    feature_decoder: Decoder
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """The fraction of hidden patches, the folds they are split into, and the weight of L_align."""

    mask_ratio: float
    folds: int
    align_weight: float


def make_feature_decoder(model: ml_collections.ConfigDict) -> Decoder:
    """Return MAESTER's decoder of `config.model`, but to features of the encoder's size."""
    return maester.make_decoder(model).clone(out_dim=model.embed_dim)


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the networks of `config.model`."""
    m = config.model
    return Models(maester.make_encoder(m), make_feature_decoder(m), m.patch_size)


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the settings of `config.objective` and `config.sdae`."""
    return Settings(config.objective.mask_ratio, config.sdae.folds, config.sdae.align_weight)


def init_feature_decoder(rng: jax.Array, models: Models) -> Params:
    """Return the feature decoder's parameters, from the split of `rng` that MAESTER's parameters do not use."""
    encoder = models.encoder
    N = encoder.grid[0] * encoder.grid[1]
    visible = jnp.arange(N // 2)[None]
    tokens = jnp.zeros((1, N // 2 + encoder.cls_token, encoder.embed_dim))
    return models.feature_decoder.init(jax.random.split(rng, 3)[2], tokens, visible)["params"]


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder", "feature_decoder"}`; the encoder is MAESTER's with the same `rng`."""
    patches = jnp.zeros((1, models.encoder.grid[0] * models.encoder.grid[1], models.patch_size**2))
    encoder = models.encoder.init(jax.random.split(rng, 3)[0], patches)["params"]
    return {"encoder": encoder, "feature_decoder": init_feature_decoder(rng, models)}


def random_folds(rng: jax.Array, mask_BxN: jax.Array, num_hidden: int, folds: int) -> jax.Array:
    """Split each image's hidden tokens at random into folds of equal size.

    Args:
      rng: key.
      mask_BxN: 1 at the `num_hidden` hidden tokens of every image, else 0.
      num_hidden: a multiple of `folds`.
      folds: their number.

    Returns:
      int32 indices of tokens, `(B, folds, num_hidden // folds)`; each hidden token is in exactly one fold.
    """
    B, _ = mask_BxN.shape
    # Uniform draws are below 1: hidden tokens come first, in random order.
    draw_BxN = jax.random.uniform(rng, mask_BxN.shape) + (1.0 - mask_BxN)
    order_BxN = jnp.argsort(draw_BxN, axis=1).astype(jnp.int32)
    return order_BxN[:, :num_hidden].reshape(B, folds, num_hidden // folds)


def standardise(z_BxTxD: jax.Array) -> jax.Array:
    """Scale each token to mean 0 and variance 1 over its features, in float32."""
    z = z_BxTxD.astype(jnp.float32)
    mean, variance = jnp.mean(z, -1, keepdims=True), jnp.var(z, -1, keepdims=True)
    return (z - mean) / jnp.sqrt(variance + 1e-6)


def teacher_tokens(encoder: Encoder, teacher: Params, patches_BxNxP: jax.Array, fold_BxFxT: jax.Array) -> jax.Array:
    """Return the teacher's tokens of all folds, `(B, F * T, D)`, each fold encoded on its own."""
    B, F, T = fold_BxFxT.shape
    # To the encoder, folds are separate images: one batch of B * F.
    views = jnp.repeat(patches_BxNxP, F, axis=0)
    z = encoder.apply({"params": teacher}, views, fold_BxFxT.reshape(B * F, T))
    return jax.lax.stop_gradient(z).reshape(B, F * T, -1)


def prepare(rng: jax.Array, batch: Batch, *, models: Models, settings: Settings) -> Prepared:
    """Draw masks as `maester.draw_masks` does, and "fold", the hidden tokens of each fold, `(B, folds, T)`."""
    mask_rng, fold_rng = jax.random.split(rng)
    masks = maester.draw_masks(mask_rng, batch, models.encoder, settings.mask_ratio)
    hidden = masks["mask"].shape[1] - masks["visible"].shape[1]
    return {**masks, "fold": random_folds(fold_rng, masks["mask"], hidden, settings.folds)}


def align(
    params: Params, teacher: Params, patches_BxNxP: jax.Array, prepared: Prepared, *, models: Models
) -> tuple[jax.Array, jax.Array]:
    """Encode the visible patches and compare predicted features of the hidden ones with the teacher's.

    Returns:
      `(loss_align, tokens)`: the student's tokens, after the cls token if there is one, are the input of a pixel
      decoder.
    """
    visible_BxV, fold_BxFxT, B = prepared["visible"], prepared["fold"], len(patches_BxNxP)
    tokens = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, visible_BxV, with_cls=True)
    features_BxNxD = models.feature_decoder.apply({"params": params["feature_decoder"]}, tokens, visible_BxV)
    predicted_BxMxD = masking.take_tokens(features_BxNxD, fold_BxFxT.reshape(B, -1))
    target_BxMxD = standardise(teacher_tokens(models.encoder, teacher, patches_BxNxP, fold_BxFxT))
    # The cosine of equation 4, here between the hidden tokens and their prediction.
    return student_loss(predicted_BxMxD, target_BxMxD), tokens


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
    """Weighted alignment. Arguments and returns as in `interface.Method.loss`; logs the unweighted "loss_align".

    The teacher gives targets from the first step on, whatever `ready` is: without them there is nothing to learn.
    """
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_align, _ = align(params, teacher, patches_BxNxP, prepared, models=models)
    total = settings.align_weight * loss_align
    return total, ({"loss": total, "loss_align": loss_align}, {})
