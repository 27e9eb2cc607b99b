"""The HiS4MAE objective: masked reconstruction, and distillation through the codebook.

Loss = L_recon + alpha * L_tea + beta * L_stu (equation 5; its terms are equations 2, 3 and 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from his4mae_jax.models import masking
from his4mae_jax.models.autoencoder import Decoder, Encoder
from his4mae_jax.models.codebook import Codebook
from his4mae_jax.models.patches import patchify
from his4mae_jax.pretext import maester
from his4mae_jax.pretext.interface import Batch, LossOutput, Params, Prepared


@dataclasses.dataclass(frozen=True)
class Models:
    """MAESTER's networks and the codebook."""

    encoder: Encoder
    decoder: Decoder
    codebook: Codebook | None  # without one the student's targets are the teacher's tokens themselves
    patch_size: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the loss.

    Attributes:
      mask_ratio, recon_on: as in `maester.Settings`.
      alpha, beta: weights of L_tea and L_stu in equation 5.
      teacher_input: "full", all patches, or "visible", those that the student sees.
    """

    mask_ratio: float
    recon_on: str
    alpha: float
    beta: float
    teacher_input: str


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the networks of `config.model` and the codebook of `config.codebook`."""
    m, book = config.model, config.codebook
    codebook = Codebook(book.size, m.embed_dim) if book.enabled else None
    return Models(maester.make_encoder(m), maester.make_decoder(m), codebook, m.patch_size)


def settings(config: ml_collections.ConfigDict) -> Settings:
    """Return the settings of `config.objective` and `config.teacher`."""
    return Settings(
        mask_ratio=config.objective.mask_ratio,
        recon_on=config.objective.recon_on,
        # Codes that EMA updates move get no gradient: their L_tea is only logged.
        alpha=config.objective.alpha if config.codebook.learning == "gradient" else 0.0,
        beta=config.objective.beta,
        teacher_input=config.teacher.input,
    )


def init_params(rng: jax.Array, models: Models) -> Params:
    """Return `{"encoder", "decoder"}` and, with a codebook, "codebook"."""
    params = maester.init_params(rng, models)
    if models.codebook is not None:
        tokens = jnp.zeros((1, models.encoder.embed_dim))
        params["codebook"] = models.codebook.init(jax.random.split(rng, 3)[2], tokens)["params"]
    return params


def teacher_loss(z_tea: jax.Array, quantised: jax.Array) -> jax.Array:
    """Equation 3: mean (sg(Z_tea) - e[idx])^2, a scalar; moves the codebook only. Both have one shape, `(..., D)`."""
    return jnp.mean((jax.lax.stop_gradient(z_tea).astype(jnp.float32) - quantised) ** 2)


def student_loss(z_stu_BxVxD: jax.Array, quantised_BxVxD: jax.Array) -> jax.Array:
    """Equation 4: mean over tokens of 1 - cos(sg(e[idx]), Z_stu), a scalar; moves the student only."""
    target = jax.lax.stop_gradient(quantised_BxVxD).astype(jnp.float32)
    z = z_stu_BxVxD.astype(jnp.float32)
    # The epsilon is inside the root, so that the gradient stays finite for a zero vector.
    norm = jnp.sqrt((jnp.sum(z**2, -1) + 1e-12) * (jnp.sum(target**2, -1) + 1e-12))
    return jnp.mean(1.0 - jnp.sum(z * target, -1) / norm)


def prepare(rng: jax.Array, batch: Batch, *, models: Models, settings: Settings) -> Prepared:
    """Draw the masks of a batch, as `maester.draw_masks` returns them."""
    return maester.draw_masks(rng, batch, models.encoder, settings.mask_ratio)


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
    """Equation 5. Arguments and returns as in `interface.Method.loss`.

    Before `ready`, when the codebook is initialised, only L_recon counts. Logs "loss_recon" and the unweighted
    "loss_tea" and "loss_stu", both 0 before `ready`. Without a codebook there is no "loss_tea" and there are no codes.
    """
    patches_BxNxP = patchify(batch["image"], models.patch_size)
    loss_recon, z_stu_BxVxD = maester.reconstruct(
        params, patches_BxNxP, prepared, models=models, recon_on=settings.recon_on
    )
    visible_BxV = prepared["visible"]
    teacher_sees_all = settings.teacher_input == "full"

    def encode():
        seen = None if teacher_sees_all else visible_BxV
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
    targets_BxVxD = masking.take_tokens(targets, visible_BxV) if teacher_sees_all else targets
    loss_tea, loss_stu = (jnp.where(ready, x, 0.0) for x in (loss_tea, student_loss(z_stu_BxVxD, targets_BxVxD)))
    total = loss_recon + settings.alpha * loss_tea + settings.beta * loss_stu
    diagnostics = {"loss": total, "loss_recon": loss_recon, "loss_tea": loss_tea, "loss_stu": loss_stu}
    if models.codebook is None:
        del diagnostics["loss_tea"]
    return total, (diagnostics, codes)
