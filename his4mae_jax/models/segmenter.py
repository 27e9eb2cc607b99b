"""Supervised networks of Table 3: Vanilla ViT and Segmenter (Strudel et al., ICCV 2021).

Each is one module, encoder and head, that maps patches to the class logits of every token.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.autoencoder import Encoder, token_init
from his4mae_jax.models.kernels.dense import Dense
from his4mae_jax.models.transformer import Transformer

# Epsilon of the LayerNorm over classes, as in Segmenter's release. At the start the cosines of the
# classes are close together, so that it matters more here than in the blocks.
MASK_NORM_EPS = 1e-5


class VanillaViT(nn.Module):
    """The encoder and a linear layer: patches `(B, N, P)` to class logits `(B, N, num_classes)`, float32."""

    encoder: Encoder
    num_classes: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side, (rows, columns)."""
        return self.encoder.grid

    @property
    def embed_dim(self) -> int:
        """Features of a returned token: its logits."""
        return self.num_classes

    @nn.nowrap
    def widest_features(self, patch_size: int) -> int:
        """Return the width of the encoder, which is larger than the number of classes."""
        return self.encoder.widest_features(patch_size)

    @nn.compact
    def __call__(self, patches_BxNxP: jax.Array) -> jax.Array:
        return Dense(self.num_classes, jnp.float32, name="head")(self.encoder(patches_BxNxP))


def _unit(x):
    # The epsilon is inside the root, so that the gradient stays finite for a zero vector.
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


class MaskTransformer(nn.Module):
    """Segmenter's decoder: one token per class attends to the patches, and its cosine to them is the class's mask.

    Tokens `(B, N, D)` to logits `(B, N, num_classes)`, float32: the cosines of projected patch and class
    tokens after a LayerNorm over the classes.
    """

    num_classes: int
    dim: int = 192
    depth: int = 2
    num_heads: int = 3
    mlp_ratio: float = 2.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens_BxNxD: jax.Array) -> jax.Array:
        B, N, _ = tokens_BxNxD.shape
        patches_BxNxD = Dense(self.dim, self.dtype, name="embed")(tokens_BxNxD)
        classes_1xCxD = self.param("class_tokens", token_init, (1, self.num_classes, self.dim))
        classes_BxCxD = jnp.broadcast_to(classes_1xCxD.astype(self.dtype), (B, self.num_classes, self.dim))
        x_BxTxD = jnp.concatenate([patches_BxNxD, classes_BxCxD], axis=1)
        transformer = Transformer(self.dim, self.depth, self.num_heads, self.mlp_ratio, self.dtype, name="transformer")
        x_BxTxD = transformer(x_BxTxD)

        def project(name, x):
            init = nn.initializers.normal(self.dim**-0.5)
            return nn.Dense(self.dim, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)(x)

        # Cosines in float32: classes may differ by less than a bf16 step.
        patches_BxNxD = _unit(project("project_patches", x_BxTxD[:, :N]).astype(jnp.float32))
        classes_BxCxD = _unit(project("project_classes", x_BxTxD[:, N:]).astype(jnp.float32))
        masks_BxNxC = jnp.einsum("bnd,bcd->bnc", patches_BxNxD, classes_BxCxD, precision="highest")
        return nn.LayerNorm(epsilon=MASK_NORM_EPS, name="mask_norm")(masks_BxNxC)


class Segmenter(nn.Module):
    """The encoder and a mask transformer: patches `(B, N, P)` to class logits `(B, N, num_classes)`, float32."""

    encoder: Encoder
    decoder: MaskTransformer

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per side, (rows, columns)."""
        return self.encoder.grid

    @property
    def embed_dim(self) -> int:
        """Features of a returned token: its logits."""
        return self.decoder.num_classes

    @nn.nowrap
    def widest_features(self, patch_size: int) -> int:
        """Return the width of the encoder, which is larger than the number of classes."""
        return self.encoder.widest_features(patch_size)

    def __call__(self, patches_BxNxP: jax.Array) -> jax.Array:
        return self.decoder(self.encoder(patches_BxNxP))
