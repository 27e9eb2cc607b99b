"""Floating-point operations of the networks' matrix products, for one image."""

from his4mae_jax.config import SUPERVISED
from his4mae_jax.models.vae import TOKEN_WIDTH


def flop_per_image(config):
    """`{"step", "encode"}`: of one image in an optimiser step, and of encoding one field of view.

    Products and convolutions alone; a multiplication and an addition are two, a gradient costs twice its forward
    pass, the teacher has none. Exact for HiS4MAE, MAESTER and the Vanilla ViT; the VAE's convolutions are counted
    beyond the border too, SdAE's steps without its teacher and second decoder, Segmenter without its decoder.
    """
    m = config.model
    N, P, D = (m.fov // m.patch_size) ** 2, m.patch_size**2, m.embed_dim
    if config.method == "vae":
        return _vae(config, N, P, D)
    visible = int(N * (1 - config.objective.mask_ratio) + 1e-9)

    def encoder(tokens):
        return 2 * tokens * P * D + _blocks(tokens + m.cls_token, D, m.depth, m.mlp_ratio)

    if config.method in SUPERVISED:
        return {"step": 3 * (encoder(N) + 2 * N * D * config.supervised.classes), "encode": encoder(N)}
    decoder = 2 * visible * D * m.decoder_dim + 2 * N * m.decoder_dim * P
    decoder += _blocks(N + m.cls_token, m.decoder_dim, m.decoder_depth, m.mlp_ratio)
    step = 3 * (encoder(visible) + decoder)
    if config.method == "his4mae":
        step += encoder(N) + 2 * N * config.codebook.size * D
    return {"step": step, "encode": encoder(N)}


def _blocks(tokens, dim, depth, mlp_ratio):
    linear = 2 * dim * (4 * dim + 2 * int(mlp_ratio * dim))
    return depth * (tokens * linear + 4 * tokens**2 * dim)


def _vae(config, N, P, D):
    w = config.vae.width
    tokens = TOKEN_WIDTH * w
    # Of each pixel and each token: two 3x3 convolutions a residual block.
    residual = config.vae.blocks * 2 * 18 * (N * P * w**2 + N * tokens**2)
    between = 18 * N * P * w + 2 * N * P * w * tokens  # stem or last convolution; to tokens or back
    encoder = residual + between + 2 * N * tokens * 2 * D
    return {"step": 3 * (encoder + residual + between + 2 * N * D * tokens), "encode": encoder}
