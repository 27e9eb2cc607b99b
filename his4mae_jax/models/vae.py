"""A convolutional variational autoencoder with one latent vector a patch."""

import math

import flax.linen as nn
import jax.numpy as jnp

from his4mae_jax.models.kernels.backend import target
from his4mae_jax.models.kernels.convolution import same_convolution
from his4mae_jax.models.patches import unpatchify
from his4mae_jax.models.transformer import dense, dense_init

# Channels at token resolution for each at pixel resolution: a patch of 25 pixels becomes one token.
TOKEN_WIDTH = 4


def _conv(features, name, dtype):
    own = (lambda x, kernel, *how, **more: same_convolution(x, kernel)) if target().platform == "cpu" else None
    return nn.Conv(features, (3, 3), dtype=dtype, kernel_init=dense_init, conv_general_dilated=own, name=name)


class ResidualBlock(nn.Module):
    """x + Conv(SiLU(Norm(Conv(SiLU(Norm(x)))))), 3x3 convolutions; shapes `(B, H, W, features)` in and out.

    Norm is a GroupNorm over the field of view and up to 8 channels, with float32 statistics.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BxHxWxF):
        h = x_BxHxWxF
        for i in (1, 2):
            norm = nn.GroupNorm(
                num_groups=None, group_size=math.gcd(self.features, 8), dtype=self.dtype, name=f"norm{i}"
            )
            h = _conv(self.features, f"conv{i}", self.dtype)(nn.silu(norm(h)))
        return x_BxHxWxF + h


def _residual_blocks(number, features, dtype, name, x):
    for i in range(number):
        x = ResidualBlock(features, dtype, name=f"{name}{i:02d}")(x)
    return x


class VariationalEncoder(nn.Module):
    """Patches to the normal distribution of each patch's latent vector.

    Call with `patches_BxNxP`. Returns the mean `(B, N, embed_dim)`, float32, and
    `with_log_variance=True` both `(mean, log_variance)`. The image is convolved at pixel
    resolution, then by a kernel as large as its stride, the patch, then at token resolution,
    so that a token sees its neighbours too.
    """

    grid: tuple[int, int]
    embed_dim: int = 192
    width: int = 32
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, patches_BxNxP, with_log_variance=False):
        B, N, _ = patches_BxNxP.shape
        images_BxHxW = unpatchify(patches_BxNxP, self.grid)
        patch = images_BxHxW.shape[1] // self.grid[0]
        x = _conv(self.width, "stem", self.dtype)(images_BxHxW[..., None])
        x = _residual_blocks(self.blocks, self.width, self.dtype, "pixel_block", x)
        # A convolution whose kernel is as large as its stride is a Linear on each patch.
        x = x.reshape(B, self.grid[0], patch, self.grid[1], patch, self.width).transpose(0, 1, 3, 2, 4, 5)
        x = dense(TOKEN_WIDTH * self.width, "to_tokens", self.dtype, x.reshape(B, *self.grid, -1))
        x = _residual_blocks(self.blocks, TOKEN_WIDTH * self.width, self.dtype, "token_block", x)
        # No normalisation of the sum: it would take each field of view's own grey level and
        # contrast away, and equal textures of two fields of view would not get equal tokens.
        moments_BxNxF = dense(2 * self.embed_dim, "moments", jnp.float32, nn.silu(x).reshape(B, N, -1))
        mean_BxNxD, log_variance_BxNxD = jnp.split(moments_BxNxF, 2, axis=-1)
        return (mean_BxNxD, log_variance_BxNxD) if with_log_variance else mean_BxNxD


class ImageDecoder(nn.Module):
    """The encoder's mirror: latent vectors `(B, N, D)` to the image `(B, H, W)` in float32."""

    grid: tuple[int, int]
    patch_size: int
    width: int = 32
    blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z_BxNxD):
        B, (rows, cols), patch = len(z_BxNxD), self.grid, self.patch_size
        x = dense(TOKEN_WIDTH * self.width, "embed", self.dtype, z_BxNxD).reshape(B, rows, cols, -1)
        x = _residual_blocks(self.blocks, TOKEN_WIDTH * self.width, self.dtype, "token_block", x)
        # Transposed convolution, likewise: each token becomes the pixels of its patch.
        x = dense(patch**2 * self.width, "to_pixels", self.dtype, x)
        x = x.reshape(B, rows, cols, patch, patch, self.width).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(B, rows * patch, cols * patch, self.width)
        x = _residual_blocks(self.blocks, self.width, self.dtype, "pixel_block", x)
        return _conv(1, "pixels", self.dtype)(nn.silu(x))[..., 0].astype(jnp.float32)


def sample(noise, mean, log_variance):
    """Standard normal `noise` as a draw from N(mean, exp(log_variance)), differentiable in both (reparameterised)."""
    return mean + jnp.exp(0.5 * log_variance) * noise
