"""The encoder at inference: unmasked fields of view to tokens."""

import jax

from his4mae_jax.models.patches import patchify


def make_encode(models):
    """`encode(params, images_BxFxF) -> tokens (B, g, g, D)`, g tokens a side, cls left out.

    Images are float32 in [0, 1]; params are those of the student's encoder or the teacher's.
    """

    def encode(params, images_BxFxF):
        tokens_BxNxD = models.encoder.apply({"params": params}, patchify(images_BxFxF, models.patch_size))
        return tokens_BxNxD.reshape(len(images_BxFxF), *models.encoder.grid, -1)

    return encode


def in_batches(fn, x_BxS, batch):
    """Apply `fn` to `batch` rows at a time inside jit, so that memory is set by `batch`."""
    rows = len(x_BxS)
    whole = rows // batch * batch
    parts = []
    if whole:
        chunks = x_BxS[:whole].reshape(whole // batch, batch, *x_BxS.shape[1:])
        out = jax.lax.map(fn, chunks)
        parts.append(out.reshape(whole, *out.shape[2:]))
    if rows > whole:
        parts.append(fn(x_BxS[whole:]))
    return jax.numpy.concatenate(parts) if len(parts) > 1 else parts[0]
