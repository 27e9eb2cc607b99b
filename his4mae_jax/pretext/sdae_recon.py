"""SdAE-recon, the paper's baseline (Table 3): SdAE with MAESTER's pixel decoder beside the feature decoder.

Loss = L_recon + align_weight * L_align (equation 2, and `pretext.sdae`).
"""

import dataclasses

import jax
import ml_collections

from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester, sdae
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared


@dataclasses.dataclass(frozen=True)
class Models:
    """Encoder, decoder to pixels, decoder to features."""

    encoder: Encoder
    decoder: Decoder
    feature_decoder: Decoder
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings(sdae.Settings):
    """SdAE's settings, and where the reconstruction error counts ("masked" or "all")."""

    recon_on: str


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the networks of `config.model`."""
    m = config.model
    return Models(maester.make_encoder(m), maester.make_decoder(m), sdae.make_feature_decoder(m), m.patch_size)


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the settings of `config.objective` and `config.sdae`."""
    return Settings(
        mask_ratio=config.objective.mask_ratio,
        folds=config.sdae.folds,
        align_weight=config.sdae.align_weight,
        recon_on=config.objective.recon_on,
    )


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder", "decoder", "feature_decoder"}`; the first two are MAESTER's with the same `rng`."""
    return {**maester.init_params(rng, models), "feature_decoder": sdae.init_feature_decoder(rng, models)}


prepare = sdae.prepare


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
    """Equation 2 plus the weighted alignment, from the first step on as in SdAE.

    Arguments and returns as in `interface.Method.loss`; logs "loss_recon" and the unweighted "loss_align".
    """
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_align, tokens = sdae.align(params, teacher, patches_BxNxP, prepared, models=models)
    predicted_BxNxP = models.decoder.apply({"params": params["decoder"]}, tokens, prepared["visible"])
    loss_recon = maester.recon_loss(patches_BxNxP, predicted_BxNxP, prepared["mask"], settings.recon_on)
    total = loss_recon + settings.align_weight * loss_align
    return total, ({"loss": total, "loss_recon": loss_recon, "loss_align": loss_align}, {})
