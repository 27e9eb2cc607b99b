"""Encoder and decoder of the masked autoencoder (paper section 3.2; sizes from MAESTER)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.dense import Dense
from his4mae_jax.models.masking import place_tokens, take_tokens
from his4mae_jax.models.patches import sincos_positions
from his4mae_jax.models.transformer import Transformer

# MAESTER damps the encoder's positions, so that features depend more on what a token shows
# than on where in the field of view it lies.
ENCODER_POSITION_SCALE = 0.08
token_init = nn.initializers.normal(0.02)


def _prepend_token(token_1x1xD, tokens_BxTxD):
    B, _, D = tokens_BxTxD.shape
    return jnp.concatenate([jnp.broadcast_to(token_1x1xD.astype(tokens_BxTxD.dtype), (B, 1, D)), tokens_BxTxD], axis=1)


class Encoder(nn.Module):
    """Vision transformer over the visible patches of a field of view.

    Attributes:
      grid: tokens per side, (rows, columns).
      embed_dim: features D of a token.
      depth, num_heads, mlp_ratio: of the transformer.
      cls_token: whether a learned token is prepended.
      dtype: of the computation; parameters are float32.
    """

    grid: tuple[int, int]
    embed_dim: int = 192
    depth: int = 14
    num_heads: int = 1
    mlp_ratio: float = 2.0
    cls_token: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def widest_features(self, patch_size: int) -> int:
        """Return the width of the residual stream, by which batches are sized (`fovs_at_once`)."""
        del patch_size
        return self.embed_dim

    @nn.compact
    def __call__(
        self, patches_BxNxP: jax.Array, visible_BxV: jax.Array | None = None, with_cls: bool = False
    ) -> jax.Array:
        """Encode the patches.

        Args:
          patches_BxNxP: all patches, whatever is visible.
          visible_BxV: indices of the visible patches, or None for all of them.
          with_cls: whether to return the cls token too, first; only the decoder needs it.

        Returns:
          Tokens after the final LayerNorm, `(B, V or N, embed_dim)`, or one more with the cls token.
        """
        if visible_BxV is not None:
            # Gather pixels rather than embeddings: 25 numbers per patch instead of embed_dim.
            patches_BxNxP = take_tokens(patches_BxNxP, visible_BxV)
        positions_NxD = ENCODER_POSITION_SCALE * sincos_positions(self.embed_dim, self.grid)
        positions = positions_NxD if visible_BxV is None else positions_NxD[visible_BxV]
        x_BxTxD = Dense(self.embed_dim, self.dtype, name="patch_embed")(patches_BxNxP) + positions.astype(self.dtype)
        if self.cls_token:
            cls = self.param("cls_token", token_init, (1, 1, self.embed_dim))
            x_BxTxD = _prepend_token(cls, x_BxTxD)
        transformer = Transformer(
            self.embed_dim, self.depth, self.num_heads, self.mlp_ratio, self.dtype, name="transformer"
        )
        x_BxTxD = transformer(x_BxTxD)
        return x_BxTxD[:, 1:] if self.cls_token and not with_cls else x_BxTxD


class Decoder(nn.Module):
    """Predicts an output for every patch, by default its pixels, from the visible tokens and a mask token.

    Attributes:
      grid: tokens per side, (rows, columns).
      out_dim: outputs per patch; patch_size**2 for pixels.
      dim, depth, num_heads, mlp_ratio: of the transformer.
      cls_token: whether the encoder's tokens begin with a cls token.
      dtype: of the computation; parameters are float32.
      mimetic: scale of the transformer's mimetic initialisation.
    """

    grid: tuple[int, int]
    out_dim: int = 25
    dim: int = 128
    depth: int = 7
    num_heads: int = 8
    mlp_ratio: float = 2.0
    cls_token: bool = False
    dtype: jnp.dtype = jnp.float32
    mimetic: float = 0.0

    @nn.compact
    def __call__(self, tokens: jax.Array, visible_BxV: jax.Array) -> jax.Array:
        """Decode all N patches.

        Args:
          tokens: the encoder's, `(B, V, embed_dim)`, with a cls token `(B, V + 1, embed_dim)`.
          visible_BxV: indices of the visible patches.

        Returns:
          `(B, N, out_dim)` float32.
        """
        N = self.grid[0] * self.grid[1]
        x = Dense(self.dim, self.dtype, name="embed")(tokens)
        mask_token = self.param("mask_token", token_init, (1, 1, self.dim)).astype(self.dtype)
        visible = x[:, 1:] if self.cls_token else x
        full_BxNxD = place_tokens(visible, visible_BxV, N, mask_token)
        full_BxNxD = full_BxNxD + sincos_positions(self.dim, self.grid).astype(self.dtype)
        if self.cls_token:
            full_BxNxD = jnp.concatenate([x[:, :1], full_BxNxD], axis=1)
        transformer = Transformer(
            self.dim, self.depth, self.num_heads, self.mlp_ratio, self.dtype, self.mimetic, name="transformer"
        )
        full_BxNxD = transformer(full_BxNxD)
        if self.cls_token:
            full_BxNxD = full_BxNxD[:, 1:]
        pixels = Dense(self.out_dim, self.dtype, name="pixels")(full_BxNxD)
        return pixels.astype(jnp.float32)
