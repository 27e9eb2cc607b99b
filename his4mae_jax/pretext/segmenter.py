"""Segmenter of Table 3 (Strudel et al. 2021): MAESTER's encoder and a mask transformer, trained with labels.

The decoder is as wide as the encoder and has its MLP ratio; the loss is in `pretext.supervised`.
"""

import jax.numpy as jnp
import ml_collections

from his4mae_jax.errors import UserError
from his4mae_jax.models.segmenter import MaskTransformer, Segmenter
from his4mae_jax.pretext.maester import make_encoder
from his4mae_jax.pretext.supervised import Models, Settings, init_params, loss, num_classes, prepare, settings

__all__ = ("Models", "Settings", "build", "init_params", "loss", "prepare", "settings")


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the network of `config.model` and `config.supervised`.

    Raises:
      UserError: without classes, or if the number of heads does not divide the features.
    """
    m, s = config.model, config.supervised
    if s.depth < 1:
        raise UserError(f"config key supervised.depth is {s.depth}, but must be at least 1")
    if s.num_heads < 1 or m.embed_dim % s.num_heads:
        raise UserError(
            f"config key supervised.num_heads is {s.num_heads}, but must divide model.embed_dim, {m.embed_dim}"
        )
    decoder = MaskTransformer(num_classes(config), m.embed_dim, s.depth, s.num_heads, m.mlp_ratio, jnp.dtype(m.dtype))
    return Models(Segmenter(make_encoder(m), decoder), m.patch_size)
