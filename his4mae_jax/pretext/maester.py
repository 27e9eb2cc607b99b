"""Plain masked autoencoding (MAE; MAESTER, Xie et al. 2023): the reconstruction that HiS4MAE builds on.

Loss = L_recon (equation 2 of the paper).
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared


@dataclasses.dataclass(frozen=True)
class Models:
    """Encoder of visible patches, decoder to pixels."""

    encoder: Encoder
    decoder: Decoder
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """`config.objective`: the fraction of hidden patches, and where the error counts ("masked" or "all")."""

    mask_ratio: float
    recon_on: str


def token_grid(model: ml_collections.ConfigDict) -> tuple[int, int]:
    """Return the tokens per side of `config.model`'s field of view, (rows, columns)."""
    return (model.fov // model.patch_size,) * 2


def make_encoder(model: ml_collections.ConfigDict) -> Encoder:
    """Return the encoder of `config.model`."""
    return Encoder(
        grid=token_grid(model),
        embed_dim=model.embed_dim,
        depth=model.depth,
        num_heads=model.num_heads,
        mlp_ratio=model.mlp_ratio,
        cls_token=model.cls_token,
        dtype=jnp.dtype(model.dtype),
    )


def make_decoder(model: ml_collections.ConfigDict) -> Decoder:
    """Return the decoder of `config.model`, to pixels."""
    return Decoder(
        grid=token_grid(model),
        out_dim=model.patch_size**2,
        dim=model.decoder_dim,
        depth=model.decoder_depth,
        num_heads=model.decoder_num_heads,
        mlp_ratio=model.mlp_ratio,
        cls_token=model.cls_token,
        dtype=jnp.dtype(model.dtype),
        mimetic=model.decoder_mimetic,
    )


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the networks of `config.model`."""
    return Models(make_encoder(config.model), make_decoder(config.model), config.model.patch_size)


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the settings of `config.objective`."""
    return Settings(config.objective.mask_ratio, config.objective.recon_on)


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder", "decoder"}`."""
    rngs = jax.random.split(rng, 3)  # three: HiS4MAE with the same seed starts from the same weights
    N, D = models.encoder.grid[0] * models.encoder.grid[1], models.encoder.embed_dim
    patches = jnp.zeros((1, N, models.patch_size**2))
    visible = jnp.arange(N // 2)[None]
    tokens = jnp.zeros((1, N // 2 + models.encoder.cls_token, D))
    return {
        "encoder": models.encoder.init(rngs[0], patches)["params"],
        "decoder": models.decoder.init(rngs[1], tokens, visible)["params"],
    }


def recon_loss(
    target_BxNxP: jax.Array, predicted_BxNxP: jax.Array, mask_BxN: jax.Array, recon_on: str = "masked"
) -> jax.Array:
    """Equations 1 and 2: the mean squared error of pixels in [0, 1], over masked patches (m_i = 1) or all.

    Args:
      target_BxNxP: pixels of all patches.
      predicted_BxNxP: their prediction, float32.
      mask_BxN: 1 where a patch is masked, else 0.
      recon_on: "masked", as in MAE, or "all", equation 2 read literally.

    Returns:
      A scalar.
    """
    error_BxN = jnp.mean((predicted_BxNxP - target_BxNxP) ** 2, axis=-1)
    if recon_on == "all":
        return jnp.mean(error_BxN)
    return jnp.sum(error_BxN * mask_BxN) / jnp.sum(mask_BxN)


def reconstruct(
    params: Params, patches_BxNxP: jax.Array, prepared: Prepared, *, models: Models, recon_on: str
) -> tuple[jax.Array, jax.Array]:
    """Encode the visible patches and decode all.

    Returns:
      `(loss_recon, z_stu_BxVxD)`: equation 2, and the student's tokens without the cls token.
    """
    visible_BxV, mask_BxN = prepared["visible"], prepared["mask"]
    tokens = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, visible_BxV, with_cls=True)
    predicted = models.decoder.apply({"params": params["decoder"]}, tokens, visible_BxV)
    z_stu_BxVxD = tokens[:, 1:] if models.encoder.cls_token else tokens
    return recon_loss(patches_BxNxP, predicted, mask_BxN, recon_on), z_stu_BxVxD


def draw_masks(rng: jax.Array, batch: Batch, encoder: Encoder, mask_ratio: float) -> Prepared:
    """Return `{"visible": (B, V) indices of tokens, "mask": (B, N) float32, 1 where hidden}`."""
    rows, columns = encoder.grid
    visible_BxV, mask_BxN = masking.random_visible(rng, len(batch["image"]), rows * columns, mask_ratio)
    return {"visible": visible_BxV, "mask": mask_BxN}


def prepare(rng: jax.Array, batch: Batch, *, models: Models, settings: Settings) -> Prepared:
    """Draw the masks of a batch, as `draw_masks` returns them."""
    return draw_masks(rng, batch, models.encoder, settings.mask_ratio)


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
    """Equation 2 alone; neither a teacher nor codes. Arguments and returns as in `interface.Method.loss`."""
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_recon, _ = reconstruct(params, patches_BxNxP, prepared, models=models, recon_on=settings.recon_on)
    return loss_recon, ({"loss": loss_recon, "loss_recon": loss_recon}, {})
