"""A convolutional VAE, whose latent means are clustered (after Han et al., CVPR Workshops 2022).

Han et al. also part the latent space by metric learning into a semantic subspace, which alone
they cluster, and a transformational one, and map every voxel by itself; here the whole latent
vector of each patch is clustered, and is expanded to voxels as the tokens of every other method.
"""

import dataclasses

import jax
import jax.numpy as jnp

from his4mae_jax.errors import UserError
from his4mae_jax.models.patches import patchify
from his4mae_jax.models.vae import ImageDecoder, VariationalEncoder, sample
from his4mae_jax.pretext.maester import token_grid


@dataclasses.dataclass(frozen=True)
class Models:
    """Flax modules: static, hashable descriptions without parameters."""

    encoder: VariationalEncoder
    decoder: ImageDecoder
    patch_size: int


def build(config):
    """`Models` of `config.model` (field of view, patch, embed_dim, dtype) and `config.vae`."""
    m, v = config.model, config.vae
    checks = (
        ("vae.width", v.width > 0 and v.width % 4 == 0, "a positive multiple of 4 channels"),
        ("vae.blocks", v.blocks >= 1, "at least 1"),
        ("vae.kl_weight", v.kl_weight >= 0, "0 or above"),
    )
    for key, fine, rule in checks:
        if not fine:
            raise UserError(f"config key {key} must be {rule}")
    grid, dtype = token_grid(m), jnp.dtype(m.dtype)
    encoder = VariationalEncoder(grid, m.embed_dim, v.width, v.blocks, dtype)
    return Models(encoder, ImageDecoder(grid, m.patch_size, v.width, v.blocks, dtype), m.patch_size)


def init_params(rng, models):
    """Parameters `{"encoder", "decoder"}`, each a Flax params tree."""
    rngs = jax.random.split(rng)
    N = models.encoder.grid[0] * models.encoder.grid[1]
    patches = jnp.zeros((1, N, models.patch_size**2))
    return {
        "encoder": models.encoder.init(rngs[0], patches)["params"],
        "decoder": models.decoder.init(rngs[1], jnp.zeros((1, N, models.encoder.embed_dim)))["params"],
    }


def settings(config):
    """The keyword settings of `prepare` and `loss`."""
    return {"kl_weight": config.vae.kl_weight}


def kl_divergence(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats a latent dimension, mean over all entries."""
    return 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)


def prepare(rng, batch, *, models, **_):
    """`{"noise": (B, N, D)}`, standard normal, of which a batch's latent vectors are made."""
    rows, columns = models.encoder.grid
    return {"noise": jax.random.normal(rng, (len(batch["image"]), rows * columns, models.encoder.embed_dim))}


def loss(params, teacher, batch, prepared, *, models, ready, kl_weight):
    """The negative evidence lower bound of one batch, up to its scale.

    `loss_recon`, the mean squared error of all pixels in [0, 1], plus `kl_weight` times
    `loss_kl`, nats a latent dimension. For D latent dimensions and P pixels a patch it is the
    bound for pixel noise of variance kl_weight * P / (2 D).
    Arguments and returns otherwise as in `pretext.his4mae`.
    """
    del teacher, ready
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    mean, log_variance = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, with_log_variance=True)
    predicted_BxHxW = models.decoder.apply({"params": params["decoder"]}, sample(prepared["noise"], mean, log_variance))
    loss_recon = jnp.mean((predicted_BxHxW - batch["image"]) ** 2)
    loss_kl = kl_divergence(mean, log_variance)
    total = loss_recon + kl_weight * loss_kl
    return total, ({"loss": total, "loss_recon": loss_recon, "loss_kl": loss_kl}, {})
