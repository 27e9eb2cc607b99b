"""The encoder at inference: unmasked fields of view to tokens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from his4mae_jax.models.patches import patchify

# The symmetries of a square that tokens may be averaged over: (transposed, rows reversed, columns reversed).
SYMMETRIES = {
    1: ((0, 0, 0),),
    2: ((0, 0, 0), (0, 0, 1)),
    4: ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)),
    8: tuple((t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)),
}


def make_encode(models: Any, symmetries: int = 1) -> Callable[[Any, jax.Array], jax.Array]:
    """Makes `encode(params, images_BxFxF) -> tokens (B, g, g, D)`: g tokens a side, without the cls token.

    Images are float32 in [0, 1]; params are those of the student's encoder or the teacher's.

    Args:
      models: of any pretext method: `encoder` and `patch_size`.
      symmetries: tokens are the mean over so many symmetries of the field of view, each turned back: 1 (the image
        alone), 2 (and its mirror image), 4 (both flips) or 8 (those and their transposes).
    """

    def once(params, images_BxFxF):
        tokens_BxNxD = models.encoder.apply({"params": params}, patchify(images_BxFxF, models.patch_size))
        return tokens_BxNxD.reshape(images_BxFxF.shape[0], *models.encoder.grid, -1)  # len() needs a number

    def encode(params, images_BxFxF):
        if symmetries == 1:
            return once(params, images_BxFxF)
        turns = jnp.array(SYMMETRIES[symmetries])

        # One after the other: the encoder is compiled once, and memory is that of one.
        def add(total, turn):
            tokens = once(params, _turn(images_BxFxF, turn))
            return total + _turn_back(tokens, turn).astype(jnp.float32), None

        like = jax.eval_shape(once, params, images_BxFxF)
        total, _ = jax.lax.scan(add, jnp.zeros(like.shape, jnp.float32), turns)
        return total / len(SYMMETRIES[symmetries])

    return encode


def _turn(x, turn):
    """Transposes, then reverses rows and columns, where `turn` says so; axes 1 and 2 are the square's."""
    x = jnp.where(turn[0], jnp.swapaxes(x, 1, 2), x)
    x = jnp.where(turn[1], x[:, ::-1], x)
    return jnp.where(turn[2], x[:, :, ::-1], x)


def _turn_back(x, turn):
    """The inverse of `_turn`."""
    x = jnp.where(turn[2], x[:, :, ::-1], x)
    x = jnp.where(turn[1], x[:, ::-1], x)
    return jnp.where(turn[0], jnp.swapaxes(x, 1, 2), x)


def in_batches(fn: Callable[[jax.Array], jax.Array], x_BxS: jax.Array, batch: int) -> jax.Array:
    """Applies `fn` to exactly `batch` rows at a time inside jit, so that memory is set by `batch`.

    The last batch is filled up with its last row, whose extra results are dropped: the encoder is compiled for one
    shape, and a field of view gives the same tokens to the last bit in whatever tile it lies.
    """
    rows = len(x_BxS)
    filled = jnp.concatenate([x_BxS, jnp.repeat(x_BxS[-1:], -rows % batch, axis=0)])
    out = jax.lax.map(fn, filled.reshape(-1, batch, *x_BxS.shape[1:]))
    return out.reshape(-1, *out.shape[2:])[:rows]
