"""Floating-point operations (FLOP) of the networks' matmuls and convolutions, for one image."""

import ml_collections

from his4mae_jax.config import SUPERVISED
from his4mae_jax.models.vae import TOKEN_WIDTH
from his4mae_jax.settings.derived import num_visible


def flop_per_image(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Counts the FLOP of one image.

    Only matmuls and convolutions count, a multiplication and an addition each as one. A gradient costs twice its
    forward pass; the teacher has none. The counts are exact for HiS4MAE, MAESTER and the Vanilla ViT. Those of the VAE
    include what its convolutions compute beyond the border; SdAE's steps are counted without its teacher and second
    decoder, Segmenter without its decoder.

    Args:
      config: the whole configuration; `method`, `model` and the method's own section are read.

    Returns:
      `{"step", "encode"}`: FLOP of one image in an optimiser step, and of encoding one field of view.
    """
    m = config.model
    N, P, D = (m.fov // m.patch_size) ** 2, m.patch_size**2, m.embed_dim
    if config.method == "vae":
        return _vae(config, N, P, D)
    visible = num_visible(N, config.objective.mask_ratio)

    def encoder(tokens: int) -> int:
        return 2 * tokens * P * D + _blocks(tokens + m.cls_token, D, m.depth, m.mlp_ratio)

    if config.method in SUPERVISED:
        return {"step": 3 * (encoder(N) + 2 * N * D * config.supervised.classes), "encode": encoder(N)}
    decoder = 2 * visible * D * m.decoder_dim + 2 * N * m.decoder_dim * P
    decoder += _blocks(N + m.cls_token, m.decoder_dim, m.decoder_depth, m.mlp_ratio)
    step = 3 * (encoder(visible) + decoder)
    if config.method == "his4mae":
        step += encoder(N) + 2 * N * config.codebook.size * D
    return {"step": step, "encode": encoder(N)}


def _blocks(tokens: int, dim: int, depth: int, mlp_ratio: float) -> int:
    """Transformer blocks: the linear layers of each token, and attention between all of them."""
    linear = 2 * dim * (4 * dim + 2 * int(mlp_ratio * dim))
    return depth * (tokens * linear + 4 * tokens**2 * dim)


def _vae(config, N: int, P: int, D: int) -> dict[str, int]:
    w = config.vae.width
    tokens = TOKEN_WIDTH * w
    # Two 3x3 convolutions in each residual block, at every pixel and at every token.
    residual = config.vae.blocks * 2 * 18 * (N * P * w**2 + N * tokens**2)
    between = 18 * N * P * w + 2 * N * P * w * tokens  # stem or last convolution; to tokens or back
    encoder = residual + between + 2 * N * tokens * 2 * D
    return {"step": 3 * (encoder + residual + between + 2 * N * D * tokens), "encode": encoder}
