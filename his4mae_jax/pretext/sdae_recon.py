"""SdAE-recon, the paper's baseline (its Table 3): SdAE with MAESTER's pixel decoder beside the feature decoder.

Loss = L_recon + align_weight * L_align (equation 2, and `pretext.sdae`).
"""

import dataclasses

from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester, sdae


@dataclasses.dataclass(frozen=True)
class Models:
    """Flax modules: static, hashable descriptions without parameters."""

    encoder: Encoder
    decoder: Decoder  # to pixels
    feature_decoder: Decoder
    patch_size: int


def build(config):
    sdae.check_folds(config)
    m = config.model
    return Models(maester.make_encoder(m), maester.make_decoder(m), sdae.make_feature_decoder(m), m.patch_size)


def init_params(rng, models):
    """Parameters `{"encoder", "decoder", "feature_decoder"}`, the first two MAESTER's of the same `rng`."""
    return {**maester.init_params(rng, models), "feature_decoder": sdae.init_feature_decoder(rng, models)}


def settings(config):
    """The keyword settings of `prepare` and `loss`."""
    return {**maester.settings(config), **sdae.settings(config)}


prepare = sdae.prepare


def loss(params, teacher, batch, prepared, *, models, ready, mask_ratio, recon_on, folds, align_weight):
    """Equation 2 plus the weighted alignment. Arguments and returns as in `pretext.his4mae`; `ready` as in SdAE."""
    del ready, mask_ratio, folds
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_align, tokens = sdae.align(params, teacher, patches_BxNxP, prepared, models=models)
    predicted_BxNxP = models.decoder.apply({"params": params["decoder"]}, tokens, prepared["visible"])
    loss_recon = maester.recon_loss(patches_BxNxP, predicted_BxNxP, prepared["mask"], recon_on)
    total = loss_recon + align_weight * loss_align
    return total, ({"loss": total, "loss_recon": loss_recon, "loss_align": loss_align}, {})
