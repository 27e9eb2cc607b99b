"""A convolutional VAE, whose latent means are clustered (after Han et al., CVPR Workshops 2022).

Han et al. also split the latent space by metric learning into a semantic subspace, the only one that they cluster, and
a transformational one, and they map every voxel by itself. Here the whole latent vector of each patch is clustered, and
expanded to voxels like the tokens of every other method.

Loss = L_recon + kl_weight * L_KL, the negative evidence lower bound up to a factor.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from his4mae_jax.models.patches import patchify
from his4mae_jax.models.vae import ImageDecoder, VariationalEncoder, sample
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared
from his4mae_jax.pretext.maester import token_grid


@dataclasses.dataclass(frozen=True)
class Models:
    """Encoder to latent vectors, decoder to the image."""

    encoder: VariationalEncoder
    decoder: ImageDecoder
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """The weight of the KL divergence."""

    kl_weight: float


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the networks of `config.model` (field of view, patch, embed_dim, dtype) and `config.vae`."""
    m, v = config.model, config.vae
    grid, dtype = token_grid(m), jnp.dtype(m.dtype)
    encoder = VariationalEncoder(grid, m.embed_dim, v.width, v.blocks, dtype)
    return Models(encoder, ImageDecoder(grid, m.patch_size, v.width, v.blocks, dtype), m.patch_size)


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the settings of `config.vae`."""
    return Settings(config.vae.kl_weight)


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder", "decoder"}`."""
    rngs = jax.random.split(rng)
    N = models.encoder.grid[0] * models.encoder.grid[1]
    patches = jnp.zeros((1, N, models.patch_size**2))
    return {
        "encoder": models.encoder.init(rngs[0], patches)["params"],
        "decoder": models.decoder.init(rngs[1], jnp.zeros((1, N, models.encoder.embed_dim)))["params"],
    }


def kl_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) in nats per latent dimension, the mean over all entries."""
    return 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)


def prepare(rng: jax.Array, batch: Batch, *, models: Models, settings: Settings) -> Prepared:
    """Draw `{"noise": (B, N, D)}`, standard normal, from which the latent vectors are sampled."""
    rows, columns = models.encoder.grid
    return {"noise": jax.random.normal(rng, (len(batch["image"]), rows * columns, models.encoder.embed_dim))}


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
    """The negative evidence lower bound, up to a factor.

    "loss_recon", the mean squared error of all pixels in [0, 1], plus `kl_weight` times "loss_kl", in nats per latent
    dimension. For D latent dimensions and P pixels per patch this is the bound for pixel noise of variance
    kl_weight * P / (2 D). Arguments and returns as in `interface.Method.loss`; neither a teacher nor codes.
    """
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    mean, log_variance = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, with_log_variance=True)
    predicted_BxHxW = models.decoder.apply({"params": params["decoder"]}, sample(prepared["noise"], mean, log_variance))
    loss_recon = jnp.mean((predicted_BxHxW - batch["image"]) ** 2)
    loss_kl = kl_divergence(mean, log_variance)
    total = loss_recon + settings.kl_weight * loss_kl
    return total, ({"loss": total, "loss_recon": loss_recon, "loss_kl": loss_kl}, {})
