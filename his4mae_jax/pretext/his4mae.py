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
from his4mae_jax.pretext import maester


@dataclasses.dataclass(frozen=True)
class Models:
    """The Flax modules: static, hashable descriptions without parameters."""

    encoder: Encoder
    decoder: Decoder
    codebook: Codebook | None  # None: the student is drawn to the teacher's tokens themselves
    patch_size: int


def build(config):
    m, book = config.model, config.codebook
    codebook = Codebook(book.size, m.embed_dim) if book.enabled else None
    return Models(maester.make_encoder(m), maester.make_decoder(m), codebook, m.patch_size)


def init_params(rng, models):
    """Parameters `{"encoder", "decoder"}` and, with a codebook, "codebook": Flax params trees."""
    params = maester.init_params(rng, models)
    if models.codebook is not None:
        tokens = jnp.zeros((1, models.encoder.embed_dim))
        params["codebook"] = models.codebook.init(jax.random.split(rng, 3)[2], tokens)["params"]
    return params


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


def settings(config):
    """The keyword settings of `prepare` and `loss`."""
    return {
        # EMA codes are moved outside the gradient; their L_tea is only reported.
        "alpha": config.objective.alpha if config.codebook.learning == "gradient" else 0.0,
        "beta": config.objective.beta, "teacher_input": config.teacher.input, **maester.settings(config),
    }  # fmt: skip


prepare = maester.prepare


def loss(params, teacher, batch, prepared, *, models, ready, alpha, beta, mask_ratio, recon_on, teacher_input):
    """The loss of one batch and what to log.

    Parameters
    ----------
    params : trees of `init_params`; teacher : encoder params, never differentiated.
    batch : `{"image": (B, H, W) float32 fields of view in [0, 1]}`.
    prepared : what `prepare` drew for these fields of view: their masks.
    ready : bool scalar; before the codebook is placed, only L_recon counts.
    alpha, beta : weights of L_tea and L_stu; mask_ratio, recon_on, teacher_input : as in the
        config's `objective` and `teacher`.

    Returns
    -------
    (loss, (diagnostics, codes)): diagnostics `loss_recon`, `loss_tea`, `loss_stu` (0 before
    `ready`), and the arrays `index` (chosen codes) and `z_tea` that the codebook's bookkeeping
    needs; no codes without a codebook.
    """
    del mask_ratio
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_recon, z_stu_BxVxD = maester.reconstruct(params, patches_BxNxP, prepared, models=models, recon_on=recon_on)
    visible_BxV = prepared["visible"]
    sees_all = teacher_input == "full"
    seen = None if sees_all else visible_BxV

    def encode():
        return models.encoder.apply({"params": teacher}, patches_BxNxP, seen)

    # Before distillation begins nothing needs the teacher's tokens: a third of the step is saved.
    tokens = jax.eval_shape(encode)
    z_tea = jax.lax.cond(ready, encode, lambda: jnp.zeros(tokens.shape, tokens.dtype))
    z_tea = jax.lax.stop_gradient(z_tea)
    targets, loss_tea, codes = z_tea, 0.0, {}
    if models.codebook is not None:
        index, targets = models.codebook.apply({"params": params["codebook"]}, z_tea)
        loss_tea = teacher_loss(z_tea, targets)
        codes = {"index": index, "z_tea": z_tea}
    targets_BxVxD = masking.take_tokens(targets, visible_BxV) if sees_all else targets
    loss_tea, loss_stu = (jnp.where(ready, x, 0.0) for x in (loss_tea, student_loss(z_stu_BxVxD, targets_BxVxD)))
    total = loss_recon + alpha * loss_tea + beta * loss_stu
    diagnostics = {"loss": total, "loss_recon": loss_recon, "loss_tea": loss_tea, "loss_stu": loss_stu}
    if models.codebook is None:
        del diagnostics["loss_tea"]
    return total, (diagnostics, codes)
