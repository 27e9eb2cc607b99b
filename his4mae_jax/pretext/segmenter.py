"""Segmenter of Table 3 (Strudel et al. 2021): MAESTER's encoder and a mask transformer, trained with labels.

The decoder is as wide as the encoder and has its MLP ratio; the loss is in `pretext.supervised`.
"""

import jax.numpy as jnp
import ml_collections

from his4mae_jax.models.segmenter import MaskTransformer, Segmenter
from his4mae_jax.pretext.maester import make_encoder
from his4mae_jax.pretext.supervised import Models, Settings, init_params, loss, num_classes, prepare, settings

__all__ = ("Models", "Settings", "build", "init_params", "loss", "prepare", "settings")


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the network of `config.model` and `config.supervised`.

    Raises:
      UserError: the data has no classes to learn.
    """
    m, s = config.model, config.supervised
    decoder = MaskTransformer(num_classes(config), m.embed_dim, s.depth, s.num_heads, m.mlp_ratio, jnp.dtype(m.dtype))
    return Models(Segmenter(make_encoder(m), decoder), m.patch_size)
