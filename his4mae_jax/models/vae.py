"""A convolutional variational autoencoder with one latent vector per patch."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from his4mae_jax.models.kernels.convolution import convolution
from his4mae_jax.models.kernels.dense import Dense
from his4mae_jax.models.patches import unpatchify

# Channels at token resolution per channel at pixel resolution: a patch of 25 pixels becomes one token.
TOKEN_WIDTH = 4


class ResidualBlock(nn.Module):
    """x + Conv(SiLU(Norm(Conv(SiLU(Norm(x)))))), 3x3 convolutions; shapes `(B, H, W, features)` in and out.

    Norm is a GroupNorm over the field of view and up to 8 channels, with float32 statistics.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxF: jax.Array) -> jax.Array:
        h = x_BxHxWxF
        for i in (1, 2):
            norm = nn.GroupNorm(
                num_groups=None, group_size=math.gcd(self.features, 8), dtype=self.dtype, name=f"norm{i}"
            )
            h = convolution(self.features, self.dtype, name=f"conv{i}")(nn.silu(norm(h)))
        return x_BxHxWxF + h


def _residual_blocks(number: int, features: int, dtype: jnp.dtype, name: str, x: jax.Array) -> jax.Array:
    for i in range(number):
        x = ResidualBlock(features, dtype, name=f"{name}{i:02d}")(x)
    return x


class VariationalEncoder(nn.Module):
    """Patches to the normal distribution of each patch's latent vector.

    The image is convolved at pixel resolution, then with a kernel and a stride of one patch, then at token
    resolution, so that a token sees its neighbours too.

    Attributes:
      grid: tokens per side, (rows, columns).
      embed_dim: features of a latent vector.
      width: channels at pixel resolution.
      blocks: residual blocks at each resolution.
      dtype: of the convolutions; the moments are computed in float32.
    """

    grid: tuple[int, int]
    embed_dim: int = 192
    width: int = 32
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.nowrap
    def widest_features(self, patch_size: int) -> int:
        """Return the channels at all pixels of a token, or the latent vector's features if those are more."""
        return max(self.embed_dim, self.width * patch_size**2)

    @nn.compact
    def __call__(
        self, patches_BxNxP: jax.Array, with_log_variance: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Return the mean `(B, N, embed_dim)`, float32, or `(mean, log_variance)`, both of this shape."""
        B, N, _ = patches_BxNxP.shape
        images_BxHxW = unpatchify(patches_BxNxP, self.grid)
        patch = images_BxHxW.shape[1] // self.grid[0]
        x = convolution(self.width, self.dtype, name="stem")(images_BxHxW[..., None])
        x = _residual_blocks(self.blocks, self.width, self.dtype, "pixel_block", x)
        # A convolution whose kernel is as large as its stride is a linear layer on each patch.
        x = x.reshape(B, self.grid[0], patch, self.grid[1], patch, self.width).transpose(0, 1, 3, 2, 4, 5)
        x = Dense(TOKEN_WIDTH * self.width, self.dtype, name="to_tokens")(x.reshape(B, *self.grid, -1))
        x = _residual_blocks(self.blocks, TOKEN_WIDTH * self.width, self.dtype, "token_block", x)
        # No normalisation of the sum: it would remove each field of view's own grey level and
        # contrast, and equal textures in two fields of view would not get equal tokens.
        moments_BxNxF = Dense(2 * self.embed_dim, jnp.float32, name="moments")(nn.silu(x).reshape(B, N, -1))
        mean_BxNxD, log_variance_BxNxD = jnp.split(moments_BxNxF, 2, axis=-1)
        return (mean_BxNxD, log_variance_BxNxD) if with_log_variance else mean_BxNxD


class ImageDecoder(nn.Module):
    """The mirror image of the encoder: latent vectors `(B, N, D)` to images `(B, H, W)`, float32."""

    grid: tuple[int, int]
    patch_size: int
    width: int = 32
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z_BxNxD: jax.Array) -> jax.Array:
        B, (rows, cols), patch = len(z_BxNxD), self.grid, self.patch_size
        x = Dense(TOKEN_WIDTH * self.width, self.dtype, name="embed")(z_BxNxD).reshape(B, rows, cols, -1)
        x = _residual_blocks(self.blocks, TOKEN_WIDTH * self.width, self.dtype, "token_block", x)
        # The transposed convolution, likewise: each token becomes the pixels of its patch.
        x = Dense(patch**2 * self.width, self.dtype, name="to_pixels")(x)
        x = x.reshape(B, rows, cols, patch, patch, self.width).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(B, rows * patch, cols * patch, self.width)
        x = _residual_blocks(self.blocks, self.width, self.dtype, "pixel_block", x)
        return convolution(1, self.dtype, name="pixels")(nn.silu(x))[..., 0].astype(jnp.float32)


def sample(noise: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Turn standard normal `noise` into a draw from N(mean, exp(log_variance)), differentiable in both."""
    return mean + jnp.exp(0.5 * log_variance) * noise
