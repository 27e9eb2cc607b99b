"""The HiS4MAE objective: masked reconstruction, and distillation through the codebook.

Loss = L_recon + alpha * L_tea + beta * L_stu (equations 2 to 5 of the paper).
"""

import dataclasses

import jax
import jax.numpy as jnp

from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.codebook import Codebook
from his4mae_jax.models.patches import patchify


@dataclasses.dataclass(frozen=True)
class Models:
    """The three Flax modules: static, hashable descriptions without parameters."""

    encoder: Encoder
    decoder: Decoder
    codebook: Codebook
    patch_size: int


def build(model, num_codes):
    """Modules from `config.model` and the codebook's size."""
    grid = (model.fov // model.patch_size,) * 2
    dtype = jnp.dtype(model.dtype)
    encoder = Encoder(grid, model.embed_dim, model.depth, model.num_heads, model.mlp_ratio, model.cls_token, dtype)
    decoder = Decoder(
        grid, model.patch_size, model.decoder_dim, model.decoder_depth, model.decoder_num_heads,
        model.mlp_ratio, model.cls_token, dtype, model.decoder_mimetic,
    )  # fmt: skip
    return Models(encoder, decoder, Codebook(num_codes, model.embed_dim), model.patch_size)


def init_params(rng, models):
    """Parameters `{"encoder", "decoder", "codebook"}`, each a Flax params tree."""
    rngs = jax.random.split(rng, 3)
    N, D = models.encoder.grid[0] * models.encoder.grid[1], models.encoder.embed_dim
    patches = jnp.zeros((1, N, models.patch_size**2))
    visible = jnp.arange(N // 2)[None]
    tokens = jnp.zeros((1, N // 2 + models.encoder.cls_token, D))
    return {
        "encoder": models.encoder.init(rngs[0], patches)["params"],
        "decoder": models.decoder.init(rngs[1], tokens, visible)["params"],
        "codebook": models.codebook.init(rngs[2], jnp.zeros((1, D)))["params"],
    }


def recon_loss(target_BxNxP, predicted_BxNxP, mask_BxN, recon_on="masked"):
    """Equation 2: mean squared error of pixels in [0, 1], over masked patches or all."""
    error_BxN = jnp.mean((predicted_BxNxP - target_BxNxP) ** 2, axis=-1)
    if recon_on == "all":
        return jnp.mean(error_BxN)
    return jnp.sum(error_BxN * mask_BxN) / jnp.sum(mask_BxN)


def teacher_loss(z_tea, quantised):
    """Equation 3: mean (sg(Z_tea) - e[idx])^2; moves the codebook only."""
    return jnp.mean((jax.lax.stop_gradient(z_tea).astype(jnp.float32) - quantised) ** 2)


def student_loss(z_stu_BxVxD, quantised_BxVxD):
    """Equation 4: mean over tokens of 1 - cos(sg(e[idx]), Z_stu); moves the student only."""
    target = jax.lax.stop_gradient(quantised_BxVxD).astype(jnp.float32)
    z = z_stu_BxVxD.astype(jnp.float32)
    # Added inside the root: its gradient stays finite for a zero vector.
    norm = jnp.sqrt((jnp.sum(z**2, -1) + 1e-12) * (jnp.sum(target**2, -1) + 1e-12))
    return jnp.mean(1.0 - jnp.sum(z * target, -1) / norm)


def loss(
    params, teacher, images_BxHxW, rng, *, models, alpha, beta, mask_ratio, recon_on, teacher_input, codebook_ready
):
    """The loss of one batch and what to log.

    Parameters
    ----------
    params : trees of `init_params`; teacher : encoder params, never differentiated.
    images_BxHxW : float32 fields of view in [0, 1].
    rng : key for the masks.
    alpha, beta : weights of L_tea and L_stu; mask_ratio, recon_on, teacher_input : as in the
        config's `objective` and `teacher`.
    codebook_ready : bool scalar; before the codebook is placed, only L_recon counts.

    Returns
    -------
    (loss, diagnostics) with diagnostics `loss_recon`, `loss_tea`, `loss_stu`, and the
    arrays `index` (chosen codes) and `z_tea` that the codebook's bookkeeping needs.
    """
    patches_BxNxP = patchify(images_BxHxW, models.patch_size)
    B, N, _ = patches_BxNxP.shape
    visible_BxV, mask_BxN = masking.random_visible(rng, B, N, mask_ratio)

    tokens = models.encoder.apply({"params": params["encoder"]}, patches_BxNxP, visible_BxV, with_cls=True)
    z_stu_BxVxD = tokens[:, 1:] if models.encoder.cls_token else tokens
    predicted = models.decoder.apply({"params": params["decoder"]}, tokens, visible_BxV)
    loss_recon = recon_loss(patches_BxNxP, predicted, mask_BxN, recon_on)

    sees_all = teacher_input == "full"
    z_tea = models.encoder.apply({"params": teacher}, patches_BxNxP, None if sees_all else visible_BxV)
    z_tea = jax.lax.stop_gradient(z_tea)
    index, quantised = models.codebook.apply({"params": params["codebook"]}, z_tea)
    targets_BxVxD = masking.take_tokens(quantised, visible_BxV) if sees_all else quantised
    loss_tea = teacher_loss(z_tea, quantised)
    loss_stu = student_loss(z_stu_BxVxD, targets_BxVxD)

    distil = alpha * loss_tea + beta * loss_stu
    total = loss_recon + jnp.where(codebook_ready, distil, 0.0)
    diagnostics = {"loss": total, "loss_recon": loss_recon, "loss_tea": loss_tea, "loss_stu": loss_stu}
    return total, (diagnostics, {"index": index, "z_tea": z_tea})
