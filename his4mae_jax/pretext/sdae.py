"""SdAE (Chen et al., ECCV 2022): predict a teacher's features of the hidden tokens, no pixels.

The student encodes the visible patches and a decoder predicts features at the hidden ones. The
EMA teacher encodes only what the student does not see, split at random into folds that do not
see each other (multi-fold masking), so that it gets about as many tokens at a time as the student.

L_align = mean over hidden tokens of 1 - cos(standardised teacher token, predicted token), with the
cosine over features. SdAE's release standardises and takes 1 - cosine as well, but on axis 1 of its
arrays: the features if its teacher sees the whole image, and the tokens of a view, feature by
feature, if it sees hidden tokens only. We always compare features, token by token, as equation 4
does and as targets that are standardised token by token suggest.
"""

import dataclasses

import jax
import jax.numpy as jnp

from his4mae_jax.errors import UserError
from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester
from his4mae_jax.pretext.his4mae import student_loss


@dataclasses.dataclass(frozen=True)
class Models:
    """Flax modules: static, hashable descriptions without parameters."""

    encoder: Encoder
    feature_decoder: Decoder
    patch_size: int


def check_folds(config):
    """Raise `UserError` unless `sdae.folds` divides the number of hidden tokens."""
    rows, columns = maester.token_grid(config.model)
    hidden = rows * columns - masking.num_visible(rows * columns, config.objective.mask_ratio)
    folds = config.sdae.folds
    if folds < 1 or hidden % folds:
        fine = ", ".join(str(n) for n in range(1, hidden + 1) if hidden % n == 0)
        raise UserError(
            f"config key sdae.folds is {folds}, which does not divide the {hidden} hidden tokens of a field of view "
            f"into equal folds: choose one of {fine}"
        )


def make_feature_decoder(model):
    """MAESTER's decoder of `config.model`, but to features of the encoder's size."""
    return maester.make_decoder(model).clone(out_dim=model.embed_dim)


def build(config):
    check_folds(config)
    m = config.model
    return Models(maester.make_encoder(m), make_feature_decoder(m), m.patch_size)


def init_feature_decoder(rng, models):
    """Params tree of the feature decoder, from the part of `rng` that MAESTER's parameters leave."""
    encoder = models.encoder
    N = encoder.grid[0] * encoder.grid[1]
    visible = jnp.arange(N // 2)[None]
    tokens = jnp.zeros((1, N // 2 + encoder.cls_token, encoder.embed_dim))
    return models.feature_decoder.init(jax.random.split(rng, 3)[2], tokens, visible)["params"]


def init_params(rng, models):
    """Parameters `{"encoder", "feature_decoder"}`; the encoder's are MAESTER's of the same `rng`."""
    patches = jnp.zeros((1, models.encoder.grid[0] * models.encoder.grid[1], models.patch_size**2))
    encoder = models.encoder.init(jax.random.split(rng, 3)[0], patches)["params"]
    return {"encoder": encoder, "feature_decoder": init_feature_decoder(rng, models)}


def random_folds(rng, mask_BxN, num_hidden, folds):
    """Deal each image's hidden tokens into folds of equal size, at random.

    `mask_BxN` is 1 at the `num_hidden` hidden tokens of every image. Returns their int32 indices,
    `(B, folds, num_hidden // folds)`; each hidden token is in exactly one fold.
    """
    B, _ = mask_BxN.shape
    # Uniform draws lie below 1: hidden tokens come first, in random order.
    draw_BxN = jax.random.uniform(rng, mask_BxN.shape) + (1.0 - mask_BxN)
    order_BxN = jnp.argsort(draw_BxN, axis=1).astype(jnp.int32)
    return order_BxN[:, :num_hidden].reshape(B, folds, num_hidden // folds)


def standardise(z_BxTxD):
    """Each token to mean 0 and variance 1 over its features, in float32, without learned scales."""
    z = z_BxTxD.astype(jnp.float32)
    mean, variance = jnp.mean(z, -1, keepdims=True), jnp.var(z, -1, keepdims=True)
    return (z - mean) / jnp.sqrt(variance + 1e-6)


def teacher_tokens(encoder, teacher, patches_BxNxP, fold_BxFxT):
    """The teacher's tokens at all folds, `(B, F * T, D)`, each fold encoded on its own."""
    B, F, T = fold_BxFxT.shape
    # Folds are images of their own to the encoder: one batch of B * F.
    views = jnp.repeat(patches_BxNxP, F, axis=0)
    z = encoder.apply({"params": teacher}, views, fold_BxFxT.reshape(B * F, T))
    return jax.lax.stop_gradient(z).reshape(B, F * T, -1)


def prepare(rng, batch, *, models, folds, **more):
    """MAESTER's masks of a batch and "fold", the hidden tokens of each fold, `(B, folds, T)`."""
    mask_rng, fold_rng = jax.random.split(rng)
    masks = maester.prepare(mask_rng, batch, models=models, **more)
    hidden = masks["mask"].shape[1] - masks["visible"].shape[1]
    return {**masks, "fold": random_folds(fold_rng, masks["mask"], hidden, folds)}


def align(params, teacher, patches_BxNxP, prepared, *, models):
    """Encode what is visible, and compare predicted features with the teacher's.

    Returns `(loss_align, tokens)`: the student's tokens (cls first, if there is one) are what a pixel decoder needs.
    """
    visible_BxV, fold_BxFxT, B = prepared["visible"], prepared["fold"], len(patches_BxNxP)
    tokens = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, visible_BxV, with_cls=True)
    features_BxNxD = models.feature_decoder.apply({"params": params["feature_decoder"]}, tokens, visible_BxV)
    predicted_BxMxD = masking.take_tokens(features_BxNxD, fold_BxFxT.reshape(B, -1))
    target_BxMxD = standardise(teacher_tokens(models.encoder, teacher, patches_BxNxP, fold_BxFxT))
    # The cosine of equation 4, here between what is hidden from the student and its prediction.
    return student_loss(predicted_BxMxD, target_BxMxD), tokens


def settings(config):
    """The keyword settings of `prepare` and `loss`."""
    return {
        "mask_ratio": config.objective.mask_ratio,
        "folds": config.sdae.folds,
        "align_weight": config.sdae.align_weight,
    }


def loss(params, teacher, batch, prepared, *, models, ready, mask_ratio, folds, align_weight):
    """align_weight * L_align of one batch. Arguments and returns as in `pretext.his4mae`.

    The teacher gives targets from the first step on, whatever `ready` says: without them there
    would be nothing to learn. folds must divide the number of hidden tokens (`build` checks).
    """
    del ready, mask_ratio, folds
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_align, _ = align(params, teacher, patches_BxNxP, prepared, models=models)
    total = align_weight * loss_align
    return total, ({"loss": total, "loss_align": loss_align}, {})
