"""Plain masked autoencoding (MAE; MAESTER, Xie et al. 2023): the reconstruction that HiS4MAE builds on."""

import dataclasses

import jax
import jax.numpy as jnp

from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.patches import patchify


@dataclasses.dataclass(frozen=True)
class Models:
    """Flax modules: static, hashable descriptions without parameters."""

    encoder: Encoder
    decoder: Decoder
    patch_size: int


def token_grid(model):
    """Tokens a side of `config.model`'s field of view, (rows, columns)."""
    return (model.fov // model.patch_size,) * 2


def make_encoder(model):
    """The encoder of `config.model`."""
    return Encoder(
        token_grid(model), model.embed_dim, model.depth, model.num_heads, model.mlp_ratio, model.cls_token,
        jnp.dtype(model.dtype),
    )  # fmt: skip


def make_decoder(model):
    """The decoder of `config.model`, to pixels."""
    return Decoder(
        token_grid(model), model.patch_size**2, model.decoder_dim, model.decoder_depth, model.decoder_num_heads,
        model.mlp_ratio, model.cls_token, jnp.dtype(model.dtype), model.decoder_mimetic,
    )  # fmt: skip


def build(config):
    return Models(make_encoder(config.model), make_decoder(config.model), config.model.patch_size)


def init_params(rng, models):
    """Parameters `{"encoder", "decoder"}`, each a Flax params tree."""
    rngs = jax.random.split(rng, 3)  # three: HiS4MAE of the same seed starts from the same weights
    N, D = models.encoder.grid[0] * models.encoder.grid[1], models.encoder.embed_dim
    patches = jnp.zeros((1, N, models.patch_size**2))
    visible = jnp.arange(N // 2)[None]
    tokens = jnp.zeros((1, N // 2 + models.encoder.cls_token, D))
    return {
        "encoder": models.encoder.init(rngs[0], patches)["params"],
        "decoder": models.decoder.init(rngs[1], tokens, visible)["params"],
    }


def recon_loss(target_BxNxP, predicted_BxNxP, mask_BxN, recon_on="masked"):
    """Equation 2: mean squared error of pixels in [0, 1], over masked patches or all."""
    error_BxN = jnp.mean((predicted_BxNxP - target_BxNxP) ** 2, axis=-1)
    if recon_on == "all":
        return jnp.mean(error_BxN)
    return jnp.sum(error_BxN * mask_BxN) / jnp.sum(mask_BxN)


def reconstruct(params, patches_BxNxP, prepared, *, models, recon_on):
    """Encode what is visible, decode all: `(loss_recon, z_stu_BxVxD)`; `prepared` as `prepare` returns it."""
    visible_BxV, mask_BxN = prepared["visible"], prepared["mask"]
    tokens = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, visible_BxV, with_cls=True)
    predicted = models.decoder.apply({"params": params["decoder"]}, tokens, visible_BxV)
    z_stu_BxVxD = tokens[:, 1:] if models.encoder.cls_token else tokens
    return recon_loss(patches_BxNxP, predicted, mask_BxN, recon_on), z_stu_BxVxD


def settings(config):
    """The keyword settings of `prepare` and `loss`."""
    return {"mask_ratio": config.objective.mask_ratio, "recon_on": config.objective.recon_on}


def prepare(rng, batch, *, models, mask_ratio, **_):
    """The masks of a batch: `{"visible": (B, V) indices of tokens, "mask": (B, N), 1 where hidden}`."""
    rows, columns = models.encoder.grid
    visible_BxV, mask_BxN = masking.random_visible(rng, len(batch["image"]), rows * columns, mask_ratio)
    return {"visible": visible_BxV, "mask": mask_BxN}


def loss(params, teacher, batch, prepared, *, models, ready, mask_ratio, recon_on):
    """The loss of one batch: equation 2 alone. Arguments and returns as in `pretext.his4mae`."""
    del teacher, ready, mask_ratio
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_recon, _ = reconstruct(params, patches_BxNxP, prepared, models=models, recon_on=recon_on)
    return loss_recon, ({"loss": loss_recon, "loss_recon": loss_recon}, {})
